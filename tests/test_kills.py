"""A few kills by the script that does a hundred, and that its checks find what is half-written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import kills
import pytest

from lggseg.data.cohort import Cohort

SCRIPT = Path(kills.__file__)


@pytest.mark.slow
def test_what_a_killed_process_left_is_whole_and_going_on_ends_right(
    shared_tree: Path, tmp_path: Path
) -> None:
    command = [sys.executable, str(SCRIPT), "--kills", "8", "--data", str(shared_tree)]
    command += ["--stages", "load", "train", "tune", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "kills.json").read_text())
    assert {name: row["kills"] for name, row in results["stages"].items()} == {
        "load": 4,
        "train": 2,
        "tune": 2,
    }
    assert results["silent_failures"] == results["loud_failures"] == results["left_running"] == 0


@pytest.fixture
def cached(shared_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> kills.Stage:
    """The stage of loading, after it ran into ``whole`` and ``other``."""
    stage = kills.load_stage(shared_tree)
    monkeypatch.setenv("LGGSEG_CACHE", "")
    for name in ("whole", "other"):
        (tmp_path / name).mkdir()
        stage.run(tmp_path / name)
    stage.same(tmp_path / "other", tmp_path / "whole")
    return stage


@pytest.mark.parametrize("name", ["pixels.npy", "slices.csv", "meta.json"])
@pytest.mark.parametrize("share", [0, 0.5, None])
def test_a_cache_that_is_not_whole_is_found(
    cached: kills.Stage, tmp_path: Path, name: str, share: float | None
) -> None:
    (file,) = (tmp_path / "other").glob(f"*/{name}")
    content = file.read_bytes()
    file.unlink()
    if share is not None:
        file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(AssertionError, match=name if share is not None else "lacks a file"):
        cached.read(tmp_path / "other", tmp_path / "whole")


@pytest.mark.slow
def test_half_a_run_folder_is_found(cohort: Cohort, tmp_path: Path) -> None:
    stage, whole, other = kills.train_stage(cohort), tmp_path / "whole", tmp_path / "other"
    for folder in (whole, other):
        stage.run(folder)
    stage.same(other, whole)
    for name, path in kills.visible(other).items():
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises((AssertionError, ValueError, RuntimeError)):
            stage.read(other, whole)
            pytest.fail(f"half of {name} was not found")
        path.write_bytes(content)
    stage.same(other, whole)


def test_a_trial_with_the_dice_of_other_hyperparameters_is_found(
    cohort: Cohort, tmp_path: Path
) -> None:
    (tmp_path / "trials.csv").write_text("number,learning_rate,dice\n0,0.003,0.5\n")
    with pytest.raises(AssertionError):
        kills.tune_stage(cohort).read(tmp_path, tmp_path)
