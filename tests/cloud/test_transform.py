"""Batch transform, against moto, which runs no container: the test answers in its place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from aws_account import keys, left

from lggseg.cloud import transform as module
from lggseg.cloud.account import Account
from lggseg.cloud.cost import Plan
from lggseg.cloud.storage import put
from lggseg.cloud.transform import transform
from lggseg.data.codecs import npy_bytes
from lggseg.utils.errors import DataError

if TYPE_CHECKING:
    from aws_shapes import Request
from sagemaker_answers import answer

MODEL = Path(__file__).resolve().parents[2] / "models" / "lgg-unet"


PLAN = Plan("ml.m5.xlarge", hours=1)


VOLUMES = {name: np.full((2, 256, 256, 3), value, np.uint8) for name, value in (("a", 1), ("b", 2))}


def test_each_patient_gets_its_own_mask_and_nothing_is_left(
    aws: list[Request], account: Account, tmp_path: Path
) -> None:
    answer(account)
    files = transform(MODEL, VOLUMES, account, PLAN, tmp_path)
    assert [file.name for file in files] == ["a_mask.tif", "b_mask.tif"]
    assert [int(tifffile.imread(file).max()) for file in files] == [0, 255]
    assert tifffile.imread(files[1]).shape == (2, 256, 256)
    assert keys(account) == set() and left(account) == set()
    [job] = [request.params for request in aws if request.operation == "CreateTransformJob"]
    assert job["Tags"] == account.tags
    assert job["TransformResources"] == {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1}


def test_one_volume_at_a_time_is_in_memory(
    aws: list[Request], account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(account)
    done: list[str] = []

    def made(volume: np.ndarray) -> bytes:
        done.append("made")
        return npy_bytes(volume)

    def sent(path: Path, to: Account, key: str) -> str:
        done.append("sent")
        return put(path, to, key)

    monkeypatch.setattr(module, "npy_bytes", made)
    monkeypatch.setattr(module, "put", sent)
    transform(MODEL, VOLUMES, account, PLAN, tmp_path)
    assert done == ["sent", "made", "sent", "made", "sent"]  # the model, then the volumes


def test_a_job_that_takes_too_long_is_stopped(
    aws: list[Request], account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moto.sagemaker.models import FakeTransformJob

    monkeypatch.setattr(module, "POLL_SECONDS", 0)
    start = FakeTransformJob.__init__

    def hang(self: Any, *arguments: Any, **options: Any) -> None:
        start(self, *arguments, **options)
        self.transform_job_status = "InProgress"

    monkeypatch.setattr(FakeTransformJob, "__init__", hang)
    with pytest.raises(RuntimeError, match="not done after 0 hours; it is stopped"):
        transform(MODEL, VOLUMES, account, Plan("ml.m5.xlarge", hours=0), tmp_path)
    assert [r.operation for r in aws if r.operation.startswith("Stop")] == ["StopTransformJob"]
    assert keys(account) == set() and left(account) == set()


def test_what_cannot_be_sent_is_refused_before_anything_is_made(
    aws: list[Request], account: Account, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"long: found .* bytes; expected up to 25000000"):
        long = {"long": np.zeros((128, 256, 256, 3), np.uint8)}
        transform(MODEL, long, account, PLAN, tmp_path)
    with pytest.raises(DataError, match="found no such file"):
        transform(tmp_path, VOLUMES, account, PLAN, tmp_path)
    assert aws == []
