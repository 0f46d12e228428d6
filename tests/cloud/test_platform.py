from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tools import need

from lggseg.cloud.aws import account
from lggseg.cloud.aws.account import known_role
from lggseg.cloud.platform import Platform, find_platform, missing, targets


@pytest.fixture(autouse=True)
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without anything of AWS; returns its home."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "LGGSEG_", "DOCKER_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(account, "METADATA", tmp_path / "metadata.json")
    return tmp_path


def program(home: Path, name: str, text: str = "") -> None:
    (home / "bin").mkdir(exist_ok=True)
    (home / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
    (home / "bin" / name).chmod(0o755)


def test_a_bare_laptop_can_run_here_and_hears_what_else_it_lacks(laptop: Path) -> None:
    platform = find_platform()
    assert (platform.kind, platform.region, platform.role, platform.gpu) == ("laptop", "", "", "")
    assert not platform.credentials and not platform.docker
    table = targets(platform)
    assert table["open"].tolist() == ["✓", "–", "–"]
    assert "install Docker" in table.loc["sagemaker-local", "next step"]
    for step in ("aws configure", "AWS_REGION", "LGGSEG_ROLE"):
        assert step in table.loc["sagemaker", "next step"]


def test_with_everything_there_all_targets_are_open() -> None:
    role = "arn:aws:iam::123456789012:role/lggseg"
    platform = Platform("laptop", "eu-west-1", role, "T4", credentials=True, docker=True, sdk=True)
    assert missing(platform) == {"here": [], "sagemaker-local": [], "sagemaker": []}
    table = targets(platform)
    assert set(table["open"]) == {"✓"}
    assert "T4" in table.loc["here", "what it is"]
    assert table.loc["sagemaker", "next step"] == 'set WHERE = "sagemaker" in a notebook'


def test_studio_and_notebook_instances_are_distinguished(laptop: Path) -> None:
    arn = "arn:aws:sagemaker:eu-west-1:123456789012:"
    role = "arn:aws:iam::123456789012:role/studio"
    studio = {"DomainId": "d-1", "ResourceArn": arn + "app/d-1", "ExecutionRoleArn": role}
    account.METADATA.write_text(json.dumps(studio))
    platform = find_platform()
    assert (platform.kind, platform.region, platform.role) == ("Studio", "eu-west-1", role)
    assert platform.credentials
    assert "Studio domain's settings" in missing(platform)["sagemaker-local"][-1]
    account.METADATA.write_text(json.dumps({"ResourceArn": arn + "notebook-instance/n"}))
    assert find_platform().kind == "notebook instance"


def test_the_profile_gives_region_and_credentials(
    laptop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("aws", find_spec("boto3") is not None)
    (laptop / ".aws").mkdir()
    text = "[default]\nregion = us-west-2\n[profile work]\nregion = eu-north-1\nsso_session = s\n"
    text += "sso_account_id = 123456789012\nsso_role_name = r\n[sso-session s]\n"
    text += "sso_region = eu-north-1\nsso_start_url = https://example.com/start\n"
    (laptop / ".aws" / "config").write_text(text)
    assert find_platform().region == "us-west-2" and not find_platform().credentials
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert find_platform().region == "eu-north-1" and find_platform().credentials
    monkeypatch.setenv("AWS_REGION", "ap-south-1")
    assert find_platform().region == "ap-south-1"
    monkeypatch.setenv("LGGSEG_ROLE", "arn")
    assert known_role() == "arn"


def test_a_profile_that_is_not_there_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nosuch")
    platform = find_platform()
    assert (platform.region, platform.credentials) == ("", False)


def test_docker_counts_only_when_its_engine_answers(laptop: Path) -> None:
    assert not find_platform().docker
    program(laptop, "docker", '[ "$1" = compose ]')
    assert not find_platform().docker
    program(laptop, "docker", "exit 0")
    assert find_platform().docker


def test_an_engine_that_does_not_answer_is_not_waited_for(
    laptop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lggseg.cloud.docker.ANSWER_SECONDS", 0.1)
    program(laptop, "docker", "exec /bin/sleep 60")
    assert not find_platform().docker


def test_gpus_are_named_and_a_broken_driver_is_none(laptop: Path) -> None:
    program(laptop, "nvidia-smi", "echo 'Tesla T4'; echo 'Tesla T4'")
    assert find_platform().gpu == "Tesla T4, Tesla T4"
    program(laptop, "nvidia-smi", "exit 9")
    assert find_platform().gpu == ""


def test_without_boto3_the_platform_is_found_and_no_package_of_aws_is_needed() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['boto3', 'botocore', 'sagemaker'])); "
        "import importlib.util; importlib.util.find_spec = lambda name: None; "
        "from lggseg.cloud.platform import find_platform, missing; platform = find_platform(); "
        "assert not platform.credentials and 'pip install' in missing(platform)['sagemaker'][0]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
