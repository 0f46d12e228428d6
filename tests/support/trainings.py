"""A training of seconds, in this process and in another."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd

from lggseg.config import profile

CONFIG = replace(profile("smoke"), epochs=3, batch_size=4, precision="32-true", width=4)


SCRIPT = Path(__file__).resolve().parents[2] / "src" / "train.py"


def final_metrics(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "metrics.csv").drop(columns="seconds")


def training_command(tree: Path, run: Path, *more: str) -> list[str]:
    knobs = {**CONFIG.to_strings(), "epochs": "8"}
    options = [part for name, text in knobs.items() for part in (f"--{name}", text)]
    return [sys.executable, str(SCRIPT), "--data", str(tree), "--run", str(run), *options, *more]
