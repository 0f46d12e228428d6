"""Slices and masks of one patient, read from TIFF files and checked."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from lggseg.data.kaggle import named, patient_files, volume_name
from lggseg.data.tiff import BadTiff, read_pages
from lggseg.preprocessing.volume import SIZE
from lggseg.utils.errors import DataError, LeftOut
from lggseg.utils.files import not_a_file, read_file


def read_volume(path: Path | str) -> tuple[np.ndarray, np.ndarray | None]:
    """One patient: a folder of slices, or one multi-page TIFF.

    Returns the volume, uint8 ``(slices, 256, 256, 3)``, and the mask, bool
    ``(slices, 256, 256)``, or ``None`` where there is none. Masks that are incomplete or cannot be
    read are left out with a warning, since a volume needs none. Raises ``DataError``.
    """
    path = named(path)
    if path.is_file():
        return _read_pages(path), None
    files = patient_files(path)
    volume = np.stack([read_image(file) for file in files.images])
    if not files.masks:
        return volume, None
    try:
        return volume, np.stack([read_mask(mask) for _, mask in files.pairs]) > 0
    except DataError as error:
        text = f"{error} Going on without the masks of {volume_name(path)}."
        warnings.warn(text, LeftOut, stacklevel=2)
        return volume, None


# Pages of a volume in one TIFF, and bytes of a TIFF: uncompressed, with room for its tags.
MAX_PAGES = 2048
MAX_TIFF_BYTES = MAX_PAGES * (SIZE * SIZE * 4 + 4096)


def _read_tiff(path: Path, samples: int, max_pages: int, expected: str, action: str) -> np.ndarray:
    """At most so many pages of a TIFF: uint8 ``(pages, 256, 256, samples)``. ``action`` is what to
    do with a whole TIFF of something else than ``expected``."""
    try:
        if not not_a_file(path) and path.stat().st_size > MAX_TIFF_BYTES:
            raise BadTiff(413, f"more than {MAX_TIFF_BYTES} bytes")
        body = read_file(path, "a TIFF of 8 bits", "Restore the file, with the right to read it.")
        return read_pages(body, max_pages, samples)
    except BadTiff as error:
        expected = "a TIFF of 8 bits" if error.status == 400 else expected
        raise DataError(path, error.found, expected, error.action or action) from error


def read_image(path: Path) -> np.ndarray:
    """One slice: uint8 ``(256, 256, 3)``. Raises ``DataError``."""
    expected = f"uint8 of shape ({SIZE}, {SIZE}, 3): pre-contrast, FLAIR, post-contrast"
    action = "Convert the slice: 8 bits, 256×256 pixels, three channels."
    return _read_tiff(path, 3, 1, expected, action)[0]


def read_mask(path: Path) -> np.ndarray:
    """One mask: uint8 ``(256, 256)``, 0 and 255. Raises ``DataError``."""
    expected, action = f"uint8 of shape ({SIZE}, {SIZE})", "Convert the mask to one 8-bit channel."
    mask = _read_tiff(path, 1, 1, expected, action)[0, ..., 0]
    if np.any((mask != 0) & (mask != 255)):
        other = int(mask[(mask != 0) & (mask != 255)][0])
        action = "Write tumour as 255 and everything else as 0."
        raise DataError(path, f"the value {other}", "only 0 and 255 in a mask", action)
    return mask


def _read_pages(path: Path) -> np.ndarray:
    expected = f"uint8 of shape (slices, {SIZE}, {SIZE}, 3), at most {MAX_PAGES} slices"
    action = "Write one RGB page a slice: pre-contrast, FLAIR, post-contrast. "
    action += "Or give the scans as NIfTI, which may have any size and depth."
    return _read_tiff(path, 3, MAX_PAGES, expected, action)
