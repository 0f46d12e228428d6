"""An AWS account: where resources are made, as whom, and how all of them are named and tagged."""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lggseg.utils.errors import missing_extra

PROJECT = "lggseg"
ROLE_VARIABLE = "LGGSEG_ROLE"
# Written by SageMaker in Studio and in notebook instances.
METADATA = Path("/opt/ml/metadata/resource-metadata.json")
# How often it is asked whether something has ended.
POLL_SECONDS = 5
# A tuning job's name has 32 characters: lggseg-, the run, -, and the time in ten digits. Without
# hyphens no run's name is the beginning of another's resource.
_RUN = re.compile(r"[a-z0-9]{1,14}")


@dataclass(frozen=True)
class Account:
    """session: boto3's, with region; run: what the resources belong to, the value of their tag
    ``run``; given_role: ARN of the role that SageMaker's jobs assume, if one is known."""

    session: Any
    run: str
    given_role: str = ""

    @property
    def role(self) -> str:
        """The role of SageMaker's jobs; ``RuntimeError`` with the next step where none is known."""
        if not self.given_role:
            raise RuntimeError(
                f"AWS: found no role for SageMaker's jobs; set {ROLE_VARIABLE} to the ARN of one "
                "that sagemaker.amazonaws.com may assume."
            )
        return self.given_role

    @property
    def region(self) -> str:
        """Where its resources are made, ``us-east-1`` for example."""
        return str(self.session.region_name)

    @cached_property
    def number(self) -> str:
        """The account's twelve digits."""
        return str(self.session.client("sts").get_caller_identity()["Account"])

    @property
    def bucket(self) -> str:
        """The project's only bucket, shared by its runs. AWS's ready-made roles for SageMaker may
        use those with ``sagemaker`` in their name."""
        return f"{PROJECT}-sagemaker-{self.number}-{self.region}"

    @property
    def folder(self) -> str:
        """Where the run's files lie, an S3 URI."""
        return f"s3://{self.bucket}/runs/{self.run}"

    @property
    def prefix(self) -> str:
        """What the names of the run's resources begin with."""
        return f"{PROJECT}-{self.run}"

    def image(self, tag: str) -> str:
        """The URI of the project's image ``train`` or ``serve`` in the account's registry."""
        return f"{self.number}.dkr.ecr.{self.region}.amazonaws.com/{PROJECT}:{tag}"

    @property
    def tags(self) -> list[dict[str, str]]:
        """The tags of every resource of the run."""
        return [{"Key": "project", "Value": PROJECT}, {"Key": "run", "Value": self.run}]


def open_account(run: str = "demo", *, role: str = "", region: str = "") -> Account:
    """The account that boto3's credentials belong to. Sends no request.

    run: up to 14 small letters and digits; role: by default ``$LGGSEG_ROLE``, in Studio the role
    that it runs as; region: by default the configured one. Raises ``RuntimeError`` that says what
    is missing and the next step, ``ValueError`` for a name of a run that would not do.
    """
    if not _RUN.fullmatch(run):
        raise ValueError(f"run={run!r}: expected 1 to 14 small letters and digits")
    require_package("boto3")
    import boto3

    session = boto3.Session(region_name=region or given_region() or None)
    if session.region_name is None:
        raise RuntimeError("AWS: found no region; set AWS_REGION, us-east-1 for example.")
    if session.get_credentials() is None:
        raise RuntimeError("AWS: found no credentials; run `aws configure` or `aws sso login`.")
    return Account(session, run, role or known_role())


def require_package(name: str) -> None:
    """``sagemaker`` or ``boto3``; looks for it without importing it, which takes long."""
    if find_spec(name) is None:
        raise RuntimeError(missing_extra(ModuleNotFoundError(name=name)))


def require_account(account: Account) -> None:
    """Credentials that AWS takes, a role, and the image ``lggseg:serve`` in the registry.

    Raises ``RuntimeError``: what was found, and the next step.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        assert account.number
    except (BotoCoreError, ClientError) as error:
        raise RuntimeError(
            f"AWS: found credentials that it does not take ({error}); run `aws sso login`, or "
            "correct them by `aws configure`."
        ) from error
    assert account.role
    image = {"repositoryName": PROJECT, "imageIds": [{"imageTag": "serve"}]}
    try:
        account.session.client("ecr").describe_images(**image)
    except ClientError as error:
        raise RuntimeError(
            f"ECR: found no image {PROJECT}:serve ({error}); run `make image`, then `make push`."
        ) from error


def studio() -> dict[str, Any]:
    """What SageMaker says of the space or the notebook instance that this runs in; else empty."""
    try:
        return dict(json.loads(METADATA.read_text()))
    except (OSError, ValueError):
        return {}


def given_region() -> str:
    """The region of the environment, or of SageMaker around us; else empty."""
    given = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return given or str(studio().get("ResourceArn", ":::")).split(":")[3]


def known_role() -> str:
    """ARN of the role for SageMaker's jobs: the environment's, or Studio's own; else empty."""
    return os.environ.get(ROLE_VARIABLE) or str(studio().get("ExecutionRoleArn", ""))


def configured() -> tuple[str, bool]:
    """The region that :func:`open_account` would use, empty where none is known, and whether there
    are credentials. Sends no request to AWS; without boto3 there are none."""
    if find_spec("boto3") is None:
        return given_region(), bool(studio())
    import botocore.exceptions
    import botocore.session

    session = botocore.session.get_session()
    try:
        # The only source that asks over the network whether it is there.
        session.get_component("credential_provider").remove("iam-role")
        region = given_region() or str(session.get_config_variable("region") or "")
        return region, bool(studio()) or session.get_credentials() is not None
    except botocore.exceptions.BotoCoreError:  # a profile that is not there, or is broken
        return given_region(), bool(studio())


def new_name(prefix: str) -> str:
    """A name that nothing else has, such as ``<prefix>-20260131-235959-a1b2c3``."""
    return f"{prefix}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def pause() -> None:
    """Wait before asking again whether something has ended."""
    time.sleep(POLL_SECONDS)
