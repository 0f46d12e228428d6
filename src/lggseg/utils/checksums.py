"""Checksums of files: kept where a file is written, compared where it is read.

SHA-256, so that ``sha256sum`` shows the same. A checkpoint is a zip archive, which holds a CRC-32
of each of its records; torch writes them but does not compare them.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lggseg.utils.errors import DataError


def file_checksum(path: Path) -> str:
    """The SHA-256 checksum of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def values_checksum(values: Mapping[str, Any]) -> str:
    """The SHA-256 checksum of JSON values, whatever the order of their names and the layout of
    their text."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def compare(path: Path, found: str, expected: object, action: str) -> None:
    """Raise ``DataError``, which asks for ``action``, unless the checksum ``found`` of ``path`` is
    the one that was kept."""
    if found != expected:
        kept = f"{expected:.12}…" if isinstance(expected, str) else repr(expected)[:100]
        changed = f"the checksum {found:.12}…, so the file was changed or damaged"
        raise DataError(path, changed, kept, action)


def check_archive(path: Path, expected: str, action: str) -> None:
    """Raise ``DataError`` for a file that is no whole zip archive, such as a damaged checkpoint:
    every record is compared with its CRC-32. ``expected`` says what the file should be."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    # Flipped bits of the directory can ask for anything: other methods, passwords, places.
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
        why = "an empty file" if path.stat().st_size == 0 else f"a damaged file ({error})"
        raise DataError(path, why, expected, action) from error
    if damaged is not None:
        found = f"a damaged file (the record {damaged!r} does not match its checksum)"
        raise DataError(path, found, expected, action)


def check_checkpoint(path: Path) -> None:
    """Raise ``DataError`` for a file that is no whole checkpoint of a training."""
    import torch

    expected = "the checkpoint that `lggseg train` wrote"
    action = "Copy it again, or delete the run folder and start anew."
    check_archive(path, expected, action)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise many kinds
        reason = str(error).partition("\n")[0][:200]
        raise DataError(path, f"no readable checkpoint ({reason})", expected, action) from error
    missing = {"epoch", "state_dict", "optimizer_states", "loops"} - set(content)
    if missing:
        raise DataError(path, f"no {min(missing)!r} in it", expected, action)
