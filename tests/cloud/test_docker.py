"""The images, and SageMaker's local mode in a real Docker engine: `make test-docker` brings one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from container_jobs import read_metrics, same_results, wait_for_epochs
from tools import need

from lggseg.cloud.clean_up import clean_up, left_behind
from lggseg.cloud.deploy import deploy, free_port
from lggseg.cloud.docker import TRAIN_IMAGE, docker, workplace
from lggseg.cloud.train import train
from lggseg.config import Config, profile
from lggseg.data.cohort import Cohort, load_cohort
from lggseg.data.simulation import make_cohort
from lggseg.data.splits import make_split, split_fingerprint, write_split
from lggseg.inference.segmenter import Segmenter
from lggseg.notebooks import execute

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "lgg-unet"
CONFIG = replace(profile("smoke"), precision="32-true")
VERSIONS = """
import importlib.metadata as m, json
print(json.dumps({d.name.lower().replace("_", "-"): d.version for d in m.distributions()}))
"""


@pytest.fixture(scope="module", autouse=True)
def images() -> None:
    """Both images, built from this tree."""
    need("docker", docker("version").returncode == 0)
    need("docker", find_spec("sagemaker") is not None)
    pip = {"PIP": f"{sys.executable} -m pip"}
    subprocess.run([ROOT / "container" / "build_images.sh"], env=os.environ | pip, check=True)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No container, network or folder is there after a test that was not there before."""
    before = traces()
    yield
    assert traces() == before


def traces() -> set[str]:
    found = docker("ps", "--all", "--quiet").stdout + docker("network", "ls", "--quiet").stdout
    return {*found.split(), *left_behind("sagemaker-local")}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    tree = make_cohort(tmp_path_factory.mktemp("docker"), patients=8, progress=False)
    return load_cohort(tree, progress=False)


@pytest.mark.parametrize(("image", "megabytes"), [("serve", 600), ("train", 2000)])
def test_an_image_is_small_and_has_the_locked_versions(image: str, megabytes: int) -> None:
    size = int(docker("image", "inspect", f"lggseg:{image}", "--format", "{{.Size}}").stdout)
    print(f"lggseg:{image}: {size / 1e6:.0f} MB")
    assert size < megabytes * 1e6
    found = docker("run", "--rm", f"lggseg:{image}", "/opt/venv/bin/python", "-c", VERSIONS)
    versions = json.loads(found.stdout)
    lines = (line.split("==") for line in (ROOT / "requirements.txt").read_text().splitlines())
    locked = {pin[0].lower().replace("_", "-"): pin[1].split()[0] for pin in lines if pin[1:]}
    ours = {name: text.split("+")[0] for name, text in versions.items() if name in locked}
    assert ours == {name: locked[name] for name in ours}
    assert {"onnxruntime", "fastapi"} <= set(ours)
    assert ("torch" in ours) == (image == "train")


def test_a_served_container_is_nobody_and_ends_by_sigterm() -> None:
    port = free_port(0)
    options = ["-v", f"{MODEL}:/opt/ml/model:ro", "-p", f"127.0.0.1:{port}:8080", "--read-only"]
    started = time.monotonic()
    number = docker("run", "--detach", *options, "lggseg:serve").stdout.strip()
    try:
        assert docker("exec", number, "id", "-un").stdout.strip() == "nobody"
        wait_for(f"http://127.0.0.1:{port}/ping")
        print(f"ready {time.monotonic() - started:.1f} s after docker run")
        docker("stop", "--time", "20", number)
        assert docker("inspect", number, "--format", "{{.State.ExitCode}}").stdout.strip() == "0"
        said = docker("logs", number)
        assert "telemetry" not in said.stdout + said.stderr
    finally:
        docker("rm", "--force", number)


def wait_for(url: str) -> None:
    for _ in range(600):
        with suppress(OSError), urllib.request.urlopen(url, timeout=1):
            return
        time.sleep(0.1)
    raise AssertionError(f"{url} does not answer after a minute")


def test_trained_and_served_in_containers_it_answers_as_in_process(
    simulated: Cohort, tmp_path: Path
) -> None:
    split = make_split(simulated)
    run = train(CONFIG, simulated, split, tmp_path / "run", "sagemaker-local")
    segmenter = Segmenter.load(run / "model")
    assert segmenter.config == CONFIG
    assert segmenter.card["data_fingerprint"] == simulated.fingerprint
    assert segmenter.card["split_fingerprint"] == split_fingerprint(split)
    assert len(pd.read_csv(run / "metrics.csv")) == CONFIG.epochs
    volume = simulated.image(simulated.patients.index[0])
    with deploy(run / "model", "sagemaker-local") as endpoint:
        found, expected = endpoint.predict(volume), segmenter.predict(volume)
        assert np.array_equal(found.mask, expected.mask)
        np.testing.assert_allclose(found.probability, expected.probability, atol=1e-5)
        with pytest.raises(RuntimeError, match=r"/invocations: 400 .*found a broken TIFF"):
            endpoint.send(b"hello", {"Content-Type": "image/tiff"})
    endpoint.delete()


def test_a_training_that_fails_reports_the_containers_message(
    simulated: Cohort, tmp_path: Path
) -> None:
    config, split = Config(network="nosuch"), make_split(simulated)
    with pytest.raises(RuntimeError, match=r"lggseg:train: the training failed.*\n.*'nosuch'"):
        train(config, simulated, split, tmp_path / "run", "sagemaker-local")
    assert not (tmp_path / "run").exists()


def start(made: ExitStack, job: Path, checkpoints: Path, cohort: Cohort) -> str:
    """A container with what SageMaker mounts for a training, whose own folders lie in ``job``;
    returns its number."""
    places = {"input/config": job / "config", "input/data/train": cohort.root}
    places |= {"model": job / "model", "output": job / "output", "checkpoints": checkpoints}
    (job / "config").mkdir()
    values = replace(CONFIG, epochs=8).to_strings()
    (job / "config" / "hyperparameters.json").write_text(json.dumps(values))
    mounts = [word for place, path in places.items() for word in ("-v", f"{path}:/opt/ml/{place}")]
    # Runs are compared to the last bit, so none may take fewer threads than another.
    mounts += ["--env", "OMP_NUM_THREADS=2"]
    number = docker("run", "--detach", *mounts, TRAIN_IMAGE, "train").stdout.strip()
    made.callback(docker, "rm", "--force", number)
    return number


def state(number: str) -> str:
    """Whether a container is running, and its exit status."""
    return docker("inspect", number, "--format", "{{.State.Running}} {{.State.ExitCode}}").stdout


def test_a_spot_interruption_changes_no_result(simulated: Cohort) -> None:
    """SIGTERM in the middle of a training, then a fresh container with the same checkpoints."""
    with ExitStack() as made:
        first, second, whole = (workplace(made, TRAIN_IMAGE) for _ in range(3))
        kept = first / "checkpoints"
        number = start(made, first, kept, simulated)
        wait_for_epochs(kept, 2, lambda: state(number).startswith("true"))
        docker("stop", "--time", "60", number)
        # 137 would be SIGKILL, after a minute.
        assert state(number).split() == ["false", "143"], docker("logs", number).stderr
        done = len(read_metrics(kept))
        assert not list((first / "model").iterdir())
        for job, checkpoints in ((second, kept), (whole, whole / "checkpoints")):
            number = start(made, job, checkpoints, simulated)
            assert docker("wait", number).stdout.strip() == "0", docker("logs", number).stderr
        assert Segmenter.load(second / "model").config.epochs == 8
        same_results(second, whole, cut=done)


# Whoever starts the tests may have told its children to ignore interrupts.
DEPLOYING = f"""
import signal
from lggseg.cloud.deploy import deploy
signal.signal(signal.SIGINT, signal.default_int_handler)
with deploy({str(MODEL)!r}, "sagemaker-local") as endpoint:
    print(endpoint.url, flush=True)
    input()
"""


@pytest.mark.parametrize("moment", ["while it starts", "while it serves"])
def test_an_interrupt_leaves_nothing(moment: str) -> None:
    before = traces()
    command = [sys.executable, "-c", DEPLOYING]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout
        if moment == "while it serves":
            assert process.stdout.readline().startswith(b"http")
        while len(traces() - before) < 3:  # folder, network, container
            assert process.poll() is None
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) != 0


def test_what_a_killed_program_leaves_is_found_and_deleted() -> None:
    command = [sys.executable, "-c", DEPLOYING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline().startswith(b"http")
        process.kill()
    assert len(left_behind("sagemaker-local")) == 1
    clean_up("sagemaker-local")
    assert left_behind("sagemaker-local") == []


def test_the_notebooks_run_in_local_mode(
    simulated: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LGGSEG_RUNS", str(tmp_path / "runs"))
    write_split(make_split(simulated), tmp_path / "runs" / "simulated" / "split.csv")
    parameters = {"DATA": str(simulated.root), "WHERE": "sagemaker-local"}
    deployed = {**parameters, "MODEL": str(MODEL)}
    execute(ROOT / "notebooks" / "07_deploy.ipynb", tmp_path / "07.ipynb", deployed)
    execute(ROOT / "notebooks" / "08_query_endpoint.ipynb", tmp_path / "08.ipynb", parameters)
    execute(ROOT / "notebooks" / "99_clean_up.ipynb", tmp_path / "99.ipynb", parameters)
