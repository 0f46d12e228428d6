"""data.csv beside patients of any name."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from lggseg.data.clinical import read_clinical
from lggseg.data.cohort import load_cohort
from lggseg.utils.errors import DataError


def read(root: Path, patients: list[str], table: str) -> pd.DataFrame:
    (root / "data.csv").write_text(table)
    return read_clinical(root, [root / name for name in patients])


def test_a_row_by_the_folders_name_or_without_the_date(tmp_path: Path) -> None:
    names = ["patient_01", "patient_02", "TCGA_CS_4941_19960909", "NA"]
    rows = "Patient,age\npatient_01,1\npatient_02,2\nTCGA_CS_4941,3\nNA,4\npatient,5\n"
    table = read(tmp_path, names, rows)
    assert table.index.tolist() == names and table["age"].tolist() == [1, 2, 3, 4]


def test_two_scans_of_a_patient_share_a_row_or_have_their_own(tmp_path: Path) -> None:
    names = ["TCGA_CS_4941_19960909", "TCGA_CS_4941_19970101"]
    table = read(tmp_path, names, "Patient,age\nTCGA_CS_4941,3\nTCGA_CS_4941_19970101,4\n")
    assert table["age"].tolist() == [3, 4]


def test_a_part_of_a_name_is_no_match(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.csv: found no row for patient_01; .*Add a row"):
        read(tmp_path, ["patient_01"], "Patient,age\npatient,5\n")


def test_rows_that_differ_are_refused_and_equal_ones_are_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found rows of a that differ; expected one row"):
        read(tmp_path, ["a"], "Patient,age\na,5\na,6\n")
    assert read(tmp_path, ["a"], "Patient,age\na,5\na,5\n")["age"].tolist() == [5]


def test_columns_named_like_ours_are_kept_next_to_them(tree: Path) -> None:
    table = pd.read_csv(tree / "data.csv").assign(slices=99, institution="there")
    table.to_csv(tree / "data.csv", index=False)
    patients = load_cohort(tree, progress=False).patients
    assert patients["slices"].tolist() == [4, 4, 4]
    assert patients["slices of data.csv"].tolist() == [99, 99, 99]
