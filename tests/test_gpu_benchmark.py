"""What travels to a machine with a GPU arrives unchanged, and what is cut off leaves results."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import gpu
import pytest
import torch

from lggseg.config import Config
from lggseg.data.cohort import Cohort
from lggseg.data.splits import make_split
from lggseg.training.datamodule import DeviceCohort


def test_a_packed_cohort_arrives_unchanged(
    cohort: Cohort, shared_tree: Path, tmp_path: Path
) -> None:
    gpu.pack(str(shared_tree), tmp_path / "packed")
    assert sorted(path.name for path in (tmp_path / "packed").iterdir()) == [
        "cohort-1.xz", "cohort-2.xz", "cohort.sha256"
    ]  # fmt: skip
    gpu.unpack(tmp_path / "packed", tmp_path / "there")
    arrived = gpu.load(tmp_path / "there")
    here, there = (DeviceCohort(c, Config(), torch.device("cpu")) for c in (cohort, arrived))
    assert torch.equal(here.pixels, there.pixels) and torch.equal(here.truth, there.truth)
    assert torch.equal(here.patient, there.patient)
    assert arrived.fingerprint == cohort.fingerprint
    assert make_split(arrived).equals(make_split(cohort))


def test_a_changed_part_is_refused(shared_tree: Path, tmp_path: Path) -> None:
    gpu.pack(str(shared_tree), tmp_path)
    (tmp_path / "cohort.sha256").write_text("0" * 64)
    with pytest.raises(SystemExit, match="differs from the packed one"):
        gpu.unpack(tmp_path, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_a_stage_that_fails_leaves_its_results_and_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cut(options: argparse.Namespace) -> object:
        yield {"runs": [1]}
        raise RuntimeError("the machine was taken away")

    monkeypatch.setattr(gpu, "STAGES", {"race": cut, "speed": lambda options: {"ms": 3.0}})
    options = argparse.Namespace(out=tmp_path, stages=["race", "speed"])
    gpu.measure(options)
    results = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert results["race"]["runs"] == [1] and results["speed"]["ms"] == 3.0
    assert all("torch" in result["machine"] for result in results.values())
    assert "the machine was taken away" in capsys.readouterr().err
