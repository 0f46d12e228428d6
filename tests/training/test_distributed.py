"""Two processes that train together over gloo: exact metrics, and going on after a stop."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torchrun_validate import validate
from trees import write_tree

from lggseg.config import profile
from lggseg.data.cohort import Cohort, load_cohort, select_patients
from lggseg.data.splits import make_split, patients_of, slice_subsets
from lggseg.inference.evaluate import evaluate
from lggseg.inference.segmenter import Segmenter
from lggseg.training import distributed
from lggseg.training.datamodule import TrainingRows, own_share
from lggseg.training.module import SegmentationModule

# No part may be dropped and no slice mirrored, for the module's own Dice to be the model's.
CONFIG = replace(
    profile("smoke"),
    epochs=12,
    augmentation=0.0,
    batch_size=4,
    ema_decay=0.5,
    precision="32-true",
    width=4,
    test_flips=False,
    threshold=0.5,
    min_component_fraction=0.0,
)
HOSTS = ("127.0.0.1", "localhost")
PROGRAM = Path(__file__).resolve().parents[1] / "support" / "torchrun_validate.py"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Enough patients for each process to validate some."""
    tree = write_tree(tmp_path_factory.mktemp("twenty") / "kaggle_3m", patients=20, slices=6)
    return load_cohort(tree, progress=False)


@pytest.fixture(scope="module")
def together(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes on this machine have trained and told."""
    folder = tmp_path_factory.mktemp("together")
    CONFIG.save(folder / "config.json")
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = [PROGRAM, cohort.root, folder / "config.json", folder / "out"]
    command = [sys.executable, "-m", *torchrun, *map(str, arguments)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return folder / "out"


@pytest.fixture
def facts(together: Path) -> dict[str, Any]:
    return dict(json.loads((together / "facts.json").read_text()))


@pytest.mark.slow
def test_two_processes_give_each_patient_the_dice_that_one_gives(
    together: Path, facts: dict[str, Any], cohort: Cohort
) -> None:
    module = SegmentationModule(CONFIG)
    module.networks.averaged.load_state_dict(torch.load(together / "weights.pt", weights_only=True))
    alone = validate(module, cohort, CONFIG)
    assert list(alone.index) == patients_of(make_split(cohort), "validation", 0)
    assert facts["dice"] == alone.to_dict()
    assert alone.max() > 0.1


@pytest.mark.slow
def test_each_process_holds_its_own_patients(facts: dict[str, Any], cohort: Cohort) -> None:
    first, second = facts["patients"]
    split = make_split(cohort)
    used = [patients_of(split, role, 0) for role in ("train", "validation")]
    assert not set(first) & set(second)
    assert sorted(first + second) == sorted([*used[0], *used[1]])
    assert all(len(set(side) & set(first)) in (len(side) // 2, -(-len(side) // 2)) for side in used)
    slices = cohort.patients["slices"]
    assert facts["resident"] == [slices[first].sum(), slices[second].sum()]


@pytest.mark.slow
def test_processes_end_with_the_same_weights_after_as_many_steps(facts: dict[str, Any]) -> None:
    first, second = facts["weights"]
    assert first == second
    assert len(set(facts["batches"])) == 1


def test_shares_weigh_about_the_same() -> None:
    weights = pd.Series(np.random.default_rng(0).integers(3, 37, 60))
    owner = distributed.shares(weights, 4)
    loads = weights.groupby(owner).sum()
    assert len(loads) == 4 and loads.max() - loads.min() <= weights.min()
    assert owner.index.equals(weights.index)


def test_selected_patients_are_the_same_in_the_same_order(cohort: Cohort) -> None:
    names = cohort.patients.index[[5, 1]]
    part = select_patients(cohort, names)
    assert list(part.patients.index) == sorted(names)
    for name in names:
        np.testing.assert_array_equal(part.image(name), cohort.image(name))
        np.testing.assert_array_equal(part.mask(name), cohort.mask(name))
        assert (part.slices["patient"][part.rows(name)] == name).all()


def test_more_processes_than_patients_are_refused(
    cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    subsets = slice_subsets(cohort, make_split(cohort), 0)
    monkeypatch.setattr(distributed, "processes", lambda: 50)
    with pytest.raises(ValueError, match=r"50 processes: found \d+ patients for train"):
        own_share(cohort, subsets)


def test_a_process_with_too_few_slices_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "of_all", lambda rows: [rows, 2])
    with pytest.raises(ValueError, match="found one with 2 slices to train on"):
        TrainingRows(np.arange(10), np.arange(10, 20), CONFIG, lambda: 0)


def job(root: Path, cohort: Cohort, checkpoints: Path) -> Path:
    """``/opt/ml`` of both hosts of a job, whose checkpoints lie in one place, as in S3."""
    checkpoints.mkdir(exist_ok=True)
    for host in HOSTS:
        settings = root / host / "input" / "config"
        settings.mkdir(parents=True)
        values = {name: json.dumps(text) for name, text in CONFIG.to_strings().items()}
        (settings / "hyperparameters.json").write_text(json.dumps(values))
        resources = {"current_host": host, "hosts": HOSTS, "network_interface_name": "lo"}
        (settings / "resourceconfig.json").write_text(json.dumps(resources))
        (root / host / "input" / "data").mkdir()
        (root / host / "input" / "data" / "train").symlink_to(cohort.root)
        (root / host / "checkpoints").symlink_to(checkpoints)
    return root


def start(root: Path) -> list[subprocess.Popen[str]]:
    """Start the containers' program on both hosts."""
    program = [sys.executable, "-m", "lggseg.cloud.container"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return [subprocess.Popen([*program, str(root / host)], **pipes) for host in HOSTS]


def finish(processes: list[subprocess.Popen[str]]) -> list[int]:
    said = [process.communicate(timeout=240)[0] for process in processes]
    assert all(said) or not any(process.returncode for process in processes), said
    return [process.returncode for process in processes]


@pytest.fixture(scope="module")
def done(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job of two hosts that nothing has interrupted."""
    root = tmp_path_factory.mktemp("job")
    assert finish(start(job(root, cohort, root / "s3"))) == [0, 0]
    return root


def metrics(root: Path) -> pd.DataFrame:
    return pd.read_csv(root / "s3" / "metrics.csv").drop(columns="seconds")


@pytest.mark.slow
def test_a_job_of_two_hosts_leaves_one_model_and_exact_dice(done: Path, cohort: Cohort) -> None:
    first, second = (done / host for host in HOSTS)
    assert not (second / "model").exists()
    patients = patients_of(make_split(cohort), "validation", 0)
    table = evaluate(Segmenter.load(first / "model"), cohort, patients, progress=False)
    assert metrics(done)["val/dice_raw"].iloc[-1] == pytest.approx(table["dice"].mean(), abs=1e-3)
    assert len(metrics(done)) == CONFIG.epochs
    pd.testing.assert_frame_equal(pd.read_csv(first / "output/data/patients.csv"), table)


@pytest.mark.slow
def test_a_job_of_two_hosts_goes_on_after_an_interruption_to_the_same_metrics(
    done: Path, cohort: Cohort, tmp_path: Path
) -> None:
    processes = start(job(tmp_path / "first", cohort, tmp_path / "s3"))
    checkpoint = tmp_path / "s3" / "checkpoints" / "last.ckpt"
    while not checkpoint.exists():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    assert all(finish(processes))
    assert not (tmp_path / "s3" / "patients.csv").exists()
    assert finish(start(job(tmp_path / "second", cohort, tmp_path / "s3"))) == [0, 0]
    pd.testing.assert_frame_equal(metrics(tmp_path), metrics(done))
