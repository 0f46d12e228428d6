"""Files that someone drops on the viewer, as a volume: checked before they are decoded, and never
on disk.

A body holds several files: a line of JSON that lists them, ``[{"name": …, "size": …, "role": …}]``,
then their bytes one after the other. The role of a NIfTI file is one of ``CHANNELS``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO

import nibabel as nib
import numpy as np

from lggseg.data.codecs import read_mask_tiff, read_tiff
from lggseg.data.dicom import EXPECTED, Source, choose, is_dicom, pseudonym, read_studies
from lggseg.data.dicom_volume import study_volume
from lggseg.data.nifti import Scan, check_header, is_nifti, slices_of, volume_of
from lggseg.data.scans import open_scan
from lggseg.preprocessing.volume import CHANNELS, FLAIR
from lggseg.utils.errors import CONVERT, Refused

MAX_VOXELS = 2**25  # of a NIfTI file: 320 × 320 × 327, or 512 × 512 × 128
LONGEST_LIST = 200_000  # bytes of the line of JSON
_NUMBER = re.compile(r"(?P<patient>.*)_(?P<number>\d{1,6})$")
_TIFF = re.compile(r"\.tiff?$", re.IGNORECASE)
_MASK = re.compile(r"_mask$", re.IGNORECASE)
_FORMATS = "TIFF (a volume, or the slices of a patient), NIfTI (.nii, .nii.gz), MGH or DICOM"


@dataclass(frozen=True)
class File:
    """A file of an upload; ``sequence`` is empty or one of ``CHANNELS``."""

    name: str
    sequence: str
    body: bytes


@dataclass(frozen=True)
class Study:
    """A patient: volume uint8 ``(slices, 256, 256, 3)``; truth bool ``(slices, 256, 256)`` where
    there are masks; scan where it is NIfTI."""

    name: str
    volume: np.ndarray
    truth: np.ndarray | None = None
    scan: Scan | None = None


def read_study(body: bytes, max_slices: int) -> Study:
    """A body's files as a volume of at most so many slices. Raises ``DataError``, ``Refused`` among
    them."""
    sent = split_body(body)
    files = [file for file in sent if file.name[:1] != "."] or sent
    kinds = {_kind(file) for file in files}
    readers = {"TIFF": _of_tiffs, "NIfTI": _of_niftis, "DICOM": _of_dicom}
    if len(kinds) == 1 and (reader := readers.get(min(kinds))):
        return reader(files, max_slices)
    if "DICOM" in kinds and not kinds & {"TIFF", "NIfTI"}:  # what else lies on a scanner's disc
        return _of_dicom([file for file in files if _kind(file) == "DICOM"], max_slices)
    found = " and ".join(sorted(kinds)) or "no file"
    action = "Drop files of one kind." if kinds <= set(readers) else CONVERT
    raise Refused(415, found, _FORMATS, action, _first(files))


def _first(files: Sequence[File]) -> str:
    """What to call several files in a message."""
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f"{files[0].name}{more}" if files else "request"


def split_body(body: bytes) -> list[File]:
    """The files of a body. Raises ``Refused``."""
    line = body[:LONGEST_LIST].partition(b"\n")[0]
    start = len(line) + 1
    try:
        entries = [
            (str(entry["name"]), str(entry.get("role", "")), int(entry["size"]))
            for entry in json.loads(line)
        ]
    except Exception as error:  # a stranger's JSON can hold anything
        raise _no_list(f"no list of files ({type(error).__name__})") from None
    sizes = [size for *_, size in entries]
    # Of numbers with thousands of digits, which a list may hold, Python would not print the sum.
    if not all(0 <= size <= len(body) for size in sizes) or sum(sizes) != len(body) - start:
        raise _no_list(f"{len(body) - start} bytes after a list of files of other sizes")
    files = []
    for name, sequence, size in entries:
        files.append(File(name, sequence, body[start : start + size]))
        start += size
    return files


def _no_list(found: str) -> Refused:
    expected = "a line of JSON that lists name and size of each file, then their bytes"
    return Refused(400, found, expected, "Send the files again.")


def _kind(file: File) -> str:
    if _TIFF.search(file.name):
        return "TIFF"
    if is_nifti(file.name):
        return "NIfTI"
    return "DICOM" if is_dicom(BytesIO(file.body)) else repr(file.name[-100:])


def _of_tiffs(files: Sequence[File], max_slices: int) -> Study:
    """A multi-page volume or a patient's slices, with the mask of each if they have masks."""
    named = {_TIFF.sub("", file.name): file for file in files}
    masks = {_MASK.sub("", stem): file for stem, file in named.items() if _MASK.search(stem)}
    images = {stem: file for stem, file in named.items() if not _MASK.search(stem)}
    if len(masks) + len(images) != len(files) or not images:
        found = "a name twice, or masks alone"
        raise Refused(422, found, "slices by different names", _DROP, _first(files))
    name, stems = _in_order(list(images))
    if masks and set(masks) != set(images):
        unpaired = sorted(set(masks) ^ set(images))[0]
        raise Refused(
            422, "an image or a mask alone", "a mask for each image, or none", _DROP, unpaired
        )
    _check_slices(len(stems), max_slices, name)
    limit = max_slices if len(stems) == 1 else 1
    volume = np.concatenate([_read(images[stem], limit, read_tiff) for stem in stems])
    if not masks:
        return Study(name, volume)
    truth = np.concatenate([_read(masks[stem], limit, read_mask_tiff) for stem in stems])
    if len(truth) != len(volume):
        found = f"{len(truth)} pages of masks for {len(volume)} slices"
        raise Refused(422, found, "a page a slice", _DROP, name)
    return Study(name, volume, truth)


def _in_order(stems: Sequence[str]) -> tuple[str, list[str]]:
    """The patient's name, and the names of the slices by their numbers, which have no gap."""
    if len(stems) == 1:
        return stems[0], list(stems)
    matches = {stem: _NUMBER.match(stem) for stem in stems}
    numbered = {int(match["number"]): stem for stem, match in matches.items() if match}
    patients = {match["patient"] if match else "" for match in matches.values()}
    numbers = sorted(numbered)
    if len(patients) > 1 or "" in patients:
        found = f"slices of {len(patients)} patients, or names without a number"
        raise Refused(422, found, "slices NAME_1.tif, NAME_2.tif, …", _DROP, stems[0])
    if len(numbers) < len(stems) or numbers[-1] - numbers[0] >= len(numbers):
        found = f"{len(stems)} slices with numbers from {numbers[0]} to {numbers[-1]}"
        raise Refused(422, found, "each number once, without a gap", _DROP, patients.pop())
    return patients.pop(), [numbered[number] for number in numbers]


def _read(file: File, max_slices: int, reader: Callable[[bytes, int], np.ndarray]) -> np.ndarray:
    try:
        return reader(file.body, max_slices)
    except Refused as error:
        raise error.of(file.name) from error


def _check_slices(slices: int, max_slices: int, name: str) -> None:
    if slices > max_slices:
        action = "Use lggseg predict, which has no such limit."
        raise Refused(413, f"{slices} slices", f"at most {max_slices}", action, name)


def _of_niftis(files: Sequence[File], max_slices: int) -> Study:
    """FLAIR, and what there is of the other two sequences."""
    sequences = [file.sequence or CHANNELS[FLAIR] for file in files]
    once = len(set(sequences)) == len(sequences)
    if not once or not {CHANNELS[FLAIR]} <= set(sequences) <= set(CHANNELS):
        expected = f"one FLAIR, and at most one each of {CHANNELS[0]} and {CHANNELS[2]}"
        action = "Say which file is what."
        raise Refused(422, ", ".join(sequences)[:200], expected, action, _first(files))
    images = {
        sequence: nifti_image(file, max_slices)
        for sequence, file in zip(sequences, files, strict=True)
    }
    volume, scan = volume_of(images)
    return Study(scan.name, volume, scan=scan.without_voxels())


def _of_dicom(files: Sequence[File], max_slices: int) -> Study:
    """The sequences of one study, chosen by what its series say of themselves."""
    sources = [Source(file.name, partial(BytesIO, file.body)) for file in files]
    studies = read_studies(sources, _first(files))
    if len(studies) > 1:
        action = "Drop the folder of one study at a time."
        raise Refused(422, f"files of {len(studies)} studies", EXPECTED, action, _first(files))
    chosen, name = choose(studies[0], _first(files)), pseudonym(studies[0])
    for series in chosen.values():
        _check_slices(len(series.sources), max_slices, str(series))
    volume, scan, _ = study_volume(chosen, max_voxels=MAX_VOXELS)
    return Study(name, volume, scan=scan.without_voxels())


def nifti_image(file: File, max_slices: int) -> nib.Nifti1Image:
    """A scan in memory, its header checked before its voxels are inflated: at most so many slices,
    and ``MAX_VOXELS``. Raises ``DataError``."""
    image = open_scan(BytesIO(file.body), file.name, MAX_VOXELS)
    check_header(file.name, image)
    _check_slices(slices_of(image), max_slices, file.name)
    return image


_DROP = "Drop one volume, or all slices of one patient, with all masks or none."
