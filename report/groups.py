"""Dice of the committed recipe by group of patients, which the masks alone cannot tell.

    python -m report.groups DATA

Joins the patients of cross_validation.csv and test.csv with what is known of them in the real
cohort, and writes groups.json: a row per set, grouping and group, with n, the mean Dice, its
bootstrap 95 % interval (low, high), the median and the lowest.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from lggseg.data.cohort import Cohort, load_cohort
from lggseg.data.exploration import groupings
from lggseg.evaluation.statistics import summarise
from lggseg.utils.errors import DataError
from lggseg.utils.files import read_table, write_json

RESULTS = Path(__file__).resolve().parent / "results"


def group_rows(name: str, table: pd.DataFrame, cohort: Cohort) -> Iterator[dict[str, Any]]:
    """A row per grouping and group of a table of scores; raises ``DataError`` for a patient that
    the cohort lacks."""
    dice = table.set_index("patient")["dice"]
    if strangers := sorted(set(dice.index) - set(cohort.patients.index)):
        raise DataError(
            RESULTS / f"{name}.csv",
            f"{len(strangers)} patients that the data lack, the first {strangers[0]}",
            "the patients that were scored",
            "Give the tree that the results were measured on.",
        )
    for by, groups in groupings(cohort).items():
        for group, part in dice.groupby(groups.loc[dice.index], observed=True):
            scores = summarise(part.to_frame())["dice"]
            yield {"set": name, "by": by, "group": str(group), **scores, "lowest": part.min()}


def main() -> None:
    """Write the results file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    cohort = load_cohort(parser.parse_args().data)
    rows: list[dict[str, Any]] = []
    for name in ("cross_validation", "test"):
        rows += group_rows(name, read_table(RESULTS / f"{name}.csv"), cohort)
    facts = {"cohort": cohort.label, "data_fingerprint": cohort.fingerprint}
    write_json({**facts, "groups": rows}, RESULTS / "groups.json")


if __name__ == "__main__":
    main()
