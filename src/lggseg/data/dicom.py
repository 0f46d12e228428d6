"""Series of a DICOM study: which is FLAIR, which T1 before and after contrast, and why.

Nothing of the patient's identity leaves this module but in the data sets themselves: series are
named by their number and description, patients by a pseudonym (:func:`pseudonym`).
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from lggseg.data.sequences import POST, PRE, guess_sequence
from lggseg.preprocessing.volume import CHANNELS, FLAIR
from lggseg.utils.errors import DataError, install_command, printable

if TYPE_CHECKING:
    from pydicom import Dataset

EXPECTED = "a folder with the MR series of a study"
_START = 132  # bytes: a preamble, then DICM
MR = "1.2.840.10008.5.1.4.1.1.4"  # MR Image Storage, one slice per file
_DIRECTORY = "1.2.840.10008.1.3.10"
# Kinds of images that show no anatomy of their own.
_NO_SCAN = {"LOCALIZER", "PROJECTION IMAGE", "ADC", "DIFFUSION", "PERFUSION", "MPR_THICK"}
# What tells in a name that a series is neither FLAIR nor T1, and that a T1 is before contrast.
_OTHER = re.compile(
    r"t2|swi|adc|dwi|dti|diff|perf|asl|dsc|dce|tof|mra|mip|bold|loc|scout|survey|field|spectr|csi"
)
_PLAIN = re.compile(r"(?<![a-z])(pre|native|nativ|without|w/?o|non|no)(?![a-z])")
FEWEST = 3  # slices of a scan
# Milliseconds: inversion and echo time of FLAIR at the least, echo time of T1 at the most.
_INVERSION, _LONG_ECHO, _SHORT_ECHO = 1500, 60, 30


@dataclass(frozen=True)
class Source:
    """A DICOM file: what to call it in a message, and how to open it."""

    label: str
    open: Callable[[], BinaryIO]


@dataclass(frozen=True)
class Series:
    """A series: its files, the header of the first, what it was taken for, and why."""

    sources: tuple[Source, ...]
    header: Dataset = field(repr=False)
    role: str = ""
    why: str = ""

    @property
    def number(self) -> int | None:
        """SeriesNumber."""
        value = number(self.header, "SeriesNumber")
        return int(value) if value is not None else None

    def __str__(self) -> str:
        text = str(self.header.get("SeriesDescription", "")).strip()
        return printable(f"series {self.number}" + (f" “{text}”" if text else ""))


def numbers(header: Dataset, name: str) -> list[float]:
    """The numbers of a field; none where one of them cannot be read."""
    value = header.get(name)
    values = value if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    try:
        found = [float(one) for one in values]
    except (TypeError, ValueError):
        return []
    return found if all(map(math.isfinite, found)) else []


def number(header: Dataset, name: str) -> float | None:
    """The number of a field, of several the first; none where it cannot be read."""
    return next(iter(numbers(header, name)), None)


def pydicom() -> Any:
    """The package pydicom, whose warnings are silenced since they repeat what a header holds.
    Raises ``DataError`` where it is missing."""
    warnings.filterwarnings("ignore", module=r"(pydicom|highdicom)\.")
    try:
        import pydicom
    except ImportError:
        action = f"Run {install_command('dicom')}, or convert the study by dcm2niix."
        raise DataError("DICOM", "no pydicom", "the package pydicom", action) from None
    return pydicom


def is_dicom(file: BinaryIO) -> bool:
    """Whether an open file begins as DICOM files do."""
    return file.read(_START)[128:] == b"DICM"


def files_below(root: Path) -> Iterator[Source]:
    """The DICOM files below a folder, sorted by path; hidden ones are passed over."""
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in sorted(name for name in names if name[0] != "."):
            path = Path(place) / name
            try:
                with path.open("rb") as file:
                    found = is_dicom(file)
            except OSError:
                continue
            if found:
                yield Source(str(path), partial(_opened, path))


def _opened(path: Path) -> BinaryIO:
    return path.open("rb")


def read_studies(sources: Iterable[Source], label: str) -> list[list[Series]]:
    """The series of each study, in the order of their numbers. label: what to call all of it in a
    message. Raises ``DataError`` where there is no DICOM file, or one that cannot be read."""
    found: dict[str, dict[str, list[tuple[Source, Dataset]]]] = defaultdict(dict)
    for source in sources:
        header = read_header(source)
        if str(header.file_meta.get("MediaStorageSOPClassUID", "")) == _DIRECTORY:
            continue
        study, one = (str(header.get(f"{kind}InstanceUID", "")) for kind in ("Study", "Series"))
        if not (study and one):
            raise _unreadable(source, "no SeriesInstanceUID")
        found[study].setdefault(one, []).append((source, header))
    if not found:
        raise DataError(label, "no DICOM file", EXPECTED, "Give the folder of the study.")
    return [_by_number(found[study]) for study in sorted(found)]


def _by_number(files: Mapping[str, Sequence[tuple[Source, Dataset]]]) -> list[Series]:
    series = [Series(tuple(source for source, _ in some), some[0][1]) for some in files.values()]
    return sorted(series, key=lambda one: (one.number is None, one.number or 0))


def read_header(source: Source) -> Dataset:
    """A file's data set without its pixels. Raises ``DataError``."""
    try:
        with source.open() as file:
            return pydicom().dcmread(file, stop_before_pixels=True)
    except DataError:
        raise
    except Exception as error:  # pydicom raises many kinds for a broken file
        raise _unreadable(source, str(error)[:200] or type(error).__name__) from error


def _unreadable(source: Source, why: str) -> DataError:
    action = "Export or copy the file again: it was cut off or damaged."
    return DataError(source.label, f"no readable DICOM ({why})", "a DICOM file", action)


def pseudonym(series: Sequence[Series]) -> str:
    """A name for the patient of a study that tells nothing of who it is: the same for the same
    study."""
    text = str(series[0].header.get("StudyInstanceUID", ""))
    return f"study-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def choose(
    series: Sequence[Series], label: str, numbers: Mapping[str, int | None] | None = None
) -> dict[str, Series]:
    """The series to take for each sequence, by the names in ``CHANNELS``, each with its reason.

    numbers: series numbers that the user names for a sequence, which are taken as they are. Raises
    ``DataError`` where no series is FLAIR, or none has such a number.
    """
    chosen = {}
    named = {role: number for role, number in (numbers or {}).items() if number is not None}
    for role, number in named.items():
        chosen[role] = _numbered(series, number, label)
    taken = [id(one.header) for one in chosen.values()]
    judged = [judge(one) for one in series if id(one.header) not in taken]
    for role in CHANNELS:
        candidates = sorted((one for one in judged if one.role == role), key=_rank)
        if role in chosen or not candidates:
            continue
        best = candidates[0]
        others = ", ".join(map(str, candidates[1:4]))
        why = best.why + (f"; rather than {others}" if others else "")
        chosen[role] = Series(best.sources, best.header, role, why)
    if CHANNELS[FLAIR] not in chosen:
        listed = "; ".join(f"{one} ({judge(one).why})" for one in series[:12])
        action = "Name it by --flair with its series number."
        raise DataError(label, f"no series that is FLAIR: {listed}", "one", action)
    return {role: chosen[role] for role in CHANNELS if role in chosen}


def _numbered(series: Sequence[Series], number: int, label: str) -> Series:
    fitting = [one for one in series if one.number == number]
    if len(fitting) != 1:
        known = ", ".join(map(str, series[:12]))
        found = f"{len(fitting)} series of number {number} ({known})"
        raise DataError(label, found, "one", "Name a series by its number.")
    return Series(fitting[0].sources, fitting[0].header, "", f"number {number}, as asked for")


def _rank(series: Series) -> tuple[bool, bool, int, int]:
    """The better of two series of one sequence is original, axial, has more slices, came first."""
    header = series.header
    derived = "DERIVED" in _image_type(header)
    axes = [abs(value) for value in numbers(header, "ImageOrientationPatient")]
    axial = axes[0] > 0.8 and axes[4] > 0.8 if len(axes) == 6 else False
    return derived, not axial, -len(series.sources), series.number or 0


def judge(series: Series) -> Series:
    """The same with its role, if it has one, and why."""
    role, why = _judge(series)
    return Series(series.sources, series.header, role, why)


def _judge(series: Series) -> tuple[str, str]:
    header = series.header
    if header.get("Modality") != "MR":
        return "", f"modality {header.get('Modality', 'unknown')}, not MR"
    if kinds := _NO_SCAN & _image_type(header):
        return "", f"image type {min(kinds)}"
    multiframe = (number(header, "NumberOfFrames") or 1) > 1
    if not multiframe and len(series.sources) < FEWEST:
        return "", f"{len(series.sources)} slices"
    for name in ("SeriesDescription", "ProtocolName"):
        words = str(header.get(name) or "").strip()
        if role := guess_sequence(words):
            return _contrast(role, f"{name} “{printable(words)}”", header, words)
        if _OTHER.search(words.lower()):
            return "", f"{name} “{printable(words)}”"
    return _by_times(header)


def _by_times(header: Dataset) -> tuple[str, str]:
    """FLAIR or T1 by inversion and echo time, where the names tell nothing."""
    names = ("InversionTime", "EchoTime", "RepetitionTime")
    inversion, echo, repetition = (number(header, name) or 0.0 for name in names)
    times = f"TI {inversion:g} ms, TE {echo:g} ms, TR {repetition:g} ms"
    if inversion >= _INVERSION and echo >= _LONG_ECHO:
        return CHANNELS[FLAIR], times
    if 0 < echo <= _SHORT_ECHO and (0 < repetition <= 1000 or 0 < inversion < _INVERSION):
        return _contrast(PRE, times, header, "")
    return "", f"{times}, and no name that tells"


def _contrast(role: str, why: str, header: Dataset, words: str) -> tuple[str, str]:
    """A T1 is after contrast where its name or its header says so."""
    agent = str(header.get("ContrastBolusAgent") or "").strip().lower()
    if role != PRE or _PLAIN.search(words.lower()):
        return role, why
    if agent not in ("", "no", "none", "n", "0"):
        return POST, f"{why}, ContrastBolusAgent is set"
    if "CONTRAST" in str(header.get("ScanOptions") or "").upper():
        return POST, f"{why}, ScanOptions say contrast"
    return role, why


def _image_type(header: Dataset) -> set[str]:
    value = header.get("ImageType") or []
    return {str(part).upper() for part in ([value] if isinstance(value, str) else value)}
