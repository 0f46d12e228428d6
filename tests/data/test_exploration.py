from __future__ import annotations

from dataclasses import replace

from lggseg.data import exploration
from lggseg.data.cohort import Cohort


def test_every_patient_is_in_a_group_even_of_tumours_alike(cohort: Cohort) -> None:
    groups = exploration.groupings(cohort)
    # The tree's data.csv has no grade, and all its tumours are of one size.
    assert list(groups) == ["institution", "tumour", "missing sequences"]
    assert all(group.notna().all() for group in groups.values())
    assert sorted(groups["tumour"].value_counts()) == [2, 3, 3]


def test_grades_are_those_of_the_clinical_table(cohort: Cohort) -> None:
    table = cohort.patients.assign(neoplasm_histologic_grade=[1, 2] * 3 + [None] * 2)
    grade = exploration.groupings(replace(cohort, patients=table))["grade"]
    assert grade.tolist()[:6] == ["II", "III"] * 3 and grade.isna().sum() == 2
