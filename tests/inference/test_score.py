from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from lggseg import cli
from lggseg.data.codecs import mask_tiff
from lggseg.data.cohort import Cohort
from lggseg.data.splits import make_split, patients_of, write_split
from lggseg.evaluation.segmentation import dice
from lggseg.inference.score import score
from lggseg.utils.errors import DataError


def shifted(cohort: Cohort, patient: str) -> np.ndarray:
    return np.roll(cohort.mask(patient), 3, axis=2)


def test_one_file_per_patient(
    cohort: Cohort, shared_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = map(str, cohort.patients.index[:2])
    (tmp_path / "masks").mkdir()
    for name in (first, second):
        (tmp_path / "masks" / f"{name}_mask.tif").write_bytes(mask_tiff(shifted(cohort, name)))
    command = ["score", str(tmp_path / "masks"), str(shared_tree), "--out", str(tmp_path / "out")]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert f"{len(cohort.patients) - 2} of {len(cohort.patients)} patients have no mask" in said
    table = pd.read_csv(tmp_path / "out" / "patients.csv").set_index("patient")
    for name in (first, second):
        expected = dice(cohort.mask(name), shifted(cohort, name))
        assert 0 < expected < 1 and table.loc[name, "dice"] == pytest.approx(expected)
    assert cli.main(command) == 1
    assert "patients.csv" in capsys.readouterr().err


def test_the_truth_as_a_tree_of_slices_is_perfect(cohort: Cohort, shared_tree: Path) -> None:
    table = score(shared_tree, cohort, list(cohort.patients.index), progress=False)
    assert len(table) == len(cohort.patients)
    assert (table["dice"] == 1).all() and (table["hd95"] == 0).all()


def test_only_the_patients_of_a_subset(
    cohort: Cohort, shared_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = make_split(cohort, folds=3)
    write_split(split, tmp_path / "split.csv")
    command = ["score", str(shared_tree), str(shared_tree), "--out", str(tmp_path / "out")]
    assert cli.main([*command, "--split", str(tmp_path / "split.csv")]) == 0
    table = pd.read_csv(tmp_path / "out" / "patients.csv")
    assert table["patient"].tolist() == patients_of(split, "test", 0)


def bad_masks(kind: str, cohort: Cohort, folder: Path) -> None:
    name = str(cohort.patients.index[0])
    mask = cohort.mask(name)
    if kind == "short":
        (folder / f"{name}_mask.tif").write_bytes(mask_tiff(mask[:-1]))
    if kind == "grey":
        tifffile.imwrite(
            folder / f"{name}.tif", mask.astype(np.uint8) * 7, photometric="minisblack"
        )
    if kind == "text":
        (folder / f"{name}_mask.tif").write_text("no TIFF")
    if kind == "gap":
        (folder / name).mkdir()
        tifffile.imwrite(folder / name / f"{name}_2_mask.tif", mask[0].astype(np.uint8) * 255)
    if kind == "stranger":
        (folder / "anna_mask.tif").write_bytes(mask_tiff(mask))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("short", r"_mask.tif: found 5 slices; expected the 6 slices of TCGA"),
        ("grey", r".tif: found the value 7; expected only 0 and 255 in a mask"),
        ("text", r"_mask.tif: found .*expected a TIFF"),
        ("gap", r"found the slices \[2\]; expected TCGA\w+_1_mask.tif"),
        ("stranger", r"found no mask of these patients, but anna_mask.tif; expected masks named"),
        ("nothing", r"found no file; expected masks named PATIENT_mask.tif"),
        ("absent", r"absent: found no such folder"),
    ],
)
def test_unusable_masks_are_named(
    kind: str,
    message: str,
    cohort: Cohort,
    shared_tree: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    masks = tmp_path / ("absent" if kind == "absent" else "masks")
    (tmp_path / "masks").mkdir()
    bad_masks(kind, cohort, tmp_path / "masks")
    out = tmp_path / "out"
    assert cli.main(["score", str(masks), str(shared_tree), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "Traceback" not in error and not out.exists()


def test_a_library_call_raises(cohort: Cohort, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        score(tmp_path / "none", cohort, list(cohort.patients.index), progress=False)
