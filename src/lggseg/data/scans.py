"""Untrusted files of scans: NIfTI and FreeSurfer's MGH, gzipped or not, under any name.

The header is read and checked first, then as many voxels as it declares, then the end of the file,
where gzip keeps its checksum. Header extensions are skipped without a look, however many there are.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from io import BytesIO
from typing import BinaryIO, NamedTuple, cast

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.fileholders import FileHolder
from nibabel.freesurfer.mghformat import MGHHeader

from lggseg.data.signatures import is_gzip, kind_of
from lggseg.utils.errors import Refused

MAX_SKIPPED = 2**24  # bytes of header extensions
MAX_AFTER = 2**20  # bytes after the voxels
_LONGEST = 540  # bytes of a header
_LARGEST = 8  # bytes of a voxel
_MGH_VOXELS = 284  # where the voxels of an MGH file begin
EXPECTED = "one scan in NIfTI (.nii, .nii.gz, .hdr with .img) or FreeSurfer's MGH (.mgz)"
CONVERT = "Give a NIfTI file as dcm2niix makes it of a DICOM series."
_AGAIN = "Download or copy the file again: it was cut off or damaged."
_ANALYZE = (
    "It does not tell left from right. Convert the scan anew from DICOM (dcm2niix), or give the "
    "image an orientation that you are sure of (fslorient)."
)


class _Head(NamedTuple):
    """What a header says: a NIfTI header with the final shape, where the voxels begin, how they
    are scaled; pair: whether they are in another file."""

    header: nib.Nifti1Header
    dtype: np.dtype
    start: int
    scale: tuple[float, float]
    pair: bool


def open_scan(
    file: BinaryIO, name: str, max_voxels: int, voxels: Callable[[], BinaryIO] | None = None
) -> nib.Nifti1Image:
    """A scan of at most so many voxels and of three dimensions; its voxels are in memory as they
    are stored. voxels: opens the second file of a pair .hdr/.img.

    Raises ``Refused``, which names the file, also where a checksum differs.
    """
    try:
        stream = _inflated(file)
        block = stream.read(_LONGEST)
        head = _read_header(block, name)
        _check_size(head, name, max_voxels)
        if head.pair:
            if voxels is None:
                action = f"Put both into one file: `nib-convert {name} scan.nii.gz`."
                raise Refused(415, "one half of a pair .hdr/.img", EXPECTED, action, name)
            stream, block = _inflated(voxels()), b""
        raw = _read_voxels(stream, block, head, name)
        return _image(head, raw, name)
    except Refused:
        raise
    except Exception as error:  # nibabel, gzip and zlib raise many kinds for a broken file
        raise _unreadable(name, str(error) or type(error).__name__) from error


def _unreadable(name: str, why: str, action: str = _AGAIN) -> Refused:
    return Refused(400, f"no readable NIfTI ({why})", EXPECTED, action, name)


def _inflated(file: BinaryIO) -> BinaryIO:
    """The content of a file, inflated where it is gzipped."""
    start = file.read(2)
    file.seek(0)
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if is_gzip(start) else file


def _read_header(block: bytes, name: str) -> _Head:
    lengths = {int.from_bytes(block[:4], order) for order in ("little", "big")}
    if 540 in lengths and block[4:7] in (b"n+2", b"ni2"):
        return _nifti(nib.Nifti2Header, block[:540], block[4:7], 4)
    if 348 in lengths and block[344:348] in (b"n+1\0", b"ni1\0"):
        return _nifti(nib.Nifti1Header, block[:348], block[344:347], 344)
    if 348 in lengths and len(block) >= 348:
        raise Refused(415, "Analyze 7.5", EXPECTED, _ANALYZE, name)
    if block[:4] == b"\0\0\0\1" and len(block) >= _MGH_VOXELS:
        return _mgh(block)
    kind = kind_of(block)
    if kind and block:
        raise Refused(415, kind, EXPECTED, CONVERT, name)
    raise _unreadable(name, kind or "an unknown kind of header", _AGAIN if not block else CONVERT)


def _nifti(kind: type[nib.Nifti1Header], block: bytes, magic: bytes, position: int) -> _Head:
    pair = magic[1:2] == b"i"
    # As if it were one file, which a mask of it will be.
    header = kind(block[: position + 1] + b"+" + block[position + 2 :])
    start, shortest = int(header["vox_offset"]), 0 if pair else len(block) + 4
    if start < shortest:
        raise ValueError(f"voxels from byte {start} on, inside the header")
    slope, intercept = header.get_slope_inter()
    scale = (1.0 if slope is None else slope, intercept or 0.0)
    header["vox_offset"] = 0
    header["scl_slope"] = header["scl_inter"] = np.nan
    return _Head(header, header.get_data_dtype(), start, scale, pair)


def _mgh(block: bytes) -> _Head:
    old = MGHHeader(block[:_MGH_VOXELS], check=False)
    header = nib.Nifti1Header()
    header.set_data_dtype(old.get_data_dtype().newbyteorder("="))
    header.set_data_shape(old.get_data_shape())
    header.set_xyzt_units("mm")
    if int.from_bytes(block[28:30], "big"):  # goodRASFlag
        header.set_sform(old.get_affine(), code="scanner")
    return _Head(header, old.get_data_dtype(), _MGH_VOXELS, (1.0, 0.0), False)


def _check_size(head: _Head, name: str, max_voxels: int) -> None:
    """Refuse other shapes than a scan's; a single slice or a series of one volume is taken for
    three dimensions."""
    shape = tuple(int(edge) for edge in head.header.get_data_shape())
    space = (*shape[:3], 1)[:3] if len(shape) == 2 else shape[:3]
    if len(space) != 3 or any(edge != 1 for edge in shape[3:]) or not all(e > 0 for e in space):
        action = "Give one 3-D volume of it (fslroi and nibabel's four_to_three take one out)."
        action = action if len(shape) > 3 else "Give the whole scan."
        expected = "one scan of three dimensions"
        raise Refused(422, f"the shape {shape}", expected, action, name)
    if head.dtype.kind not in "iuf" or head.dtype.itemsize > _LARGEST:
        raise Refused(422, f"{head.dtype} voxels", "grey levels", CONVERT, name)
    count = int(np.prod(space, dtype=object))
    if count > max_voxels or head.start > MAX_SKIPPED:
        found = f"a header that declares {count} voxels from byte {head.start} on"
        expected = f"at most {max_voxels} voxels, from byte {MAX_SKIPPED} on at the latest"
        raise Refused(413, found, expected, "Crop or resample it.", name)
    head.header.set_data_shape(space)


def _read_voxels(stream: BinaryIO, block: bytes, head: _Head, name: str) -> bytes:
    count = int(np.prod(head.header.get_data_shape(), dtype=object)) * head.dtype.itemsize
    content = block + stream.read(max(head.start - len(block), 0))
    content = content[head.start :]
    raw = content[:count] + stream.read(max(count - len(content), 0))
    if len(raw) < count:
        raise _unreadable(name, f"{len(raw)} bytes of {count} of voxels: it was cut off")
    # To the end, where gzip compares its checksum.
    if isinstance(stream, gzip.GzipFile) and len(stream.read(MAX_AFTER + 1)) > MAX_AFTER:
        raise Refused(413, "more bytes after the voxels", f"up to {MAX_AFTER}", _AGAIN, name)
    return raw


def _image(head: _Head, raw: bytes, name: str) -> nib.Nifti1Image:
    header = head.header
    stored = (tuple(header.get_data_shape()), head.dtype, 0, *head.scale)
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    image = kind(ArrayProxy(BytesIO(raw), stored, mmap=False), header.get_best_affine(), header)
    # Not ``set_filename``, which wants other endings.
    image.file_map = {"image": FileHolder(filename=name)}
    return image
