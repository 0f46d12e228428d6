"""What predict and evaluate write never replaces what they did not write."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from trees import write_tree

from lggseg import cli
from lggseg.config import Config
from lggseg.data.cohort import load_cohort
from lggseg.data.kaggle import patient_folders
from lggseg.inference import outputs
from lggseg.inference.outputs import Outputs
from lggseg.inference.predict import predict_folder
from lggseg.inference.scans import predict_nifti
from lggseg.inference.segmenter import Segmenter
from lggseg.utils.errors import DataError, LeftOut
from lggseg.utils.files import read_table

MODEL = Path(__file__).resolve().parents[2] / "models" / "lgg-unet"


def bright(image: np.ndarray, background: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return (image[:, 1] > 100).astype(np.float32)


SEGMENTER = Segmenter(Config(), {}, bright)
OTHER = Segmenter(Config(threshold=0.4), {}, bright)


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def save_scan(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 50, (64, 64, 5)).astype(np.int16)
    values[20:40, 20:40] += 200
    nib.Nifti1Image(values, np.diag([-3.0, -3.0, 5.0, 1.0])).to_filename(path)
    return path


def test_a_readers_mask_next_to_a_slice_is_not_replaced(tree: Path) -> None:
    folder, before = patient_folders(tree)[0], content(tree)
    for overwrite in (False, True):
        with pytest.raises(DataError, match=r"found a patient's folder of slices; expected"):
            predict_folder(SEGMENTER, folder / f"{folder.name}_2.tif", folder, overwrite=overwrite)
        with pytest.raises(DataError, match=r"found a patient's folder of slices; expected"):
            predict_folder(SEGMENTER, folder, folder, overwrite=overwrite)
    assert content(tree) == before


def test_a_patients_folder_is_the_same_by_any_path(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = patient_folders(tree)[0]
    (tree.parent / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    for out in (Path("."), folder / "below" / "..", tree.parent / "link"):
        (folder / "below").mkdir(exist_ok=True)
        with pytest.raises(DataError, match=r"found a patient's folder of slices"):
            predict_folder(SEGMENTER, tree, out, progress=False)


@pytest.mark.parametrize("name", ["TCGA_HT_T002_20000101_mask.tif", "predictions.csv"])
@pytest.mark.parametrize("make", ["file", "link to nothing", "folder"])
def test_what_predict_did_not_write_is_in_the_way_before_anything_is_written(
    tree: Path, tmp_path: Path, name: str, make: str
) -> None:
    (out := tmp_path / "out").mkdir()
    made: dict[str, Callable[[Path], None]] = {
        "file": lambda path: path.touch(),
        "link to nothing": lambda path: path.symlink_to("nothing"),
        "folder": lambda path: path.mkdir(),
    }
    made[make](out / name)
    for overwrite in (False, True):
        with pytest.raises(DataError, match=rf"{name}: found a file that lggseg did not write"):
            predict_folder(SEGMENTER, tree, out, overwrite=overwrite, progress=False)
    assert [path.name for path in out.iterdir()] == [name]


def test_a_readers_nifti_mask_is_not_replaced(tmp_path: Path) -> None:
    scan = save_scan(tmp_path / "case1.nii.gz")
    mask = save_scan(tmp_path / "case1_mask.nii.gz")
    before = content(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(DataError, match=rf"{mask}: found a file that lggseg did not write"):
            predict_nifti(SEGMENTER, scan, tmp_path, overwrite=overwrite)
    assert content(tmp_path) == before


def test_what_predict_wrote_is_replaced_when_that_is_asked_for(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_folder(SEGMENTER, tree, out, pictures=True, progress=False)
    before = content(out)
    with pytest.raises(DataError, match=r"found what an earlier command wrote; .*--overwrite"):
        predict_folder(SEGMENTER, tree, out, progress=False)
    assert content(out) == before
    predict_folder(SEGMENTER, tree, out, pictures=True, overwrite=True, progress=False)
    assert content(out) == before


def test_a_mask_that_a_reader_corrected_is_not_replaced(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_folder(SEGMENTER, tree, out, progress=False)
    mask = sorted(out.glob("*_mask.tif"))[0]
    tifffile.imwrite(mask, tifffile.imread(mask)[:, ::-1], photometric="minisblack")
    before = content(out)
    with pytest.raises(DataError, match=rf"{mask}: found a file .* that was changed since"):
        predict_folder(SEGMENTER, tree, out, overwrite=True, progress=False)
    assert content(out) == before


def test_a_table_that_a_reader_noted_something_in_is_not_replaced(
    tree: Path, tmp_path: Path
) -> None:
    first, second, _ = patient_folders(tree)
    predict_folder(SEGMENTER, first, tmp_path / "out", progress=False)
    table = tmp_path / "out" / "predictions.csv"
    table.write_text(table.read_text().replace("\n", ",checked\n"))
    before = content(tmp_path / "out")
    with pytest.raises(DataError, match=r"predictions.csv: found a file .* changed since"):
        predict_folder(SEGMENTER, second, tmp_path / "out", progress=False)
    assert content(tmp_path / "out") == before


def test_one_patient_after_the_other_makes_one_table(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    whole = predict_folder(SEGMENTER, tree, tmp_path / "at once", progress=False)
    for folder in patient_folders(tree):
        predict_folder(SEGMENTER, folder, out, progress=False)
    table = read_table(out / "predictions.csv")
    assert table.to_csv() == whole.to_csv()
    for name in ("a", "b"):
        predict_nifti(SEGMENTER, save_scan(tmp_path / f"{name}.nii.gz"), out)
    masks = read_table(out / "predictions.csv")["mask"].tolist()
    assert masks == [*whole["mask"], "a_mask.nii.gz", "b_mask.nii.gz"]
    assert sorted(masks) == sorted(path.name for path in out.glob("*_mask.*"))


def test_scans_of_one_name_are_not_one_patient(tmp_path: Path) -> None:
    scans = [save_scan(tmp_path / patient / "flair.nii.gz") for patient in ("anna", "bert")]
    predict_nifti(SEGMENTER, scans[0], tmp_path / "out")
    before = content(tmp_path / "out")
    with pytest.raises(DataError, match=r"flair_mask.nii.gz: found what an earlier command wrote"):
        predict_nifti(SEGMENTER, scans[1], tmp_path / "out")
    assert content(tmp_path / "out") == before


def test_no_table_mixes_models(tree: Path, tmp_path: Path) -> None:
    first, second, _ = patient_folders(tree)
    predict_folder(SEGMENTER, first, tmp_path / "out", progress=False)
    before = content(tmp_path / "out")
    for overwrite in (False, True):
        with pytest.raises(DataError, match=r"predictions.csv: found masks of another model"):
            predict_folder(OTHER, second, tmp_path / "out", overwrite=overwrite, progress=False)
    assert content(tmp_path / "out") == before
    predict_folder(OTHER, first, tmp_path / "out", overwrite=True, progress=False)
    assert set(read_table(tmp_path / "out" / "predictions.csv")["model"]) == {OTHER.fingerprint}


def test_what_was_measured_since_training_makes_no_other_model() -> None:
    scored = Segmenter(Config(), {"test": {"dice": {"mean": 0.8}}}, bright)
    assert scored.fingerprint == SEGMENTER.fingerprint != OTHER.fingerprint


def test_processes_that_share_a_folder_lose_nothing(tmp_path: Path) -> None:
    scans = [save_scan(tmp_path / f"case{number}.nii.gz") for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda scan: predict_nifti(SEGMENTER, scan, tmp_path / "out"), scans))
    table = read_table(tmp_path / "out" / "predictions.csv")
    assert sorted(table["patient"]) == [f"case{number}" for number in range(6)]
    listed = json.loads((tmp_path / "out" / outputs.LIST).read_text())
    assert set(listed) == {*table["mask"], "predictions.csv"}


def test_names_that_a_disk_takes_for_one_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Outputs(tmp_path).check(["P1_mask.tif", "p1_mask.tif"])  # two files on Linux
    monkeypatch.setattr(outputs, "_ignores_case", lambda folder: True)
    with pytest.raises(DataError, match=r"found P1_mask.tif and p1_mask.tif to write"):
        Outputs(tmp_path).check(["P1_mask.tif", "p1_mask.tif"])


def test_a_folder_that_is_a_file_is_named(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("notes")
    with pytest.raises(DataError, match=r"out: found a file; expected a folder"):
        predict_folder(SEGMENTER, tree, tmp_path / "out", progress=False)
    assert (tmp_path / "out").read_text() == "notes"


def test_masks_in_the_data_do_no_harm(tree: Path) -> None:
    before = load_cohort(tree, progress=False).fingerprint
    predict_folder(SEGMENTER, tree, tree, progress=False)
    with pytest.warns(LeftOut, match=f"{tree}: left out .*_mask.tif"):
        assert load_cohort(tree, progress=False).fingerprint == before
    assert len(predict_folder(SEGMENTER, tree, tree, overwrite=True, progress=False)) == 3


def test_evaluate_replaces_nothing(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", str(MODEL), str(tree), "--out", str(tmp_path / "out")]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "patients.csv").write_text("of a training")
    assert cli.main([*command, "--overwrite"]) == 1
    assert "patients.csv: found a file that lggseg did not write" in capsys.readouterr().err
    assert (tmp_path / "out" / "patients.csv").read_text() == "of a training"
    shutil.rmtree(tmp_path / "out")
    assert cli.main(command) == 0
    before = content(tmp_path / "out")
    assert cli.main(command) == 1
    assert "found what an earlier command wrote" in capsys.readouterr().err
    assert content(tmp_path / "out") == before
    assert cli.main([*command, "--overwrite"]) == 0


def test_split_replaces_no_other_file(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", patients=6, slices=1)
    table = tree / "data.csv"
    before = table.read_bytes()
    assert cli.main(["split", str(tree), "--out", str(table), "--overwrite"]) == 1
    assert table.read_bytes() == before
