"""The pixels of a tree as one memory-mapped uint8 file.

The cache is keyed by the name, size and times of every slice, so a changed tree is read again. It
is built beside its place and renamed when complete: a half-written cache is never read.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lggseg.data.kaggle import Files
from lggseg.data.slices import read_image, read_mask
from lggseg.preprocessing.volume import BLANK, SIZE
from lggseg.utils.checksums import file_checksum, values_checksum
from lggseg.utils.errors import DataError
from lggseg.utils.files import new_folder, remove_abandoned, table_bytes, working_folder, writing
from lggseg.utils.paths import cache_root
from lggseg.utils.progress import progress_bar
from lggseg.utils.threads import usable_cpus

_CACHE_VERSION = 6
_CACHE_NAME = re.compile(r"[0-9a-f]{12}-[0-9a-f]{24}")
# What slice_facts tells of a slice.
SliceFacts = tuple[int, bool, str, str]
# Slices that wait for a thread at once.
_BLOCK = 1024
_BUILDING = ".building-"


def cached_tree(tree: Path, patients: Mapping[Path, Files], progress: bool) -> Path:
    """The cache of a tree, a folder; it is built where it is not there or not whole. Raises
    ``DataError``."""
    cache = _cache_folder(tree, patients)
    if not _is_whole(cache):
        _build_cache(cache, patients, progress)
    remove_abandoned(cache.parent, _BUILDING)
    return cache


def cached_cohorts() -> list[Path]:
    """The folders of :func:`lggseg.utils.paths.cache_root` that hold a cohort, whichever tree it is
    of; what else lies there is not ours."""
    return sorted(path for path in cache_root().glob("*") if _CACHE_NAME.fullmatch(path.name))


def _cache_folder(tree: Path, patients: Mapping[Path, Files]) -> Path:
    """``<cache>/<hash of the place>-<hash of what lies there>``. Raises ``DataError``."""
    tree_key = hashlib.blake2b(os.fsencode(tree.resolve()), digest_size=6).hexdigest()
    content = hashlib.blake2b(digest_size=12)
    for folder, files in patients.items():
        for pair in files.pairs:
            for path in pair:
                facts = _stat(path)
                times = facts.st_mtime_ns, facts.st_ctime_ns
                state = (folder.name, path.name, facts.st_size, *times)
                content.update(repr(state).encode())
    return cache_root() / f"{tree_key}-{content.hexdigest()}"


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        found = f"no way to read it ({os.strerror(error.errno or 0)})"
        raise DataError(path, found, "a TIFF", "Restore the file.") from error


def _is_whole(cache: Path) -> bool:
    """Whether the cache is there, this user's or root's, of this version and of the right size."""
    try:
        if not _is_trusted(cache.lstat()):
            return False
        meta = json.loads((cache / "meta.json").read_text())
        found = _sizes(cache)
    except (OSError, ValueError):
        return False
    if not isinstance(meta, dict) or meta.pop("checksum", None) != values_checksum(meta):
        return False
    return bool(meta.get("version") == _CACHE_VERSION and meta.get("bytes") == found)


def _is_trusted(status: os.stat_result) -> bool:
    """Whether nobody but this user and root can have written what lies in a folder."""
    ours = not hasattr(os, "getuid") or status.st_uid in (0, os.getuid())
    return stat.S_ISDIR(status.st_mode) and ours and not status.st_mode & 0o022


def _sizes(cache: Path) -> dict[str, int | str]:
    """The size of the pixels, and the checksums of the rest: those of the pixels, which take a
    second a gigabyte, ``lggseg check`` compares."""
    pixels = cache / "pixels.npy"
    with pixels.open("rb") as file:
        header = hashlib.sha256(file.read(128)).hexdigest()
    table = file_checksum(cache / "slices.csv")
    return {"pixels.npy": pixels.stat().st_size, "header": header, "slices.csv": table}


def _build_cache(cache: Path, patients: Mapping[Path, Files], progress: bool) -> None:
    slices = [(folder.name, number, *pair) for folder, files in patients.items()
              for number, pair in enumerate(files.pairs, start=1)]  # fmt: skip
    with writing(cache.parent, _ELSEWHERE):
        new_folder(cache.parent, 0o700, _ELSEWHERE)
        _check_room(cache.parent, len(slices) * SIZE * SIZE * 4)
        with working_folder(cache.parent, _BUILDING) as staging:
            built = staging / cache.name
            built.mkdir(0o700)  # scans of patients: for this user's eyes alone
            _write_cache(built, slices, progress)
            for file in built.iterdir():
                file.chmod(0o600)
            _replace_cache(cache, built)


def _replace_cache(cache: Path, built: Path) -> None:
    """Put a cache in its place, unless another process was first, and remove older ones of the
    tree. They are renamed before they are deleted, so that half of one is never read."""
    for old in cache.parent.glob(cache.name.split("-")[0] + "-*"):
        if old != cache or not _is_whole(cache):
            with suppress(OSError):  # another process removes it, too
                os.replace(old, built.parent / f"old-{old.name}")
    try:
        os.replace(built, cache)
    except OSError as error:
        if not _is_whole(cache):
            found, expected = "another user's folder", "none, or this user's"
            action = "Set LGGSEG_CACHE to a folder of your own."
            raise DataError(cache, found, expected, action) from error


_ELSEWHERE = "Free some space, or set LGGSEG_CACHE to a folder on another disk."


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + 2**24:
        raise DataError(
            folder,
            f"{free / 2**20:.0f} MiB of free disk",
            f"{needed / 2**20:.0f} MiB for the cache",
            _ELSEWHERE,
        )


def _write_cache(folder: Path, slices: list[tuple[str, int, Path, Path]], progress: bool) -> None:
    with (folder / "pixels.npy").open("wb") as file:
        shape = (len(slices), SIZE * SIZE * 4)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.flush()
        facts = _write_pixels(file.fileno(), file.tell(), [row[2:] for row in slices], progress)
    rows = [(*names[:2], *fact) for names, fact in zip(slices, facts, strict=True)]
    table = pd.DataFrame([names[:2] for names in slices], columns=["patient", "slice"])
    table[["tumour_pixels", "blank", "digest"]] = [fact[:3] for fact in facts]
    (folder / "slices.csv").write_bytes(table_bytes(table))
    facts_of_all = {"bytes": _sizes(folder), "fingerprint": fingerprint_of(rows)}
    meta = {"version": _CACHE_VERSION, **facts_of_all}
    meta["checksum"] = values_checksum(meta)
    (folder / "meta.json").write_text(json.dumps(meta))


def slice_facts(image: np.ndarray, mask: np.ndarray) -> SliceFacts:
    """Tumour pixels, whether the image is blank, and the digests of image and mask."""
    digests = [hashlib.blake2b(array.data, digest_size=16).hexdigest() for array in (image, mask)]
    return int(np.count_nonzero(mask)), int(image.max()) <= BLANK, digests[0], digests[1]


def fingerprint_of(rows: Iterable[tuple[Any, ...]]) -> str:
    """The fingerprint of a cohort: of each slice the patient, the number and its facts."""
    fingerprint = hashlib.blake2b(digest_size=16)
    for row in rows:
        fingerprint.update(repr(row).encode())
    return fingerprint.hexdigest()


def _write_pixels(
    file: int, start: int, pairs: list[tuple[Path, Path]], progress: bool
) -> list[SliceFacts]:
    """Write the rows from byte ``start`` on; returns :func:`slice_facts` of each."""

    def write(row: int) -> SliceFacts:
        image, mask = read_image(pairs[row][0]), read_mask(pairs[row][1])
        offset = start + row * (image.size + mask.size)
        # Written rather than memory-mapped: a page fault for every 4 KiB takes twice as long.
        written = os.pwritev(file, [image.data, mask.data], offset)
        if written != image.size + mask.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return slice_facts(image, mask)

    # ``map`` makes a future of every row at once, so it gets some rows at a time.
    blocks = (range(len(pairs))[first : first + _BLOCK] for first in range(0, len(pairs), _BLOCK))
    with ThreadPoolExecutor(usable_cpus()) as pool:
        rows = chain.from_iterable(pool.map(write, block) for block in blocks)
        return list(progress_bar(rows, "read slices", "slice", total=len(pairs), show=progress))
