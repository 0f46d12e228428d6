"""TIFFs of every lossless kind read as tifffile reads them; what is cut off, goes in circles or
inflates is refused before it takes memory."""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from lggseg.data import slices
from lggseg.data.codecs import read_tiff
from lggseg.data.slices import read_volume
from lggseg.data.tiff import BadTiff, read_pages
from lggseg.utils.errors import DataError

RNG = np.random.default_rng(0)
VOLUME = np.cumsum(RNG.integers(0, 4, (5, 256, 256, 3)), axis=2).astype(np.uint8)
MASK = np.repeat(RNG.integers(0, 2, (3, 64, 64), np.uint8) * 255, 4, 1).repeat(4, 2)
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "deflated": {"compression": "zlib"},
    "differences": {"compression": "zlib", "predictor": 2, "rowsperstrip": 16},
    "strips": {"rowsperstrip": 1},
    "tiles": {"tile": (64, 128)},
    "tiles beyond the edge": {"tile": (96, 80)},
    "deflated tiles": {"tile": (32, 64), "compression": "zlib", "predictor": 2},
    "a large tile": {"tile": (512, 512), "compression": "zlib"},
}


def written(pages: np.ndarray, **options: Any) -> bytes:
    file = BytesIO()
    options = {"photometric": "rgb" if pages.shape[-1] in (3, 4) else "minisblack", **options}
    tifffile.imwrite(file, pages, **options)
    return file.getvalue()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["<", ">", "<big", ">big"])
def test_every_form_is_read_as_tifffile_reads_it(form: str, kind: str) -> None:
    options = {**FORMS[form], "byteorder": kind[0], "bigtiff": "big" in kind}
    body = written(VOLUME, **options)
    assert np.array_equal(read_pages(body, 5, 3), VOLUME)
    assert np.array_equal(tifffile.imread(BytesIO(body)), VOLUME)
    planes = written(np.moveaxis(VOLUME, -1, 1), planarconfig="separate", **options)
    assert np.array_equal(read_pages(planes, 5, 3), VOLUME)
    assert np.array_equal(read_pages(written(MASK, **options), 3, 1)[..., 0], MASK)


def test_an_opaque_alpha_channel_is_left_out() -> None:
    alpha = np.full((*VOLUME.shape[:3], 1), 255, np.uint8)
    with_alpha = np.concatenate([VOLUME, alpha], axis=-1)
    assert np.array_equal(read_pages(written(with_alpha), 5, 3), VOLUME)
    with_alpha[2, 7, 7, 3] = 254
    with pytest.raises(BadTiff, match="whose fourth channel is not 255 throughout"):
        read_pages(written(with_alpha), 5, 3)


@pytest.mark.parametrize("form", FORMS)
def test_a_volume_that_is_cut_anywhere_is_refused(form: str, tmp_path: Path) -> None:
    """tifffile takes it for a shorter one: 1 slice of 26, say."""
    body = written(VOLUME, **FORMS[form])
    ends = {*range(400), *range(len(body) - 400, len(body)), *range(0, len(body), 9973)}
    for end in sorted(end for end in ends if end < len(body)):
        try:
            pages = read_pages(body[:end], 5, 3)
        except BadTiff as error:
            assert error.status == 400, end
        else:  # what is gone was not needed, such as the resolution of the last page
            assert np.array_equal(pages, VOLUME), end
    (tmp_path / "vol.tif").write_bytes(body[: len(body) // 2])
    with pytest.raises(DataError, match=r"vol.tif: found a broken TIFF .*copy the file again"):
        read_volume(tmp_path / "vol.tif")


def circle(pages: int, to: int) -> bytes:
    """A volume whose last page is followed by the page ``to``."""
    body = bytearray(written(VOLUME[:pages]))
    with tifffile.TiffFile(BytesIO(body)) as tiff:
        offsets = [page.offset for page in tiff.pages]
    (tags,) = struct.unpack_from("<H", body, offsets[-1])
    struct.pack_into("<I", body, offsets[-1] + 2 + 12 * tags, offsets[to])
    return bytes(body)


def bombs() -> Iterator[tuple[str, bytes]]:
    yield "the last page is followed by the first", circle(5, 0)
    yield "the last page is followed by itself", circle(5, 4)
    strip = written(np.zeros((1, 4096, 4096, 3), np.uint8), compression="zlib", rowsperstrip=4096)
    wide = bytearray(strip)
    with tifffile.TiffFile(BytesIO(strip)) as tiff:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tag = tiff.pages[0].tags[name]
            code = "<H" if tag.dtype == 3 else "<I"
            struct.pack_into(code, wide, tag.valueoffset, 256)
    yield "a strip of 48 MiB for a page of 0.2", bytes(wide)
    yield "pages of 16 million pixels", strip


@pytest.mark.parametrize(("name", "body"), bombs(), ids=lambda part: part if len(part) < 99 else "")
def test_bombs_take_neither_memory_nor_time(name: str, body: bytes, tmp_path: Path) -> None:
    (tmp_path / "vol.tif").write_bytes(body)
    tracemalloc.start()
    start = time.process_time()
    for read in (lambda: read_tiff(body, 256), lambda: read_volume(tmp_path / "vol.tif")):
        with pytest.raises(DataError, match="found "):
            read()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.process_time() - start < 2
    assert peak < 2 * len(body) + 4 * 2**20


@pytest.mark.parametrize(
    ("kind", "found"),
    [("tiff_lzw", "LZW"), ("jpeg", "JPEG"), ("packbits", "PackBits"), ("zstd", "zstd")],
)
def test_other_compressions_are_named(kind: str, found: str, tmp_path: Path) -> None:
    Image.fromarray(VOLUME[0]).save(tmp_path / "a.tif", compression=kind)
    with pytest.raises(DataError, match=rf"found {found} compression in page 0.*tiffcp -c none"):
        read_volume(tmp_path / "a.tif")
    with pytest.raises(DataError, match=rf"found {found} compression"):
        read_tiff((tmp_path / "a.tif").read_bytes(), 1)


def test_other_files_are_called_what_they_are() -> None:
    for body, found in ((b"", "an empty file"), (b"\x1f\x8b\x08", "a gzip file"),
                        (bytes(128) + b"DICM", "a DICOM file")):  # fmt: skip
        with pytest.raises(DataError, match=f"found {found}; expected a TIFF"):
            read_tiff(body, 1)


STACKS = {
    "tifffile": {"truncate": True},
    "ImageJ": {"description": "ImageJ=1.54f\nimages=26\nslices=26\nloop=false\n"},
    "OME": {"description": '<OME><Image><Pixels SizeC="3" SizeT="1" SizeZ="26"/></Image></OME>'},
}


@pytest.mark.parametrize("program", STACKS)
def test_a_stack_of_which_one_page_is_told_is_refused(program: str) -> None:
    """The pixels of the others follow without a directory, or lie in other files."""
    pages = VOLUME if program == "tifffile" else VOLUME[0]
    options = STACKS[program] if program == "tifffile" else {**STACKS[program], "metadata": None}
    body = written(pages, **options)
    with pytest.raises(BadTiff, match=r"^1 of the (5|26) slices that its description tells of$"):
        read_pages(body, 256, 3)
    assert np.array_equal(read_pages(body, 1, 3)[0], VOLUME[0])  # a patient's slice by its name


@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True}, {"metadata": None}, {}])
def test_a_stack_that_is_whole_is_read(options: dict[str, Any]) -> None:
    assert np.array_equal(read_pages(written(VOLUME, **options), 256, 3), VOLUME)
    assert np.array_equal(read_pages(written(VOLUME[0], **options), 256, 3)[0], VOLUME[0])


def test_a_description_takes_no_time() -> None:
    start = time.process_time()
    for text in ("ImageJ=\n" * 10**5, 'SizeZ="' * 10**5, '{"shape": [9, ' * 10**5):
        body = written(VOLUME[0], description=text, metadata=None)
        assert np.array_equal(read_pages(body, 256, 3)[0], VOLUME[0])
    assert time.process_time() - start < 2


def test_pixels_that_are_stored_turned_are_named() -> None:
    for turn in (0, 1, 3, 6):
        body = written(VOLUME[:1], extratags=[(274, "H", 1, turn, True)])
        if turn < 2:
            assert np.array_equal(read_pages(body, 5, 3), VOLUME[:1])
            continue
        with pytest.raises(BadTiff, match=rf"turned or mirrored \(orientation {turn}\) in page 0"):
            read_pages(body, 5, 3)


def test_pages_of_another_size_are_named() -> None:
    file = BytesIO()
    with tifffile.TiffWriter(file) as tiff:
        tiff.write(VOLUME[0], photometric="rgb", metadata=None)
        tiff.write(VOLUME[0][:64, :64], photometric="rgb", metadata=None)
    with pytest.raises(BadTiff, match=r"uint8 of shape \(64, 64, 3\) in page 1"):
        read_pages(file.getvalue(), 5, 3)


def test_colours_of_another_kind_are_named() -> None:
    for photometric, found in (("miniswhite", "white as 0"), ("palette", "a palette of colours")):
        options = {"colormap": np.zeros((3, 256), np.uint16)} if photometric == "palette" else {}
        body = written(MASK, photometric=photometric, **options)
        with pytest.raises(BadTiff, match=found):
            read_pages(body, 5, 1)


def test_more_pages_than_the_limit_are_refused(tmp_path: Path) -> None:
    file = BytesIO()
    with tifffile.TiffWriter(file) as tiff:
        for _ in range(7):
            tiff.write(VOLUME[0], photometric="rgb", compression="zlib", metadata=None)
    assert len(read_pages(file.getvalue(), 7, 3)) == 7
    with pytest.raises(BadTiff, match="more than 6 slices"):
        read_pages(file.getvalue(), 6, 3)


def test_a_file_of_more_bytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "vol.tif"
    with path.open("wb") as file:
        file.truncate(slices.MAX_TIFF_BYTES + 1)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"vol.tif: found more than 545259520 bytes"):
        read_volume(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
