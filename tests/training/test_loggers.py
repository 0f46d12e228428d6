"""Metrics on their way to SageMaker: one function writes the line, one says how it is read."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainings import CONFIG

from lggseg.data.cohort import Cohort, load_cohort
from lggseg.data.splits import make_split
from lggseg.training import loggers, train
from lggseg.training.loggers import METRICS, OBJECTIVE, metric_definitions, metric_line

values = st.floats(allow_nan=False, allow_infinity=False, width=32)


def read(line: str) -> dict[str, float]:
    """What SageMaker reads: the first group of each regex."""
    found = {d["Name"]: re.search(d["Regex"], line) for d in metric_definitions()}
    return {name: float(match[1]) for name, match in found.items() if match}


@given(st.dictionaries(st.sampled_from([*METRICS, "val/dice_raw_median", "other"]), values))
def test_what_is_printed_is_what_is_read(metrics: dict[str, float]) -> None:
    known = {name: value for name, value in metrics.items() if name in METRICS}
    assert read(metric_line(metrics)) == pytest.approx(known, rel=1e-5)


def test_other_lines_of_a_log_are_not_read() -> None:
    for line in (
        "sub_val/dice_raw=1;",
        "val/dice_raw=",
        "val/dice_raw_median=0.5;",
        "val/dice_raw: 0.5",
    ):
        assert read(line) == {}
    assert OBJECTIVE in METRICS


def test_a_training_in_sagemaker_prints_every_epoch(
    shared_tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cohort = load_cohort(shared_tree, progress=False)
    monkeypatch.setenv("TRAINING_JOB_NAME", "lggseg-test")
    run = train.train(CONFIG, cohort, make_split(cohort), tmp_path / "run", progress=False)
    lines = [read(line) for line in capsys.readouterr().out.splitlines() if read(line)]
    table = pd.read_csv(run / "metrics.csv")
    assert len(lines) == CONFIG.epochs
    for name in METRICS:
        assert [line[name] for line in lines] == pytest.approx(table[name].tolist(), rel=1e-5)


def test_a_tracker_that_cannot_start_is_one_sentence_and_leaves_no_run(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused:
        @property
        def experiment(self) -> object:
            raise LookupError("the key is not valid")

    monkeypatch.setattr(loggers, "check_tracker", lambda config: None)
    monkeypatch.setattr(loggers, "_logger", lambda *_, **__: Refused())
    config = replace(CONFIG, tracker="wandb")
    with pytest.raises(RuntimeError, match=r"no run \(the key is not valid\).*--tracker csv"):
        train.train(config, cohort, make_split(cohort), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
