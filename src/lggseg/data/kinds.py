"""What a path that a user gives holds: TIFF slices, NIfTI scans or DICOM studies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from lggseg.data.dicom import files_below, is_dicom
from lggseg.data.kaggle import survey
from lggseg.data.nifti import is_nifti
from lggseg.utils.errors import DataError

Kind = Literal["TIFF", "NIfTI", "DICOM"]


def kind_of(data: Path) -> Kind:
    """What kind of reader a file or a folder is for. A folder with patients in TIFF is for that
    one, whatever else lies there, then one with NIfTI; so is what nobody reads, for the message."""
    if data.is_file():
        if is_nifti(data):
            return "NIfTI"
        with data.open("rb") as file:
            return "DICOM" if is_dicom(file) else "TIFF"
    if not data.is_dir() or _has_slices(data):
        return "TIFF"
    if any(is_nifti(name) for _, _, names in os.walk(data) for name in names if name[0] != "."):
        return "NIfTI"
    return "DICOM" if next(files_below(data), None) else "TIFF"


def _has_slices(folder: Path) -> bool:
    """Whether patients of TIFF slices lie below a folder, or what was meant for such."""
    try:
        found = survey(folder)
    except DataError:  # which reading it will raise again
        return True
    return bool(found.patients or found.refused)
