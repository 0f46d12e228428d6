"""What a file is, by its first bytes: its name may say something else."""

from __future__ import annotations

_GZIP = b"\x1f\x8b"
_SIGNATURES = (
    (_GZIP, "a gzip file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\0", "an xz file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"BM", "a BMP picture"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "an npy file"),
    (b"%PDF", "a PDF file"),
    (b"NRRD", "an NRRD file"),
    (b"ObjectType", "a MetaImage file"),
    (b"version https://git-lfs", "a pointer of Git LFS instead of the file itself"),
    (b"II*\0", "a TIFF file"),
    (b"MM\0*", "a TIFF file"),
    (b"II+\0", "a TIFF file"),
    (b"MM\0+", "a TIFF file"),
    (b"<", "a page of HTML or XML"),
)


def kind_of(start: bytes) -> str:
    """What a file with these first bytes is, such as ``a PNG picture``; empty where unknown.

    >>> kind_of(b"\\x89PNG\\r\\n")
    'a PNG picture'
    """
    if not start:
        return "an empty file"
    if start[128:132] == b"DICM":
        return "a DICOM file"
    return next((kind for first, kind in _SIGNATURES if start.startswith(first)), "")


def is_gzip(start: bytes) -> bool:
    """Whether a file with these first bytes is compressed by gzip."""
    return start.startswith(_GZIP)
