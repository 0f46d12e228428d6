"""Pushing the images: the registry is moto's, and Docker a script that writes down its commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lggseg.cloud.aws.account import Account
from lggseg.cloud.aws.images import push

if TYPE_CHECKING:
    from aws_shapes import Request

REGISTRY = "123456789012.dkr.ecr.us-east-1.amazonaws.com"

SCRIPT = """#!/bin/sh
echo "$@" >> {folder}/log
if [ "$1" = login ]; then echo "password $(cat)" >> {folder}/log; fi
if [ "$1" = "$(cat {folder}/refuse 2>/dev/null)" ]; then echo "no space" >&2; exit 1; fi
"""


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Writes each command, and what it was told on standard input, into the returned file; fails
    at a command that the file ``refuse`` names."""
    log, script = tmp_path / "log", tmp_path / "docker"
    script.write_text(SCRIPT.format(folder=tmp_path))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return log


def commands(log: Path) -> list[str]:
    checks = ("version", "compose", "image")
    return [line for line in log.read_text().splitlines() if not line.startswith(checks)]


def test_both_images_are_pushed_to_a_scanned_repository(
    aws: list[Request], account: Account, docker: Path
) -> None:
    uris = push(account)
    assert uris == [f"{REGISTRY}/lggseg:train", f"{REGISTRY}/lggseg:serve"]
    login, password, *rest = commands(docker)
    assert login == f"login --username AWS --password-stdin {REGISTRY}"
    assert password.startswith("password ") and len(password) > len("password ")
    assert rest == [
        f"tag lggseg:train {uris[0]}",
        f"push {uris[0]}",
        f"tag lggseg:serve {uris[1]}",
        f"push {uris[1]}",
        f"logout {REGISTRY}",
    ]
    ecr = account.session.client("ecr")
    [repository] = ecr.describe_repositories()["repositories"]
    assert repository["imageScanningConfiguration"]["scanOnPush"]
    tags = ecr.list_tags_for_resource(resourceArn=repository["repositoryArn"])["tags"]
    assert tags == account.tags[:1]


def test_pushing_again_uses_the_same_repository(account: Account, docker: Path) -> None:
    assert push(account) == push(account)
    assert len(account.session.client("ecr").describe_repositories()["repositories"]) == 1


def test_a_failing_push_reports_dockers_message_and_logs_out(
    account: Account, docker: Path
) -> None:
    (docker.parent / "refuse").write_text("push")
    with pytest.raises(RuntimeError, match=r"docker push: it failed. It said:\nno space"):
        push(account)
    assert commands(docker)[-1] == f"logout {REGISTRY}"


def test_without_the_images_nothing_is_made(
    aws: list[Request], account: Account, docker: Path
) -> None:
    (docker.parent / "refuse").write_text("image")
    with pytest.raises(RuntimeError, match="lggseg:train: found no such Docker image"):
        push(account)
    assert not [request for request in aws if request.service == "ecr"]
