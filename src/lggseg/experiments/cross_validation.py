"""Train and score every fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from lggseg.config import Config
from lggseg.data.cohort import Cohort
from lggseg.data.splits import NO_FOLD, folds_of, without_test
from lggseg.evaluation.quality import Quality, assess_quality
from lggseg.evaluation.statistics import summarise
from lggseg.inference.model_folder import amend_card, read_card
from lggseg.training.checks import check_start
from lggseg.training.run_folder import find_run
from lggseg.training.train import train
from lggseg.utils.files import read_table, write_table

# The run folder of the final model, by the patients that train it.
FINAL = {"development": "final", "all": "all", "none": None}


def crossvalidate(
    config: Config,
    cohort: Cohort,
    split: pd.DataFrame,
    run: Path | str,
    *,
    final: str = "development",
    resume: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Train and score every fold in turn, then train one model on the patients of all folds.

    Writes a run folder for each (``fold-0``, …, ``final``) and ``patients.csv``, which is returned:
    each patient scored by the model that had not seen it. The final model's card carries the
    summary of that table as ``cross_validation``, since nobody is left to validate it, and the
    ``quality`` line fitted on it.

    ``final`` says who trains the last model: ``development``, all but the test patients; ``all``,
    the test patients, too, into the folder ``all``; its card keeps as ``recipe_test`` what the test
    of the model ``final``, which is to come before, has recorded there; ``none``: there is no such
    model. Raises ``ValueError`` for another, and what :func:`lggseg.training.train.train` raises.
    """
    if final not in FINAL:
        raise ValueError(f"final={final!r}: expected one of {sorted(FINAL)}")
    run, folder = Path(run), FINAL[final]
    final_split = without_test(split) if final == "all" else split
    options: dict[str, Any] = {"resume": resume, "progress": progress}
    if folder:
        find_run(run / folder, replace(config, fold=NO_FOLD), cohort, final_split, resume)
    table = score_folds(config, cohort, split, run, **options)
    if folder:
        config = replace(Config.load(run / "fold-0" / "config.json"), fold=NO_FOLD)
        train(config, cohort, final_split, run / folder, **options)
        scores = summarise(table.drop(columns="fold"))
        facts = {"cross_validation": scores, "quality": quality(table)}
        amend_card(run / folder / "model", facts | _recipe_test(run, final))
    return table


def _recipe_test(run: Path, final: str) -> dict[str, Any]:
    """Who trained on the test patients has no score of its own there: that of its recipe."""
    tested = run / str(FINAL["development"]) / "model"
    if final != "all" or not tested.is_dir():
        return {}
    _, card = read_card(tested)
    return {"recipe_test": card["test"]} if "test" in card else {}


def quality(table: pd.DataFrame) -> dict[str, Any]:
    """The line that estimates Dice, fitted on the patients of all folds, and how well such lines
    do on the folds that they were not fitted on: for a model card. Nothing where a fold was scored
    by a version that did not measure the agreement."""
    if "threshold_agreement" not in table or table["threshold_agreement"].isna().any():
        return {}
    names = ("threshold_agreement", "dice", "fold")
    agreement, dice, fold = (table[name].to_numpy() for name in names)
    return {**asdict(Quality.fit(agreement, dice)), **assess_quality(agreement, dice, fold)}


def score_folds(
    config: Config,
    cohort: Cohort,
    split: pd.DataFrame,
    run: Path,
    *,
    folds: Sequence[int] | None = None,
    resume: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Train and score these folds (default: all) in turn, into the run folders ``fold-0``, …; write
    and return ``patients.csv``: each patient scored by the model that had not seen it."""
    tables = []
    options: dict[str, Any] = {"resume": resume, "progress": progress}
    runs = check_folds(config, cohort, split, run, folds=folds, resume=resume)
    for fold, folder in runs.items():
        train(replace(config, fold=fold), cohort, split, folder, **options)
        tables.append(read_table(folder / "patients.csv", _AGAIN).assign(fold=fold))
        # What the first fold measured holds for all.
        config = replace(config, precision=Config.load(folder / "config.json").precision)
    table = pd.concat(tables, ignore_index=True)
    write_table(table, run / "patients.csv")
    return table


def check_folds(
    config: Config,
    cohort: Cohort,
    split: pd.DataFrame,
    run: Path,
    *,
    folds: Sequence[int] | None = None,
    resume: bool = False,
) -> dict[int, Path]:
    """The run folder of each of these folds (default: all), after a look at whether all of them can
    begin or go on, before any of them trains. Raises as :func:`train` does."""
    runs = {fold: run / f"fold-{fold}" for fold in (folds_of(split) if folds is None else folds)}
    check_start(config, cohort, split, runs)
    for fold, folder in runs.items():
        find_run(folder, replace(config, fold=fold), cohort, split, resume)
    return runs


_AGAIN = "Delete the file and go on with --resume, which writes it again."
