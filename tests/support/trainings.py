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
    options = ["--epochs", "8"]
    for name, text in CONFIG.to_strings().items():
        if name != "epochs":
            options += ["--" + name.replace("_", "-"), text]
    return [sys.executable, str(SCRIPT), "--data", str(tree), "--run", str(run), *options, *more]
