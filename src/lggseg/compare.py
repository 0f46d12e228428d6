"""Networks compared on the same folds, patients, seed and budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from lggseg import models
from lggseg.config import Config
from lggseg.data import Cohort
from lggseg.paths import write_table
from lggseg.train import score_folds


def compare(
    configs: Mapping[str, Config],
    cohort: Cohort,
    split: pd.DataFrame,
    run: Path | str,
    *,
    folds: Sequence[int] | None = None,
    resume: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Cross-validate each configuration, by name, into ``run/<name>``, on these folds (default:
    all).

    Writes ``patients.csv`` after each and returns it: a row per name and patient that is not a test
    patient, with the metrics of the model that had not seen the patient. Raises ``ValueError``
    when two configurations differ in their seed.
    """
    if len({config.seed for config in configs.values()}) > 1:
        raise ValueError("found configurations of different seeds, expected the same for all")
    run, tables = Path(run), []
    options: dict[str, Any] = {"folds": folds, "resume": resume, "progress": progress}
    for name, config in configs.items():
        scores = score_folds(config, cohort, split, run / name, **options)
        tables.append(scores.assign(model=name))
        table = pd.concat(tables, ignore_index=True)
        write_table(table, run / "patients.csv")
    return table


def per_patient(table: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """A metric with a row per patient and a column per model, in the order of the table."""
    wide = table.pivot(index="patient", columns="model", values=metric)
    return wide[list(table["model"].unique())]


def training_seconds(folder: Path | str) -> float:
    """Mean seconds that a fold of a cross-validation trained and validated."""
    tables = [pd.read_csv(path) for path in sorted(Path(folder).glob("fold-*/metrics.csv"))]
    return float(sum(table["seconds"].sum() for table in tables) / len(tables))


def with_time_of(config: Config, folder: Path | str, reference: Path | str) -> Config:
    """``config``, cross-validated in ``folder``, with as many epochs as take it the time that the
    cross-validation in ``reference`` took."""
    share = training_seconds(reference) / training_seconds(folder)
    return replace(config, epochs=max(1, round(config.epochs * share)))


def costs(configs: Mapping[str, Config], run: Path | str) -> pd.DataFrame:
    """What each model costs: parameters, multiply_adds a slice, epochs, training_seconds a fold,
    and mib of its model.onnx."""
    rows: dict[str, dict[str, Any]] = {}
    for name, config in configs.items():
        folder = Path(run) / name
        size = (folder / "fold-0" / "model" / "model.onnx").stat().st_size
        rows[name] = {
            **models.describe(config),
            "epochs": config.epochs,
            "training_seconds": training_seconds(folder),
            "mib": size / 2**20,
        }
    return pd.DataFrame(rows).T
