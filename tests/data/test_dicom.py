"""DICOM studies: which series is which, one volume of its slices, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("pydicom", reason="pydicom is missing: pip install -e '.[dicom]'")

from dicom_files import write_series
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scan_files import head, saved

from lggseg.data import dicom
from lggseg.data.dicom import Series, choose, files_below, pseudonym, read_studies
from lggseg.data.dicom_volume import read_volume, study_volume
from lggseg.data.nifti import read_nifti
from lggseg.utils.errors import DataError

Names = dict[str, Any]


def series_of(folder: Path) -> list[Series]:
    (study,) = read_studies(files_below(folder), "the study")
    return study


def turned(codes: str) -> nib.Nifti1Image:
    image = head()
    whole = nib.Nifti1Image(image.get_fdata().astype(np.int16), image.affine)
    start, end = io_orientation(image.affine), axcodes2ornt(tuple(codes))
    return whole.as_reoriented(ornt_transform(start, end))


@pytest.mark.parametrize("codes", ["LPS", "PIL", "LIP", "RAS", "ASR", "LPI"])
def test_a_series_is_the_scan_of_the_nifti_route(codes: str, tmp_path: Path) -> None:
    """Axial, sagittal and coronal series of an oblique head, in either direction."""
    image = turned(codes)
    write_series(image, tmp_path / "dicom")
    volume, scan, slices = study_volume(choose(series_of(tmp_path / "dicom"), "study"))
    expected, _ = read_nifti(saved(image, tmp_path / "flair.nii"))
    assert np.abs(volume.astype(int) - expected).max() <= 1
    # The place of the voxels, whose order along the slices is by position.
    blob = np.argwhere(np.asarray(scan.flair.dataobj) == 200).mean(axis=0)
    truth = np.argwhere(np.asarray(image.dataobj) == 200).mean(axis=0)
    found, wanted = (a @ [*b, 1] for a, b in ((scan.flair.affine, blob), (image.affine, truth)))
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    assert len(slices) == image.shape[2]


def test_each_slice_has_its_own_scale(tmp_path: Path) -> None:
    slope: Callable[[int], float] = lambda place: 1 + place  # noqa: E731
    image = turned("LPS")
    write_series(image, tmp_path, RescaleSlope=slope, RescaleIntercept=-3)
    values = np.asarray(read_volume(series_of(tmp_path)[0])[0].dataobj)
    scale = 1 + np.arange(image.shape[2])
    np.testing.assert_allclose(values, np.asarray(image.dataobj) * scale - 3)


# A series → the sequence that it is taken for, and a word of the reason.
ROLES: dict[str, tuple[Names, str, str]] = {
    "FLAIR by its description": ({"description": "AX FLAIR"}, "FLAIR", "AX FLAIR"),
    "Siemens's FLAIR": ({"description": "t2_tirm_tra_dark-fluid"}, "FLAIR", "dark-fluid"),
    "T1 without an agent": ({"description": "t1_se_tra"}, "pre-contrast", "t1_se_tra"),
    "T1 with an agent": (
        {"description": "t1_se_tra", "ContrastBolusAgent": "Gadovist"},
        "post-contrast",
        "ContrastBolusAgent",
    ),
    "T1 before the agent": (
        {"description": "T1 pre", "ContrastBolusAgent": "Gadovist"},
        "pre-contrast",
        "T1 pre",
    ),
    "GE's T1 with contrast": ({"description": "AX T1 +C"}, "post-contrast", "AX T1 +C"),
    "T1 with contrast in its options": (
        {"description": "AX T1", "ScanOptions": "CONTRAST"},
        "post-contrast",
        "ScanOptions",
    ),
    "FLAIR by its times": (
        {"description": "tra 4mm", "InversionTime": 2500, "EchoTime": 90, "RepetitionTime": 9000},
        "FLAIR",
        "TI 2500 ms",
    ),
    "T1 by its times": (
        {"description": "tra 4mm", "EchoTime": 9, "RepetitionTime": 500},
        "pre-contrast",
        "TE 9 ms",
    ),
    "T2": ({"description": "AX T2", "EchoTime": 100, "RepetitionTime": 4000}, "", "AX T2"),
    "SWI, whose times are short": (
        {"description": "SWI", "EchoTime": 20, "RepetitionTime": 28},
        "",
        "SWI",
    ),
    "a localizer": ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "", "LOCALIZER"),
    "CT": ({"Modality": "CT"}, "", "modality CT"),
    "nothing that tells": ({"description": "tra"}, "", "no name that tells"),
}


@pytest.mark.parametrize("kind", ROLES)
def test_a_series_is_taken_for(kind: str, tmp_path: Path) -> None:
    fields, role, why = ROLES[kind]
    write_series(turned("LPS").slicer[:, :, :4], tmp_path, **fields)
    judged = dicom.judge(series_of(tmp_path)[0])
    assert judged.role == role and why in judged.why


def study(folder: Path) -> Path:
    """FLAIR, T1 before and after contrast, T2, and a FLAIR made of another."""
    image = turned("LPS")
    for number, (text, fields) in enumerate(
        {
            "AX T2": {},
            "AX FLAIR MPR": {"ImageType": ["DERIVED", "SECONDARY", "MPR"]},
            "AX FLAIR": {},
            "AX T1": {},
            "AX T1 GAD": {"ContrastBolusAgent": "Gadovist"},
        }.items(),
        start=1,
    ):
        write_series(image, folder / f"S{number}", text, number, **fields)
    return folder


def test_a_study_gives_its_three_sequences_and_says_why(tmp_path: Path) -> None:
    series = series_of(study(tmp_path))
    chosen = choose(series, "study")
    assert {role: one.number for role, one in chosen.items()} == {
        "pre-contrast": 4,
        "FLAIR": 3,
        "post-contrast": 5,
    }
    assert "rather than series 2 “AX FLAIR MPR”" in chosen["FLAIR"].why
    _, scan, _ = study_volume(chosen)
    assert scan.missing == () and "FLAIR: series 3 “AX FLAIR”, for SeriesDesc" in scan.notes[1]


def test_a_number_overrides_the_choice(tmp_path: Path) -> None:
    series = series_of(study(tmp_path))
    chosen = choose(series, "study", {"FLAIR": 2, "post-contrast": 3})
    numbers = {role: one.number for role, one in chosen.items()}
    assert numbers == {"pre-contrast": 4, "FLAIR": 2, "post-contrast": 3}
    with pytest.raises(DataError, match=r"found 0 series of number 77 .series 1 “AX T2”"):
        choose(series, "study", {"FLAIR": 77})


def test_a_series_in_another_frame_of_reference_is_left_out(tmp_path: Path) -> None:
    write_series(turned("LPS"), tmp_path / "a")
    write_series(turned("LPS"), tmp_path / "b", "AX T1", 2, frame="9.9")
    _, scan, _ = study_volume(choose(series_of(tmp_path), "study"))
    assert scan.missing == ("pre-contrast", "post-contrast")
    assert any("in another frame of reference" in note for note in scan.notes)


SIX = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1]
REFUSED: dict[str, tuple[Names, str]] = {
    "CT by its number": ({"Modality": "CT"}, "found modality CT; expected MR"),
    "text in the pixels": ({"BurnedInAnnotation": "YES"}, "found text burned into the images"),
    "colours": ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "found RGB pixels"),
    "many frames in a file": ({"NumberOfFrames": 20}, "20 frames in one file"),
    "an enhanced image": (
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4.1"},
        "found Enhanced MR Image Storage",
    ),
    "two directions": (
        {"ImageOrientationPatient": lambda place: SIX[place % 2]},
        "slices of different ImageOrientationPatient",
    ),
    "two sizes": ({"Rows": lambda place: 62 - place % 2}, "slices of different Rows"),
    "several echoes": (
        {"ImagePositionPatient": lambda place: [0, 0, 5 * (place // 2)]},
        "slices that share a place",
    ),
    "a missing slice": (
        {"ImagePositionPatient": lambda place: [0, 0, 5 * (place + (place > 4))]},
        "10.00 mm between slices 5 and 6; expected 5.00 mm",
    ),
    "no place": ({"ImagePositionPatient": None}, "found no ImagePositionPatient"),
    "a place that is none": ({"PixelSpacing": [1, 1, 1]}, "found no PixelSpacing that can be"),
    "a scale that is none": ({"RescaleSlope": [1, 2]}, "found no RescaleSlope that can be read"),
    "cut pixels": ({"PixelData": b"\0" * 100}, "pixels that cannot be decoded"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(kind: str, tmp_path: Path) -> None:
    fields, sentence = REFUSED[kind]
    image = turned("LPS").slicer[:, :, :12]
    aligned = nib.Nifti1Image(np.asarray(image.dataobj), np.diag([-4, -3.5, 6, 1]))
    write_series(aligned, tmp_path, **fields)
    with pytest.raises(DataError, match=r"series 1 “AX FLAIR”: found .*; expected ") as caught:
        study_volume(choose(series_of(tmp_path), "study", {"FLAIR": 1}))
    assert sentence in str(caught.value)


def test_no_flair_lists_what_there_is(tmp_path: Path) -> None:
    write_series(turned("LPS"), tmp_path, "AX T2")
    with pytest.raises(DataError, match=r"no series that is FLAIR: series 1 “AX T2” .*--flair"):
        choose(series_of(tmp_path), "study")


@pytest.mark.parametrize("kind", ["cut off", "no DICOM"])
def test_a_broken_file_is_named(kind: str, tmp_path: Path) -> None:
    path = write_series(turned("LPS"), tmp_path)[3]
    path.write_bytes(path.read_bytes()[:400] if kind == "cut off" else b"hello")
    if kind == "cut off":
        with pytest.raises(DataError, match=f"{path.name}: found no readable DICOM"):
            study_volume(choose(series_of(tmp_path), "study"))
    else:  # such as a text beside the series, which leaves a gap
        with pytest.raises(DataError, match="mm between slices"):
            study_volume(choose(series_of(tmp_path), "study"))


def test_a_folder_without_dicom_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("hello")
    with pytest.raises(DataError, match="x: found no DICOM file; expected a folder with the MR"):
        read_studies(files_below(tmp_path), "x")


def test_a_pseudonym_tells_nothing_and_stays(tmp_path: Path) -> None:
    write_series(turned("LPS"), tmp_path, study="1.2.840.99")
    name = pseudonym(series_of(tmp_path))
    assert name == pseudonym(series_of(tmp_path)) and name.startswith("study-")
    assert "1.2.840" not in name


def test_pydicoms_own_studies_end_in_a_volume_or_a_sentence() -> None:
    """The MR series that pydicom ships: several scanners, few slices, no pixels that show much."""
    from pydicom.data import get_testdata_file

    one = get_testdata_file("MR_small.dcm")
    folder = Path(str(one)).parent / "dicomdirtests"
    assert folder.is_dir()
    ended = 0
    for study in read_studies(files_below(folder), "pydicom"):
        for series in study:
            if series.header.get("Modality") != "MR":
                continue
            try:
                image, slices = read_volume(series)
                assert image.shape[2] == len(slices)
            except DataError as error:
                assert "found" in str(error) and "expected" in str(error)
            ended += 1
    assert ended > 3
