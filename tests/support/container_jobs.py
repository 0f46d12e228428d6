"""Training jobs of seconds in SageMaker's folders, and what they leave."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd

from lggseg.config import profile

TINY = replace(profile("smoke"), width=4, epochs=1, precision="32-true")


def prepare(root: Path, values: object, data: Path) -> Path:
    """``/opt/ml`` with hyperparameters and a channel of data."""
    (root / "input" / "config").mkdir(parents=True)
    (root / "input" / "config" / "hyperparameters.json").write_text(json.dumps(values))
    (root / "input" / "data").mkdir()
    (root / "input" / "data" / "train").symlink_to(data)
    return root


def wait_for_epochs(run: Path, epochs: int, alive: Callable[[], bool]) -> None:
    """Wait until so many epochs of a run are done, while it is alive."""
    while not (run / "metrics.csv").exists() or len(read_metrics(run)) < epochs:
        assert alive(), "it ended before it was interrupted"
        time.sleep(0.02)


def read_metrics(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "metrics.csv").drop(columns="seconds")


def same_results(resumed: Path, whole: Path, cut: int) -> None:
    """The same tables, but for the training loss of the epoch that was cut, which is the mean of
    what was left of it."""
    assert cut < len(read_metrics(whole / "output" / "data"))
    tables = [read_metrics(root / "output" / "data") for root in (resumed, whole)]
    for table in tables:
        table.loc[cut, "train/loss"] = 0
    pd.testing.assert_frame_equal(*tables, rtol=1e-5)
    scores = [pd.read_csv(root / "output" / "data" / "patients.csv") for root in (resumed, whole)]
    pd.testing.assert_frame_equal(*scores, rtol=1e-5)
