"""Kaggle's table data.csv: what is known of a patient beside the scan."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from unicodedata import normalize

import pandas as pd

from lggseg.utils.errors import DataError, LeftOut
from lggseg.utils.files import read_table

CLINICAL = "data.csv"
_DATE = re.compile(r"_\d{8}$")
_RESTORE = "Restore Kaggle's data.csv."


def clinical_files(root: Path, folders: Sequence[Path]) -> list[Path]:
    """The tables data.csv of the folder that holds all patients, and of those that hold some."""
    above = dict.fromkeys([root, *(folder.parent for folder in folders)])
    return [folder / CLINICAL for folder in above if (folder / CLINICAL).exists()]


def read_clinical(root: Path, folders: Sequence[Path]) -> pd.DataFrame:
    """The rows of data.csv by the names of the patients' folders. The file may name a patient
    without the date at the end of the folder's name, as Kaggle's does.

    Raises ``DataError`` for a patient without a row, and for one with rows that differ.
    """
    patients = pd.Index([folder.name for folder in folders], name="patient")
    paths = clinical_files(root, folders)
    if not paths:
        text = f"{root / CLINICAL}: not found; going on without clinical data."
        warnings.warn(text, LeftOut, stacklevel=3)
        return pd.DataFrame(index=patients)
    table = pd.concat([_read(path) for path in paths], ignore_index=True).drop_duplicates()
    names = table["Patient"].map(lambda name: normalize("NFC", name))
    if names.duplicated().any():
        twice = table["Patient"][names.duplicated()].iloc[0]
        found, action = f"rows of {twice} that differ", "Remove those that are wrong."
        raise DataError(paths[-1], found, "one row for each patient", action)
    rows = dict(zip(names, table.index, strict=True))
    chosen = table.iloc[[_row(rows, patient, paths[0]) for patient in patients]]
    return chosen.drop(columns="Patient").set_index(patients)


def _read(path: Path) -> pd.DataFrame:
    table = read_table(path, _RESTORE)
    if "Patient" not in table:
        raise DataError(path, f"the columns {list(table)[:3]}…", "a column Patient", _RESTORE)
    return table


def _row(rows: Mapping[str, int], patient: str, path: Path) -> int:
    name = normalize("NFC", patient)
    for candidate in (name, _DATE.sub("", name)):
        if candidate in rows:
            return rows[candidate]
    action = "Add a row for the patient (its other cells may be empty)."
    raise DataError(path, f"no row for {patient}", "every patient of the tree", action)
