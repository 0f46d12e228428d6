"""Volumes and masks as the bytes of TIFF and npy files, for the endpoint and its clients.

What a stranger sends is checked before it is decoded: no field of a file makes these functions use
more memory or time than its bytes and the limit on slices allow. Nothing is ever unpickled.
"""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import tifffile

from lggseg.paths import DataError
from lggseg.volume import SIZE

JSON, NPY, PNG, TIFF = "application/json", "application/x-npy", "image/png", "image/tiff"
ATTRIBUTES_HEADER = "X-Amzn-SageMaker-Custom-Attributes"
# What SageMaker lets through to a real-time endpoint and back.
MAX_BYTES = 25_000_000
_PAGE = SIZE * SIZE * 3
_VOLUME = f"uint8 (slices, {SIZE}, {SIZE}, 3): pre-contrast, FLAIR, post-contrast"
_MASK = f"uint8 (slices, {SIZE}, {SIZE}), 0 and 255"

_Tags = dict[int, tuple[str, tuple[tuple[int, ...], ...]]]
_OFFSETS, _COUNTS, _SAMPLES = 273, 279, 277
# Tags of a page and the values that they may have. An absent one means (1,), as TIFF 6.0 defines.
_TAGS: _Tags = {
    256: ("width", ((SIZE,),)),
    257: ("height", ((SIZE,),)),
    258: ("bits of a sample", ((8, 8, 8),)),
    259: ("compression", ((1,), (8,), (32946,))),
    262: ("photometric interpretation", ((2,), (1,))),
    266: ("order of the bits", ((1,),)),
    _SAMPLES: ("samples of a pixel", ((3,),)),
    284: ("planar configuration", ((1,),)),
    317: ("predictor", ((1,), (2,))),
    339: ("format of a sample", ((1,), (1, 1, 1))),
}
_MASK_TAGS: _Tags = {
    **_TAGS,
    258: ("bits of a sample", ((8,),)),
    262: ("photometric interpretation", ((1,),)),
    _SAMPLES: ("samples of a pixel", ((1,),)),
}
_MOST_TAGS = 100


class Refused(DataError):
    """A request that cannot be answered: ``status`` is HTTP's. ``name`` is that of the file in it
    which is at fault, if the request has several."""

    def __init__(
        self, status: int, found: str, expected: str, action: str, name: str = "request"
    ) -> None:
        super().__init__(name, found, expected, action)
        self.status = status
        self._message = found, expected, action

    def of(self, name: str) -> Refused:
        """The same of the file ``name``."""
        return Refused(self.status, *self._message, name)


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


def read_npy(body: bytes, most: int) -> np.ndarray:
    """A volume, uint8 ``(slices, 256, 256, 3)``, of at most so many slices, from an npy file.

    Raises ``Refused``.
    """
    shape, fortran, dtype, start = _npy_header(body)
    if dtype != np.uint8 or len(shape) != 4 or shape[1:] != (SIZE, SIZE, 3) or shape[0] < 1:
        found = f"{dtype} {shape}"
        raise Refused(422, found[:200], _VOLUME, "Send the volume in that form.")
    _check_slices(shape[0], most)
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
        # A longer header is none of a plain array, and costs time to parse.
        return (*readers[version](file, max_header_size=1000), file.tell())
    except Exception as error:  # NumPy parses Python's syntax, which can fail in many ways
        found = f"no readable npy header ({type(error).__name__})"
        action = "Write the file with numpy.save."
        raise Refused(400, found, f"an npy file of {_VOLUME}", action) from error


def _check_slices(slices: int, most: int) -> None:
    if slices > most:
        action = "Send fewer slices, or use lggseg.client.segment, which sends parts of a volume."
        raise Refused(413, f"{slices} slices", f"at most {most}", action)


def read_tiff(body: bytes, most: int) -> np.ndarray:
    """A volume, uint8 ``(slices, 256, 256, 3)``, of at most so many slices, from a TIFF.

    Uncompressed or deflated RGB pages. A reader of its own, since those of libraries follow many
    more fields of a file than a server should let a stranger set. Raises ``Refused``.
    """
    return _pages(body, most, _TAGS, _VOLUME)


def read_mask_tiff(body: bytes, most: int) -> np.ndarray:
    """A mask, bool ``(slices, 256, 256)``, of at most so many slices, from a TIFF as
    :func:`mask_tiff` writes it. Raises ``Refused``."""
    pixels = _pages(body, most, _MASK_TAGS, _MASK)[..., 0]
    if np.any((pixels != 0) & (pixels != 255)):
        other = int(pixels[(pixels != 0) & (pixels != 255)][0])
        action = "Write tumour as 255 and everything else as 0."
        raise Refused(422, f"the value {other}", "only 0 and 255 in a mask", action)
    return pixels > 0


def _pages(body: bytes, most: int, known: _Tags, content: str) -> np.ndarray:
    """The pages of a TIFF with these tags: uint8 ``(pages, 256, 256, samples)``."""
    try:
        pages = _directories(body, most)
        if sum(sum(tags.get(_COUNTS, ())) for tags in pages) > len(body):
            raise ValueError("strips that overlap or lie beyond the end")
        for number, tags in enumerate(pages):
            _check_tags(tags, known, number, content)
        return np.stack([_page(body, tags) for tags in pages])
    except (ValueError, struct.error, zlib.error) as error:
        if isinstance(error, Refused):
            raise
        why = "a field beyond its end" if isinstance(error, struct.error) else error
        action = "The file may be cut off: write it again, one page of 8 bits a slice."
        raise Refused(400, f"a broken TIFF ({why})", f"a TIFF of {content}", action) from error


def _directories(body: bytes, most: int) -> list[dict[int, tuple[int, ...]]]:
    """The tags of every page that matter."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(body[:4])
    if order is None:
        raise ValueError(f"it begins with {body[:4]!r}")
    pages: list[dict[int, tuple[int, ...]]] = []
    (offset,) = struct.unpack_from(f"{order}I", body, 4)
    # Pages that refer to each other in a circle end here too.
    while offset and len(pages) <= most:
        (count,) = struct.unpack_from(f"{order}H", body, offset)
        if not 0 < count <= _MOST_TAGS:
            raise ValueError(f"{count} tags in page {len(pages)}")
        entries = [offset + 2 + 12 * index for index in range(count)]
        pages.append(dict(_tag(body, order, entry) for entry in entries))
        (offset,) = struct.unpack_from(f"{order}I", body, offset + 2 + 12 * count)
    _check_slices(len(pages), most)
    if not pages:
        raise ValueError("no page")
    return pages


def _tag(body: bytes, order: str, entry: int) -> tuple[int, tuple[int, ...]]:
    """The code and the values of a tag; no values where they are not needed."""
    code, kind, count = struct.unpack_from(f"{order}HHI", body, entry)
    if code not in _TAGS and code not in (_OFFSETS, _COUNTS):
        return code, ()
    if kind not in (3, 4) or not 0 < count <= SIZE:
        raise ValueError(f"tag {code} with {count} values of type {kind}")
    place, letter = entry + 8, "H" if kind == 3 else "I"
    if count * struct.calcsize(f"={letter}") > 4:
        (place,) = struct.unpack_from(f"{order}I", body, place)
    return code, struct.unpack_from(f"{order}{count}{letter}", body, place)


def _check_tags(tags: dict[int, tuple[int, ...]], known: _Tags, number: int, content: str) -> None:
    for code, (name, allowed) in known.items():
        value = tags.get(code, (1,))
        if value not in allowed:
            expected = " or ".join(map(str, allowed)) + f", for {content}"
            action = "Write one uncompressed page of 8 bits a slice."
            raise Refused(422, f"{name} {value} in page {number}", expected, action)


def _page(body: bytes, tags: dict[int, tuple[int, ...]]) -> np.ndarray:
    (samples,) = tags.get(_SAMPLES, (1,))
    strips = _strips(body, tags, SIZE * SIZE * samples)
    pixels = np.frombuffer(strips, np.uint8).reshape(SIZE, SIZE, samples)
    # Predictor 2: differences to the pixel on the left.
    return np.cumsum(pixels, axis=1, dtype=np.uint8) if tags.get(317) == (2,) else pixels


def _strips(body: bytes, tags: dict[int, tuple[int, ...]], size: int) -> bytes:
    """The bytes of a page, inflated no further than a page is long."""
    pixels = bytearray()
    for start, count in zip(tags.get(_OFFSETS, ()), tags.get(_COUNTS, ()), strict=True):
        strip = body[start : start + count]
        if tags.get(259, (1,)) != (1,):
            strip = zlib.decompressobj().decompress(strip, size + 1 - len(pixels))
        pixels += strip
        if len(pixels) > size:
            break
    if len(pixels) != size:
        more = "more than " if len(pixels) > size else "only "
        raise ValueError(f"{more}{min(len(pixels), _PAGE)} bytes of {size} in a page")
    return bytes(pixels)
