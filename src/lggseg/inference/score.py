"""Masks of anybody, compared with those of the patients by the project's metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lggseg.data.codecs import read_mask_tiff
from lggseg.data.slices import MAX_PAGES, MAX_TIFF_BYTES, read_mask
from lggseg.evaluation.segmentation import patient_metrics
from lggseg.utils.errors import DataError, Refused
from lggseg.utils.progress import progress_bar

if TYPE_CHECKING:
    import pandas as pd

    from lggseg.data.cohort import Cohort

_EXPECTED = "masks named PATIENT_mask.tif (a page per slice) or PATIENT/PATIENT_1_mask.tif, …"
_ACTION = "Write 8-bit TIFF of 256 × 256 pixels, tumour 255 and everything else 0."
_TIFF = r"\.tiff?"


def find_masks(folder: Path | str, patients: Sequence[str]) -> dict[str, Path]:
    """Where the mask of each patient lies: a TIFF, or a folder of slices.

    Raises ``DataError`` where the folder holds the mask of no patient.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(folder, "no such folder", _EXPECTED, "Give the folder of the masks.")
    found = {name: path for name in patients if (path := _find(folder, name))}
    if not found:
        names = sorted(path.name for path in folder.iterdir())[:3]
        has = f"no mask of these patients, but {', '.join(names)}" if names else "no file"
        raise DataError(folder, has, _EXPECTED, f"The first patient is {patients[0]}.")
    return found


def _find(folder: Path, patient: str) -> Path | None:
    for path in _candidates(folder, patient):
        if path.exists():
            return path
    return None


def _candidates(folder: Path, patient: str) -> Iterator[Path]:
    for ending in (".tif", ".tiff"):
        yield folder / f"{patient}_mask{ending}"
        yield folder / f"{patient}{ending}"
    yield folder / patient


def read_prediction(path: Path, patient: str, slices: int) -> np.ndarray:
    """A patient's mask, bool ``(slices, 256, 256)``. Raises ``DataError`` that names the file."""
    mask = _read_folder(path, patient) if path.is_dir() else _read_file(path)
    if len(mask) != slices:
        found = f"{len(mask)} slices"
        raise DataError(path, found, f"the {slices} slices of {patient}", "Write one per slice.")
    return mask


def _read_file(path: Path) -> np.ndarray:
    try:
        if path.stat().st_size > MAX_TIFF_BYTES:
            raise DataError(path, f"more than {MAX_TIFF_BYTES} bytes", "a mask", _ACTION)
        return read_mask_tiff(path.read_bytes(), MAX_PAGES)
    except Refused as error:
        raise error.of(str(path)) from error


def _read_folder(path: Path, patient: str) -> np.ndarray:
    pattern = re.compile(rf"{re.escape(patient)}_(\d+)(_mask)?{_TIFF}", re.IGNORECASE)
    # A folder that holds slices beside their masks: the masks are meant.
    plain: dict[int, Path] = {}
    marked: dict[int, Path] = {}
    for file in path.iterdir():
        if match := pattern.fullmatch(file.name):
            (marked if match[2] else plain)[int(match[1])] = file
    files = marked or plain
    if sorted(files) != list(range(1, len(files) + 1)) or not files:
        found = f"the slices {sorted(files)[:5]}" if files else "no mask"
        expected = f"{patient}_1_mask.tif, {patient}_2_mask.tif, … without a gap"
        raise DataError(path, found, expected, _ACTION)
    return np.stack([read_mask(files[number]) for number in sorted(files)]) > 0


def score(
    masks: Path | str, cohort: Cohort, patients: Sequence[str], *, progress: bool = True
) -> pd.DataFrame:
    """Compare masks with those of a cohort.

    Args:
        masks: The folder that :func:`find_masks` searches.
        cohort: The patients with their true masks.
        patients: Who may be scored; those of them without a mask are left out.
        progress: Whether to show a bar.

    Returns:
        A row per patient: patient, institution, and the metrics of
        :func:`lggseg.evaluation.segmentation.patient_metrics` over the whole volume.

    Raises:
        DataError: A mask that cannot be read, or of another number of slices.
    """
    import pandas as pd

    found = find_masks(masks, patients)
    sizes = cohort.patients["slices"]
    # All are read before the first is scored: an error in the last one costs no time.
    read = {name: read_prediction(path, name, sizes[name]) for name, path in found.items()}
    rows = []
    for name in progress_bar(list(read), "score", "patient", show=progress):
        institution = cohort.patients.loc[name, "institution"]
        metrics = patient_metrics(cohort.mask(name), read[name])
        rows.append({"patient": name, "institution": institution, **metrics})
    return pd.DataFrame(rows)
