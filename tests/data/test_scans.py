"""Scan files: every lossless form gives the same voxels; what is cut, flipped, or larger than it
looks is refused before it takes memory or time."""

from __future__ import annotations

import gzip
import json
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scan_files import head, saved

from lggseg.data import nifti
from lggseg.data.nifti import read_nifti
from lggseg.serving.viewer.uploads import read_study
from lggseg.utils.errors import DataError


def upload(path: Path, name: str = "") -> np.ndarray:
    """The volume of a file that is dropped on the viewer."""
    body = path.read_bytes()
    entry = [{"name": name or path.name, "size": len(body)}]
    return read_study(json.dumps(entry).encode() + b"\n" + body, 300).volume


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(head(), tmp_path_factory.mktemp("plain") / "flair.nii")


@pytest.fixture(scope="module")
def volume(plain: Path) -> np.ndarray:
    return read_nifti(plain)[0]


def with_extensions(path: Path, count: int, size: int = 16) -> bytes:
    """The file with header extensions as AFNI writes them."""
    content = bytearray(path.read_bytes())
    extensions = struct.pack("<II", size, 4) + b"x" * (size - 8)
    struct.pack_into("<f", content, 108, 352 + count * size)
    content[348:352] = b"\1\0\0\0"
    return bytes(content[:352]) + extensions * count + bytes(content[352:])


FORMS: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "gzipped": ("a.nii.gz", lambda path: gzip.compress(path.read_bytes())),
    "not gzipped, though called so": ("a.nii.gz", lambda path: path.read_bytes()),
    "gzipped, though not called so": ("a.nii", lambda path: gzip.compress(path.read_bytes())),
    "upper case": ("a.NII", lambda path: path.read_bytes()),
    "in two parts": (
        "a.nii.gz",
        lambda path: (
            gzip.compress(path.read_bytes()[:999]) + gzip.compress(path.read_bytes()[999:])
        ),
    ),
    "one extension": ("a.nii", lambda path: with_extensions(path, 1)),
    "a long extension": ("a.nii", lambda path: with_extensions(path, 1, 2**20)),
    "many extensions": ("a.nii.gz", lambda path: gzip.compress(with_extensions(path, 10**5))),
    "bytes after the voxels": ("a.nii.gz", lambda path: gzip.compress(path.read_bytes() + b"x")),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_form_does_not_matter(
    name: str, plain: Path, volume: np.ndarray, tmp_path: Path
) -> None:
    called, make = FORMS[name]
    path = tmp_path / called
    path.write_bytes(make(plain))
    found, scan = read_nifti(path)
    assert np.array_equal(found, volume) and scan.name == "a"
    assert np.array_equal(upload(path), volume)
    mask = scan.mask_image(np.zeros(volume.shape[:3], bool))
    assert not mask.header.extensions and nib.Nifti1Image.from_bytes(mask.to_bytes()).shape


@pytest.mark.parametrize("name", ["a.mgz", "a.mgh"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_freesurfers_files_are_read(
    name: str, dtype: type, volume: np.ndarray, tmp_path: Path
) -> None:
    image = nib.MGHImage(head().get_fdata().astype(dtype), head().affine)
    path = saved(image, tmp_path / name)
    found, scan = read_nifti(path)
    np.testing.assert_allclose(found.astype(int), volume.astype(int), atol=1)
    assert np.array_equal(upload(path), found) and scan.name == "a"
    mask = scan.mask_image(volume[..., 1] > 120)
    np.testing.assert_allclose(mask.affine, head().affine, atol=1e-3)
    overlap = np.asarray(mask.dataobj)[head().get_fdata() == 200]
    assert overlap.mean() > 0.8


def test_freesurfers_file_without_orientation_is_refused(tmp_path: Path) -> None:
    path = saved(nib.MGHImage(head().get_fdata().astype("f4"), np.eye(4)), tmp_path / "a.mgh")
    content = bytearray(path.read_bytes())
    content[28:30] = b"\0\0"
    path.write_bytes(content)
    with pytest.raises(DataError, match="no orientation in the header"):
        read_nifti(path)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_pairs_are_read_by_either_name(ending: str, volume: np.ndarray, tmp_path: Path) -> None:
    image = nib.Nifti1Pair(head().get_fdata().astype(np.float32), head().affine)
    for name, holder in image.file_map.items():
        holder.filename = str(tmp_path / f"a.{'img' if name == 'image' else 'hdr'}{ending}")
    image.to_file_map()
    for name in ("hdr", "img"):
        found, scan = read_nifti(tmp_path / f"a.{name}{ending}")
        assert np.array_equal(found, volume) and scan.name == "a"
    (tmp_path / f"a.img{ending}").unlink()
    with pytest.raises(DataError, match=r"a.img.*: found no such file; expected header"):
        read_nifti(tmp_path / f"a.hdr{ending}")
    with pytest.raises(DataError, match=r"one half of a pair .*nib-convert"):
        upload(tmp_path / f"a.hdr{ending}")


def test_analyze_is_called_what_it_is(tmp_path: Path) -> None:
    image = nib.AnalyzeImage(head().get_fdata().astype(np.float32), np.eye(4))
    image.to_filename(tmp_path / "a.img")
    with pytest.raises(DataError, match=r"found Analyze 7.5; .*does not tell left from right"):
        read_nifti(tmp_path / "a.hdr")


def test_one_slice_may_have_two_dimensions(tmp_path: Path) -> None:
    values = head().get_fdata()[:, :, 6].astype(np.float32)
    values += np.arange(len(values), dtype=np.float32)[:, None] / 9
    expected, _ = read_nifti(saved(nib.Nifti1Image(values[..., None], head().affine),
                                   tmp_path / "three.nii"))  # fmt: skip
    found, scan = read_nifti(saved(nib.Nifti1Image(values, head().affine), tmp_path / "two.nii"))
    assert np.array_equal(found, expected) and len(found) == 1
    assert scan.mask_image(found[..., 1] > 120).shape == (*values.shape, 1)


def test_every_flipped_bit_of_a_gzipped_scan_is_found(plain: Path, tmp_path: Path) -> None:
    """nibabel stops at the last voxel and never compares the checksum behind it."""
    content = gzip.compress(plain.read_bytes(), mtime=0)
    expected, path = read_nifti(plain)[0], tmp_path / "a.nii.gz"
    draw = np.random.default_rng(0)
    places = [*range(10, 40), *range(len(content) - 30, len(content)),
              *draw.integers(40, len(content), 60)]  # fmt: skip
    refused = 0
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(draw.integers(8))
        path.write_bytes(damaged)
        for read in (lambda: read_nifti(path)[0], lambda: upload(path)):
            try:
                assert np.array_equal(read(), expected)
            except DataError as error:
                assert "a.nii.gz: found " in str(error)
                refused += 1
    assert refused > 1.9 * len(places)


def header_of(shape: tuple[int, int, int], offset: float = 352) -> bytes:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(shape)
    header.set_sform(np.eye(4), code=1)
    block = bytearray(header.binaryblock)
    struct.pack_into("<f", block, 108, offset)
    return bytes(block) + bytes(4)


BOMBS: dict[str, Callable[[], bytes]] = {
    "a deep scan of little width": lambda: gzip.compress(header_of((1, 1, 32767)) + bytes(32767)),
    "2 GiB of voxels": lambda: gzip.compress(header_of((2048, 1024, 1024)) + bytes(2**24)),
    "32 TiB of voxels": lambda: header_of((32767, 32767, 32767)),
    "voxels a gibibyte further": lambda: gzip.compress(header_of((9, 9, 9), 2.0**30)),
    "voxels out of reach": lambda: gzip.compress(header_of((9, 9, 9), 1e30)),
    "voxels at no place": lambda: header_of((9, 9, 9), float("nan")),
    "voxels inside the header": lambda: header_of((9, 9, 9), 0) + bytes(999),
    "half a gibibyte after the voxels": lambda: (
        gzip.compress(header_of((9, 9, 9)) + bytes(729)) + gzip.compress(bytes(2**25), 1) * 16
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_take_neither_memory_nor_time(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(BOMBS[name]())
    tracemalloc.start()
    start = time.process_time()
    for read in (lambda: read_nifti(path), lambda: upload(path)):
        with pytest.raises(DataError, match=r"a.nii.gz: found .*; expected "):
            read()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.process_time() - start < 3
    assert peak < 24 * 2**20


def test_extensions_by_the_million_cost_nothing(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(with_extensions(plain, 10**6), 1))
    start = time.process_time()
    images = [nifti.read_nifti(path)[1].flair for _ in range(2)]
    assert time.process_time() - start < 3
    assert all(not image.header.extensions for image in images)
    path.write_bytes(gzip.compress(with_extensions(plain, 2 * 10**6), 1))
    with pytest.raises(DataError, match=r"voxels from byte 32000352 on"):
        read_nifti(path)
