"""The patients below a folder: what is found, what is left out, and that this is said."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from trees import write_tree

from lggseg.data import kaggle as trees
from lggseg.data.archive import PACKED, pack, unpack
from lggseg.data.cohort import load_cohort
from lggseg.data.kaggle import patient_folders
from lggseg.utils.errors import DataError, LeftOut


def test_tree_is_found_one_and_two_levels_up(tree: Path) -> None:
    assert trees.find_tree(tree) == tree
    assert trees.find_tree(tree.parent) == tree
    assert trees.find_tree(tree.parent.parent / tree.parent.name) == tree


def test_of_two_copies_the_shallowest_is_taken(tree: Path) -> None:
    shutil.copytree(tree, tree.parent / "a-nested" / "kaggle_3m")
    with pytest.warns(LeftOut, match="left out 3 patients of the same names and slices as in"):
        assert trees.find_tree(tree.parent) == tree


def test_tree_is_found_from_a_patients_folder(tree: Path) -> None:
    patient = trees.patient_folders(tree)[0]
    assert trees.find_tree(patient) == tree
    assert len(load_cohort(patient, progress=False).patients) == 3


@pytest.mark.parametrize("make", [True, False])
def test_empty_or_absent_root_says_what_to_do(tmp_path: Path, make: bool) -> None:
    root = tmp_path / "nothing"
    if make:
        root.mkdir()
    found = "no patient's folder" if make else "no such folder"
    with pytest.raises(DataError, match=rf"nothing: found {found}.*expected.*make data"):
        trees.find_tree(root)


def test_the_archive_itself_is_to_be_unpacked(tmp_path: Path) -> None:
    archive = tmp_path / "archive.zip"
    archive.touch()
    with pytest.raises(DataError, match=r"archive.zip: found a file; .*Unpack"):
        trees.find_tree(archive)


def test_what_lies_in_a_folder_is_counted_by_ending(tmp_path: Path) -> None:
    (tmp_path / "anna").mkdir()
    for name in ("anna/t1.nii.gz", "anna/flair.nii.gz", "IM0001", ".hidden.tif", "A.1.dcm"):
        (tmp_path / name).touch()
    assert trees.contents(tmp_path) == (
        "no patient's folder, but 2 files .nii.gz, 1 file .dcm, 1 file without an ending"
    )


def renamed(folder: Path, new: str) -> None:
    """Give a patient another name, the slices too."""
    for file in folder.iterdir():
        file.rename(file.with_name(file.name.replace(folder.name, new)))
    folder.rename(folder.with_name(new))


def test_every_ending_is_a_slice(tree: Path, tmp_path: Path) -> None:
    before = load_cohort(tree, progress=False)
    for folder in patient_folders(tree):
        endings = iter((".TIF", ".tiff", ".TIFF", ".Tif") * 2)
        for file in sorted(folder.iterdir()):
            file.rename(file.with_suffix(next(endings)))
    cohort = load_cohort(tree, progress=False)
    assert cohort.fingerprint == before.fingerprint
    pack(cohort, tmp_path / "channel" / PACKED)
    again = load_cohort(unpack(tmp_path / "channel", tmp_path / "there"), progress=False)
    assert again.fingerprint == before.fingerprint


def test_two_endings_of_one_slice_are_two_slices_of_a_number(tree: Path) -> None:
    first = sorted(patient_folders(tree)[0].iterdir())[0]
    shutil.copy(first, first.with_suffix(".TIF"))
    with pytest.raises(DataError, match=r"found slice 1 twice, also as .*_1.TIF"):
        load_cohort(tree, progress=False)


def test_patients_of_all_sites_and_depths_are_one_cohort(tree: Path, tmp_path: Path) -> None:
    before = load_cohort(tree, progress=False)
    first, second, third = patient_folders(tree)
    data = tmp_path / "data"
    for folder, site in ((first, "siteB"), (second, "siteA/ward"), (third, ".")):
        shutil.copytree(folder, data / site / folder.name)
    shutil.copy(tree / "data.csv", data)
    cohort = load_cohort(data, progress=False)
    assert cohort.fingerprint == before.fingerprint and cohort.root == data
    assert cohort.patients.equals(before.patients)
    pack(cohort, tmp_path / "channel" / PACKED)
    again = load_cohort(unpack(tmp_path / "channel", tmp_path / "there"), progress=False)
    assert again.fingerprint == before.fingerprint
    shutil.move(data / "data.csv", data / "siteB")  # a table of one of the sites
    assert load_cohort(data, progress=False).patients.equals(before.patients)


def test_a_name_twice_is_refused(tree: Path) -> None:
    folder = patient_folders(tree)[0]
    for site in ("siteA", "siteB"):
        shutil.copytree(folder, tree.parent / "sites" / site / folder.name)
    with pytest.raises(DataError, match=r"siteB/.*: found a patient of the same name as .*siteA/"):
        load_cohort(tree.parent / "sites")


def test_a_deeper_copy_with_another_patient_is_no_copy(tree: Path) -> None:
    shutil.copytree(tree, tree / "corrected")
    renamed(patient_folders(tree / "corrected")[0], "TCGA_EZ_T009_20000101")
    with pytest.raises(DataError, match="found a patient of the same name"):
        load_cohort(tree)


def test_one_name_in_two_spellings_is_refused(tree: Path) -> None:
    first, second, _ = patient_folders(tree)
    renamed(first, "Zo\u00eb")
    renamed(second, "Zoe\u0308")
    with pytest.raises(DataError, match="found a patient of the same name"):
        load_cohort(tree)


def test_a_name_and_its_slices_may_be_spelt_differently(tree: Path) -> None:
    (tree / "data.csv").write_text("Patient\nZo\u00eb\nTCGA_DU_T001\nTCGA_HT_T002\n")
    folder = patient_folders(tree)[0]
    renamed(folder, "Zoe\u0308")
    folder.with_name("Zoe\u0308").rename(folder.with_name("Zo\u00eb"))
    assert "Zo\u00eb" in load_cohort(tree, progress=False).patients.index


def test_links_lead_to_a_patient_once(tree: Path, tmp_path: Path) -> None:
    (tree / "again").symlink_to(tree)
    (tree.parent / "linked").symlink_to(tree)
    (tmp_path / "flat").mkdir()
    for folder in patient_folders(tree):
        (tmp_path / "flat" / folder.name).symlink_to(folder)
    for root in (tree, tree.parent / "linked", tmp_path / "flat"):
        assert len(patient_folders(root)) == 3


def test_a_slice_that_is_a_link_to_nothing_is_named(tree: Path) -> None:
    folder = patient_folders(tree)[0]
    last = folder / f"{folder.name}_4.tif"
    last.unlink()
    last.symlink_to("gone")
    with pytest.raises(DataError, match=r"_4.tif: found no way to read it"):
        load_cohort(tree, progress=False)


@pytest.mark.parametrize(
    "name", ["{0}-5.tif", "{0}_4 (1).tif", "{0}_mask.tif", "other_1.tif", "{0}_5.png", "scan.nii"]
)
def test_an_image_that_is_no_slice_is_named(tree: Path, name: str) -> None:
    before = load_cohort(tree, progress=False).fingerprint
    folder = patient_folders(tree)[0]
    (folder / name.format(folder.name)).touch()
    with pytest.warns(LeftOut) as warned:
        assert load_cohort(tree, progress=False).fingerprint == before
    assert f"{folder}: left out {name.format(folder.name)}; expected slices" in str(warned[0])


def test_images_in_no_patients_folder_are_named(tree: Path) -> None:
    renamed(patient_folders(tree)[0], "x")
    (tree / "x").rename(tree / "y")
    (tree / "volume.tif").touch()
    with pytest.warns(LeftOut) as warned:
        assert len(trees.find_cohort(tree).patients) == 2
    said = "\n".join(str(warning.message) for warning in warned)
    assert f"{tree}: left out volume.tif" in said
    assert f"{tree / 'y'}: left out x_1.tif, x_1_mask.tif, x_2.tif and 5 more" in said


@pytest.mark.filterwarnings("error::lggseg.utils.errors.LeftOut")
def test_hidden_files_are_ignored_everywhere(tree: Path, tmp_path: Path) -> None:
    before = load_cohort(tree, progress=False).fingerprint
    for file in [*tree.rglob("*.tif"), tree / "data.csv"]:
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\26\7")
    (tree / ".Trashes").mkdir()
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (patient_folders(tree)[0] / name).touch()
    cohort = load_cohort(tree, progress=False)
    assert cohort.fingerprint == before
    pack(cohort, tmp_path / "channel" / PACKED)
    there = unpack(tmp_path / "channel", tmp_path / "there")
    assert not list(there.rglob("._*"))


def unreadable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user without the rights, who root never is."""
    folder.mkdir(exist_ok=True)
    scandir = os.scandir

    def refuse(place: Path) -> object:
        if Path(place) == folder:
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(trees.os, "scandir", refuse)


@pytest.mark.filterwarnings("error::lggseg.utils.errors.LeftOut")
def test_an_unreadable_lost_and_found_is_ignored(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreadable(tree.parent / "lost+found", monkeypatch)
    assert len(trees.find_cohort(tree.parent).patients) == 3


def test_another_unreadable_folder_is_named(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = patient_folders(tree)[0]
    unreadable(folder, monkeypatch)
    with pytest.warns(LeftOut, match=f"Left out {folder}: found no way to read it"):
        assert folder not in trees.find_cohort(tree).patients


@pytest.mark.parametrize("name", ["a\rb", "a\nb", "a\tb", "caf\udce9", "a\u2028b", "\x1b[2J"])
def test_a_name_that_no_table_holds_is_named_and_the_others_go_on(tree: Path, name: str) -> None:
    renamed(patient_folders(tree)[0], name)
    (tree / "data.csv").unlink()
    with pytest.warns(LeftOut) as warned:
        cohort = load_cohort(tree, progress=False)
    assert len(cohort.patients) == 2
    said = str(warned[0].message)
    assert said.isprintable() and "found a name with control characters" in said


def test_the_folder_where_one_stands(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = patient_folders(tree)[0]
    monkeypatch.chdir(folder)
    assert len(load_cohort(".", progress=False).patients) == 3
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    assert len(load_cohort("..", progress=False).patients) == 3


def test_many_folders_are_counted(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", patients=25, slices=1)
    for folder in patient_folders(tree):
        (folder / "other.png").touch()
    with pytest.warns(LeftOut) as warned:
        trees.find_cohort(tree)
    assert len(warned) == 21 and "5 more folders" in str(warned[-1].message)
