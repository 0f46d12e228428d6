"""Kaggle tree → :class:`Cohort`: checked once, then one memory-mapped uint8 file.

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
import warnings
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lggseg.data.clinical import read_clinical
from lggseg.data.kaggle import PATIENT, Files, find_cohort, named, patient_files, volume_name
from lggseg.data.tiff import BadTiff, read_pages
from lggseg.preprocessing.volume import BLANK, CHANNELS, FLAIR, SIZE
from lggseg.utils.checksums import file_checksum, values_checksum
from lggseg.utils.errors import DataError, LeftOut
from lggseg.utils.files import (
    new_folder,
    read_table,
    remove_abandoned,
    table_bytes,
    working_folder,
    writing,
)
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

__all__ = ["CHANNELS", "FLAIR", "SIZE", "Cohort", "DataError", "load_cohort", "read_volume"]


@dataclass(frozen=True)
class Cohort:
    """All slices of all patients, patients sorted by name, slices by number.

    images: uint8 ``(slices, 256, 256, 3)``, pre-contrast, FLAIR, post-contrast; masks: uint8
    ``(slices, 256, 256)``, 0 or 255; both are views of one memory-mapped file.
    slices: one row per slice of these: patient, slice, tumour_pixels, blank, digest (of the
    image). patients: index patient; institution, slices, tumour_slices, tumour_pixels and the
    columns of data.csv. fingerprint: the same for the same pixels and names, wherever they lie.
    simulated: whether ``lggseg phantom`` made it.
    """

    root: Path
    images: np.ndarray
    masks: np.ndarray
    slices: pd.DataFrame
    patients: pd.DataFrame
    fingerprint: str
    simulated: bool

    @property
    def label(self) -> str:
        """``simulated`` or ``real``: what figures and run folders are marked with."""
        return "simulated" if self.simulated else "real"

    def rows(self, patient: str) -> slice:
        """The rows of ``images``, ``masks`` and ``slices`` that belong to a patient."""
        return self._rows[patient]

    @cached_property
    def _rows(self) -> dict[str, slice]:
        counts = self.patients["slices"]
        ends = counts.cumsum().tolist()
        starts = [0, *ends[:-1]]
        return dict(zip(counts.index, map(slice, starts, ends), strict=True))

    def image(self, patient: str) -> np.ndarray:
        """The volume of a patient: uint8 ``(slices, 256, 256, 3)``."""
        return self.images[self.rows(patient)]

    def mask(self, patient: str) -> np.ndarray:
        """The mask of a patient: bool ``(slices, 256, 256)``."""
        return self.masks[self.rows(patient)] > 0


def load_cohort(root: Path | str, *, progress: bool = True) -> Cohort:
    """Read the tree at ``root`` (see :func:`lggseg.data.kaggle.find_cohort`), or its cache.

    Names what is left out by warnings. Raises ``DataError`` that names the file, what was found,
    what was expected and what to do.

    >>> from lggseg.data.simulation import make_cohort
    >>> cohort = load_cohort(make_cohort("data", patients=4, progress=False), progress=False)
    >>> cohort.patients["institution"].tolist()
    ['CS', 'DU', 'FG', 'HT']
    >>> cohort.image(cohort.patients.index[0]).shape[1:]
    (256, 256, 3)
    """
    found = find_cohort(root)
    clinical = read_clinical(found.root, found.patients)
    files = {folder: patient_files(folder) for folder in found.patients}
    cache = _cache_folder(found.root, files)
    if not _is_whole(cache):
        _build_cache(cache, files, progress)
    remove_abandoned(cache.parent, _BUILDING)
    slices = read_table(cache / "slices.csv")
    fingerprint = json.loads((cache / "meta.json").read_text())["fingerprint"]
    # Where data.csv has a column of ours, its own gets a longer name.
    patients = _patients_table(slices).join(clinical, rsuffix=" of data.csv")
    pixels = np.load(cache / "pixels.npy", mmap_mode="c")
    places = {found.root, *(folder.parent for folder in found.patients)}
    simulated = any((place / "simulated.json").exists() for place in places)
    return Cohort(found.root, *_views(pixels), slices, patients, fingerprint, simulated)


def subset(cohort: Cohort, patients: Collection[str]) -> Cohort:
    """The cohort of these patients alone, its pixels copied into memory; the fingerprint stays that
    of the cohort which it is a part of."""
    rows = cohort.slices["patient"].isin(patients).to_numpy()
    return replace(
        cohort,
        images=cohort.images[rows],
        masks=cohort.masks[rows],
        slices=cohort.slices[rows].reset_index(drop=True),
        patients=cohort.patients[cohort.patients.index.isin(patients)],
    )


def _views(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks in rows that hold the bytes of an image, then those of its mask."""
    plane = SIZE * SIZE
    images = pixels[:, : 3 * plane].reshape(-1, SIZE, SIZE, 3)
    return images, pixels[:, 3 * plane :].reshape(-1, SIZE, SIZE)


def missing_sequences(cohort: Cohort) -> pd.DataFrame:
    """Whether a sequence is only a copy of FLAIR: index patient, bool columns ``pre-contrast`` and
    ``post-contrast``. Found by comparing every pixel."""
    copies = [
        [np.array_equal(cohort.image(patient)[..., other], cohort.image(patient)[..., FLAIR])
         for other in (0, 2)]
        for patient in cohort.patients.index
    ]  # fmt: skip
    return pd.DataFrame(copies, cohort.patients.index, columns=[CHANNELS[0], CHANNELS[2]])


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
    volume = np.stack([_read_image(file) for file in files.images])
    if not files.masks:
        return volume, None
    try:
        return volume, np.stack([_read_mask(mask) for _, mask in files.pairs]) > 0
    except DataError as error:
        text = f"{error} Going on without the masks of {volume_name(path)}."
        warnings.warn(text, LeftOut, stacklevel=2)
        return volume, None


# Pages of a volume in one TIFF, and bytes of a TIFF: uncompressed, with room for its tags.
MOST_PAGES = 2048
MOST_TIFF_BYTES = MOST_PAGES * (SIZE * SIZE * 4 + 4096)


def _read_tiff(path: Path, samples: int, most: int, expected: str, action: str) -> np.ndarray:
    """At most so many pages of a TIFF: uint8 ``(pages, 256, 256, samples)``. ``action`` is what to
    do with a whole TIFF of something else than ``expected``."""
    try:
        if path.stat().st_size > MOST_TIFF_BYTES:
            raise BadTiff(413, f"more than {MOST_TIFF_BYTES} bytes")
        return read_pages(path.read_bytes(), most, samples)
    except BadTiff as error:
        expected = "a TIFF of 8 bits" if error.status == 400 else expected
        raise DataError(path, error.found, expected, error.action or action) from error


def _read_image(path: Path) -> np.ndarray:
    expected = f"uint8 of shape ({SIZE}, {SIZE}, 3): pre-contrast, FLAIR, post-contrast"
    action = "Convert the slice: 8 bits, 256×256 pixels, three channels."
    return _read_tiff(path, 3, 1, expected, action)[0]


def _read_mask(path: Path) -> np.ndarray:
    expected, action = f"uint8 of shape ({SIZE}, {SIZE})", "Convert the mask to one 8-bit channel."
    mask = _read_tiff(path, 1, 1, expected, action)[0, ..., 0]
    if np.any((mask != 0) & (mask != 255)):
        other = int(mask[(mask != 0) & (mask != 255)][0])
        action = "Write tumour as 255 and everything else as 0."
        raise DataError(path, f"the value {other}", "only 0 and 255 in a mask", action)
    return mask


def _read_pages(path: Path) -> np.ndarray:
    expected = f"uint8 of shape (slices, {SIZE}, {SIZE}, 3), at most {MOST_PAGES} slices"
    action = "Write one RGB page a slice: pre-contrast, FLAIR, post-contrast. "
    action += "Or give the scans as NIfTI, which may have any size and depth."
    return _read_tiff(path, 3, MOST_PAGES, expected, action)


def _patients_table(slices: pd.DataFrame) -> pd.DataFrame:
    counted = slices.assign(slices=1, tumour_slices=(slices["tumour_pixels"] > 0).astype(int))
    table = counted.groupby("patient", sort=False)[
        ["slices", "tumour_slices", "tumour_pixels"]
    ].sum()
    matches = [PATIENT.fullmatch(str(patient)) for patient in table.index]
    codes = [match["institution"] if match else "unknown" for match in matches]
    table.insert(0, "institution", codes)
    return table


def cached_cohorts() -> list[Path]:
    """The folders of :func:`lggseg.utils.paths.cache_root` that hold a cohort, whichever tree it is
    of; what else lies there is not ours."""
    return sorted(path for path in cache_root().glob("*") if _CACHE_NAME.fullmatch(path.name))


def _cache_folder(tree: Path, patients: Mapping[Path, Files]) -> Path:
    """``<cache>/<hash of the place>-<hash of what lies there>``. Raises ``DataError``."""
    place = hashlib.blake2b(os.fsencode(tree.resolve()), digest_size=6).hexdigest()
    content = hashlib.blake2b(digest_size=12)
    for folder, files in patients.items():
        for pair in files.pairs:
            for path in pair:
                facts = _stat(path)
                times = facts.st_mtime_ns, facts.st_ctime_ns
                state = (folder.name, path.name, facts.st_size, *times)
                content.update(repr(state).encode())
    return cache_root() / f"{place}-{content.hexdigest()}"


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


def _is_trusted(place: os.stat_result) -> bool:
    """Whether nobody but this user and root can have written what lies in a folder."""
    ours = not hasattr(os, "getuid") or place.st_uid in (0, os.getuid())
    return stat.S_ISDIR(place.st_mode) and ours and not place.st_mode & 0o022


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
        with working_folder(cache.parent, _BUILDING) as beside:
            built = beside / cache.name
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
    digests = [hashlib.blake2b(part.data, digest_size=16).hexdigest() for part in (image, mask)]
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
        image, mask = _read_image(pairs[row][0]), _read_mask(pairs[row][1])
        place = start + row * (image.size + mask.size)
        # Written rather than memory-mapped: a page fault for every 4 KiB takes twice as long.
        written = os.pwritev(file, [image.data, mask.data], place)
        if written != image.size + mask.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return slice_facts(image, mask)

    # ``map`` makes a future of every row at once, so it gets some rows at a time.
    blocks = (range(len(pairs))[first : first + _BLOCK] for first in range(0, len(pairs), _BLOCK))
    with ThreadPoolExecutor(usable_cpus()) as pool:
        rows = chain.from_iterable(pool.map(write, block) for block in blocks)
        return list(progress_bar(rows, "read slices", "slice", total=len(pairs), show=progress))
