from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lggseg.cloud import registry
from lggseg.inference.model_folder import FILES
from lggseg.inference.segmenter import Segmenter
from lggseg.utils.errors import DataError

if TYPE_CHECKING:
    from aws_shapes import Request

MODEL = Path(__file__).resolve().parents[2] / "models" / "lgg-unet"


@pytest.fixture(autouse=True)
def _own_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LGGSEG_RUNS", str(tmp_path))


def test_a_registered_model_is_read_back_by_name_version_and_alias() -> None:
    assert registry.register(MODEL, "unet", aliases=["production"]) == "v1"
    assert registry.register(MODEL, "unet") == "v2"
    assert registry.resolve("unet").name == registry.resolve("unet:latest").name == "v2"
    assert registry.resolve("unet:production").name == "v1"
    assert registry.resolve("unet:v1") == registry.resolve("unet:production")
    for file in FILES:
        assert (registry.resolve("unet") / file).read_bytes() == (MODEL / file).read_bytes()
    assert Segmenter.load(registry.resolve("unet")).card == Segmenter.load(MODEL).card


def test_a_model_is_registered_with_wandb_without_an_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    name = registry.register(MODEL, "unet", aliases=["production"], to="wandb")
    assert name == "lggseg/unet:latest"
    (log,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    # W&B's own process writes it, and need not be done when the run has ended.
    end = time.monotonic() + 30
    while b"production" not in log.read_bytes() and time.monotonic() < end:
        time.sleep(0.1)
    assert b"production" in log.read_bytes()
    with pytest.raises(DataError, match="a registered model"):
        registry.resolve("unet")


def test_unknown_versions_say_what_there_is() -> None:
    with pytest.raises(DataError, match="no 'latest'; expected a registered model"):
        registry.resolve("unet")
    registry.register(MODEL, "unet")
    with pytest.raises(DataError, match=r"no 'v7'; expected one of \['v1', 'latest'\]"):
        registry.resolve("unet:v7")


def test_a_broken_model_is_not_registered(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"model.onnx: found no such file"):
        registry.register(tmp_path, "unet")
    with pytest.raises(DataError, match="expected a registered model"):
        registry.resolve("unet")


def test_what_an_interrupted_copy_left_is_no_version(tmp_path: Path) -> None:
    (tmp_path / "registry" / "unet" / ".v1").mkdir(parents=True)
    assert registry.register(MODEL, "unet") == "v1"


def test_of_two_processes_at_once_each_gets_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert registry.register(MODEL, "unet") == "v1"
    numbers, seen = registry._numbers, []

    def late(folder: Path) -> list[int]:
        seen.append(folder)
        return [] if len(seen) == 1 else numbers(folder)

    monkeypatch.setattr(registry, "_numbers", late)
    assert registry.register(MODEL, "unet") == "v2"
    folder = registry.resolve("unet").parent
    assert sorted(path.name for path in folder.glob("[!.]*")) == ["aliases.json", "v1", "v2"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x", "a:b"])
def test_names_stay_inside_the_registry(name: str) -> None:
    with pytest.raises(ValueError, match="expected the plain name"):
        registry.register(MODEL, name)


def test_a_model_is_registered_with_sagemaker_with_its_metrics(aws: list[Request]) -> None:
    from lggseg.cloud.aws.account import open_account

    first, second = (registry.register(MODEL, "unet", to="sagemaker") for _ in range(2))
    assert first.endswith("/lggseg-demo-unet/1") and second.endswith("/lggseg-demo-unet/2")
    session = open_account().session
    sagemaker = session.client("sagemaker")
    found = sagemaker.describe_model_package(ModelPackageName=first)
    assert found["ModelApprovalStatus"] == "PendingManualApproval"
    card = json.loads((MODEL / "model_card.json").read_text())
    properties = found["CustomerMetadataProperties"]
    assert properties["data_fingerprint"] == card["data_fingerprint"]
    uri = found["ModelMetrics"]["ModelQuality"]["Statistics"]["S3Uri"]
    bucket, key = uri.removeprefix("s3://").split("/", 1)
    body = session.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    dice = json.loads(body)["segmentation_metrics"]["dice"]
    assert dice["value"] == card["cross_validation"]["dice"]["mean"]
    group = sagemaker.describe_model_package_group(ModelPackageGroupName="lggseg-demo-unet")
    tags = sagemaker.list_tags(ResourceArn=group["ModelPackageGroupArn"])["Tags"]
    assert {"Key": "run", "Value": "demo"} in tags


def test_of_eight_registrations_at_once_no_version_and_no_alias_is_lost() -> None:
    aliases = [f"alias-{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda a: registry.register(MODEL, "unet", aliases=[a]), aliases))
    assert sorted(versions) == [f"v{n}" for n in range(1, 9)]
    for alias, version in zip(aliases, versions, strict=True):
        assert registry.resolve(f"unet:{alias}").name == version
    assert registry.resolve("unet").name == "v8"


@pytest.mark.parametrize("alias", ["v1", "v12", "", "a:b"])
def test_an_alias_is_no_version(alias: str) -> None:
    with pytest.raises(ValueError, match=r"expected a word other than a version's"):
        registry.register(MODEL, "unet", aliases=[alias])
    with pytest.raises(DataError, match="expected a registered model"):
        registry.resolve("unet")


def test_a_version_is_meant_where_an_alias_of_an_earlier_registry_looks_like_it() -> None:
    registry.register(MODEL, "unet")
    registry.register(MODEL, "unet")
    folder = registry.resolve("unet").parent
    (folder / "aliases.json").write_text('{"v1": "v2", "out": "/etc", "latest": "v2"}')
    assert registry.resolve("unet:v1").name == "v1"
    with pytest.raises(DataError, match="no 'out'; expected one of"):
        registry.resolve("unet:out")


@pytest.mark.parametrize("stray", ["v1.bak", "v2", "v", "v01", "vx", "notes.txt"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_stray_files_are_no_versions(stray: str, kind: str, tmp_path: Path) -> None:
    registry.register(MODEL, "unet")
    path = registry.resolve("unet").parent / stray
    path.mkdir() if kind == "folder" else path.write_text("stray")
    assert registry.resolve("unet:v1").name == "v1"
    assert registry.register(MODEL, "unet") == ("v3" if stray == "v2" else "v2")


@pytest.mark.parametrize("wanted", ["/etc", "..", "../..", ".", "v1/..", ".lock", "aliases.json"])
def test_only_versions_are_resolved(wanted: str) -> None:
    registry.register(MODEL, "unet")
    with pytest.raises(DataError, match="expected one of"):
        registry.resolve(f"unet:{wanted}")


def test_a_broken_table_of_aliases_is_named_and_the_registry_is_private() -> None:
    registry.register(MODEL, "unet")
    folder = registry.resolve("unet").parent
    assert folder.stat().st_mode & 0o077 == folder.parent.stat().st_mode & 0o077 == 0
    for text in ("{", "[]"):
        (folder / "aliases.json").write_text(text)
        with pytest.raises(DataError, match=r"aliases.json: found .*Restore it, or delete it"):
            registry.resolve("unet")
