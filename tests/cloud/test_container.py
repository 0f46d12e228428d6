"""What SageMaker's training container does with the files that it is given."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from container_jobs import TINY, prepare, read_metrics, same_results, wait_for_epochs

from lggseg.cloud import container
from lggseg.config import Config, from_hyperparameters, profile
from lggseg.data.archive import PACKED, pack
from lggseg.data.cohort import Cohort
from lggseg.data.splits import make_split, split_fingerprint, write_split
from lggseg.inference.segmenter import Segmenter
from lggseg.utils.threads import threads_each

ROOT = Path(__file__).resolve().parents[2]
START_PROCESSES = container.start_processes
# What the SDK and the tuner add.
OWN = {"sagemaker_program": '"train.py"', "_tuning_objective_metric": "val/dice_raw"}


@pytest.fixture(scope="module", autouse=True)
def _one_process() -> Iterator[None]:
    """A machine with several GPUs would turn these tests into torchrun."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(container, "start_processes", lambda *_: None)
        yield


def failure(root: Path) -> str:
    return (root / "output" / "failure").read_text()


@pytest.mark.parametrize("config", [Config(), TINY, profile("demo")])
def test_a_config_comes_through_hyperparameters_unchanged(config: Config) -> None:
    quoted = {name: json.dumps(text) for name, text in config.to_strings().items()}
    for strings in (config.to_strings(), quoted):
        assert from_hyperparameters({**strings, **OWN}) == config


def test_hyperparameters_may_start_from_a_profile() -> None:
    assert from_hyperparameters({}) == profile("full")
    assert from_hyperparameters({"profile": "smoke", "epochs": "7"}).epochs == 7


@pytest.fixture(scope="module")
def done(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished job of the tiniest training."""
    root = tmp_path_factory.mktemp("job") / "ml"
    prepare(root, {**TINY.to_strings(), **OWN}, cohort.root)
    assert container.main(root) == 0
    return root


def test_a_job_leaves_a_model_and_its_tables(done: Path, cohort: Cohort) -> None:
    segmenter = Segmenter.load(done / "model")
    assert segmenter.config == TINY
    assert segmenter.card["split_fingerprint"] == split_fingerprint(make_split(cohort))
    assert len(pd.read_csv(done / "output" / "data" / "metrics.csv")) == TINY.epochs
    assert not (done / "output" / "failure").exists()


def test_a_job_that_was_done_gives_the_same_model_without_training(
    done: Path, cohort: Cohort, tmp_path: Path
) -> None:
    again = prepare(tmp_path / "ml", TINY.to_strings(), cohort.root)
    shutil.copytree(done / "checkpoints", again / "checkpoints")
    stamp = (again / "checkpoints" / "metrics.csv").stat().st_mtime_ns
    assert container.main(again) == 0
    assert (again / "checkpoints" / "metrics.csv").stat().st_mtime_ns == stamp
    graphs = [(root / "model" / "model.onnx").read_bytes() for root in (done, again)]
    assert graphs[0] == graphs[1]


@pytest.mark.slow
def test_a_job_that_was_interrupted_ends_as_one_that_was_not(
    cohort: Cohort, tmp_path: Path
) -> None:
    """As SageMaker does with a spot instance: SIGTERM, then a new one with the checkpoints."""
    values = replace(TINY, epochs=8).to_strings()
    first, second, whole = (prepare(tmp_path / n / "ml", values, cohort.root) for n in "abc")
    with subprocess.Popen([sys.executable, "-m", "lggseg.cloud.container", str(first)]) as process:
        wait_for_epochs(first / "checkpoints", 2, lambda: process.poll() is None)
        process.send_signal(signal.SIGTERM)
    assert not (first / "model").exists()
    shutil.copytree(first / "checkpoints", second / "checkpoints")
    assert container.main(second) == 0 and container.main(whole) == 0
    same_results(second, whole, cut=len(read_metrics(first / "checkpoints")))


def test_a_packed_cohort_and_a_split_of_ones_own(
    done: Path, cohort: Cohort, tmp_path: Path
) -> None:
    (tmp_path / "packed").mkdir()
    pack(cohort, tmp_path / "packed" / PACKED)
    root = prepare(tmp_path / "ml", TINY.to_strings(), tmp_path / "packed")
    split = make_split(cohort, seed=1)
    write_split(split, root / "input" / "data" / "split" / "split.csv")
    assert container.main(root) == 0, failure(root)
    card = Segmenter.load(root / "model").card
    assert card["split_fingerprint"] == split_fingerprint(split)
    assert card["data_fingerprint"] == Segmenter.load(done / "model").card["data_fingerprint"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"epoch": "3"}, "unknown hyperparameter 'epoch'"),
        ({"epochs": "three"}, "epochs='three': expected a value of type int"),
        ({"paste": "perhaps"}, "paste='perhaps': expected true or false"),
        ({"dropout": "2"}, "dropout='2': expected a value from 0 to 1"),
        ({"profile": "huge"}, "profile 'huge': expected one of"),
        (["epochs"], "found a wrong hyperparameter"),
    ],
)
def test_a_wrong_hyperparameter_is_told_to_sagemaker(
    values: object, said: str, tree: Path, tmp_path: Path
) -> None:
    root = prepare(tmp_path / "ml", values, tree)
    assert container.main(root) == 1
    assert said in failure(root) and "hyperparameters.json" in failure(root)
    assert not (root / "model").exists()


def test_missing_data_are_told_to_sagemaker(tmp_path: Path) -> None:
    root = prepare(tmp_path / "ml", {}, tmp_path / "nowhere")
    assert container.main(root) == 1
    assert "found no such folder" in failure(root)


def test_a_fault_of_ours_leaves_the_end_of_its_traceback(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(root: Path) -> None:
        raise ZeroDivisionError("x" * 2000)

    monkeypatch.setattr(container, "run_job", fault)
    root = prepare(tmp_path / "ml", {}, tree)
    assert container.main(root) == 1
    assert len(failure(root)) == 1024 and failure(root).endswith("xxx\n")


@pytest.mark.parametrize(
    ("hosts", "gpus", "started"),
    [
        ([], 0, None),
        ([], 1, None),
        (["algo-1"], 1, None),
        ([], 4, {"nnodes": "1", "nproc-per-node": "4", "master-addr": "localhost"}),
        (["algo-2", "algo-1"], 0, {"nnodes": "2", "nproc-per-node": "1", "node-rank": "1"}),
        (["algo-1", "algo-2"], 8, {"nproc-per-node": "8", "master-addr": "algo-1"}),
    ],
)
def test_a_job_of_several_gpus_or_hosts_becomes_torchrun(
    hosts: list[str],
    gpus: int,
    started: dict[str, str] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resources, commands = tmp_path / "resourceconfig.json", []
    if hosts:
        facts = {"current_host": hosts[0], "hosts": hosts, "network_interface_name": "eth1"}
        resources.write_text(json.dumps(facts))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(os, "execv", lambda program, command: commands.append(command))
    for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")
    START_PROCESSES(tmp_path, resources)
    if started is None:
        assert not commands
        return
    [command] = commands
    assert command[-3:] == ["-m", "lggseg.cloud.container", str(tmp_path)]
    options = dict(part[2:].split("=") for part in command if part.startswith("--"))
    assert options.items() >= started.items()
    assert os.environ["NCCL_SOCKET_IFNAME"] == ("eth1" if hosts else "eth0")
    assert os.environ["OMP_NUM_THREADS"] == str(threads_each(max(1, gpus)))


def names(file: Path) -> set[str]:
    """The packages that a file of requirements names."""
    lines = [line for line in file.read_text().splitlines() if re.match(r"[A-Za-z]", line)]
    return {re.split(r"[=\[ ]", line)[0].lower() for line in lines}


@pytest.mark.parametrize("target", ["serve", "train"])
def test_the_images_get_the_locked_versions(target: str) -> None:
    file = ROOT / "container" / f"requirements-{target}.txt"
    pin = re.compile(r"^([\w.-]+)==([\w.]+)", re.M)
    assert len(pin.findall(file.read_text())) == len(names(file)) > 20
    assert set(pin.findall(file.read_text())) <= set(
        pin.findall((ROOT / "requirements.txt").read_text())
    )


def test_the_served_image_lacks_torch() -> None:
    assert not names(ROOT / "container" / "requirements-serve.txt") & {
        "torch",
        "monai",
        "pandas",
        "nibabel",
    }


def test_what_the_dockerfile_copies_is_in_its_context() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    dockerfile = (ROOT / "container" / "Dockerfile").read_text()
    for sources in re.findall(r"^COPY (.+) \S+$", dockerfile, re.M):
        for source in sources.split():
            assert (ROOT / source).exists() and source.split("/")[0] in allowed, source
    for script in ("serve", "train"):
        assert (ROOT / "container" / script).stat().st_mode & 0o111
