"""What leaks in anybody's split of a cohort: patients, pictures and neighbours in two subsets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lggseg.data.cohort import Cohort
from lggseg.utils.errors import DataError
from lggseg.utils.files import read_table

# Columns that may say in which subset of the split a row is, in the order of preference.
NAMES = ("subset", "split", "side", "set", "partition", "role", "fold")
_SLICE = re.compile(r"(?P<patient>.+)_(?P<number>\d+)(_mask)?\.(tiff?|png|npy)", re.IGNORECASE)
_DATE = re.compile(r"_\d{8}$")
_ACTION = (
    "Give a CSV file with a column of patients (TCGA_CS_4941_19960909) or of slices "
    f"(TCGA_CS_4941_19960909_7.tif), and a column {', '.join(NAMES[:-1])} or {NAMES[-1]}."
)


@dataclass(frozen=True)
class Leak:
    """One way in which two subsets share what they must not: how often, and an example."""

    kind: str
    count: int
    example: str

    def __str__(self) -> str:
        return f"{self.count} {self.kind}, such as {self.example}"


def read_subsets(path: Path | str, cohort: Cohort) -> np.ndarray:
    """The subset of each slice of a cohort by a split of patients or of slices.

    Args:
        path: A CSV file: what ``lggseg split`` writes, or a table with a row per patient or slice
            (named as its file, with or without folders) and a column of :data:`NAMES`.
        cohort: The cohort that was split.

    Returns:
        A label per slice of the cohort; empty where the split does not name it.

    Raises:
        DataError: No readable table, no such columns, a name that the cohort lacks, an empty cell.
    """
    path = Path(path)
    table = read_table(path, _ACTION)
    subsets = _subsets_of(path, table)
    places = _places(cohort)
    column = next((name for name in table if _known(table[name], places)), None)
    if column is None:
        first = str(table.iloc[0, 0]) if table.size else "nothing"
        raise DataError(path, f"the names {first}, …", f"those of {cohort.root}", _ACTION)
    labels = np.full(len(cohort.slices), "", dtype=object)
    for name, subset in zip(table[column], subsets, strict=True):
        rows = places.get(_key(name))
        if rows is None:
            raise DataError(path, f"{name!r}", f"a patient or slice of {cohort.root}", _ACTION)
        for row in rows:
            again = labels[row] not in ("", subset)
            labels[row] = f"{labels[row]} and {subset}" if again else subset
    return labels.astype(str)


def _subsets_of(path: Path, table: pd.DataFrame) -> list[str]:
    """The subset of each row; of our own split, the fold of each patient that does not test."""
    column = next((name for name in NAMES if name in table), None)
    if column is None:
        found = f"the columns {list(table)[:8]}"
        raise DataError(path, found, "one that gives the subset", _ACTION)
    values = table[column]
    if "fold" in table and set(values) <= {"development", "test"}:
        folds = "fold " + table["fold"].astype(str)
        values = values.where(values == "test", folds)
    if values.isna().any() or (values.astype(str).str.strip() == "").any():
        raise DataError(path, f"an empty cell in {column}", "a subset in each row", _ACTION)
    return values.astype(str).tolist()


def _key(name: object) -> str:
    """A patient or slice without folders, ending and mark of a mask."""
    text = re.split(r"[\\/]", str(name).strip())[-1]
    match = _SLICE.fullmatch(text)
    return f"{match['patient']} {int(match['number'])}" if match else text


def _places(cohort: Cohort) -> dict[str, list[int]]:
    """The rows of the cohort's slices by patient, by patient without date, and by slice."""
    places: dict[str, list[int]] = {}
    pairs = zip(cohort.slices["patient"], cohort.slices["slice"], strict=True)
    for row, (patient, number) in enumerate(pairs):
        for key in {patient, _DATE.sub("", patient), f"{patient} {number}"}:
            places.setdefault(key, []).append(row)
    return places


def _known(values: pd.Series, places: dict[str, list[int]]) -> bool:
    """Whether a column names patients or slices of the cohort: its first name does."""
    return len(values) > 0 and _key(values.iloc[0]) in places


def find_leaks(cohort: Cohort, subsets: np.ndarray) -> list[Leak]:
    """What is in two subsets.

    Args:
        cohort: The cohort that was split.
        subsets: A label per slice; empty where a slice is not used.

    Returns:
        Slices that are named in two subsets themselves, and in two subsets: patients, the very same
        picture (blank ones do not count), neighbouring slices. None of what does not occur.
    """
    table = cohort.slices.assign(subset=subsets)
    table = table[table["subset"] != ""]
    name = table["patient"] + " slice " + table["slice"].astype(str)
    twice = table["subset"].str.contains(" and ", regex=False)
    person = table["patient"].str.replace(_DATE, "", regex=True)
    found = [
        Leak("slices in two subsets", int(twice.sum()), next(iter(name[twice]), "")),
        _shared("patients in two subsets", person, table["subset"], person),
        _shared("identical pictures in two subsets", *_pictures(table, name)),
        _neighbours(table),
    ]
    return [leak for leak in found if leak.count]


def _pictures(table: pd.DataFrame, name: pd.Series) -> tuple[pd.Series, pd.Series, pd.Series]:
    shown = ~table["blank"].astype(bool)
    return table["digest"][shown], table["subset"][shown], name[shown]


def _shared(kind: str, key: pd.Series, subset: pd.Series, name: pd.Series) -> Leak:
    """How many values of a key are in more than one subset."""
    counts = subset.groupby(key).nunique()
    leaking = counts.index[counts > 1]
    if not len(leaking):
        return Leak(kind, 0, "")
    first = key == leaking[0]
    names = ", ".join(dict.fromkeys(name[first].head(2)))
    return Leak(kind, len(leaking), f"{names} ({', '.join(sorted(set(subset[first])))})")


def _neighbours(table: pd.DataFrame) -> Leak:
    """Pairs of a patient's slices, one after the other, in different subsets."""
    ordered = table.sort_values(["patient", "slice"])
    after = ordered.shift(-1)
    adjacent = (ordered["patient"] == after["patient"]) & (after["slice"] == ordered["slice"] + 1)
    divided = ordered[adjacent & (ordered["subset"] != after["subset"])]
    if not len(divided):
        return Leak("pairs of neighbouring slices in two subsets", 0, "")
    row = divided.iloc[0]
    pair = f"{row['patient']} slices {row['slice']} and {row['slice'] + 1}"
    return Leak("pairs of neighbouring slices in two subsets", len(divided), pair)
