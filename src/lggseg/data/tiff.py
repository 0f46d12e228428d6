"""The pages of a TIFF, 256 × 256 pixels of 8 bits, checked before they are decoded.

TIFF 6.0 and BigTIFF in either byte order; strips or tiles, samples side by side or in planes of
their own, uncompressed or deflated. A reader of its own, since those of libraries follow more
fields of a file than a stranger should set, inflate a strip without a bound, and take a file that
was cut off for a shorter one. What it does not know it names and refuses.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lggseg.data.signatures import kind_of
from lggseg.preprocessing.volume import SIZE

MAX_TAGS = 100  # in a page
_MAX_TEXT = 2**16  # bytes that are read of a description
_MAX_VALUES = 16  # of a tag that tells how a page is stored
MAX_CHUNKS = 3 * SIZE  # a strip for each row of each plane, or tiles of 16 × 16 pixels
LARGEST_TILE = 2 * SIZE  # pixels along an edge
# Byte order, then the letters and the length of an entry of each kind of TIFF: magic number and
# place of the first page, number of tags, head of a tag, value of a tag.
_KINDS = {
    b"II*\0": ("<", "I", "H", "HHI", 4),
    b"MM\0*": (">", "I", "H", "HHI", 4),
    b"II+\0": ("<", "Q", "Q", "HHQ", 8),
    b"MM\0+": (">", "Q", "Q", "HHQ", 8),
}
_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # types of values
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORDER = 256, 257, 258, 259, 262, 266
_SAMPLES, _PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _FORMAT = 277, 284, 317, 322, 323, 339
_DESCRIPTION, _ORIENTATION = 270, 274
_LAYOUT = {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORDER, _SAMPLES, _PLANAR,
           _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _FORMAT, _ORIENTATION}  # fmt: skip
# Offsets and lengths of the strips, and of the tiles.
_STRIPS, _TILES = (273, 279), (324, 325)
_DEFLATED = (8, 32946)
_COMPRESSIONS = {
    2: "CCITT", 3: "CCITT", 4: "CCITT", 5: "LZW", 6: "JPEG", 7: "JPEG", 32773: "PackBits",
    33003: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000", 34887: "LERC", 34925: "LZMA",
    50000: "zstd", 50001: "WebP", 50002: "JPEG XL",
}  # fmt: skip
_COLOURS = {0: "white as 0", 3: "a palette of colours", 5: "CMYK colours", 6: "YCbCr colours"}
_AGAIN = "Download or copy the file again: it was cut off or damaged."
_TURN = "Turn it upright: `magick IN -auto-orient OUT`, and its mask likewise."
# How ImageJ, OME and tifffile tell the slices of a stack, which may be more than this file's pages.
_STACKS = (
    re.compile(rb"\AImageJ=.*?^images=(\d{1,9})\s*$", re.MULTILINE | re.DOTALL),
    re.compile(rb'SizeZ="(\d{1,9})"'),
    re.compile(rb'\A\{"shape": \[(\d{1,9}), .*"truncated": true'),
)
_PLAIN = "To change that, save it uncompressed: `tiffcp -c none IN OUT`."


class BadTiff(ValueError):
    """What is wrong with a TIFF. status: HTTP's, 400 for broken, 413 for too large, 422 for
    well-formed but no pages of this kind; found: what there is; action: what to do, empty where
    that depends on what the TIFF is for."""

    def __init__(self, status: int, found: str, action: str = "") -> None:
        super().__init__(found)
        self.status, self.found, self.action = status, found, action


def _broken(why: str) -> BadTiff:
    return BadTiff(400, f"a broken TIFF ({why})", _AGAIN)


def _no_tiff(body: bytes) -> BadTiff:
    kind = kind_of(body)
    if not body or not kind:
        return BadTiff(400, kind, _AGAIN) if not body else _broken(f"it begins with {body[:4]!r}")
    return BadTiff(400, kind, "Save it as a TIFF of 8 bits.")


@dataclass
class _Page:
    """A directory of the file: values of the tags in ``_LAYOUT``; for the tags of strips and tiles
    where their values lie (``places``: letter, count, byte); the page's description."""

    order: str
    description: bytes = b""
    values: dict[int, tuple[int, ...]] = field(default_factory=dict)
    locations: dict[int, tuple[str, int, int]] = field(default_factory=dict)

    def one(self, tag: int, default: int = 1) -> int:
        values = self.values.get(tag, (default,))
        return values[0] if len(set(values)) == 1 else -1

    @property
    def shape(self) -> tuple[int, ...]:
        edges = self.one(_HEIGHT, 0), self.one(_WIDTH, 0)
        samples = self.one(_SAMPLES)
        return edges if samples == 1 else (*edges, samples)

    @property
    def dtype(self) -> str:
        bits = self.one(_BITS)
        if bits == 1:
            return "bool"
        return {1: "uint", 2: "int", 3: "float"}.get(self.one(_FORMAT), "unknown") + str(bits)


def read_pages(body: bytes, limit: int, samples: int) -> np.ndarray:
    """All pages of a TIFF: uint8 ``(pages, 256, 256, samples)``, at most so many.

    A fourth sample that is 255 everywhere, an opaque alpha channel, is left out. Raises
    ``BadTiff``, also where a page, a strip or the end of the file is missing.
    """
    try:
        pages = _directories(body, limit)
        _check_layout(pages, samples)
        if limit > 1:
            _check_number(pages)
        chunks = [_chunks(body, page) for page in pages]
        if sum(count for locations in chunks for _, count in locations) > len(body):
            raise _broken("strips that overlap or lie beyond the end")
        return np.stack(
            [_decode(body, page, where) for page, where in zip(pages, chunks, strict=True)]
        )[..., :samples]
    except (struct.error, zlib.error, OverflowError) as error:
        why = f"deflated pixels ({error})" if isinstance(error, zlib.error) else "a page or a field"
        raise _broken(f"{why} beyond its end or damaged") from error


def _directories(body: bytes, limit: int) -> list[_Page]:
    if body[:4] not in _KINDS:
        raise _no_tiff(body)
    order, offset_letter, count, head, size = _KINDS[body[:4]]
    if offset_letter == "Q" and struct.unpack_from(f"{order}HH", body, 4) != (8, 0):
        raise _broken("a BigTIFF of numbers that do not have 8 bytes")
    (offset,) = struct.unpack_from(order + offset_letter, body, size)
    pages: list[_Page] = []
    seen: set[int] = set()
    while offset:
        if offset in seen:
            raise _broken(f"page {len(pages)} is an earlier one again, in a circle")
        seen.add(offset)
        if len(pages) == limit:
            raise BadTiff(413, f"more than {limit} slices")
        (tags,) = struct.unpack_from(order + count, body, offset)
        if not 0 < tags <= MAX_TAGS:
            raise _broken(f"{tags} tags in page {len(pages)}")
        first = offset + struct.calcsize(f"={count}")
        length = struct.calcsize(f"={head}") + size
        page = _Page(order)
        for number in range(tags):
            _read_tag(body, page, head, size, first + number * length)
        pages.append(page)
        (offset,) = struct.unpack_from(order + offset_letter, body, first + tags * length)
    if not pages:
        raise _broken("no page")
    return pages


def _read_tag(body: bytes, page: _Page, head: str, size: int, entry: int) -> None:
    code, kind, count = struct.unpack_from(page.order + head, body, entry)
    if code == _DESCRIPTION:
        page.description = _text(body, page.order, count, size, entry + struct.calcsize(f"={head}"))
    limit = _MAX_VALUES if code in _LAYOUT else MAX_CHUNKS
    if code not in _LAYOUT and code not in (*_STRIPS, *_TILES):
        return
    if kind not in _NUMBERS or not count or (code in _LAYOUT and count > limit):
        raise _broken(f"tag {code} with {count} values of type {kind}")
    location, letter = entry + struct.calcsize(f"={head}"), _NUMBERS[kind]
    if count * struct.calcsize(f"={letter}") > size:
        (location,) = struct.unpack_from(page.order + ("Q" if size == 8 else "I"), body, location)
    if code in _LAYOUT:
        page.values[code] = struct.unpack_from(f"{page.order}{count}{letter}", body, location)
    else:
        page.locations[code] = letter, count, location


def _check_layout(pages: Sequence[_Page], samples: int) -> None:
    """Refuse what is stored in another way than :func:`read_pages` knows."""
    first, page = pages[0], next((p for p in pages if p.shape != pages[0].shape), pages[0])
    good = (SIZE, SIZE) if samples == 1 else (SIZE, SIZE, samples)
    if page is not first or first.shape not in (good, (*good[:2], 4)) or first.dtype != "uint8":
        count = () if len(pages) == 1 or page is not first else (len(pages),)
        where = "" if page is first else f" in page {pages.index(page)}"
        raise BadTiff(422, f"{page.dtype} of shape {(*count, *page.shape)}{where}")
    for number, page in enumerate(pages):
        if problem := _problem(page, samples):
            raise BadTiff(422, f"{problem} in page {number}", _PLAIN)
        if (turn := page.one(_ORIENTATION)) not in (0, 1):
            found = f"pixels stored turned or mirrored (orientation {turn}) in page {number}"
            raise BadTiff(422, found, _TURN)


def _text(body: bytes, order: str, count: int, size: int, location: int) -> bytes:
    if count > size:
        (location,) = struct.unpack_from(order + ("Q" if size == 8 else "I"), body, location)
    return body[location : location + min(count, _MAX_TEXT)]


def _check_number(pages: Sequence[_Page]) -> None:
    """Refuse a stack of which more pages are described than there are."""
    for pattern in _STACKS:
        match = pattern.search(pages[0].description)
        if match and int(match[1]) > len(pages):
            found = f"{len(pages)} of the {int(match[1])} slices that its description tells of"
            raise BadTiff(422, found, "Save it again, each slice as a page, in one file.")


def _problem(page: _Page, samples: int) -> str:
    compression, colours = page.one(_COMPRESSION), page.one(_PHOTOMETRIC, 0)
    tile = page.one(_TILE_WIDTH, SIZE), page.one(_TILE_HEIGHT, SIZE)
    if compression not in (1, *_DEFLATED):
        return f"{_COMPRESSIONS.get(compression, f'an unknown ({compression})')} compression"
    if page.dtype != "uint8":
        return page.dtype
    if page.one(_PREDICTOR) not in ((1,) if compression == 1 else (1, 2)):
        return f"predictor {page.one(_PREDICTOR)}"
    if colours not in ((1,) if samples == 1 else (1, 2)):
        return _COLOURS.get(colours, f"photometric interpretation {colours}")
    if page.one(_ORDER) != 1 or page.one(_PLANAR) not in (1, 2):
        return "another order of bits or planes"
    if not all(0 < edge <= LARGEST_TILE for edge in tile):
        return f"tiles of {tile[0]} × {tile[1]} pixels"
    return ""


def _chunks(body: bytes, page: _Page) -> list[tuple[int, int]]:
    """Offset and length of each strip or tile."""
    tags = _TILES if _TILE_WIDTH in page.values else _STRIPS
    if not all(tag in page.locations for tag in tags):
        raise _broken("a page without pixels")
    offsets, lengths = (_numbers(body, page.order, *page.locations[tag]) for tag in tags)
    if len(offsets) != len(lengths):
        raise _broken(f"{len(offsets)} strips with {len(lengths)} lengths")
    return list(zip(offsets, lengths, strict=True))


def _numbers(body: bytes, order: str, letter: str, count: int, location: int) -> tuple[int, ...]:
    if count > MAX_CHUNKS:
        raise _broken(f"{count} strips in a page")
    return struct.unpack_from(f"{order}{count}{letter}", body, location)


def _decode(body: bytes, page: _Page, chunks: Sequence[tuple[int, int]]) -> np.ndarray:
    """A page: uint8 ``(256, 256, samples)``, without an opaque alpha channel."""
    samples = page.one(_SAMPLES)
    planes = samples if page.one(_PLANAR) == 2 else 1
    depth = samples // planes
    if _TILE_WIDTH in page.values:
        arrays = _tiles(body, page, chunks, planes, depth)
    else:
        size = SIZE * SIZE * samples
        raw = bytearray()
        for start, length in chunks:
            raw += _inflate(body[start : start + length], page, size - len(raw))
        arrays = _shaped(bytes(raw), page, (planes, SIZE, SIZE, depth))
    pixels = np.concatenate(list(arrays), axis=-1) if planes > 1 else arrays[0]
    if samples == 4 and np.any(pixels[..., 3] != 255):
        found = f"uint8 of shape ({SIZE}, {SIZE}, 4), whose fourth channel is not 255 throughout"
        raise BadTiff(422, found)
    return pixels


def _tiles(
    body: bytes, page: _Page, chunks: Sequence[tuple[int, int]], planes: int, depth: int
) -> np.ndarray:
    width, height = page.one(_TILE_WIDTH), page.one(_TILE_HEIGHT, 0)
    across, down = -(-SIZE // width), -(-SIZE // height)
    if len(chunks) != planes * across * down:
        raise _broken(f"{len(chunks)} tiles for {planes * across * down}")
    whole = np.empty((planes, down, height, across, width, depth), np.uint8)
    for number, (start, length) in enumerate(chunks):
        raw = _inflate(body[start : start + length], page, height * width * depth)
        plane, row, column = np.unravel_index(number, (planes, down, across))
        whole[plane, row, :, column] = _shaped(raw, page, (height, width, depth))
    full = whole.reshape(planes, down * height, across * width, depth)
    return full[:, :SIZE, :SIZE]


def _shaped(raw: bytes, page: _Page, shape: tuple[int, ...]) -> np.ndarray:
    if len(raw) != np.prod(shape):
        raise _broken(f"only {len(raw)} bytes of {np.prod(shape)} in a page")
    pixels = np.frombuffer(raw, np.uint8).reshape(shape)
    # Predictor 2: differences to the pixel on the left.
    return np.cumsum(pixels, axis=-2, dtype=np.uint8) if page.one(_PREDICTOR) == 2 else pixels


def _inflate(chunk: bytes, page: _Page, limit: int) -> bytes:
    """The bytes of a strip or a tile, inflated no further than a page is long."""
    if page.one(_COMPRESSION) != 1:
        stream = zlib.decompressobj()
        chunk = stream.decompress(chunk, limit + 1)
        if not stream.eof and len(chunk) <= limit:
            raise zlib.error("cut off")
    if len(chunk) > limit:
        raise _broken(f"more than {limit} bytes in a strip or a tile")
    return chunk
