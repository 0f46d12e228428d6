"""The slices of a DICOM series as one scan, which the NIfTI route takes from there on.

Slices are sorted by their position along the normal of the images. What would make a wrong volume
(a gap, mixed orientations, several volumes in one series) is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from nibabel.fileholders import FileHolder

from lggseg.data.dicom import FEWEST, MR, Series, Source, number, numbers, pydicom
from lggseg.data.nifti import MAX_SLICES, MAX_VOXELS, Scan, check_header, volume_of
from lggseg.preprocessing.volume import CHANNELS, FLAIR
from lggseg.utils.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

_AGAIN = "Export or copy the series again."
_CONVERT = "Convert the series to NIfTI by dcm2niix, and give that."
# What says where a slice lies, and how many numbers of each.
_PLACE = {
    "Rows": 1,
    "Columns": 1,
    "PixelSpacing": 2,
    "ImageOrientationPatient": 6,
    "ImagePositionPatient": 3,
}
_SCALE = "RescaleSlope", "RescaleIntercept"
# What must be the same in all slices, and to what tolerance.
_SAME = {"Rows": 0, "Columns": 0, "PixelSpacing": 1e-3, "ImageOrientationPatient": 1e-3}
# The share by which distances between slices may differ.
_GAP = 0.05


def read_volume(
    series: Series, max_voxels: int = MAX_VOXELS
) -> tuple[nib.Nifti1Image, list[Dataset]]:
    """A series as a scan in NIfTI's axes, and its data sets with pixels in the order of its slices.

    max_voxels: at the most. Raises ``DataError`` that names the series.
    """
    label = str(series)
    slices = _sorted(label, [_read(source) for source in series.sources])
    first = slices[0]
    shape = (int(first.Columns), int(first.Rows), len(slices))
    if np.prod(shape, dtype=object) > max_voxels or len(slices) > MAX_SLICES:
        expected = f"at most {max_voxels} voxels and {MAX_SLICES} slices"
        raise DataError(label, f"{' × '.join(map(str, shape))} voxels", expected, _CONVERT)
    values = np.empty(shape, np.float32)
    for place, dataset in enumerate(slices):
        values[..., place] = _pixels(label, dataset).T
    image = nib.Nifti1Image(values, _affine(slices))
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, code="scanner")
    image.set_qform(image.affine, code="scanner")
    image.file_map = {"image": FileHolder(filename=label)}
    check_header(label, image)
    return image, slices


def study_volume(
    chosen: Mapping[str, Series], *, register: bool = False, max_voxels: int = MAX_VOXELS
) -> tuple[np.ndarray, Scan, list[Dataset]]:
    """What :func:`lggseg.data.nifti.read_nifti` returns, of the series that
    :func:`lggseg.data.dicom.choose` chose, and the data sets of FLAIR in the order of its slices.

    The notes of the scan say which series was taken for what, and why. Raises ``DataError``.
    """
    kept, left_out = (dict(chosen), []) if register else same_space(chosen)
    read = {role: read_volume(series, max_voxels) for role, series in kept.items()}
    volume, scan = volume_of({role: image for role, (image, _) in read.items()}, register=register)
    taken = [f"{role}: {series}, for {series.why}." for role, series in kept.items()]
    scan = replace(scan, notes=(*taken, *left_out, *scan.notes))
    return volume, scan, read[CHANNELS[FLAIR]][1]


def same_space(chosen: Mapping[str, Series]) -> tuple[dict[str, Series], list[str]]:
    """The series in FLAIR's frame of reference, and a sentence on each other one: their positions
    say nothing of each other."""
    frame = str(chosen[CHANNELS[FLAIR]].header.get("FrameOfReferenceUID", ""))
    kept, notes = {}, []
    for role, series in chosen.items():
        if str(series.header.get("FrameOfReferenceUID", "")) == frame:
            kept[role] = series
        else:
            notes.append(f"{role}: {series} left out, in another frame of reference than FLAIR.")
    return kept, notes


def _read(source: Source) -> Dataset:
    try:
        with source.open() as file:
            return pydicom().dcmread(file)
    except Exception as error:  # pydicom raises many kinds for a broken file
        found = f"no readable DICOM ({str(error)[:200] or type(error).__name__})"
        raise DataError(source.label, found, "a DICOM file", _AGAIN) from error


def _sorted(label: str, slices: list[Dataset]) -> list[Dataset]:
    """The slices by position, once they are known to be one volume. Raises ``DataError``."""
    for dataset in slices:
        _check_kind(label, dataset)
    if len(slices) < FEWEST:
        raise DataError(label, f"{len(slices)} slices", f"at least {FEWEST}", _AGAIN)
    for name, tolerance in _SAME.items():
        kept = [np.array(dataset.get(name), dtype=float) for dataset in slices]
        if any(k.shape != kept[0].shape or np.abs(k - kept[0]).max() > tolerance for k in kept):
            found = f"slices of different {name}"
            action = "Give the folder of one scan, or name another series by its number."
            raise DataError(label, found, "one volume, with all slices alike", action)
    normal = _normal(slices[0])
    places = [float(np.array(d.ImagePositionPatient, dtype=float) @ normal) for d in slices]
    order = np.argsort(places, kind="stable")
    _check_distances(label, np.array(places)[order])
    return [slices[place] for place in order]


def _check_kind(label: str, dataset: Dataset) -> None:
    """Refuse what is no plain MR slice. Raises ``DataError``."""
    action = "Name another series by its number."
    if dataset.get("Modality") != "MR":
        found = f"modality {dataset.get('Modality', 'unknown')}"
        raise DataError(label, found, "MR", action)
    frames = number(dataset, "NumberOfFrames") or 1
    if frames > 1 or str(dataset.get("SOPClassUID")) != MR:
        kind = getattr(dataset.get("SOPClassUID"), "name", "an unknown kind of image")
        found = f"{kind}, {frames:g} frames in one file"
        raise DataError(label, found, "MR Image Storage, one slice per file", _CONVERT)
    if str(dataset.get("BurnedInAnnotation", "NO")).upper() == "YES":
        expected = "pixels that show nothing but the patient"
        raise DataError(label, "text burned into the images", expected, action)
    if (number(dataset, "SamplesPerPixel") or 1) != 1 or str(
        dataset.get("PhotometricInterpretation")
    ) not in ("MONOCHROME2", "MONOCHROME1"):
        found = f"{dataset.get('PhotometricInterpretation', 'unknown')} pixels"
        raise DataError(label, found, "grey levels", action)
    scaled = [name for name in _SCALE if dataset.get(name) not in (None, "")]
    wanted = {**_PLACE, **dict.fromkeys(scaled, 1)}
    if missing := [name for name, size in wanted.items() if len(numbers(dataset, name)) != size]:
        found = f"no {' and no '.join(missing)} that can be read"
        expected = "the place of each slice in the scanner, and its scale"
        raise DataError(label, found, expected, _CONVERT)
    if "PixelData" not in dataset:
        raise DataError(label, "a file without pixels", "an image", _AGAIN)


def _check_distances(label: str, places: np.ndarray) -> None:
    """Refuse slices at one place, and a gap. places: millimetres, ascending."""
    steps = np.diff(places)
    if steps.min() < 0.01:
        found = f"{np.count_nonzero(steps < 0.01) + 1} slices that share a place with others"
        action = "Name a series of one volume: several echoes, times or directions are no scan."
        raise DataError(label, found, "each place once", action)
    usual = float(np.median(steps))
    wrong = np.abs(steps - usual) > max(_GAP * usual, 0.05)
    if wrong.any():
        place = int(np.argmax(wrong))
        found = f"{steps[place]:.2f} mm between slices {place + 1} and {place + 2}"
        expected = f"{usual:.2f} mm, as between the others"
        action = "A slice is missing or there are two scans: export the whole series again."
        raise DataError(label, found, expected, action)


def _pixels(label: str, dataset: Dataset) -> np.ndarray:
    """Grey levels with the slice's own scale: float32 ``(rows, columns)``. Raises ``DataError``."""
    try:
        stored = np.asarray(dataset.pixel_array, dtype=np.float32)
    except Exception as error:  # pydicom raises many kinds, and what decodes for it others
        syntax = getattr(dataset.file_meta.get("TransferSyntaxUID"), "name", "unknown")
        found = f"pixels that cannot be decoded ({syntax}: {str(error)[:150]})"
        action = "Export the series uncompressed (dcmdjpeg, gdcmconv --raw), or again if cut off."
        raise DataError(label, found, "an image", action) from error
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        stored = stored.max() - stored
    slope, intercept = (number(dataset, name) for name in _SCALE)
    return stored * np.float32(1 if slope is None else slope) + np.float32(intercept or 0)


def _normal(dataset: Dataset) -> np.ndarray:
    along, down = np.array(dataset.ImageOrientationPatient, dtype=float).reshape(2, 3)
    return np.cross(along, down)


def _affine(slices: Sequence[Any]) -> np.ndarray:
    """From column, row and slice to NIfTI's millimetres, which go right, front and up; DICOM's go
    left, back and up (PS3.3, C.7.6.2.1.1)."""
    first, last = slices[0], slices[-1]
    along, down = np.array(first.ImageOrientationPatient, dtype=float).reshape(2, 3)
    between_rows, between_columns = (float(value) for value in first.PixelSpacing)
    start, end = (np.array(d.ImagePositionPatient, dtype=float) for d in (first, last))
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = along * between_columns, down * between_rows
    affine[:3, 2], affine[:3, 3] = (end - start) / (len(slices) - 1), start
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
