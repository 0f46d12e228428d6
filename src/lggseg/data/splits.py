"""Patient-level, stratified test set and folds, and the leakage check."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lggseg.data.cohort import Cohort
from lggseg.utils.errors import DataError
from lggseg.utils.files import private_folder, read_table, write_table

COLUMNS = ["patient", "institution", "tumour_pixels", "subset", "fold"]
SUBSETS = ("train", "validation", "test")
NO_FOLD = -1
# How to come by a split, for messages.
MAKE = "Run notebook 02_patient_split, or `lggseg split DATA --out split.csv`."


class LeakageError(ValueError):
    """The same patient, or the very same slice, is in two subsets of a split."""


def make_split(
    cohort: Cohort, *, seed: int = 0, test_fraction: float = 0.2, folds: int = 5
) -> pd.DataFrame:
    """Hold out test patients and deal the others over folds.

    Patients are sorted by institution and tumour burden; one of each run of neighbours, drawn at
    random, is held out, and each further run of ``folds`` neighbours is dealt over the folds. So
    every subset has every institution and tumour size. Returns the columns patient, institution,
    tumour_pixels, subset (test or development) and fold (-1 for test), sorted by patient. Raises
    ``ValueError`` when there are fewer patients than folds to fill.

    >>> from lggseg.data.cohort import load_cohort
    >>> from lggseg.data.simulation import make_cohort
    >>> cohort = load_cohort(make_cohort("data", patients=4, progress=False), progress=False)
    >>> split = make_split(cohort, test_fraction=0.25, folds=3)
    >>> split["subset"].value_counts().to_dict()
    {'development': 3, 'test': 1}
    >>> check_no_leakage(cohort, slice_folds(cohort, split))
    """
    rng = np.random.default_rng(seed)
    table = cohort.patients.reset_index()[COLUMNS[:3]]
    table = table.sort_values(["institution", "tumour_pixels", "patient"], ignore_index=True)
    held_out = int(test_fraction * len(table))
    if len(table) - held_out < folds:
        found = f"{len(table)} patients, {held_out} of them for the test"
        raise ValueError(f"{cohort.root}: found {found}; expected at least {folds} others to fold.")
    blocks = np.array_split(np.arange(len(table)), held_out) if held_out else []
    test = [rng.choice(block) for block in blocks]
    table["subset"] = np.where(table.index.isin(test), "test", "development")
    table["fold"] = -1
    others = table.index[table["subset"] == "development"]
    deals = [rng.permutation(folds) for _ in range(0, len(others), folds)]
    table.loc[others, "fold"] = np.concatenate(deals)[: len(others)]
    return table.sort_values("patient", ignore_index=True)


def split_by_institution(split: pd.DataFrame, fewest: int = 5) -> pd.DataFrame:
    """The same test patients, but a fold for each institution: validating on one after training on
    the others shows what to expect of scanners and readers that the model has never seen.

    Args:
        split: What :func:`make_split` gives.
        fewest: Institutions with fewer patients to develop with share the fold of the smallest of
            the others, since they are too few to validate on.

    Returns:
        The same columns; institutions are numbered in alphabetical order.

    Raises:
        ValueError: There are not two institutions with so many patients.
    """
    others = split["subset"] == "development"
    sizes = split["institution"][others].value_counts()
    large = sorted(sizes.index[sizes >= fewest])
    if len(large) < 2:
        raise ValueError(f"found {len(large)} institutions of {fewest} patients, expected two")
    smallest = large.index(min(large, key=lambda name: sizes[name]))
    folds = {name: number for number, name in enumerate(large)}
    fold = split["institution"].map(folds).fillna(smallest).astype(int)
    return split.assign(fold=fold.where(others, NO_FOLD))


def without_test(split: pd.DataFrame) -> pd.DataFrame:
    """The split in which the test patients, already scored, train as well: those of fold 0."""
    fold = split["fold"].where(split["fold"] != NO_FOLD, 0)
    return split.assign(subset="development", fold=fold)


def write_split(split: pd.DataFrame, path: Path | str, *, overwrite: bool = True) -> None:
    """Write the table as CSV; folders that are missing are made for this user alone. Raises
    ``DataError`` where that would replace a file that is no split, or without ``overwrite`` another
    split."""
    path = Path(path)
    if os.path.lexists(path):
        action = "Choose another file."
        try:
            earlier = read_split(path)
        except DataError as error:
            found = "a file that is no split"
            raise DataError(path, found, "none, since it would be lost", action) from error
        if not overwrite and split_fingerprint(earlier) != split_fingerprint(split):
            action = "Choose another file, or add --overwrite."
            raise DataError(path, "another split", "none, or this one", action)
    private_folder(path.parent)
    write_table(split, path)


def read_split(path: Path | str, cohort: Cohort | None = None) -> pd.DataFrame:
    """Read what :func:`write_split` wrote; with a cohort, check that it has the same patients.

    Raises ``DataError``.
    """
    if not Path(path).is_file():
        raise DataError(path, "no such file", "the table of a patient split", MAKE)
    # Version 0.1 called the column `role`.
    split = read_table(Path(path), MAKE).rename(columns={"role": "subset"})
    if list(split) != COLUMNS:
        raise DataError(path, f"the columns {list(split)}", str(COLUMNS), MAKE)
    split = split.assign(fold=_check_rows(path, split).astype(int))
    if cohort is not None:
        check_patients(split, cohort, path)
    return split


def _check_rows(path: Path | str, split: pd.DataFrame) -> pd.Series:
    """Each patient once, to test or to develop, the latter in a fold; returns the folds."""
    patients = split["patient"]
    if patients.duplicated().any():
        twice = patients[patients.duplicated()].iloc[0]
        raise DataError(path, f"{twice} twice", "each patient once", MAKE)
    test = split["subset"] == "test"
    other = patients[~test & (split["subset"] != "development")]
    if len(other):
        found = f"the subset {split['subset'][other.index[0]]!r} of {other.iloc[0]}"
        raise DataError(path, found, "test or development", MAKE)
    fold = pd.to_numeric(split["fold"], errors="coerce")
    wrong = patients[(fold.isna() | (fold % 1 != 0)) | (fold.where(~test, -fold - 1) < 0)]
    if len(wrong):
        found = f"the fold {split['fold'][wrong.index[0]]} of {wrong.iloc[0]}"
        raise DataError(path, found, "0, 1, … for development, -1 for test", MAKE)
    return fold


def check_patients(split: pd.DataFrame, cohort: Cohort, path: Path | str = "the split") -> None:
    """Raise ``DataError`` that names a patient whom the split or the cohort lacks; ``path`` is what
    the split was read from."""
    split_has, cohort_has = set(split["patient"]), set(cohort.patients.index)
    differing = sorted(split_has ^ cohort_has)
    if differing:
        where = f"in the split but not in {cohort.root}"
        if differing[0] in cohort_has:
            where = f"missing from it, in {cohort.root}"
        more = f", and {len(differing) - 1} more such" if differing[1:] else ""
        found = f"{differing[0]} {where}{more}"
        raise DataError(path, found, "the cohort's patients", MAKE)


def split_fingerprint(split: pd.DataFrame) -> str:
    """The same for the same patients in the same subsets and folds."""
    rows = split.sort_values("patient")[["patient", "subset", "fold"]].itertuples(index=False)
    return hashlib.blake2b(repr([tuple(row) for row in rows]).encode(), digest_size=16).hexdigest()


def folds_of(split: pd.DataFrame) -> list[int]:
    """The numbers of the folds."""
    return sorted(set(split["fold"][split["subset"] != "test"]))


def patients_of(split: pd.DataFrame, subset: str, fold: int) -> list[str]:
    """Patients that train, that validate in ``fold``, or that test.

    In the fold ``NO_FOLD`` nobody validates: all but the test patients train. Raises
    ``ValueError``.
    """
    if subset not in SUBSETS:
        raise ValueError(f"subset {subset!r}: expected one of {SUBSETS}")
    if fold not in [NO_FOLD, *folds_of(split)]:
        raise ValueError(f"fold {fold}: expected one of {folds_of(split)}, or {NO_FOLD} for none")
    test = split["subset"] == "test"
    chosen = {"test": test, "validation": (split["fold"] == fold) & ~test}
    chosen["train"] = ~test & ~chosen["validation"]
    return split["patient"][chosen[subset]].tolist()


def slice_subsets(cohort: Cohort, split: pd.DataFrame, fold: int) -> np.ndarray:
    """The subset of each slice in a fold: ``train``, ``validation`` or ``test``."""
    subsets = {
        patient: subset for subset in SUBSETS for patient in patients_of(split, subset, fold)
    }
    return cohort.slices["patient"].map(subsets).to_numpy(dtype=str)


def slice_folds(cohort: Cohort, split: pd.DataFrame) -> np.ndarray:
    """The fold of each slice: ``test`` or ``fold 0``, ``fold 1``, … (each validates in turn)."""
    fold = cohort.slices["patient"].map(split.set_index("patient")["fold"])
    if fold.isna().any():
        patient = cohort.slices["patient"][fold.isna()].iloc[0]
        raise ValueError(f"{patient}: found in {cohort.root}, expected in the split, too")
    return np.where(fold < 0, "test", "fold " + fold.astype(int).astype(str))


def check_no_leakage(cohort: Cohort, subsets: Sequence[str] | np.ndarray) -> None:
    """Raise ``LeakageError`` if a patient, or a slice that is not blank, is in two subsets.

    subsets: one label per slice of the cohort; an empty label means that the slice is not used.
    """
    table = cohort.slices.assign(subset=np.asarray(subsets))
    table = table[table["subset"] != ""]
    _check_one_subset(table, "patient", "patient {0}")
    pictures = table[~table["blank"]].assign(
        name=lambda rows: rows["patient"] + "_" + rows["slice"].astype(str) + ".tif"
    )
    _check_one_subset(pictures, "digest", "the same picture, {1} and {2},")


def _check_one_subset(table: pd.DataFrame, key: str, what: str) -> None:
    count = table.groupby(key)["subset"].nunique()
    if (count < 2).all():
        return
    rows = table[table[key] == count.idxmax()].drop_duplicates("subset")
    names = rows.get("name", rows["patient"]).tolist()
    raise LeakageError(
        f"{what.format(count.idxmax(), *names)} is in two subsets: {rows['subset'].tolist()[:2]}. "
        "Expected one. Split by patient (make_split) and remove copied slices."
    )


def random_slice_split(
    cohort: Cohort, split: pd.DataFrame, *, fold: int = 0, seed: int = 0
) -> np.ndarray:
    """The leaky split of many tutorials: slices dealt at random, whoever they belong to.

    Returns a label per slice, ``train``, ``validation`` or empty (test patients), with as many
    slices in each subset as the patient split has in this fold.
    """
    subsets = slice_subsets(cohort, split, fold)
    subsets[subsets == "test"] = ""
    used = np.flatnonzero(subsets != "")
    subsets[used] = np.random.default_rng(seed).permutation(subsets[used])
    return subsets
