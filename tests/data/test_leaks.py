from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lggseg import cli
from lggseg.data import splits
from lggseg.data.cohort import Cohort
from lggseg.data.leaks import find_leaks, read_subsets
from lggseg.utils.errors import DataError


def write(path: Path, **columns: object) -> Path:
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def by_patient(cohort: Cohort, path: Path) -> Path:
    names = list(cohort.patients.index)
    half = len(names) // 2
    return write(path, patient=names, side=["train"] * half + ["test"] * (len(names) - half))


def files(cohort: Cohort) -> list[str]:
    return [f"x/{s.patient}/{s.patient}_{s.slice}.tif" for s in cohort.slices.itertuples()]


def test_a_split_by_patient_leaks_nothing(
    cohort: Cohort, shared_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = by_patient(cohort, tmp_path / "mine.csv")
    assert find_leaks(cohort, read_subsets(split, cohort)) == []
    assert cli.main(["leak", str(split), str(shared_tree)]) == 0
    said = capsys.readouterr().out
    assert f"{len(cohort.slices)} of {len(cohort.slices)} slices in 2 subsets: test, train" in said


def test_our_own_split_leaks_nothing(cohort: Cohort, tmp_path: Path) -> None:
    split = splits.make_split(cohort, folds=3)
    splits.write_split(split, tmp_path / "split.csv")
    subsets = read_subsets(tmp_path / "split.csv", cohort)
    assert (subsets == splits.slice_folds(cohort, split)).all()
    assert find_leaks(cohort, subsets) == []


def test_a_column_of_folds_hides_no_leak(cohort: Cohort, tmp_path: Path) -> None:
    side = np.where(np.arange(len(cohort.slices)) % 2, "train", "validation")
    split = write(tmp_path / "one.csv", image=files(cohort), subset=side, fold=0)
    kinds = [leak.kind for leak in find_leaks(cohort, read_subsets(split, cohort))]
    assert "patients in two subsets" in kinds


def test_slices_dealt_at_random_leak(
    cohort: Cohort, shared_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    side = np.where(np.arange(len(cohort.slices)) % 2, "train", "valid")
    split = write(tmp_path / "random.csv", image=files(cohort), subset=side)
    kinds = {leak.kind: leak.count for leak in find_leaks(cohort, read_subsets(split, cohort))}
    patients = cohort.patients
    assert kinds["patients in two subsets"] == len(patients)
    assert kinds["pairs of neighbouring slices in two subsets"] == (patients["slices"] - 1).sum()
    assert cli.main(["leak", str(split), str(shared_tree)]) == 1
    error = capsys.readouterr().err
    assert f"{len(patients)} patients in two subsets, such as {patients.index[0]}"[:40] in error
    assert "Expected each patient in one subset" in error


def test_a_copied_picture_leaks_between_patients(cohort: Cohort, tmp_path: Path) -> None:
    subsets = read_subsets(by_patient(cohort, tmp_path / "mine.csv"), cohort)
    slices = cohort.slices.copy()
    slices.loc[slices.index[-1], "digest"] = slices["digest"].iloc[0]
    slices.loc[slices.index[[0, -1]], "blank"] = False
    copied = replace(cohort, slices=slices)
    [leak] = find_leaks(copied, subsets)
    assert leak.kind == "identical pictures in two subsets" and leak.count == 1
    blank = replace(cohort, slices=slices.assign(blank=True))
    assert find_leaks(blank, subsets) == []


def test_a_slice_in_two_subsets(cohort: Cohort, tmp_path: Path) -> None:
    name = files(cohort)[0]
    split = write(tmp_path / "twice.csv", file=[name, name], split=["train", "test"])
    [leak] = find_leaks(cohort, read_subsets(split, cohort))
    assert str(leak).startswith("1 slices in two subsets, such as ")


def test_two_scans_of_one_patient_are_one_patient(cohort: Cohort, tmp_path: Path) -> None:
    first, second = cohort.patients.index[:2]
    names = {first: "TCGA_AA_0001_20000101", second: "TCGA_AA_0001_20010101"}
    renamed = replace(cohort, slices=cohort.slices.replace({"patient": names}))
    split = write(tmp_path / "a.csv", patient=list(names.values()), side=["train", "test"])
    [leak] = find_leaks(renamed, read_subsets(split, renamed))
    assert leak.kind == "patients in two subsets" and "TCGA_AA_0001" in leak.example


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"patient": ["nobody"], "side": ["train"]}, "found the names nobody"),
        ({"patient": ["KNOWN", "nobody"], "side": ["train", "test"]}, "found 'nobody'"),
        ({"patient": ["KNOWN"], "place": ["train"]}, r"found the columns \['patient', 'place'\]"),
        ({"patient": ["KNOWN"], "side": [None]}, "found an empty cell in side"),
        ({"patient": [], "side": []}, "found the names nothing"),
    ],
)
def test_an_unusable_split_is_named(
    columns: dict[str, list[str]], message: str, cohort: Cohort, tmp_path: Path
) -> None:
    known = str(cohort.patients.index[0])
    columns["patient"] = [known if n == "KNOWN" else n for n in columns["patient"]]
    with pytest.raises(DataError, match=rf"bad.csv: {message}.*Give a CSV file"):
        read_subsets(write(tmp_path / "bad.csv", **columns), cohort)


def test_an_absent_split_is_named(cohort: Cohort, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.csv: found no such file"):
        read_subsets(tmp_path / "none.csv", cohort)
