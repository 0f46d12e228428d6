"""The project's two images in the account's own registry, ECR, where SageMaker finds them."""

from __future__ import annotations

import base64
import json
import subprocess
from contextlib import suppress
from typing import Any

from lggseg.cloud import docker
from lggseg.cloud.aws.account import PROJECT, Account

IMAGES = ("train", "serve")
# An image that a newer one has taken the name of is deleted after a day, since it costs by size.
_LIFECYCLE = {
    "rules": [
        {
            "rulePriority": 1,
            "selection": {
                "tagStatus": "untagged",
                "countType": "sinceImagePushed",
                "countUnit": "days",
                "countNumber": 1,
            },
            "action": {"type": "expire"},
        }
    ]
}


def push(account: Account) -> list[str]:
    """Push the images that ``make image`` built, and return their URIs. The repository is made
    where there is none: private, encrypted, and scanned for known weaknesses at each push.

    Raises ``RuntimeError`` with the next step where Docker or an image is missing, or with what
    Docker said when it fails.
    """
    docker.require_engine()
    for tag in IMAGES:
        docker.require_image(f"{PROJECT}:{tag}")
    ecr = account.session.client("ecr")
    make_repository(ecr, account)
    granted = ecr.get_authorization_token()["authorizationData"][0]
    user, _, password = base64.b64decode(granted["authorizationToken"]).decode().partition(":")
    uris = [account.image(tag) for tag in IMAGES]
    registry = uris[0].partition("/")[0]
    _docker("login", "--username", user, "--password-stdin", registry, input=password)
    try:
        for tag, uri in zip(IMAGES, uris, strict=True):
            _docker("tag", f"{PROJECT}:{tag}", uri)
            _docker("push", uri)
    finally:
        _docker("logout", registry)
    return uris


def make_repository(ecr: Any, account: Account) -> None:
    """The project's repository, made where there is none."""
    with suppress(ecr.exceptions.RepositoryAlreadyExistsException):
        ecr.create_repository(
            repositoryName=PROJECT,
            tags=account.tags[:1],
            imageScanningConfiguration={"scanOnPush": True},
            encryptionConfiguration={"encryptionType": "AES256"},
        )
    ecr.put_lifecycle_policy(repositoryName=PROJECT, lifecyclePolicyText=json.dumps(_LIFECYCLE))


def _docker(*arguments: str, input: str | None = None) -> None:
    """Run Docker, which shows its progress; a password goes by ``input``, never as an argument."""
    answer = subprocess.run(["docker", *arguments], input=input, text=True, stderr=subprocess.PIPE)
    if answer.returncode:
        raise RuntimeError(f"docker {arguments[0]}: it failed. It said:\n{answer.stderr.strip()}")
