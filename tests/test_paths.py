from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lggseg import paths
from lggseg.data import DataError, load_cohort


def test_tree_is_found_one_and_two_levels_up(tree: Path) -> None:
    assert paths.find_tree(tree) == tree
    assert paths.find_tree(tree.parent) == tree
    assert paths.find_tree(tree.parent.parent / tree.parent.name) == tree


def test_of_two_copies_the_shallowest_is_taken(tree: Path) -> None:
    shutil.copytree(tree, tree.parent / "a-nested" / "kaggle_3m")
    assert paths.find_tree(tree.parent) == tree


def test_tree_is_found_from_a_patients_folder(tree: Path) -> None:
    patient = paths.patient_folders(tree)[0]
    assert paths.find_tree(patient) == tree
    assert len(load_cohort(patient, progress=False).patients) == 3


@pytest.mark.parametrize("make", [True, False])
def test_empty_or_absent_root_says_what_to_do(tmp_path: Path, make: bool) -> None:
    root = tmp_path / "nothing"
    if make:
        root.mkdir()
    found = "no patient's folder" if make else "no such folder"
    with pytest.raises(DataError, match=rf"nothing: found {found}.*expected.*make data"):
        paths.find_tree(root)


def test_the_archive_itself_is_to_be_unpacked(tmp_path: Path) -> None:
    archive = tmp_path / "archive.zip"
    archive.touch()
    with pytest.raises(DataError, match=r"archive.zip: found a file; .*Unpack"):
        paths.find_tree(archive)


def test_what_lies_in_a_folder_is_counted_by_ending(tmp_path: Path) -> None:
    (tmp_path / "anna").mkdir()
    for name in ("anna/t1.nii.gz", "anna/flair.nii.gz", "IM0001", ".hidden.tif", "A.1.dcm"):
        (tmp_path / name).touch()
    assert paths.contents(tmp_path) == (
        "no patient's folder, but 2 files .nii.gz, 1 file .dcm, 1 file without an ending"
    )


def test_replace_file_leaves_nothing_half_written(tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    target.write_text("before")

    def fail(part: Path) -> None:
        part.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        paths.replace_file(target, fail)
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


def test_a_working_folder_is_gone_at_the_end_and_what_was_renamed_out_stays(tmp_path: Path) -> None:
    with paths.working_folder(tmp_path, ".making-") as beside:
        (beside / "made").mkdir()
        (beside / "other").mkdir()
        (beside / "made").rename(tmp_path / "made")
    assert list(tmp_path.iterdir()) == [tmp_path / "made"]


KILLED = """
import os, signal, sys
from pathlib import Path
from lggseg.paths import working_folder
with working_folder(Path(sys.argv[1]), ".making-") as beside:
    (beside / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_goes_with_the_next_one_and_a_living_ones_stays(
    tmp_path: Path,
) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)])
    assert next(tmp_path.glob(".making-*/half"))
    with paths.working_folder(tmp_path, ".making-") as first:
        assert not list(tmp_path.glob(".making-*/half"))
        with paths.working_folder(tmp_path, ".making-"):
            assert first.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_two_earlier_runs_of_the_same_time_are_both_kept(tmp_path: Path) -> None:
    run = tmp_path / "unet"
    for text in ("first", "second", "third"):
        run.mkdir()
        (run / "metrics.csv").write_text(text)
        os.utime(run, (2**33, 2**33))  # a clock that is wrong, too: in the year 2242
        paths.fresh_folder(run)
    kept = [path.read_text() for path in tmp_path.glob("unet-2242*/metrics.csv")]
    assert sorted(kept) == ["first", "second", "third"]


def test_fresh_folder_keeps_the_earlier_run(tmp_path: Path) -> None:
    run = tmp_path / "unet"
    run.mkdir()
    (run / "metrics.csv").write_text("kept")
    assert paths.fresh_folder(run) == run
    assert not run.exists()
    assert next(tmp_path.glob("unet-*/metrics.csv")).read_text() == "kept"


def test_fresh_folder_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    (run := tmp_path / "unet").mkdir()
    other = paths.try_lock(run / ".lock")
    with pytest.raises(paths.DataError, match="found another process that trains in it"):
        paths.fresh_folder(run)
    assert other is not None and run.exists()
    other.release()
    assert not paths.fresh_folder(run).exists()
