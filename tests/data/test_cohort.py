from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from lggseg.data import cache as caches
from lggseg.data import slices
from lggseg.data.cohort import Cohort, load_cohort, missing_sequences
from lggseg.data.kaggle import patient_folders
from lggseg.data.slices import read_volume
from lggseg.utils import files
from lggseg.utils.errors import DataError
from lggseg.utils.paths import cache_root


def first(tree: Path, number: int = 1, mask: bool = False) -> Path:
    folder = patient_folders(tree)[0]
    return folder / f"{folder.name}_{number}{'_mask' if mask else ''}.tif"


def newest(files: Iterable[Path]) -> Path:
    return max(files, key=lambda path: path.stat().st_mtime_ns)


def load_error(tree: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_cohort(tree, progress=False)
    assert "; expected " in str(caught.value)
    return str(caught.value)


def test_cohort_holds_what_the_files_hold(tree: Path) -> None:
    cohort = load_cohort(tree, progress=False)
    assert cohort.images.shape == (12, 256, 256, 3)
    for folder in patient_folders(tree):
        for number in range(1, 5):
            row = cohort.rows(folder.name).start + number - 1
            image = tifffile.imread(folder / f"{folder.name}_{number}.tif")
            mask = tifffile.imread(folder / f"{folder.name}_{number}_mask.tif")
            assert np.array_equal(cohort.images[row], image)
            assert np.array_equal(cohort.masks[row], mask)
            assert cohort.slices["tumour_pixels"][row] == np.count_nonzero(mask)
    assert list(cohort.patients["institution"]) == ["CS", "DU", "HT"]
    assert list(cohort.patients["gender"]) == [1, 1, 1]
    assert not cohort.simulated


def test_slices_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    name = "TCGA_CS_T000_20000101"
    (tmp_path / "tree" / name).mkdir(parents=True)
    for number in range(1, 12):
        image = np.full((256, 256, 3), number, np.uint8)
        tifffile.imwrite(tmp_path / "tree" / name / f"{name}_{number}.tif", image)
    volume, mask = read_volume(tmp_path / "tree" / name)
    assert volume[:, 0, 0, 0].tolist() == list(range(1, 12))
    assert mask is None


def test_rows_follow_each_other_in_the_order_of_the_patients() -> None:
    patients = pd.DataFrame({"slices": [3, 1, 2]}, index=["a", "b", "c"])
    nothing = np.zeros((6, 1))
    made = Cohort(Path("x"), nothing, nothing, pd.DataFrame(), patients, "", True)
    assert [made.rows(name) for name in "abc"] == [slice(0, 3), slice(3, 4), slice(4, 6)]
    with pytest.raises(KeyError, match="d"):
        made.rows("d")


def test_more_slices_than_wait_at_once_keep_their_order(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = load_cohort(tree, progress=False)
    monkeypatch.setattr(caches, "_BLOCK", 5)
    monkeypatch.setenv("LGGSEG_CACHE", str(tree.parent / "cache"))
    in_blocks = load_cohort(tree, progress=False)
    assert np.array_equal(in_blocks.images, at_once.images)
    assert in_blocks.fingerprint == at_once.fingerprint


def test_second_start_reads_the_cache_alone(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_cohort(tree, progress=False)
    monkeypatch.setattr(slices, "_read_tiff", lambda path: pytest.fail("read a slice again"))
    after = load_cohort(tree, progress=False)
    assert np.array_equal(before.images, after.images)
    assert before.fingerprint == after.fingerprint
    pd.testing.assert_frame_equal(before.patients, after.patients)


def test_a_changed_slice_is_read_again(tree: Path) -> None:
    before = load_cohort(tree, progress=False).fingerprint
    tifffile.imwrite(first(tree), np.zeros((256, 256, 3), np.uint8), photometric="rgb")
    cohort = load_cohort(tree, progress=False)
    assert not cohort.images[0].any()
    assert cohort.slices["blank"][0]
    assert cohort.fingerprint != before


def test_fingerprint_depends_on_the_content_alone(tree: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tree, tmp_path / "elsewhere")
    assert (
        load_cohort(copy, progress=False).fingerprint
        == load_cohort(tree, progress=False).fingerprint
    )


def test_a_half_written_cache_is_never_read(tree: Path) -> None:
    cohort = load_cohort(tree, progress=False)
    pixels = newest(cache_root().glob("*/pixels.npy"))
    expected = np.array(cohort.images)
    os.truncate(pixels, pixels.stat().st_size // 2)
    assert np.array_equal(load_cohort(tree, progress=False).images, expected)


def test_a_failed_build_leaves_nothing(tree: Path) -> None:
    before = set(cache_root().iterdir())
    first(tree, 2).write_bytes(b"")
    load_error(tree)
    assert set(cache_root().iterdir()) == before


def test_a_cache_without_its_table_is_read_again(tree: Path) -> None:
    expected = load_cohort(tree, progress=False).slices
    newest(cache_root().glob("*/slices.csv")).unlink()
    pd.testing.assert_frame_equal(load_cohort(tree, progress=False).slices, expected)


def test_the_cache_of_another_process_that_was_first_stays(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LGGSEG_CACHE", str(tmp_path / "cache"))
    write, first_one = caches._write_cache, []

    def write_twice(*arguments: Any) -> None:
        monkeypatch.setattr(caches, "_write_cache", write)
        first_one.append(load_cohort(tree, progress=False))  # the other process
        first_one.append(newest(cache_root().glob("*/pixels.npy")).stat().st_ino)
        write(*arguments)

    monkeypatch.setattr(caches, "_write_cache", write_twice)
    second = load_cohort(tree, progress=False)
    first, file = first_one
    assert newest(cache_root().glob("*/pixels.npy")).stat().st_ino == file
    assert np.array_equal(first.images, second.images)
    assert not list(cache_root().glob(".*"))


def test_an_old_cache_is_renamed_before_it_is_deleted(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LGGSEG_CACHE", str(tmp_path / "cache"))
    load_cohort(tree, progress=False)
    old = newest(cache_root().glob("*/pixels.npy")).parent
    tifffile.imwrite(first(tree), np.zeros((256, 256, 3), np.uint8), photometric="rgb")
    monkeypatch.setattr(files.shutil, "rmtree", lambda *_, **__: None)  # killed before this
    load_cohort(tree, progress=False)
    assert not old.exists()


def test_times_in_the_future_or_long_ago_do_not_matter(tree: Path) -> None:
    before = load_cohort(tree, progress=False)
    for year in (2**33, 0):
        os.utime(first(tree), (year, year))
        after = load_cohort(tree, progress=False)
        assert after.fingerprint == before.fingerprint
        assert np.array_equal(after.images, before.images)


def test_a_slice_changed_without_another_size_or_time_is_read_again(tree: Path) -> None:
    before, times = load_cohort(tree, progress=False), first(tree).stat()
    tifffile.imwrite(first(tree), np.zeros((256, 256, 3), np.uint8), photometric="rgb")
    os.utime(first(tree), ns=(times.st_atime_ns, times.st_mtime_ns))
    assert first(tree).stat().st_size == times.st_size
    assert load_cohort(tree, progress=False).fingerprint != before.fingerprint


def test_a_full_disk_says_how_to_move_the_cache(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tree)._replace(free=1000)
    monkeypatch.setattr(caches.shutil, "disk_usage", lambda path: usage)
    assert "LGGSEG_CACHE" in load_error(tree)


def test_the_cache_is_this_users_alone(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LGGSEG_CACHE", str(tmp_path / "cache"))
    before = os.umask(0)
    try:
        load_cohort(tree, progress=False)
    finally:
        os.umask(before)
    [cache] = cache_root().iterdir()
    modes = {path: path.stat().st_mode & 0o777 for path in (cache_root(), cache, *cache.iterdir())}
    assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in modes.items())
    assert len(modes) == 5


@pytest.mark.parametrize("how", ["others may write", "another user's", "a link"])
def test_a_cache_that_others_can_have_written_is_made_again(
    how: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LGGSEG_CACHE", str(tmp_path / "cache"))
    before = load_cohort(tree, progress=False)
    images, masks = np.array(before.images), np.array(before.masks)
    [cache] = cache_root().iterdir()
    with (cache / "pixels.npy").open("r+b") as file:
        file.seek(-(10**6), os.SEEK_END)
        file.write(b"\7" * 10**6)
    if how == "others may write":
        cache.chmod(0o777)
    elif how == "a link":
        cache.rename(tmp_path / "elsewhere")
        cache.symlink_to(tmp_path / "elsewhere")
    elif os.getuid():
        pytest.skip("only root gives a folder to another user")
    else:
        os.chown(cache, 12345, 12345)
    after = load_cohort(tree, progress=False)
    assert np.array_equal(after.images, images) and np.array_equal(after.masks, masks)


def test_missing_mask(tree: Path) -> None:
    first(tree, mask=True).unlink()
    assert f"{first(tree, mask=True)}: found no such file" in load_error(tree)


def test_mask_without_slice(tree: Path) -> None:
    tifffile.imwrite(first(tree, 9, mask=True), np.zeros((256, 256), np.uint8))
    assert f"{first(tree, 9, mask=True)}: found a mask without its slice" in load_error(tree)


def test_truncated_file(tree: Path) -> None:
    os.truncate(first(tree), 1000)
    message = load_error(tree)
    assert str(first(tree)) in message and "Download or copy the file again" in message


def test_a_compressed_tiff(tree: Path) -> None:
    Image.fromarray(np.zeros((256, 256, 3), np.uint8)).save(first(tree), compression="tiff_lzw")
    message = load_error(tree)
    assert "found LZW compression" in message and "save it uncompressed" in message


def test_not_a_tiff(tree: Path) -> None:
    first(tree).write_bytes(b"surely not a TIFF")
    message = load_error(tree)
    assert f"{first(tree)}: found a broken TIFF" in message
    first(tree).write_bytes(b"GIF89a")
    assert "found a GIF picture; expected a TIFF" in load_error(tree)


def test_empty_file(tree: Path) -> None:
    first(tree).write_bytes(b"")
    assert f"{first(tree)}: found an empty file" in load_error(tree)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((128, 256, 3), np.uint8), "uint8 of shape (128, 256, 3)"),
        (np.zeros((256, 256), np.uint8), "uint8 of shape (256, 256)"),
        (np.zeros((256, 256, 4), np.uint8), "uint8 of shape (256, 256, 4)"),
        (np.zeros((256, 256, 3), np.uint16), "uint16 of shape (256, 256, 3)"),
    ],
    ids=["size", "one channel", "four channels", "16 bits"],
)
def test_wrong_slices(tree: Path, image: np.ndarray, found: str) -> None:
    tifffile.imwrite(first(tree), image)
    message = load_error(tree)
    assert f"{first(tree)}: found {found}" in message
    assert "expected uint8 of shape (256, 256, 3): pre-contrast, FLAIR, post-contrast" in message


def test_wrong_mask_values(tree: Path) -> None:
    tifffile.imwrite(first(tree, mask=True), np.ones((256, 256), np.uint8))
    message = load_error(tree)
    assert f"{first(tree, mask=True)}: found the value 1; expected only 0 and 255" in message


def test_wrong_mask_size(tree: Path) -> None:
    tifffile.imwrite(first(tree, mask=True), np.zeros((64, 64), np.uint8))
    assert "found uint8 of shape (64, 64)" in load_error(tree)


def test_only_cohorts_count_as_cached(tree: Path) -> None:
    load_cohort(tree, progress=False)
    (cache_root() / "photos").mkdir()
    found = caches.cached_cohorts()
    assert found and all((folder / "pixels.npy").is_file() for folder in found)


def test_slices_that_count_from_0(tree: Path) -> None:
    for mask in (False, True):
        first(tree, 4, mask=mask).rename(first(tree, 0, mask=mask))
    assert "found a slice 0; expected slice numbers 1, 2, 3" in load_error(tree)


def test_gap_in_slice_numbers(tree: Path) -> None:
    first(tree, 2).unlink()
    first(tree, 2, mask=True).unlink()
    assert "found slices up to 4 but no slice 2" in load_error(tree)


def test_duplicate_slice_numbers(tree: Path) -> None:
    twin = first(tree).with_name(first(tree).name.replace("_1.tif", "_01.tif"))
    shutil.copy(first(tree), twin)
    message = load_error(tree)
    assert "found slice 1 twice" in message and "_01.tif" in message


def test_patient_missing_in_data_csv(tree: Path) -> None:
    table = pd.read_csv(tree / "data.csv")
    table.iloc[1:].to_csv(tree / "data.csv", index=False)
    assert "data.csv: found no row for TCGA_CS_T000" in load_error(tree)


def test_without_data_csv_there_are_no_clinical_columns(tree: Path) -> None:
    (tree / "data.csv").unlink()
    with pytest.warns(UserWarning, match="without clinical data"):
        cohort = load_cohort(tree, progress=False)
    assert "gender" not in cohort.patients


def test_missing_sequences_are_found_by_pixels(tree: Path) -> None:
    for number in range(1, 5):
        image = tifffile.imread(first(tree, number))
        image[..., 2] = image[..., 1]
        tifffile.imwrite(first(tree, number), image, photometric="rgb")
    missing = missing_sequences(load_cohort(tree, progress=False))
    assert missing["post-contrast"].tolist() == [True, False, False]
    assert not missing["pre-contrast"].any()


def test_multi_page_tiff(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(0, 255, (5, 256, 256, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "scan.tif", volume, photometric="rgb")
    found, mask = read_volume(tmp_path / "scan.tif")
    assert np.array_equal(found, volume) and mask is None


def test_multi_page_tiff_of_one_channel(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "scan.tif", np.zeros((5, 256, 256), np.uint8))
    with pytest.raises(DataError, match=r"scan.tif: found uint8 of shape \(5, 256, 256\)"):
        read_volume(tmp_path / "scan.tif")


def test_real_patients(real_tree: Path) -> None:
    cohort = load_cohort(real_tree, progress=False)
    assert (cohort.patients["tumour_slices"] > 0).all()
    assert set(np.unique(cohort.masks[:50])) <= {0, 255}
