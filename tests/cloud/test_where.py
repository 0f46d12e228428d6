from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lggseg.cloud import where
from lggseg.cloud.where import Place, find_place, known_region, known_role, missing, ways


@pytest.fixture(autouse=True)
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without anything of AWS; returns its home."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "LGGSEG_", "DOCKER_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(where, "METADATA", tmp_path / "metadata.json")
    return tmp_path


def program(home: Path, name: str, text: str = "") -> None:
    (home / "bin").mkdir(exist_ok=True)
    (home / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
    (home / "bin" / name).chmod(0o755)


def test_a_bare_laptop_can_run_here_and_hears_what_else_it_lacks(laptop: Path) -> None:
    place = find_place()
    assert (place.kind, place.region, place.role, place.gpu) == ("laptop", "", "", "")
    assert not place.credentials and not place.docker
    table = ways(place)
    assert table["open"].tolist() == ["✓", "–", "–"]
    assert "install Docker" in table.loc["sagemaker-local", "next step"]
    for step in ("aws configure", "AWS_REGION", "LGGSEG_ROLE"):
        assert step in table.loc["sagemaker", "next step"]


def test_with_everything_there_all_ways_are_open() -> None:
    role = "arn:aws:iam::123456789012:role/lggseg"
    place = Place("laptop", "eu-west-1", role, "T4", credentials=True, docker=True, sdk=True)
    assert missing(place) == {"here": [], "sagemaker-local": [], "sagemaker": []}
    table = ways(place)
    assert set(table["open"]) == {"✓"}
    assert "T4" in table.loc["here", "what it is"]
    assert table.loc["sagemaker", "next step"] == 'set WHERE = "sagemaker" in a notebook'


def test_studio_and_notebook_instances_are_told_apart(laptop: Path) -> None:
    arn = "arn:aws:sagemaker:eu-west-1:123456789012:"
    role = "arn:aws:iam::123456789012:role/studio"
    studio = {"DomainId": "d-1", "ResourceArn": arn + "app/d-1", "ExecutionRoleArn": role}
    where.METADATA.write_text(json.dumps(studio))
    place = find_place()
    assert (place.kind, place.region, place.role) == ("Studio", "eu-west-1", role)
    assert place.credentials
    assert "Studio domain's settings" in missing(place)["sagemaker-local"][-1]
    where.METADATA.write_text(json.dumps({"ResourceArn": arn + "notebook-instance/n"}))
    assert find_place().kind == "notebook instance"


def test_the_profile_gives_region_and_credentials(
    laptop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (laptop / ".aws").mkdir()
    text = "[default]\nregion = us-west-2\n[profile work]\nregion = eu-north-1\nsso_session = s\n"
    (laptop / ".aws" / "config").write_text(text)
    assert known_region() == "us-west-2" and not find_place().credentials
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert known_region() == "eu-north-1" and find_place().credentials
    monkeypatch.setenv("AWS_REGION", "ap-south-1")
    assert known_region() == "ap-south-1"
    monkeypatch.setenv("LGGSEG_ROLE", "arn")
    assert known_role() == "arn"


def test_docker_counts_only_when_its_engine_answers(
    laptop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = laptop / "docker.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{address}")
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(address))
        engine.listen()
        assert not find_place().docker
        program(laptop, "docker")
        assert find_place().docker
    assert not find_place().docker


def test_gpus_are_named_and_a_broken_driver_is_none(laptop: Path) -> None:
    program(laptop, "nvidia-smi", "echo 'Tesla T4'; echo 'Tesla T4'")
    assert find_place().gpu == "Tesla T4, Tesla T4"
    program(laptop, "nvidia-smi", "exit 9")
    assert find_place().gpu == ""


def test_neither_boto3_nor_sagemaker_is_imported() -> None:
    code = (
        "import sys; from lggseg.cloud.where import *; find_place(); "
        "assert not {'boto3', 'sagemaker'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
