"""Folders of patients in NIfTI and studies in DICOM: masks, one table, and what becomes of a
patient that cannot be segmented."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scan_files import head, saved
from tools import need

from lggseg import cli
from lggseg.config import Config
from lggseg.inference import scans as module
from lggseg.inference.predict import PatientsRefused
from lggseg.inference.scans import predict_dicom, predict_nifti, predict_scans
from lggseg.inference.segmenter import Segmenter
from lggseg.utils.errors import DataError
from lggseg.utils.files import read_table

QUIET: dict[str, Any] = {"progress": False}


def bright(image: np.ndarray, air: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    """A model that takes the blob of :func:`scan_files.head` for tumour."""
    return (image[:, 1] > 120).astype(np.float32)


SEGMENTER = Segmenter(Config(), {}, bright)


def whole(codes: str = "LPS") -> nib.Nifti1Image:
    """The head in integers, as scanners store it, its voxels in another order."""
    image = head()
    image = nib.Nifti1Image(image.get_fdata().astype(np.int16), image.affine)
    return image.as_reoriented(
        ornt_transform(io_orientation(image.affine), axcodes2ornt(tuple(codes)))
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three patients, of whom one has a broken file."""
    for name in ("P1", "P2", "P3"):
        (tmp_path / "data" / name).mkdir(parents=True)
        saved(head(), tmp_path / "data" / name / "flair.nii.gz")
    saved(head(), tmp_path / "data" / "P3" / "t1.nii")
    (tmp_path / "data" / "P2" / "flair.nii.gz").write_bytes(b"\x1f\x8bhello")
    return tmp_path / "data"


def test_a_patient_that_fails_is_told_and_stops_no_other(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PatientsRefused) as caught:
        predict_scans(SEGMENTER, folder, tmp_path / "out", **QUIET)
    broken, rest = str(caught.value).splitlines()
    assert "P2/flair.nii.gz: found no readable NIfTI" in broken
    assert rest == "Of the other patients, 2 were segmented."
    table = read_table(tmp_path / "out" / "predictions.csv")
    assert list(table["patient"]) == ["P1", "P3"]
    assert table["missing"].tolist() == ["pre-contrast, post-contrast", "post-contrast"]
    mask = np.asarray(nib.load(tmp_path / "out" / "P1_mask.nii.gz").dataobj)
    truth = head().get_fdata() == 200
    assert np.count_nonzero(mask != truth) < 0.1 * truth.sum()


def test_a_folder_goes_on_where_it_stopped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, read, seen = tmp_path / "out", module.read_nifti, []

    def stop_at_the_third(path: Path, *arguments: Any, **options: Any) -> Any:
        seen.append(path.parent.name)
        if path.parent.name == "P3":
            raise KeyboardInterrupt
        return read(path, *arguments, **options)

    monkeypatch.setattr(module, "read_nifti", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        predict_scans(SEGMENTER, folder, out, **QUIET)
    first = (out / "P1_mask.nii.gz").read_bytes()
    monkeypatch.setattr(module, "read_nifti", read)
    with pytest.raises(DataError, match="what an earlier command wrote"):
        predict_scans(SEGMENTER, folder, out, **QUIET)
    shutil.copy(folder / "P1" / "flair.nii.gz", folder / "P2" / "flair.nii.gz")
    table = predict_scans(SEGMENTER, folder, out, resume=True, **QUIET)
    assert list(table["patient"]) == ["P2", "P3"] and seen == ["P1", "P2", "P3"]
    assert list(read_table(out / "predictions.csv")["patient"]) == ["P1", "P2", "P3"]
    assert (out / "P1_mask.nii.gz").read_bytes() == first
    assert len(predict_scans(SEGMENTER, folder, out, resume=True, **QUIET)) == 0


def test_a_mask_that_someone_changed_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(folder / "P2")
    predict_scans(SEGMENTER, folder, tmp_path / "out", **QUIET)
    (tmp_path / "out" / "P1_mask.nii.gz").write_bytes(b"my own work")
    with pytest.raises(DataError, match=r"P1_mask.nii.gz: found a file that lggseg did not write"):
        predict_scans(SEGMENTER, folder, tmp_path / "out", resume=True, **QUIET)


# DICOM


def write_study(folder: Path, codes: str = "LPS") -> Path:
    pytest.importorskip("highdicom", reason="highdicom is missing: pip install -e '.[dicom]'")
    from dicom_files import write_series

    write_series(whole(codes), folder / "Doe Jane" / "A", "AX FLAIR", 3)
    write_series(whole(codes), folder / "Doe Jane" / "B", "AX T1 +C", 5)
    return folder


@pytest.mark.parametrize("codes", ["LPS", "PIL", "LIP", "RAI"])
def test_masks_of_dicom_are_those_of_nifti_voxel_by_voxel(codes: str, tmp_path: Path) -> None:
    write_study(tmp_path / "study", codes)
    files = [saved(whole(codes), tmp_path / f"{name}.nii") for name in ("flair", "t1ce")]
    predict_nifti(SEGMENTER, files[0], tmp_path / "nifti", post=files[1])
    predict_dicom(SEGMENTER, tmp_path / "study", tmp_path / "out", name="x", **QUIET)
    expected = nib.load(tmp_path / "nifti" / "flair_mask.nii.gz")
    mask = nib.load(tmp_path / "out" / "x_mask.nii.gz")
    start, end = io_orientation(mask.affine), io_orientation(expected.affine)
    mask = mask.as_reoriented(ornt_transform(start, end))
    assert np.asarray(expected.dataobj).any()
    assert np.array_equal(mask.dataobj, expected.dataobj)
    np.testing.assert_allclose(mask.affine, expected.affine, atol=1e-3)


@pytest.fixture
def segmented(tmp_path: Path) -> Path:
    predict_dicom(SEGMENTER, write_study(tmp_path / "study"), tmp_path / "out", name="x", **QUIET)
    return tmp_path / "out"


def test_dicom_seg_lies_where_the_mask_does(segmented: Path) -> None:
    import highdicom as hd

    seg = hd.seg.segread(segmented / "x_seg.dcm")
    volume = seg.get_volume(combine_segments=True)
    mask = nib.load(segmented / "x_mask.nii.gz")
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    places = np.argwhere(np.asarray(volume.array) > 0) @ volume.affine[:3, :3].T
    places += volume.affine[:3, 3]
    affine = to_lps @ mask.affine
    wanted = np.argwhere(np.asarray(mask.dataobj) > 0) @ affine[:3, :3].T + affine[:3, 3]
    assert len(places) == len(wanted) > 100
    order, other = (np.lexsort(points.round(3).T) for points in (places, wanted))
    np.testing.assert_allclose(places[order], wanted[other], atol=1e-2)


def test_dicom_seg_says_what_made_it_and_of_which_images(segmented: Path, tmp_path: Path) -> None:
    import highdicom as hd
    import pydicom

    seg = hd.seg.segread(segmented / "x_seg.dcm")
    segment = seg.get_segment_description(1)
    assert segment.algorithm_type == hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC
    assert segment.algorithm_identification.name == "lggseg"
    assert SEGMENTER.fingerprint in segment.algorithm_identification.version
    assert segment.segmented_property_type.scheme_designator == "SCT"
    sources = {pydicom.dcmread(path).SOPInstanceUID for path in tmp_path.glob("study/*/A/*")}
    referenced = {uid for *_, uid in seg.get_source_image_uids()}
    assert len(sources) == 13 and referenced == sources
    assert seg.PatientID == "MRN-12345"  # by which an archive files it


def test_dicom_seg_follows_the_rules_of_dciodvfy(segmented: Path) -> None:
    need("dciodvfy", shutil.which("dciodvfy") is not None)
    command = ["dciodvfy", str(segmented / "x_seg.dcm")]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    said = answer.stdout + answer.stderr
    assert "Segmentation" in said
    assert [line for line in said.splitlines() if line.startswith("Error")] == []


def test_nothing_of_the_patient_gets_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_study(tmp_path / "study")
    monkeypatch.setattr(Segmenter, "load", lambda *_: SEGMENTER)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["predict", "model", "study", "out"]) == 0
    said = "".join(capfd.readouterr())
    assert "FLAIR: series 3 “AX FLAIR”" in said and "post-contrast: series 5 “AX T1 +C”" in said
    names = sorted(path.name for path in Path("out").iterdir())
    texts = [said, *names, Path("out/predictions.csv").read_text()]
    mask = next(Path("out").glob("*_mask.nii.gz"))
    texts.append(gzip.decompress(mask.read_bytes())[:4000].decode("latin1"))
    for secret in ("Doe", "Jane", "MRN-12345", "19700101", "1.2.3"):
        assert not [text for text in texts if secret in text], secret
    assert mask.name.startswith("study-")
    assert BytesIO(mask.read_bytes()).read(2) == b"\x1f\x8b"


def test_headers_that_dicom_seg_cannot_take_cost_no_mask_and_tell_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    birth, secret = Tag("PatientBirthDate"), b"1970-01-01"
    study = write_study(tmp_path / "study")
    monkeypatch.setattr(Segmenter, "load", lambda *_: SEGMENTER)
    command = ["predict", "model", str(study), str(tmp_path / "out")]
    assert cli.main(command) == 0 and len(list((tmp_path / "out").glob("study-*"))) == 2
    for path in (study / "Doe Jane").rglob("IM*"):
        dataset = pydicom.dcmread(path)
        dataset._dict[birth] = RawDataElement(birth, "DA", 10, secret, 0, False, True)
        dataset.save_as(path)
    capfd.readouterr()
    assert cli.main([*command, "--overwrite"]) == 0
    said = "".join(capfd.readouterr())
    assert "DICOM-SEG: found images that DICOM-SEG cannot refer to" in said
    assert secret.decode() not in said and "Warning" not in said
    # Nor is the file of the earlier mask left beside the new one.
    assert [path.name[-12:] for path in (tmp_path / "out").glob("study-*")] == ["_mask.nii.gz"]


def test_several_studies_are_several_patients(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    from dicom_files import write_series

    for study in ("1.2.3", "1.2.4"):
        write_series(whole(), tmp_path / "data" / study, study=study)
    write_series(whole(), tmp_path / "data" / "ct", study="1.2.5", Modality="CT")
    with pytest.raises(PatientsRefused, match="modality CT") as caught:
        predict_dicom(SEGMENTER, tmp_path / "data", tmp_path / "out", **QUIET)
    assert "Of the other patients, 2 were segmented." in str(caught.value)
    assert len(read_table(tmp_path / "out" / "predictions.csv")) == 2
    with pytest.raises(DataError, match="found 3 studies; expected one study to name"):
        predict_dicom(SEGMENTER, tmp_path / "data", tmp_path / "out", name="x", **QUIET)


OPTIONS: dict[str, tuple[str, list[str], str]] = {
    "a name for a folder": ("data", ["--name", "x"], "found a folder of patients"),
    "pictures of NIfTI": ("data/P1/flair.nii.gz", ["--pictures"], "expected other data for"),
    "FLAIR beside FLAIR": ("data/P1/flair.nii.gz", ["--flair", "3"], "other data for --flair"),
    "a word for a series": ("study", ["--flair", "abc"], "expected the number of a series"),
    "a series that is not there": ("study", ["--post", "9"], "found 0 series of number 9"),
    "one file of a series": ("study/Doe Jane/A/IM0000_0", [], "found one file of a series"),
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_options_that_do_not_fit_are_one_sentence(
    kind: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, options, sentence = OPTIONS[kind]
    if data.startswith("study"):
        write_study(tmp_path / "study")
    monkeypatch.setattr(Segmenter, "load", lambda *_: SEGMENTER)
    out = tmp_path / "out"
    assert cli.main(["predict", "model", str(tmp_path / data), str(out), *options]) == 1
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error
    assert not list(out.glob("*_mask*"))


def test_the_command_says_what_failed_and_exits_so(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Segmenter, "load", lambda *_: SEGMENTER)
    assert cli.main(["predict", "model", str(folder), str(tmp_path / "out")]) == 1
    assert "P2/flair.nii.gz: found no readable NIfTI" in capsys.readouterr().err
    shutil.rmtree(folder / "P2")
    assert cli.main(["predict", "model", str(folder), str(tmp_path / "out"), "--resume"]) == 0
    assert "0 masks and predictions.csv" in capsys.readouterr().out


def test_a_report_has_volume_diameters_and_doubts(tmp_path: Path) -> None:
    """The blob of the head in a page that loads nothing."""
    flair = saved(head((2, 2, 4)), tmp_path / "<b>.nii")
    table = predict_nifti(SEGMENTER, flair, tmp_path / "out", reports=True)
    page = (tmp_path / "out" / "<b>_report.html").read_text()
    assert "Not for clinical use" in page and SEGMENTER.fingerprint in page
    assert "<b>" not in page and "&lt;b&gt;" in page
    assert f"{table['tumour_ml'][0]:.1f} ml ({table['tumour_voxels'][0]:,} voxels)" in page
    assert "Without pre-contrast, post-contrast: FLAIR stands in." in page
    diameters = re.search(r"(\d+) × (\d+) mm, product", page)
    # A ball of a radius of sqrt(0.05), where 1 is half the head: 100 mm across, 108.5 along.
    assert diameters and int(diameters[1]) == pytest.approx(2 * 0.2236 * 108.5, abs=4)
    assert int(diameters[2]) == pytest.approx(2 * 0.2236 * 100, abs=4)
    assert "is a copy of FLAIR" not in page
    assert page.count("<img") == page.count('src="data:image/png;base64,') > 2
    assert not re.search(r"(src|href)=.?(?!data:)\w+:", page) and "<script" not in page
    with pytest.raises(DataError, match="what an earlier command wrote"):
        predict_nifti(SEGMENTER, flair, tmp_path / "out", reports=True)
