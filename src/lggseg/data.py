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
import warnings
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from lggseg.paths import (
    PATIENT,
    DataError,
    cache_root,
    find_tree,
    patient_folders,
    read_table,
    remove_abandoned,
    slice_number,
    working_folder,
    writing,
)
from lggseg.progress import progress_bar
from lggseg.threads import usable_cpus
from lggseg.tiff import BadTiff, read_pages
from lggseg.volume import BLANK, CHANNELS, FLAIR, SIZE

_CACHE_VERSION = 3
_CACHE_NAME = re.compile(r"[0-9a-f]{12}-[0-9a-f]{24}")
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
    """Read the tree at ``root`` (see :func:`lggseg.paths.find_tree`), or its cache.

    Raises ``DataError`` that names the file, what was found, what was expected and what to do.

    >>> from lggseg.phantom import make_cohort
    >>> cohort = load_cohort(make_cohort("data", patients=4, progress=False), progress=False)
    >>> cohort.patients["institution"].tolist()
    ['CS', 'DU', 'FG', 'HT']
    >>> cohort.image(cohort.patients.index[0]).shape[1:]
    (256, 256, 3)
    """
    tree = find_tree(root)
    folders = patient_folders(tree)
    clinical = _read_clinical(tree / "data.csv", [folder.name for folder in folders])
    cache = _cache_folder(tree, folders)
    if not _is_whole(cache):  # one that is whole was made of the very same names, checked then
        _build_cache(cache, {folder: _slice_files(folder) for folder in folders}, progress)
    remove_abandoned(cache.parent, _BUILDING)
    slices = pd.read_csv(cache / "slices.csv", dtype={"patient": str, "digest": str})
    fingerprint = json.loads((cache / "meta.json").read_text())["fingerprint"]
    patients = _patients_table(slices).join(clinical)
    pixels = np.load(cache / "pixels.npy", mmap_mode="c")
    simulated = (tree / "simulated.json").exists()
    return Cohort(tree, *_views(pixels), slices, patients, fingerprint, simulated)


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
    ``(slices, 256, 256)``, or ``None`` where there is none. Raises ``DataError``.
    """
    path = Path(path)
    if path.is_file():
        return _read_pages(path), None
    files = _slice_files(path, masks=False)
    volume = np.stack([_read_image(file) for file in files])
    masks = [file.with_name(f"{file.stem}_mask.tif") for file in files]
    if not any(mask.exists() for mask in masks):
        return volume, None
    _require_masks(masks)
    return volume, np.stack([_read_mask(mask) for mask in masks]) > 0


def _slice_files(folder: Path, *, masks: bool = True) -> list[Path]:
    """The slices of a patient in the order of their numbers, checked to be 1, 2, 3, …"""
    names = sorted(entry.name for entry in os.scandir(folder))
    numbers: dict[int, Path] = {}
    for name in names:
        number = slice_number(folder, name)
        if number is None:
            continue
        if number in numbers:
            found = f"slice {number} twice, also as {numbers[number].name}"
            raise DataError(folder / name, found, "each slice number once", "Remove one of them.")
        numbers[number] = folder / name
    _check_numbers(folder, sorted(numbers))
    files = [numbers[number] for number in sorted(numbers)]
    if masks:
        _check_pairs(files, set(names))
    return files


def _check_numbers(folder: Path, numbers: Sequence[int]) -> None:
    missing = sorted(set(range(1, len(numbers) + 1)) - set(numbers))
    if not numbers:
        expected = f"slices named {folder.name}_1.tif, {folder.name}_2.tif, …"
        raise DataError(folder, "no slice", expected, "Give the folder of one patient.")
    if missing:
        gap = f"slices up to {numbers[-1]} but no slice {missing[0]}"
        found = gap if numbers[0] else "a slice 0"
        action = "Restore the missing file, or number the slices anew."
        raise DataError(folder, found, "slice numbers 1, 2, 3, … without a gap", action)


def _check_pairs(files: Sequence[Path], names: set[str]) -> None:
    masks = [file.with_name(f"{file.stem}_mask.tif") for file in files]
    _require_masks([mask for mask in masks if mask.name not in names])
    expected = {mask.name for mask in masks}
    alone = sorted(name for name in names if name.endswith("_mask.tif") and name not in expected)
    if alone:
        path = files[0].parent / alone[0]
        raise DataError(path, "a mask without its slice", "a slice for it", "Restore the slice.")


def _require_masks(masks: Sequence[Path]) -> None:
    missing = [mask for mask in masks if not mask.exists()]
    if missing:
        action = "Restore the mask; a slice without tumour has an all-zero one."
        raise DataError(missing[0], "no such file", "a mask beside each slice", action)


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


def _read_clinical(path: Path, patients: Sequence[str]) -> pd.DataFrame:
    """The table data.csv by patient folder; the file names patients without the date."""
    if not path.exists():
        warnings.warn(f"{path}: not found; going on without clinical data.", stacklevel=3)
        return pd.DataFrame(index=pd.Index(patients, name="patient"))
    restore = "Restore Kaggle's data.csv."
    table = read_table(path, restore)
    if "Patient" not in table:
        raise DataError(path, f"the columns {list(table)[:3]}…", "a column Patient", restore)
    table = table.drop_duplicates("Patient").set_index("Patient")
    short = [patient.rsplit("_", 1)[0] for patient in patients]
    missing = sorted(set(short) - set(table.index))
    if missing:
        action = "Add a row for the patient (its other cells may be empty)."
        raise DataError(path, f"no row for {missing[0]}", "every patient of the tree", action)
    matched: pd.DataFrame = table.reindex(short)
    matched.index = pd.Index(patients, name="patient")
    return matched


def _patients_table(slices: pd.DataFrame) -> pd.DataFrame:
    counted = slices.assign(slices=1, tumour_slices=(slices["tumour_pixels"] > 0).astype(int))
    table = counted.groupby("patient")[["slices", "tumour_slices", "tumour_pixels"]].sum()
    matches = [PATIENT.fullmatch(str(patient)) for patient in table.index]
    codes = [match["institution"] if match else "unknown" for match in matches]
    table.insert(0, "institution", codes)
    return table


def cached_cohorts() -> list[Path]:
    """The folders of :func:`lggseg.paths.cache_root` that hold a cohort, whichever tree it is of;
    what else lies there is not ours."""
    return sorted(path for path in cache_root().glob("*") if _CACHE_NAME.fullmatch(path.name))


def _cache_folder(tree: Path, folders: Sequence[Path]) -> Path:
    """``<cache>/<hash of the place>-<hash of what lies there>``."""
    place = hashlib.blake2b(str(tree.resolve()).encode(), digest_size=6).hexdigest()
    content = hashlib.blake2b(digest_size=12)
    for folder in folders:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            stat = entry.stat()
            state = (folder.name, entry.name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
            content.update(repr(state).encode())
    return cache_root() / f"{place}-{content.hexdigest()}"


def _is_whole(cache: Path) -> bool:
    """Whether the cache is there, of this version and of the right size."""
    try:
        meta = json.loads((cache / "meta.json").read_text())
        found = _sizes(cache)
    except (OSError, ValueError):
        return False
    return bool(meta.get("version") == _CACHE_VERSION and meta.get("bytes") == found)


def _sizes(cache: Path) -> dict[str, int]:
    return {name: (cache / name).stat().st_size for name in ("pixels.npy", "slices.csv")}


def _build_cache(cache: Path, files: dict[Path, list[Path]], progress: bool) -> None:
    slices = [(folder.name, number, path) for folder in files
              for number, path in enumerate(files[folder], start=1)]  # fmt: skip
    with writing(cache.parent, _ELSEWHERE):
        cache.parent.mkdir(parents=True, exist_ok=True)
        _check_room(cache.parent, len(slices) * SIZE * SIZE * 4)
        with working_folder(cache.parent, _BUILDING) as beside:
            built = beside / cache.name
            built.mkdir()
            _write_cache(built, slices, progress)
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
    except OSError:
        if not _is_whole(cache):
            raise


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


def _write_cache(folder: Path, slices: list[tuple[str, int, Path]], progress: bool) -> None:
    with (folder / "pixels.npy").open("wb") as file:
        shape = (len(slices), SIZE * SIZE * 4)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.flush()
        facts = _write_pixels(file.fileno(), file.tell(), [path for *_, path in slices], progress)
    fingerprint = hashlib.blake2b(digest_size=16)
    for (patient, number, _), fact in zip(slices, facts, strict=True):
        fingerprint.update(repr((patient, number, *fact)).encode())
    table = pd.DataFrame([names[:2] for names in slices], columns=["patient", "slice"])
    table[["tumour_pixels", "blank", "digest"]] = [fact[:3] for fact in facts]
    table.to_csv(folder / "slices.csv", index=False)
    facts_of_all = {"bytes": _sizes(folder), "fingerprint": fingerprint.hexdigest()}
    meta = {"version": _CACHE_VERSION, **facts_of_all}
    (folder / "meta.json").write_text(json.dumps(meta))


def _write_pixels(
    file: int, start: int, paths: list[Path], progress: bool
) -> list[tuple[int, bool, str, str]]:
    """Write the rows from byte ``start`` on; returns tumour pixels, blank and the two digests."""

    def write(row: int) -> tuple[int, bool, str, str]:
        image = _read_image(paths[row])
        mask = _read_mask(paths[row].with_name(f"{paths[row].stem}_mask.tif"))
        place = start + row * (image.size + mask.size)
        # Written rather than memory-mapped: a page fault for every 4 KiB takes twice as long.
        written = os.pwritev(file, [image.data, mask.data], place)
        if written != image.size + mask.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        digests = [hashlib.blake2b(part.data, digest_size=16).hexdigest() for part in (image, mask)]
        return int(np.count_nonzero(mask)), int(image.max()) <= BLANK, digests[0], digests[1]

    # ``map`` makes a future of every row at once, so it gets some rows at a time.
    blocks = (range(len(paths))[first : first + _BLOCK] for first in range(0, len(paths), _BLOCK))
    with ThreadPoolExecutor(usable_cpus()) as pool:
        rows = chain.from_iterable(pool.map(write, block) for block in blocks)
        return list(progress_bar(rows, "read slices", "slice", total=len(paths), show=progress))
