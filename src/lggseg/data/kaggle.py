"""The patients below a folder, the files of each, and which files are skipped.

A patient is a folder ``NAME`` of slices ``NAME_1.tif``, ``NAME_2.tif``, … with a mask
``NAME_1_mask.tif`` each; the ending may be ``.tif`` or ``.tiff`` in any case.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from unicodedata import normalize

from lggseg.utils.errors import DataError, LeftOut, printable, usable_name

DEPTH = 3  # how many folders deep patients may lie
_SLICE = re.compile(r"(?P<patient>.+)_(?P<number>[0-9]+)(?P<mask>_mask)?\.tiff?", re.I | re.S)
_TIFF = re.compile(r"\.tiff?$", re.I)
_IMAGE = re.compile(r"\.(tiff?|nii(\.gz)?|mgz|dcm|png|jpe?g|bmp)$", re.I)
# What operating systems put on a disk of their own.
_SYSTEM = ("lost+found", "System Volume Information", "$RECYCLE.BIN", "__MACOSX")
_MAX_NAMED = 20


@dataclass(frozen=True)
class Survey:
    """What lies below a folder.

    root: the folder that holds all patients. patients: their folders, sorted by name, each name
    once. refused: why patients whose names cannot be used are left out. left_out: sentences on
    other images that belong to no patient, and on folders that cannot be read.
    """

    root: Path
    patients: list[Path]
    refused: list[DataError] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def warn(self, *, of_refused: bool = True) -> None:
        """Say what is left out, as warnings of the kind ``LeftOut``; ``of_refused``: also of the
        patients that are refused."""
        sentences = [*map(str, self.refused if of_refused else []), *self.left_out]
        more = len(sentences) - _MAX_NAMED
        rest = [f"{self.root}: left out files of {more} more folders."] if more > 0 else []
        for sentence in [*sentences[:_MAX_NAMED], *rest]:
            warnings.warn(sentence, LeftOut, stacklevel=3)


def find_cohort(root: Path | str) -> Survey:
    """The patients up to three folders below ``root``, which may also be one patient's folder
    beside the others. Says what is left out. Raises ``DataError``.

    Of a copy of all patients of a folder, deeper down, only the first is taken: Kaggle's archive
    holds the tree twice, once nested.
    """
    root = named(root)
    if root.is_file():
        action = "Unpack Kaggle's archive and give its folder kaggle_3m."
        raise DataError(root, "a file", "the folder kaggle_3m", action)
    if not root.is_dir():
        raise DataError(root, "no such folder", "the Kaggle tree kaggle_3m", _GET)
    found = survey(root.absolute().parent if is_patient(root) else root)
    if not found.patients:
        unusable = found.refused[:1] or [
            DataError(root, contents(root), "folders like TCGA_CS_4941_19960909", _GET)
        ]
        raise unusable[0]
    found.warn()
    return found


def find_tree(root: Path | str) -> Path:
    """The folder that holds the patients which :func:`find_cohort` finds. Raises ``DataError``."""
    return find_cohort(root).root


def patient_folders(root: Path) -> list[Path]:
    """The patients' folders in ``root`` and up to two folders deeper, sorted by name."""
    return survey(root).patients


def is_patient(folder: Path) -> bool:
    """Whether a folder holds slices ``<folder>_N.tif``."""
    return any(slice_number(folder, entry.name) is not None for entry in _entries(folder))


def slice_number(folder: Path, name: str) -> int | None:
    """N of ``<folder>_N.tif``; ``None`` for another name, a mask's included."""
    number, mask = _parse(folder, name)
    return None if mask else number


def named(path: Path | str) -> Path:
    """The path, by the name of its folder where it is ``.`` or ends with ``..``."""
    path = Path(path)
    return path if path.name not in ("", "..") else Path(os.path.abspath(path))


def volume_name(path: Path) -> str:
    """The patient's name: a folder's whole name, a TIFF's without its ending.

    >>> volume_name(Path("1.2.840.tif"))
    '1.2.840'
    """
    return path.name if path.is_dir() else _TIFF.sub("", path.name)


def unusable(path: Path) -> DataError:
    """Why a patient whose name is not :func:`lggseg.utils.errors.usable_name` is refused."""
    found = "a name with control characters, or with bytes that are not UTF-8"
    return DataError(path, found, "a name that a table can hold", "Rename it.")


def _parse(folder: Path, name: str) -> tuple[int | None, bool]:
    """The number in the name of a slice or a mask, and which it is; ``None`` for other names."""
    match = _SLICE.fullmatch(name)
    if match is None or not _same(match["patient"], folder.name):
        return None, False
    return int(match["number"]), match["mask"] is not None


def _same(name: str, other: str) -> bool:
    """Whether two names are the same letters: macOS writes an accent as a letter of its own."""
    return name == other or normalize("NFC", name) == normalize("NFC", other)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder and is not hidden, sorted by name. Raises ``DataError``."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if e.name[0] != "."), key=lambda entry: entry.name)
    except OSError as error:
        found = f"no way to read it ({os.strerror(error.errno or 0)})"
        action = "Ask for the right to read it, or take it away."
        raise DataError(folder, found, "a folder that can be read", action) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to what may not be read
        return False


@dataclass(frozen=True)
class _Patient:
    folder: Path
    names: frozenset[str]  # of slices and masks
    depth: int


def survey(root: Path) -> Survey:
    """The patients up to three folders below ``root``, or ``root`` itself where it is one. Raises
    ``DataError`` where two of them have the same name or ``root`` cannot be read."""
    found: list[_Patient] = []
    refused: list[DataError] = []
    left_out: list[str] = []
    for depth, folder, names in _folders(root, left_out):
        files = frozenset(name for name in names if _parse(folder, name)[0] is not None)
        is_one = any(slice_number(folder, name) is not None for name in files)
        strange = [name for name in names if _IMAGE.search(name) and not (folder / name).is_dir()]
        if is_one:
            strange = [name for name in strange if name not in files]
        if strange:
            left_out.append(_strange(folder, strange, is_one))
        if is_one and usable_name(folder.name):
            found.append(_Patient(folder, files, depth))
        elif is_one:
            refused.append(unusable(folder))
    kept = _without_copies(found, left_out)
    parents = {str(folder.parent) for folder in kept}
    common = Path(os.path.commonpath(parents)) if parents else root
    return Survey(common, sorted(kept, key=lambda folder: folder.name), refused, left_out)


def _folders(root: Path, left_out: list[str]) -> Iterator[tuple[int, Path, list[str]]]:
    """The depth of each folder below ``root``, level by level, the folder, and the names in it. A
    folder that a link leads to again is the same one."""
    level, seen = [root], set()
    for depth in range(DEPTH + 1):
        below: list[Path] = []
        for folder in level:
            try:
                entries = _entries(folder)
                stat = folder.stat()
            except (DataError, OSError) as error:
                if not depth:
                    raise
                if folder.name not in _SYSTEM:
                    left_out.append(f"Left out {printable(str(error))}")
                continue
            if (identity := (stat.st_dev, stat.st_ino, folder.name)) in seen:
                continue
            seen.add(identity)
            below += [Path(entry.path) for entry in entries if _is_folder(entry)]
            yield depth, folder, [entry.name for entry in entries]
        level = [folder for folder in below if folder.name not in _SYSTEM]


def _strange(folder: Path, names: Sequence[str], is_one: bool) -> str:
    named = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    expected = "slices NAME_N.tif of a patient in a folder NAME"
    if is_one:
        expected = f"slices {folder.name}_N.tif and masks {folder.name}_N_mask.tif"
    return printable(f"{folder}: left out {named}; expected {expected}.")


def _without_copies(found: Sequence[_Patient], left_out: list[str]) -> list[Path]:
    """Each patient once: a folder all of whose patients lie nearer to the top, too, is a copy."""
    kept: dict[str, _Patient] = {}
    for parent, neighbours in groupby(found, key=lambda patient: patient.folder.parent):
        listed = list(neighbours)
        group = {_key(patient): patient for patient in listed}
        if len(group) < len(listed):
            raise _twice(*_same_key(listed))
        again = [(patient, kept[key]) for key, patient in group.items() if key in kept]
        copies = [p for p, first in again if p.names == first.names and p.depth > first.depth]
        if again and len(copies) < len(group):
            raise _twice(*again[0])
        if again:
            nearer = again[0][1].folder.parent
            patients = f"{len(again)} patients" if len(again) > 1 else "1 patient"
            text = f"{parent}: left out {patients} of the same names and slices as in {nearer}."
            left_out.append(printable(text))
        else:
            kept |= group
    return [patient.folder for patient in kept.values()]


def _key(patient: _Patient) -> str:
    return normalize("NFC", patient.folder.name)


def _same_key(patients: Sequence[_Patient]) -> tuple[_Patient, _Patient]:
    return next((p, q) for p in patients for q in patients if p is not q and _key(p) == _key(q))


def _twice(patient: _Patient, first: _Patient) -> DataError:
    action = "Rename one of the two, or give the folder of one."
    found = f"a patient of the same name as {first.folder}"
    return DataError(patient.folder, found, "each name once", action)


@dataclass(frozen=True)
class Files:
    """The slices of a patient in the order of their numbers, 1, 2, 3, …, those masks that are
    there, by number, and what is wrong with their names."""

    images: list[Path]
    masks: dict[int, Path]
    wrong_masks: list[DataError]

    @property
    def pairs(self) -> list[tuple[Path, Path]]:
        """Each slice with its mask. Raises ``DataError`` for one that has none or two."""
        for error in self.wrong_masks:
            raise error
        for number, image in enumerate(self.images, start=1):
            if number not in self.masks:
                mask = image.with_name(f"{image.stem}_mask{image.suffix}")
                action = "Restore the mask; a slice without tumour has an all-zero one."
                raise DataError(mask, "no such file", "a mask beside each slice", action)
        return [(image, self.masks[n]) for n, image in enumerate(self.images, start=1)]


def patient_files(folder: Path) -> Files:
    """The files of a patient, whose slices must be 1, 2, 3, … Raises ``DataError``."""
    images: dict[int, Path] = {}
    masks: dict[int, Path] = {}
    wrong: list[DataError] = []
    for entry in _entries(folder):
        number, is_mask = _parse(folder, entry.name)
        if number is None:
            continue
        numbered, kind = (masks, "mask") if is_mask else (images, "slice")
        if number in numbered:
            found = f"{kind} {number} twice, also as {numbered[number].name}"
            expected = f"each {kind} number once"
            error = DataError(folder / entry.name, found, expected, "Remove one of them.")
            if not is_mask:
                raise error
            wrong.append(error)
        numbered[number] = folder / entry.name
    _check_numbers(folder, sorted(images))
    if alone := sorted(set(masks) - set(images)):
        action = "Restore the slice, or take the mask away."
        raise DataError(masks[alone[0]], "a mask without its slice", "a slice for it", action)
    return Files([images[number] for number in sorted(images)], masks, wrong)


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


def contents(root: Path) -> str:
    """What lies in a folder without patients, for a message: ``no patient's folder, but 3 files
    .nii.gz``."""
    endings = Counter(
        ending(name)
        for depth, folder, names in _folders(root, [])
        if depth < DEPTH
        for name in names
        if (folder / name).is_file()
    )
    counts = [
        f"{number} {'file' if number == 1 else 'files'} {kind}"
        for kind, number in sorted(endings.items(), key=lambda item: (-item[1], item[0]))[:3]
    ]
    return f"no patient's folder, {'but ' + ', '.join(counts) if counts else 'and no file'}"


def ending(name: str) -> str:
    """``.nii.gz`` of ``flair.nii.gz``; ``without an ending`` where there is none."""
    match = re.search(r"(\.nii)?\.[A-Za-z]\w*$", name)
    return match[0] if match else "without an ending"


_GET = "Give the path to kaggle_3m; `make data` downloads it, `lggseg phantom DEST` simulates one."
PATIENT = re.compile(r"TCGA_(?P<institution>\w\w)_\w{4}_\d{8}")
