"""Each thing that may be missing is said in a sentence, with the next step."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lggseg.cloud import docker
from lggseg.cloud.aws.account import Account, require_account, require_package
from lggseg.cloud.deploy import free_port


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a shell script on a PATH that has nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def write(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return write


def test_a_missing_package() -> None:
    require_package("numpy")
    with pytest.raises(RuntimeError, match=r"nosuch: found no such .*Install it"):
        require_package("nosuch")


def test_no_docker(program: Callable[[str, str], None]) -> None:
    with pytest.raises(RuntimeError, match=r"docker: found no such command; install Docker"):
        docker.require_engine()


def test_a_docker_without_an_engine(program: Callable[[str, str], None]) -> None:
    program("docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    with pytest.raises(RuntimeError, match=r"no engine \(Cannot connect to the .*\); start it"):
        docker.require_engine()


def test_a_docker_without_compose(program: Callable[[str, str], None]) -> None:
    program("docker", '[ "$1" = version ]')
    with pytest.raises(RuntimeError, match="found no Docker Compose; install docker-compose"):
        docker.require_engine()
    program("docker-compose", "exit 0")
    docker.require_engine()


def test_a_missing_image(program: Callable[[str, str], None]) -> None:
    program("docker", '[ "$3" = lggseg:serve ]')
    docker.require_image("lggseg:serve")
    with pytest.raises(RuntimeError, match=r"lggseg:train: found no such .* run `make image`"):
        docker.require_image("lggseg:train")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker.require_space(tmp_path, gib=0)
    monkeypatch.setattr(docker.shutil, "disk_usage", lambda _: SimpleNamespace(free=0.3 * 2**30))
    with pytest.raises(RuntimeError, match=r"found 0\.3 GiB free; expected 2 GiB\. Delete"):
        docker.require_space(tmp_path)


def test_a_busy_port() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(RuntimeError, match=f"port {port}: found it taken .*; choose another"):
            free_port(port)
    assert free_port(port) == port
    assert free_port(0) > 0


def test_an_image_that_was_not_pushed(account: Account) -> None:
    with pytest.raises(RuntimeError, match=r"ECR: found no image lggseg:serve .* `make push`"):
        require_account(account)


def test_credentials_that_aws_refuses(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import ClientError

    refusal = {"Error": {"Code": "ExpiredToken", "Message": "expired"}}

    class Expired:
        def client(self, _: str) -> Any:
            raise ClientError(refusal, "GetCallerIdentity")

    with pytest.raises(RuntimeError, match=r"does not take .*expired.*`aws sso login`"):
        require_account(Account(Expired(), "test"))
