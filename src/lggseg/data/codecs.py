"""Volumes and masks as the bytes of TIFF and npy files, for the endpoint and its clients.

What a stranger sends is checked before it is decoded: no field of a file makes these functions use
more memory or time than its bytes and the limit on slices allow. Nothing is ever unpickled.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import tifffile

from lggseg.data.tiff import BadTiff, read_pages
from lggseg.preprocessing.volume import SIZE
from lggseg.utils.errors import Refused

JSON, NPY, PNG, TIFF = "application/json", "application/x-npy", "image/png", "image/tiff"
ATTRIBUTES_HEADER = "X-Amzn-SageMaker-Custom-Attributes"
# What SageMaker lets through to a real-time endpoint and back.
MAX_BYTES = 25_000_000
# Of an npy file. A longer one is none of a plain array, and costs time to parse.
LONGEST_HEADER = 1000
_PAGE = SIZE * SIZE * 3
_VOLUME = f"uint8 (slices, {SIZE}, {SIZE}, 3): pre-contrast, FLAIR, post-contrast"
_MASK = f"uint8 (slices, {SIZE}, {SIZE}), 0 and 255"


def npy_bytes(array: np.ndarray) -> bytes:
    """An array as the bytes of an npy file."""
    file = BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def mask_tiff(mask: np.ndarray) -> bytes:
    """A mask, bool ``(slices, height, width)``, as the bytes of a TIFF of one page a slice, 0 and
    255."""
    file, pages = BytesIO(), mask.astype(np.uint8) * 255
    tifffile.imwrite(file, pages, photometric="minisblack", compression="zlib")
    return file.getvalue()


def read_npy(body: bytes, max_slices: int) -> np.ndarray:
    """A volume, uint8 ``(slices, 256, 256, 3)``, of at most so many slices, from an npy file.

    Raises ``Refused``.
    """
    shape, fortran, dtype, start = _npy_header(body)
    if dtype != np.uint8 or len(shape) != 4 or shape[1:] != (SIZE, SIZE, 3) or shape[0] < 1:
        found = f"{dtype} {shape}"
        raise Refused(422, found[:200], _VOLUME, "Send the volume in that form.")
    if shape[0] > max_slices:
        raise _too_many(f"{shape[0]} slices", max_slices)
    if len(body) - start != shape[0] * _PAGE:
        found = f"{len(body) - start} bytes after the header"
        action = "The file was cut off or added to: send it again."
        raise Refused(400, found, f"{shape[0] * _PAGE} for {shape[0]} slices", action)
    volume = np.frombuffer(body, np.uint8, offset=start)
    return np.ascontiguousarray(volume.reshape(shape, order="F" if fortran else "C"))


def _npy_header(body: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    file = BytesIO(body)
    try:
        version = np.lib.format.read_magic(file)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, fortran, dtype = readers[version](file, max_header_size=LONGEST_HEADER)
        if not all(type(edge) is int for edge in shape):  # True is one of NumPy's integers
            raise ValueError(f"the shape {shape}")
        return shape, fortran, dtype, file.tell()
    except Exception as error:  # NumPy parses Python's syntax, which can fail in many ways
        found = f"no readable npy header ({type(error).__name__})"
        action = "Write the file with numpy.save."
        raise Refused(400, found, f"an npy file of {_VOLUME}", action) from error


def _too_many(found: str, max_slices: int) -> Refused:
    action = (
        "Send fewer slices, or use lggseg.serving.client.segment, which sends parts of a volume."
    )
    return Refused(413, found, f"at most {max_slices}", action)


def read_tiff(body: bytes, max_slices: int) -> np.ndarray:
    """A volume, uint8 ``(slices, 256, 256, 3)``, of at most so many slices, from a TIFF
    (:mod:`lggseg.data.tiff`). Raises ``Refused``."""
    return _pages(body, max_slices, 3, _VOLUME)


def read_mask_tiff(body: bytes, max_slices: int) -> np.ndarray:
    """A mask, bool ``(slices, 256, 256)``, of at most so many slices, from a TIFF as
    :func:`mask_tiff` writes it. Raises ``Refused``."""
    pixels = _pages(body, max_slices, 1, _MASK)[..., 0]
    if np.any((pixels != 0) & (pixels != 255)):
        other = int(pixels[(pixels != 0) & (pixels != 255)][0])
        action = "Write tumour as 255 and everything else as 0."
        raise Refused(422, f"the value {other}", "only 0 and 255 in a mask", action)
    return pixels > 0


def _pages(body: bytes, max_slices: int, samples: int, content: str) -> np.ndarray:
    try:
        return read_pages(body, max_slices, samples)
    except BadTiff as error:
        if error.status == 413:
            raise _too_many(error.found, max_slices) from error
        action = error.action or "Write one uncompressed page of 8 bits a slice."
        raise Refused(error.status, error.found, f"a TIFF of {content}", action) from error
