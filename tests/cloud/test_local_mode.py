"""Local mode's cleaning up, with a stand-in for Docker; tests/cloud/test_docker.py has the real
one."""

from __future__ import annotations

import subprocess
import sys
from collections import deque
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest
from tools import need

from lggseg.cloud import docker as docker_module
from lggseg.cloud.aws import local_mode
from lggseg.cloud.clean_up import clean_up, left_behind
from lggseg.cloud.docker import PREFIX, remove_containers, workplace


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> deque[tuple[str, ...]]:
    """What Docker is told; it lists two containers, of /tmp/one/a and /tmp/onesie."""
    told: deque[tuple[str, ...]] = deque()

    def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
        told.append(arguments)
        listed = "aaa /tmp/one/a\nbbb /tmp/onesie\nccc \n" if arguments[0] == "ps" else ""
        return subprocess.CompletedProcess(arguments, 0, listed, "")

    monkeypatch.setattr(docker_module, "docker", docker)
    return told


def test_only_containers_from_below_the_folder_are_removed(
    commands: deque[tuple[str, ...]],
) -> None:
    remove_containers(Path("/tmp/one"))
    assert [told for told in commands if told[0] == "rm"] == [("rm", "--force", "--volumes", "aaa")]


def test_a_docker_compose_that_runs_there_is_ended(
    commands: deque[tuple[str, ...]], tmp_path: Path
) -> None:
    wait = [sys.executable, "-c", "input()"]
    here, there = (
        subprocess.Popen([*wait, str(folder)], stdin=subprocess.PIPE)
        for folder in (tmp_path / "file", "/elsewhere")
    )
    remove_containers(tmp_path)
    assert here.wait(10) != 0 and there.poll() is None
    there.kill()
    for process in (here, there):
        process.communicate()


def test_a_workplace_is_gone_with_its_containers_whatever_happens(
    commands: deque[tuple[str, ...]],
) -> None:
    with pytest.raises(KeyboardInterrupt), ExitStack() as made:
        root = workplace(made, "lggseg:serve")
        (root / "file").touch()
        raise KeyboardInterrupt
    assert not root.exists()
    assert "ps" in [told[0] for told in commands]


def test_what_is_left_is_listed_and_deleted(
    commands: deque[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left, kept = tmp_path / f"{PREFIX}x", tmp_path / "another"
    left.mkdir()
    kept.mkdir()
    assert left_behind("sagemaker-local") == [str(left)] and left_behind("here") == []
    clean_up("here")
    assert left.exists()
    clean_up("sagemaker-local")
    assert left_behind("sagemaker-local") == [] and kept.exists()


@pytest.fixture
def sdk() -> None:
    need("aws", all(find_spec(package) for package in ("boto3", "sagemaker")))


def test_the_sdk_still_prints_by_the_function_that_is_replaced(
    sdk: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sagemaker.core.local import image

    monkeypatch.setattr(image, "_stream_output", image._stream_output)  # put back at the end
    log = local_mode.keep_log()
    image._HostingContainer([sys.executable, "-c", "print('\\x1b[31mready')"]).run()
    assert list(log) == ["ready\n"]
    assert capfd.readouterr().out == ""


def test_without_the_telemetry_an_interrupt_comes_through(
    sdk: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sagemaker.core.local import local_session

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(local_session, "_LocalEndpoint", interrupt)
    client = local_mode.local_session(tmp_path).sagemaker_client
    create = local_mode.undecorated(client, "create_endpoint")
    assert create.func is not type(client).create_endpoint, "the SDK decorates it"
    with pytest.raises(KeyboardInterrupt):
        create(EndpointName="name", EndpointConfigName="name")
