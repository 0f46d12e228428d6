"""Networks compared on the same folds, patients, seed and budget."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lggseg.config import Config
from lggseg.data.cohort import Cohort
from lggseg.data.splits import check_patients, patients_of, split_fingerprint
from lggseg.inference.evaluate import evaluate
from lggseg.inference.segmenter import Prediction, Segmenter
from lggseg.preprocessing.volume import SIZE
from lggseg.utils.errors import DataError
from lggseg.utils.files import read_table, write_table


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
    when two configurations differ in their seed, or for an unknown network, before any training.
    """
    # Training takes seconds to import, and what reads a comparison does without.
    from lggseg.experiments.cross_validation import check_folds, score_folds

    if len({config.seed for config in configs.values()}) > 1:
        raise ValueError("found configurations of different seeds, expected the same for all")
    run, tables = Path(run), []
    options: dict[str, Any] = {"folds": folds, "resume": resume, "progress": progress}
    for name, config in configs.items():
        check_folds(config, cohort, split, run / name, folds=folds, resume=resume)
    for name, config in configs.items():
        scores = score_folds(config, cohort, split, run / name, **options)
        tables.append(scores.assign(model=name))
        table = pd.concat(tables, ignore_index=True)
        write_table(table, run / "patients.csv")
    return table


def per_patient(table: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """A metric with a row per patient and a column per model, in the order of the table.

    >>> scores = {"patient": ["A", "B"] * 2, "model": ["unet", "unet", "wide", "wide"]}
    >>> per_patient(pd.DataFrame({**scores, "dice": [0.8, 0.7, 0.9, 0.6]}))
    model    unet  wide
    patient
    A         0.8   0.9
    B         0.7   0.6
    """
    wide = table.pivot(index="patient", columns="model", values=metric)
    return wide[list(table["model"].unique())]


def out_of_fold(
    folder: Path | str, cohort: Cohort, split: pd.DataFrame
) -> Iterator[tuple[str, Prediction]]:
    """Each patient of a cross-validation and what the model that had not seen it predicts. Raises
    ``DataError`` where there is no trained fold, or one of another split, or other patients."""
    check_patients(split, cohort)
    for model in _fold_models(folder):
        segmenter = Segmenter.load(model)
        _check_split(model, segmenter, split)
        for patient in patients_of(split, "validation", segmenter.config.fold):
            yield patient, segmenter.predict(cohort.image(patient))


def ensemble_on_test(
    folder: Path | str, cohort: Cohort, split: pd.DataFrame
) -> Iterator[tuple[str, Prediction]]:
    """Each test patient and what the mean of a cross-validation's folds predicts, none of which
    had seen it: nothing may be chosen by it. Raises as :func:`out_of_fold` does."""
    check_patients(split, cohort)
    networks = _fold_models(folder)
    segmenter = Segmenter.ensemble(networks)
    _check_split(networks[0], segmenter, split)
    for patient in patients_of(split, "test", segmenter.config.fold):
        yield patient, segmenter.predict(cohort.image(patient))


def score_test(
    names: Sequence[str],
    cohort: Cohort,
    split: pd.DataFrame,
    run: Path | str,
    *,
    progress: bool = True,
) -> pd.DataFrame:
    """The test patients, scored by the ensemble of each model's folds: a row per name and patient.
    Writes ``test.csv``. For the final table only: nothing may be chosen by it."""
    check_patients(split, cohort)
    tables = []
    for name in names:
        segmenter = Segmenter.ensemble(_fold_models(Path(run) / name))
        patients = patients_of(split, "test", segmenter.config.fold)
        scores = evaluate(segmenter, cohort, patients, progress=progress)
        tables.append(scores.assign(model=name))
    table = pd.concat(tables, ignore_index=True)
    write_table(table, Path(run) / "test.csv")
    return table


def _fold_models(folder: Path | str) -> list[Path]:
    networks = [run / "model" for run in sorted(Path(folder).glob("fold-*"))]
    if not networks:
        action = "Run notebook 05_compare_models, or `lggseg compare`."
        raise DataError(folder, "no trained fold", "the folds of a cross-validation", action)
    return networks


def _check_split(model: Path, segmenter: Segmenter, split: pd.DataFrame) -> None:
    """Another split may have trained the model on the very patients that this one holds out."""
    if segmenter.card["split_fingerprint"] != split_fingerprint(split):
        action = "Train again with this split, or give the split.csv of the run."
        raise DataError(model, "a model of another split", "one trained with this split", action)


def training_seconds(folder: Path | str) -> float:
    """Mean seconds that a fold of a cross-validation trained and validated."""
    paths = sorted(Path(folder).glob("fold-*/metrics.csv"))
    tables = [read_table(path, "Train the fold again.") for path in paths]
    return float(sum(table["seconds"].sum() for table in tables) / len(tables))


def in_time_of(reference: str, configs: Mapping[str, Config], run: Path | str) -> dict[str, Config]:
    """The networks of ``run`` that trained longer than ``reference``, as ``"<name>, equal time"``
    with the epochs that take them its time; without those that would not finish one epoch."""
    fair = {}
    for name, config in configs.items():
        share = training_seconds(Path(run) / reference) / training_seconds(Path(run) / name)
        epochs = round(config.epochs * share)
        if config.epochs * share >= 1 and epochs < config.epochs:
            fair[f"{name}, equal time"] = replace(config, epochs=epochs)
    return fair


def costs(configs: Mapping[str, Config], run: Path | str) -> pd.DataFrame:
    """What each model costs: parameters, multiply_adds a slice, activation_mib of a training step,
    epochs, training_seconds a fold, model_mib of its ONNX file, and inference_ms a slice."""
    from lggseg.models import profiling

    rows: dict[str, dict[str, Any]] = {}
    for name, config in configs.items():
        model = _fold_models(Path(run) / name)[0]
        rows[name] = {
            **profiling.describe(config),
            "epochs": config.epochs,
            "training_seconds": training_seconds(Path(run) / name),
            "model_mib": (model / "model.onnx").stat().st_size / 2**20,
            "inference_ms": _inference_ms(Segmenter.load(model)),
        }
    return pd.DataFrame(rows).T


def _inference_ms(segmenter: Segmenter) -> float:
    volume = np.random.default_rng(0).integers(0, 255, (32, SIZE, SIZE, 3), dtype=np.uint8)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        segmenter.predict(volume)
        seconds.append(time.perf_counter() - start)
    return 1000 * min(seconds) / len(volume)
