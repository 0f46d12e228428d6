"""SIGTERM and SIGINT: where a training ends, what it says, and its exit status."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from container_jobs import TINY, prepare
from trainings import CONFIG, final_metrics, training_command

from lggseg.cloud import container
from lggseg.data.cohort import Cohort
from lggseg.data.splits import make_split
from lggseg.training import train
from lggseg.utils.stopping import SIGNALS, Stopped

BOTH = [signal.SIGTERM, signal.SIGINT]
EITHER = [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]


@pytest.fixture(autouse=True)
def _usual_handlers() -> Any:
    """Whoever starts the tests may have told its children to ignore interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("how", BOTH)
def test_a_signal_is_an_exception_with_the_status_of_a_shell(how: signal.Signals) -> None:
    handlers = [signal.getsignal(number) for number in BOTH]
    with pytest.raises(Stopped, match=f"stopped by {how.name}") as stopped, SIGNALS, SIGNALS:
        signal.raise_signal(how)
    assert stopped.value.status == 128 + how
    assert [signal.getsignal(number) for number in BOTH] == handlers


def test_ignored_signals_and_other_handlers_stay() -> None:
    seen = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("own"))
    try:
        with SIGNALS:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == ["own"]


def test_processes_that_train_together_and_threads_keep_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with SIGNALS:
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    monkeypatch.delenv("WORLD_SIZE")
    thread = threading.Thread(target=SIGNALS.__enter__)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    SIGNALS.__exit__()


def test_a_signal_to_one_training_does_not_stop_a_later_one_in_a_thread() -> None:
    with pytest.raises(Stopped), SIGNALS:
        signal.raise_signal(signal.SIGINT)
    assert SIGNALS.received == signal.SIGINT
    thread = threading.Thread(target=SIGNALS.__enter__)
    thread.start()
    thread.join()
    assert not SIGNALS.received
    SIGNALS.__exit__()


def test_a_second_interrupt_does_not_wait_for_the_step() -> None:
    seen = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with SIGNALS:
        SIGNALS.after_step = True
        ours = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda *_: seen.append("Lightning"))
        signal.raise_signal(signal.SIGINT)
        assert seen == ["Lightning"]
        with pytest.raises(Stopped, match="SIGINT"):
            signal.raise_signal(signal.SIGINT)
        signal.signal(signal.SIGTERM, ours)
    SIGNALS.after_step = False
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("how", EITHER)
@pytest.mark.parametrize("moment", ["setup", "step", "finish"])
def test_a_stopped_training_says_what_was_saved_and_goes_on_to_the_same_end(
    how: signal.Signals,
    moment: str,
    cohort: Cohort,
    uninterrupted: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, options = tmp_path / "run", (CONFIG, cohort, make_split(cohort), tmp_path / "run")
    monkeypatch.setattr(train, "_finish", finish)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(moment, how, patch)
        with pytest.raises(Stopped) as stopped:
            train.train(*options, progress=False)
    said = str(stopped.value)
    assert said.startswith(f"stopped by {how.name}. ") and stopped.value.status == 128 + how
    if moment == "setup":
        assert said.endswith("Nothing was saved.") and not run.exists()
    else:
        assert f"{run}/checkpoints/last.ckpt holds the training so far" in said
        assert "--resume" in said and not (run / "patients.csv").exists()
    train.train(*options, resume=True, progress=False)
    pd.testing.assert_frame_equal(final_metrics(run), uninterrupted, rtol=1e-5)


def finish(run: Path, *_: Any) -> None:
    (run / "patients.csv").write_text("patient\n")


def interrupt_at(moment: str, how: signal.Signals, patch: pytest.MonkeyPatch) -> None:
    """A signal before the first step, in the fifth step, or after the last."""
    from lggseg.training.module import SegmentationModule

    places: dict[str, tuple[Any, str]] = {
        "setup": (SegmentationModule, "configure_optimizers"),
        "step": (SegmentationModule, "training_step"),
        "finish": (train, "_finish"),
    }
    owner, name = places[moment]
    usual, calls = getattr(owner, name), []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == (5 if moment == "step" else 1):
            os.kill(os.getpid(), how)
        return usual(*arguments)

    patch.setattr(owner, name, interrupted)


@pytest.fixture(scope="module")
def uninterrupted(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_finish", finish)
        return final_metrics(train.train(CONFIG, cohort, make_split(cohort), run, progress=False))


@pytest.mark.parametrize("how", EITHER)
def test_a_trial_that_a_signal_stops_is_replaced(
    how: signal.Signals, cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lggseg.experiments import search as tune

    def stopped(*_: Any, **__: Any) -> pd.Series:
        os.kill(os.getpid(), how)
        time.sleep(1)
        pytest.fail("it went on")

    search = (CONFIG, cohort, make_split(cohort), tmp_path)
    monkeypatch.setattr(tune, "validation_dice", stopped)
    with pytest.raises(Stopped, match=r"study.db holds the finished trials. .* same command"):
        tune.tune(*search, trials=1, progress=False)
    monkeypatch.setattr(tune, "validation_dice", lambda *_, **__: pd.Series([0.5]))
    start = time.monotonic()
    assert tune.tune(*search, trials=1, progress=False)["state"].tolist() == ["complete"]
    assert time.monotonic() - start < tune.GRACE / 2, "it waited for the stopped trial"


def test_an_experiment_is_stopped_too(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    subsets = np.where(cohort.slices["patient"] == cohort.patients.index[0], "validation", "train")
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at("step", signal.SIGTERM, patch)
        with pytest.raises(Stopped):
            train.validation_dice(CONFIG, cohort, subsets, progress=False)


@pytest.mark.parametrize("how", EITHER)
def test_a_job_that_is_stopped_is_no_failure_and_no_success(
    how: signal.Signals, cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "start_processes", lambda *_: os.kill(os.getpid(), how))
    root = prepare(tmp_path / "ml", TINY.to_strings(), cohort.root)
    assert container.main(root) == 128 + how
    assert not (root / "output" / "failure").exists() and not (root / "model").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", EITHER)
def test_the_command_ends_with_a_status_and_a_sentence(
    how: signal.Signals, shared_tree: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = training_command(shared_tree, run)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (run / "metrics.csv").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(how)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + how, said
    expected = rf"lggseg: stopped by {how.name}. \S+last.ckpt holds .* --resume\.\s*$"
    assert re.search(expected, said) and "Traceback" not in said
    assert sys.executable == command[0]
