"""Masks of a tree, and the table beside them. What trains before it predicts is in test_train."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import tifffile
from fastapi.testclient import TestClient
from trees import write_tree

from lggseg.config import Config
from lggseg.data.cohort import load_cohort
from lggseg.data.splits import check_no_leakage, make_split, read_split, slice_folds, write_split
from lggseg.inference import outputs
from lggseg.inference.evaluate import evaluate
from lggseg.inference.predict import predict_folder
from lggseg.inference.scans import predict_nifti
from lggseg.inference.segmenter import Segmenter
from lggseg.serving.viewer import app
from lggseg.utils.errors import DataError, LeftOut
from lggseg.utils.files import read_table


def nothing(image: np.ndarray, background: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.zeros(image.shape[:1] + image.shape[2:], np.float32)


SEGMENTER = Segmenter(Config(), {}, nothing)
MODEL = Path(__file__).resolve().parents[2] / "models" / "lgg-unet"


def named_patients(tree: Path, names: Sequence[str]) -> Path:
    """Patients of these names, the first of one slice, the second of two, …"""
    for slices, name in enumerate(names, start=1):
        (tree / name).mkdir(parents=True)
        image = np.full((256, 256, 3), slices, np.uint8)
        for number in range(1, slices + 1):
            file = tree / name / f"{name}_{number}.tif"
            tifffile.imwrite(file, image, photometric="rgb")
            tifffile.imwrite(file.with_name(f"{name}_{number}_mask.tif"), image[..., 0] * 0)
    return tree


def test_the_table_has_all_masks_when_a_later_patient_cannot_be_read(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", patients=14, slices=1)
    broken = sorted(tree.glob("*/*_1.tif"))[-1]
    broken.write_bytes(b"")
    with pytest.raises(DataError, match="an empty file"):
        predict_folder(SEGMENTER, tree, tmp_path / "out", progress=False)
    masks = {path.name for path in (tmp_path / "out").glob("*_mask.tif")}
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert {f"{patient}_mask.tif" for patient in table["patient"]} == masks
    assert len(table) == 13


def test_no_table_where_nothing_was_predicted(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", patients=1, slices=1)
    next(tree.glob("*/*_1.tif")).write_bytes(b"")
    with pytest.raises(DataError):
        predict_folder(SEGMENTER, tree, tmp_path / "out", progress=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_patient_that_cannot_be_read_stops_no_other(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", patients=4, slices=1)
    first, second, *_ = sorted(tree.glob("*/*_1.tif"))
    first.write_bytes(b"")
    second.rename(second.with_name(second.name.replace("_1.tif", "_2.tif")))
    with pytest.raises(DataError) as caught:
        predict_folder(SEGMENTER, tree, tmp_path / "out", progress=False)
    empty, gap, rest = str(caught.value).splitlines()
    assert f"{first}: found an empty file" in empty and "found slices up to 2" in gap
    assert rest == "Of the other patients, 2 were segmented."
    assert len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == 2


def to_pipe(path: Path) -> None:
    os.mkfifo(path)


# What may lie where a slice should; whoever opened the first two would wait for ever.
STRANGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (to_pipe, "a pipe, a socket or a device"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "a pipe, a socket or a device"),
    "folder": (Path.mkdir, "a folder"),
    "broken link": (lambda path: path.symlink_to("nowhere"), "a link to no file"),
    "circle": (lambda path: path.symlink_to(path), "no way to read it (Too many levels"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_file_is_named_and_stops_no_other(kind: str, tmp_path: Path) -> None:
    make, found = STRANGE[kind]
    tree = write_tree(tmp_path / "tree", patients=3, slices=2)
    first, second, *_ = sorted(tree.glob("*/*_1.tif"))
    mask = second.with_name(second.name.replace("_1.tif", "_1_mask.tif"))
    for path in (first, mask):
        path.unlink()
        make(path)
    with pytest.warns(LeftOut, match="without the masks"), pytest.raises(DataError) as caught:
        predict_folder(SEGMENTER, tree, tmp_path / "out", progress=False)
    assert f"{first}: found {found}" in str(caught.value)
    assert str(caught.value).endswith("Of the other patients, 2 were segmented.")
    with pytest.raises(DataError, match=r"_1.tif: found "):
        load_cohort(tree, progress=False)
    alone = tmp_path / "vol.tif"
    make(alone)
    with pytest.raises(DataError, match=r"vol.tif: found "):
        predict_folder(SEGMENTER, alone, tmp_path / "none", progress=False)
    scan = tmp_path / "flair.nii.gz"
    make(scan)
    with pytest.raises(DataError, match=r"flair.nii.gz: found "):
        predict_nifti(SEGMENTER, scan, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_names_as_long_as_a_disk_takes(tmp_path: Path) -> None:
    tree = named_patients(tmp_path / "tree", ["名" * 80])  # of three bytes each
    assert len(predict_folder(SEGMENTER, tree, tmp_path / "out", progress=False)) == 1
    name = "x" * 248  # whose mask would be 257 bytes long
    (tree / name).mkdir()
    tifffile.imwrite(tree / name / f"{name}_1.tif", RGB, photometric="rgb")
    with pytest.raises(DataError, match="found a name of 257 bytes to write; expected at most 255"):
        predict_folder(SEGMENTER, tree, tmp_path / "none", progress=False)
    assert not (tmp_path / "none").exists()


def test_a_long_table_is_not_written_for_each_patient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = outputs.Predictions(outputs.Outputs(tmp_path), "model", [])
    lengths: list[int] = []
    monkeypatch.setattr(outputs.Outputs, "write", lambda *_: None)
    monkeypatch.setattr(outputs.Outputs, "add", lambda *_: lengths.append(len(written)))
    for number in range(200):
        written.add(f"P{number}", f"P{number}_mask.tif", b"", {})
    written.save()
    assert lengths[:10] == list(range(1, 11)) and lengths[-1] == 200
    assert all(after <= 1.1 * before + 1 for before, after in pairwise(lengths))
    assert sum(lengths) < 12 * 200


def grey(value: int) -> np.ndarray:
    return np.full((256, 256), value, np.uint8)


RGB = np.zeros((256, 256, 3), np.uint8)
MASKS = {"0 and 1": grey(1), "boolean": grey(0) > 0, "RGB": RGB, "another size": RGB[:9, :9, 0]}


@pytest.mark.parametrize("kind", [*MASKS, "incomplete", "twice", "broken"])
def test_masks_that_cannot_be_used_do_not_stop_predict(kind: str, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", patients=2, slices=3)
    mask = sorted(tree.glob("*/*_2_mask.tif"))[0]
    if kind in MASKS:
        tifffile.imwrite(mask, MASKS[kind])
    elif kind == "incomplete":
        mask.unlink()
    elif kind == "twice":
        shutil.copy(mask, mask.with_suffix(".TIF"))
    else:
        mask.write_bytes(b"II*")
    with pytest.warns(LeftOut, match=f"{mask.parent}.*Going on without the masks of TCGA_CS"):
        table = predict_folder(SEGMENTER, tree, tmp_path / "out", progress=False)
    assert table["dice"].isna().tolist() == [True, False]
    with pytest.raises(DataError, match=str(mask.parent)):  # who compares with masks needs them
        load_cohort(tree, progress=False)


def test_a_mask_whose_slice_is_gone_is_an_incomplete_patient(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", patients=1, slices=3)
    next(tree.glob("*/*_3.tif")).unlink()
    with pytest.raises(DataError, match=r"_3_mask.tif: found a mask without its slice"):
        predict_folder(SEGMENTER, tree, tmp_path / "out", progress=False)


NAMES = ["sub.1", "sub.2", "1.2.840.113619.2.5.17", "1.2.840.113619.2.5.18", "a.tif", "a.nii.gz"]
NAMES += ["NA", "null", "nan", "None", "001", "1e5", "=cmd|calc!A0", "@a", "-1", "a,b", 'a"b', "'a"]


def test_every_name_has_its_own_mask_and_row(tmp_path: Path) -> None:
    """What each patient shows is its own: a mask of as many slices as the patient has."""
    tree = named_patients(tmp_path / "tree", NAMES)
    table = predict_folder(SEGMENTER, tree, tmp_path / "out", progress=False)
    assert sorted(table["patient"]) == sorted(NAMES)
    again = read_table(tmp_path / "out" / "predictions.csv")
    pd.testing.assert_frame_equal(again, table)
    for slices, name in enumerate(NAMES, start=1):
        assert len(tifffile.TiffFile(tmp_path / "out" / f"{name}_mask.tif").pages) == slices
    cohort = load_cohort(tree, progress=False)
    scores = evaluate(SEGMENTER, cohort, list(cohort.patients.index), progress=False)
    assert sorted(scores["patient"]) == sorted(NAMES)
    for slices, name in enumerate(NAMES, start=1):
        assert len(cohort.image(name)) == cohort.patients["slices"][name] == slices
    split = make_split(cohort)
    write_split(split, tmp_path / "split.csv")
    assert read_split(tmp_path / "split.csv", cohort).equals(split)
    check_no_leakage(cohort, slice_folds(cohort, split))


@pytest.mark.parametrize("name", ["a\rb", "caf\udce9"])
def test_a_name_that_no_table_holds_stops_no_other(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = named_patients(tmp_path / "tree", ["a", name, "b"])
    with pytest.raises(DataError) as caught:
        predict_folder(SEGMENTER, tree, tmp_path / "out", progress=False)
    first, rest = str(caught.value).splitlines()
    assert first.isprintable() and "found a name with control characters" in first
    assert rest == "Of the other patients, 2 were segmented."
    page = TestClient(app.build_app(MODEL, tree, "127.0.0.1"), "http://127.0.0.1")
    assert page.get("/api/patients").json()["patients"] == ["a", "b"]
    with pytest.raises(DataError, match="found a name with control characters"):
        predict_folder(SEGMENTER, tree / name, tmp_path / "out", progress=False)
    scan = tmp_path / f"{name}.nii.gz"
    with pytest.raises(DataError, match="found a name with control characters"):
        predict_nifti(SEGMENTER, scan, tmp_path / "out")


def test_the_viewer_saves_masks_under_the_whole_name(tmp_path: Path) -> None:
    tree = named_patients(tmp_path / "tree", ["sub.1", "sub.2", "é", "ü"])
    page = TestClient(app.build_app(MODEL, tree, "127.0.0.1"), "http://127.0.0.1")
    headers = [
        page.get(f"/api/cases/{name}/mask.tif?threshold=0.5").headers["content-disposition"]
        for name in page.get("/api/patients").json()["patients"]
    ]
    exact = [unquote(header.partition("filename*=UTF-8''")[2]) for header in headers]
    assert exact == ["sub.1_mask.tif", "sub.2_mask.tif", "é_mask.tif", "ü_mask.tif"]
    assert 'filename="sub.1_mask.tif"' in headers[0]


def test_the_command_names_what_it_leaves_out_and_prints_any_path(tmp_path: Path) -> None:
    """The line of a process, since a terminal's encoding is Python's to choose."""
    tree = named_patients(tmp_path / "tree", ["a"])
    (tree / "volume.tif").touch()
    out = tmp_path / "caf\udce9"
    command = [sys.executable, "-m", "lggseg.cli", "predict", MODEL, tree, out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"1 mask and predictions.csv in {tmp_path / 'caf'}" in done.stdout
    assert f"\nlggseg: {tree}: left out volume.tif;" in "\n" + done.stderr.replace("\r", "\n")
