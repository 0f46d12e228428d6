"""Aggregate figures of the real cohort, for the report: no picture and no slice of a patient.

    python -m report.cohort DATA

writes results/cohort.json: whom the split holds (institution, age, sex, grade, histology, cluster),
how large their volumes and tumours are, in which channel the tumour is brightest, and how often
each place of the head is tumour.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lggseg.data.cohort import Cohort, load_cohort, missing_sequences
from lggseg.data.exploration import contrast_in_mask, tissue_level
from lggseg.data.splits import make_split, split_fingerprint
from lggseg.utils.files import write_json

RESULTS = Path(__file__).resolve().parent / "results"
FLAIR = "FLAIR"
# data.csv gives codes without a key, so the table names the codes.
CODES = {
    "gender": "sex",
    "neoplasm_histologic_grade": "grade",
    "histological_type": "histology",
    "RNASeqCluster": "RNASeq cluster",
}
GRID = 32  # cells per side of the map of positions


def brightest_channel(cohort: Cohort) -> dict[str, Any]:
    """In which channel each patient's tumour stands out most from the tissue around it.

    A channel that is a copy of FLAIR ties with it exactly and is no evidence against it, so copies
    are left out before the brightest is looked for.
    """
    contrast, copies = contrast_in_mask(cohort), missing_sequences(cohort)
    without = contrast.mask(copies.reindex(columns=contrast.columns, fill_value=False))
    brightest = without.dropna(subset=[FLAIR]).idxmax(axis=1)
    exceptions = contrast[brightest.reindex(contrast.index, fill_value=FLAIR) != FLAIR].round(1)
    return {
        "brightest": brightest.value_counts().to_dict(),
        "with_copies": int(copies.any(axis=1).sum()),
        "exceptions": exceptions.reset_index().to_dict("records"),
    }


def characteristics(cohort: Cohort, test: pd.Series) -> Iterator[dict[str, Any]]:
    """A row per group: how many patients of it develop and test; for the age, median and range."""
    patients = cohort.patients
    yield from _counts("institution", patients["institution"], test)
    age = patients["age_at_initial_pathologic"]
    for name, part in (("development", age[~test]), ("test", age[test])):
        median, low, high = part.median(), part.min(), part.max()
        yield {"by": "age", "set": name, "median": median, "low": low, "high": high}
    for column, name in CODES.items():
        codes = patients[column].map(lambda code: "unknown" if pd.isna(code) else f"{code:.0f}")
        yield from _counts(name, codes, test)


def _counts(by: str, groups: pd.Series, test: pd.Series) -> Iterator[dict[str, Any]]:
    for group, count in pd.crosstab(groups, test).iterrows():
        yield {"by": by, "group": group, "development": int(count[False]), "test": int(count[True])}


def position_map(cohort: Cohort) -> list[list[float]]:
    """The share of tumour slices in which a cell of ``GRID`` × ``GRID`` holds tumour, on average
    over its pixels."""
    rows = np.flatnonzero(cohort.slices["tumour_pixels"] > 0)
    share = sum((cohort.masks[row] > 0).astype(float) for row in rows) / len(rows)
    cells = np.asarray(share).reshape(GRID, 256 // GRID, GRID, 256 // GRID).mean(axis=(1, 3))
    return cells.round(4).tolist()


def main() -> None:
    """Write the results file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    cohort = load_cohort(parser.parse_args().data)
    split = make_split(cohort, seed=0).set_index("patient").loc[cohort.patients.index]
    sizes = cohort.patients[["institution", "slices", "tumour_slices", "tumour_pixels"]]
    values = {
        "cohort": cohort.label,
        "data_fingerprint": cohort.fingerprint,
        "split_fingerprint": split_fingerprint(split.reset_index()),
        **brightest_channel(cohort),
        "characteristics": list(characteristics(cohort, split["subset"] == "test")),
        "sizes": sizes.to_dict("list"),
        "flair_level": tissue_level(cohort).round(1).tolist(),
        "position": position_map(cohort),
    }
    write_json(values, RESULTS / "cohort.json")


if __name__ == "__main__":
    main()
