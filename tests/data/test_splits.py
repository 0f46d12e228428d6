from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from lggseg.data import splits
from lggseg.data.cohort import Cohort, load_cohort
from lggseg.utils.errors import DataError
from lggseg.utils.files import table_bytes


def made_up(patients: int, seed: int = 0) -> SimpleNamespace:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "institution": rng.choice(["CS", "DU", "FG", "HT"], patients),
            "tumour_pixels": rng.integers(100, 90_000, patients),
        },
        index=pd.Index([f"P{i:03d}" for i in range(patients)], name="patient"),
    )
    return SimpleNamespace(patients=table, root="somewhere")


@settings(max_examples=40, deadline=None)
@given(patients=st.integers(7, 120), seed=st.integers(0, 1000))
def test_every_patient_is_in_the_test_or_in_one_fold(patients: int, seed: int) -> None:
    split = splits.make_split(made_up(patients, seed), seed=seed)
    test = split[split["subset"] == "test"]
    assert sorted(split["patient"]) == [f"P{i:03d}" for i in range(patients)]
    assert len(test) == int(0.2 * patients)
    assert (test["fold"] == -1).all()
    sizes = split[split["fold"] >= 0]["fold"].value_counts()
    assert len(sizes) == 5
    assert sizes.max() - sizes.min() <= 1
    for fold in range(5):
        subsets = [set(splits.patients_of(split, name, fold)) for name in splits.SUBSETS]
        assert sum(map(len, subsets)) == len(set.union(*subsets)) == patients


def test_87_patients_give_17_and_5_folds_of_14() -> None:
    split = splits.make_split(made_up(87))
    assert (split["subset"] == "test").sum() == 17
    assert split[split["fold"] >= 0]["fold"].value_counts().tolist() == [14] * 5


def test_subsets_are_alike() -> None:
    cohort = made_up(100)
    split = splits.make_split(cohort)
    test = split["subset"] == "test"
    for code, size in cohort.patients["institution"].value_counts().items():
        assert abs((split["institution"][test] == code).sum() - 0.2 * size) <= 1.5
    means = split.groupby("fold")["tumour_pixels"].mean()
    assert means.max() / means.min() < 1.25


def test_the_seed_decides() -> None:
    first, again, other = (splits.make_split(made_up(50), seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert splits.split_fingerprint(first) == splits.split_fingerprint(again)
    assert splits.split_fingerprint(first) != splits.split_fingerprint(other)


def test_by_institution_each_fold_is_one_and_the_test_stays() -> None:
    split = splits.make_split(made_up(80))
    other = splits.split_by_institution(split)
    assert (other["subset"] == split["subset"]).all()
    development = other[other["subset"] == "development"]
    assert development.groupby("fold")["institution"].unique().map(list).to_dict() == {
        0: ["CS"], 1: ["DU"], 2: ["FG"], 3: ["HT"]
    }  # fmt: skip
    assert (other["fold"][other["subset"] == "test"] == splits.NO_FOLD).all()


def test_an_institution_of_few_patients_joins_the_smallest_of_the_others() -> None:
    table = pd.DataFrame({"institution": ["A"] * 9 + ["B"] * 6 + ["C"], "subset": "development"})
    split = splits.split_by_institution(table)
    assert split["fold"].tolist() == [0] * 9 + [1] * 7
    with pytest.raises(ValueError, match="found 1 institutions of 5 patients, expected two"):
        splits.split_by_institution(table[:12])


def test_without_a_test_all_patients_train() -> None:
    split = splits.make_split(made_up(30))
    whole = splits.without_test(split)
    assert len(splits.patients_of(whole, "train", splits.NO_FOLD)) == 30
    assert splits.split_fingerprint(whole) != splits.split_fingerprint(split)


def test_too_few_patients() -> None:
    with pytest.raises(ValueError, match=r"found 4 patients.*expected at least 5"):
        splits.make_split(made_up(4))


def test_written_and_read(cohort: Cohort, tmp_path: Path) -> None:
    split = splits.make_split(cohort)
    splits.write_split(split, tmp_path / "sub" / "split.csv")
    pd.testing.assert_frame_equal(splits.read_split(tmp_path / "sub" / "split.csv", cohort), split)


def test_a_split_of_an_earlier_version_is_read(cohort: Cohort, tmp_path: Path) -> None:
    split = splits.make_split(cohort)
    splits.write_split(split, tmp_path / "split.csv")
    text = (tmp_path / "split.csv").read_text()
    (tmp_path / "split.csv").write_text(text.replace("subset", "role", 1))
    pd.testing.assert_frame_equal(splits.read_split(tmp_path / "split.csv", cohort), split)


def test_bad_split_files(cohort: Cohort, tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    with pytest.raises(DataError, match=r"split.csv: found no such file.*02_patient_split"):
        splits.read_split(path)
    path.write_text("patient,side\na,b\n")
    with pytest.raises(DataError, match="found the columns"):
        splits.read_split(path)
    split = splits.make_split(cohort)
    path.write_bytes(table_bytes(split.iloc[1:]))
    with pytest.raises(DataError, match="TCGA_CS_T000_20000101 missing"):
        splits.read_split(path, cohort)
    path.write_bytes(table_bytes(pd.concat([split, split.iloc[:1]])))
    with pytest.raises(DataError, match="TCGA_CS_T000_20000101 twice"):
        splits.read_split(path, cohort)


def test_a_split_is_replaced_only_by_a_split_and_another_one_only_when_asked(
    cohort: Cohort, tmp_path: Path
) -> None:
    path, split = tmp_path / "split.csv", splits.make_split(cohort)
    splits.write_split(split, path, overwrite=False)
    splits.write_split(split, path, overwrite=False)
    other = splits.make_split(cohort, seed=1)
    with pytest.raises(DataError, match=r"split.csv: found another split; .*--overwrite"):
        splits.write_split(other, path, overwrite=False)
    assert splits.read_split(path).equals(split)
    splits.write_split(other, path)
    assert splits.read_split(path).equals(other)
    path.write_text("Patient,gender\n")
    with pytest.raises(DataError, match=r"found a file that is no split; expected none"):
        splits.write_split(split, path)
    assert path.read_text() == "Patient,gender\n"


def test_unknown_subset_and_fold() -> None:
    split = splits.make_split(made_up(20))
    with pytest.raises(ValueError, match="subset 'tests'"):
        splits.patients_of(split, "tests", 0)
    with pytest.raises(ValueError, match="fold 7: expected one of"):
        splits.patients_of(split, "train", 7)


def test_the_patient_split_does_not_leak(cohort: Cohort) -> None:
    splits.check_no_leakage(cohort, splits.slice_folds(cohort, splits.make_split(cohort)))


def test_a_patient_in_two_subsets_leaks(cohort: Cohort) -> None:
    subsets = splits.slice_folds(cohort, splits.make_split(cohort))
    subsets[0] = "elsewhere"
    with pytest.raises(
        splits.LeakageError, match="patient TCGA_CS_T000_20000101 is in two subsets"
    ):
        splits.check_no_leakage(cohort, subsets)


def _copy_first_slice(tree: Path, blank: bool) -> None:
    patients = sorted(path for path in tree.iterdir() if path.is_dir())[:2]
    files = [folder / f"{folder.name}_1.tif" for folder in patients]
    image = np.zeros((256, 256, 3), np.uint8) if blank else tifffile.imread(files[0])
    for file in files:
        tifffile.imwrite(file, image, photometric="rgb")


def test_a_copied_slice_leaks(tree: Path) -> None:
    _copy_first_slice(tree, blank=False)
    cohort = load_cohort(tree, progress=False)
    with pytest.raises(splits.LeakageError, match=r"T000_20000101_1.tif and TCGA_DU_T001"):
        splits.check_no_leakage(cohort, cohort.slices["patient"].to_numpy())


def test_a_copied_blank_slice_does_not(tree: Path) -> None:
    _copy_first_slice(tree, blank=True)
    cohort = load_cohort(tree, progress=False)
    splits.check_no_leakage(cohort, cohort.slices["patient"].to_numpy())


def test_unused_slices_do_not_leak(cohort: Cohort) -> None:
    subsets = np.where(cohort.slices["slice"] == 1, "", cohort.slices["patient"])
    splits.check_no_leakage(cohort, subsets)


def test_random_slices_leak_and_have_as_many(cohort: Cohort) -> None:
    split = splits.make_split(cohort)
    random = splits.random_slice_split(cohort, split, fold=1, seed=3)
    by_patient = splits.slice_subsets(cohort, split, 1)
    for name in ("train", "validation"):
        assert (random == name).sum() == (by_patient == name).sum()
    assert (random[by_patient == "test"] == "").all()
    with pytest.raises(splits.LeakageError):
        splits.check_no_leakage(cohort, random)
