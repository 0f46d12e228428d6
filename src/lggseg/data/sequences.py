"""The scans below a folder by patient, and which MRI sequence each is by its name.

Names differ by who wrote them: BIDS (``sub-01/anat/sub-01_FLAIR.nii.gz``), BraTS
(``BraTS-GLI-00000-000-t2f.nii.gz``, ``Brats18_…_flair.nii.gz``), or ``flair.nii.gz`` in a folder
for each patient. The page of the viewer and the HTML file guess by the same rules, in JavaScript
(``serving/viewer/static/roles.js``); a test compares both.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lggseg.data.kaggle import named, unusable
from lggseg.data.nifti import SUFFIX, is_nifti, scan_name
from lggseg.preprocessing.volume import CHANNELS, FLAIR
from lggseg.utils.errors import DataError, LeftOut, printable, usable_name

DEPTH = 6  # how many folders deep scans may lie
# What is made of scans, and what operating systems put on a disk of their own.
_PASSED = {"derivatives", "sourcedata", "code", "__MACOSX", "lost+found"}
PRE, POST = CHANNELS[0], CHANNELS[2]
# What says nothing of the sequence: whose scan it is and on which grid (BIDS: space-T1w_FLAIR),
# when it was taken, how it was processed, and the scan that it was brought to (t1_to_flair).
_ASIDE = (
    r"(^|[_.\s])(sub|ses|space|desc|run|rec|res|dir|from|to|hemi|label)-[a-z0-9+]+",
    r"(pre|post)[_\-.\s]?(op|proc|treat|surg|resect|biops|radio|chemo|rt(?![a-z]))[a-z]*",
    r"[_\-.\s](to|in|on|onto|2|reg2?|registered|coreg)[_\-.\s]?(t[12]\w*|flair)(?![a-z]).*$",
)
# What is no scan, whatever else its name says.
_MASK = re.compile(
    r"(?<![a-z])(mask|d?seg|segmentation|labels?|lesions?|roi|truth|gt|prob(seg)?)\d*(?![a-z])"
)
_FLAIR = re.compile(r"flair|t2f(?![a-z])|dark.?fluid|tirm")
_T1_FLAIR = re.compile(r"t1w?[_\-.\s]?flair")
_OTHERS = re.compile(r"t2|swi|adc|dwi|diff|perf|asl|mask|seg")
_PLAIN = {"pre", "non", "no", "un", "without", "wo", "native", "plain", "n"}
_CONTRAST = {"post", "contrast", "ce", "c+", "+c", "gd", "gad", "gado", "gadolinium", "g", "km"}
_CONTRAST |= {"enh", "enhanced"}
_T1 = {"t1", "mprage", "mpr", "spgr", "bravo", "vibe"}
_BIDS = re.compile(r"(sub-[a-z0-9+]+(_ses-[a-z0-9+]+)?)(?=_)", re.IGNORECASE)
# Where a file's name stops to be the patient's.
_SEQUENCE = re.compile(
    r"(^|[_\-.\s])(t[12](?!\d)|flair|mprage|spgr|bravo|vibe|tirm|dark|(pre|post|ce|gad|gd)(?![a-z0-9]))"
)


def guess_sequence(name: str) -> str:
    """The name in ``CHANNELS`` of the sequence that a file is called after; empty for another.

    >>> guess_sequence("BraTS-GLI-00000-000-t2f.nii.gz")
    'FLAIR'
    >>> guess_sequence("sub-01_ce-gadolinium_T1w.nii.gz")
    'post-contrast'
    """
    text = SUFFIX.sub("", name).lower()
    for pattern in _ASIDE:
        text = re.sub(pattern, " ", text)
    if _MASK.search(text):
        return ""
    if _FLAIR.search(text) and not _T1_FLAIR.search(text):
        return CHANNELS[FLAIR]
    words = _words(text)
    if not words & _T1 and _OTHERS.search(text):
        return ""
    if words & _PLAIN:
        return PRE
    if words & _CONTRAST:
        return POST
    return PRE if words & _T1 else ""


def _words(text: str) -> set[str]:
    text = re.sub(r"t1w?[_\-.\s]?c(?![a-z])", " t1 contrast ", text)
    text = re.sub(r"t1w?(?!\d)", " t1 ", text)
    contrast = r"(?=contrast|gd|gad|enh|ce(?![a-z]))"
    text = re.sub(rf"(pre|post|non|no|un|without){contrast}", r"\1 ", text)
    return set(re.split(r"[^a-z0-9+]+", text))


@dataclass(frozen=True)
class Patient:
    """A patient's scans: FLAIR, and T1 before and after contrast where there are such."""

    name: str
    flair: Path
    pre: Path | None = None
    post: Path | None = None


@dataclass(frozen=True)
class Found:
    """The patients below a folder, sorted by name, and why others are refused."""

    patients: list[Patient]
    refused: list[DataError] = field(default_factory=list)


def find_patients(root: Path | str) -> Found:
    """The patients whose scans lie up to six folders below ``root``, by their files' names.

    A folder with one FLAIR is one patient; files of several patients in one folder belong together
    by how their names begin. Folders ``derivatives`` and ``sourcedata`` are passed over. Raises
    ``DataError`` where no file is called after FLAIR.
    """
    root = named(root)
    patients: list[Patient] = []
    refused: list[DataError] = []
    scans = 0
    for folder, names in _folders(root):
        scans += len(names)
        for key, group in _groups(folder, names).items():
            try:
                patients.append(_patient(root, folder, key, group))
            except DataError as error:
                refused.append(error)
    if not (patients or refused):
        raise DataError(root, _contents(scans), _EXPECTED, _ACTION)
    return _each_once(root, sorted(patients, key=lambda patient: patient.name), refused)


def _folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Each folder with scans in it, and their names."""

    def skip(error: OSError) -> None:
        if Path(str(error.filename)) != root:
            text = f"Left out {printable(str(error.filename))}: {error.strerror}."
            warnings.warn(text, LeftOut, stacklevel=2)
            return
        action = "Ask for the right to read it."
        raise DataError(root, str(error.strerror), "a folder that can be read", action)

    for place, folders, names in os.walk(root, onerror=skip):
        deep = len(Path(place).relative_to(root).parts)
        kept = [name for name in folders if name[0] != "." and name not in _PASSED]
        folders[:] = sorted(kept) if deep < DEPTH else []
        # Of a pair .hdr/.img the header stands for both.
        scans = [n for n in names if n[0] != "." and is_nifti(n) and ".img" not in n[-8:].lower()]
        if scans:
            yield Path(place), sorted(scans)


def _groups(folder: Path, names: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """The files of each patient in a folder, by sequence; the key is how their names begin. Without
    FLAIR and T1 there is none."""
    roles = {name: role for name in names if (role := guess_sequence(name))}
    several = len({_key(name) for name, role in roles.items() if role == CHANNELS[FLAIR]}) > 1
    one = next((_key(name) for name, role in roles.items() if role == CHANNELS[FLAIR]), "")
    groups: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, role in roles.items():
        groups[_key(name) if several else one][role].append(name)
    return groups


def _key(name: str) -> str:
    """How a file's name begins, before it comes to the sequence: the patient's, or nothing."""
    stem = scan_name(name)
    if match := _BIDS.match(stem):
        return match[1]
    match = _SEQUENCE.search(stem.lower())
    return stem[: match.start()].strip("_-. ") if match else ""


def _patient(root: Path, folder: Path, key: str, group: Mapping[str, Sequence[str]]) -> Patient:
    """The patient of a group of files. Raises ``DataError``."""
    files = {}
    for role in CHANNELS:
        name = _only(folder, role, sorted(group.get(role, ()), key=lambda n: (len(n), n)))
        files[role] = folder / name if name else None
    flair = files[CHANNELS[FLAIR]]
    if flair is None:
        found = f"{next(iter(group.values()))[0]} but no FLAIR"
        raise DataError(folder / key, found, "a file called after FLAIR", _ACTION)
    name = key or (folder.name if folder != root else scan_name(flair))
    if not usable_name(name):
        raise unusable(flair)
    return Patient(name, flair, files[PRE], files[POST])


def _only(folder: Path, role: str, names: Sequence[str]) -> str:
    """The one file of a sequence; of NAME_FLAIR and NAME_FLAIR_bias the first. Raises
    ``DataError``."""
    if len(names) < 2:
        return names[0] if names else ""
    first = scan_name(names[0])
    if all(scan_name(name).startswith(f"{first}_") for name in names[1:]):
        text = f"{folder}: left out {', '.join(names[1:])} beside {names[0]}."
        warnings.warn(printable(text), LeftOut, stacklevel=2)
        return names[0]
    found = f"{' and '.join(names[:3])}, of which each could be {role}"
    action = "Take the others away, or name one patient's files (FLAIR, --pre, --post)."
    raise DataError(folder, found, "one file for each sequence", action)


def _each_once(root: Path, patients: Sequence[Patient], refused: list[DataError]) -> Found:
    """Patients of one name get the folders that lead to them for names; where that is no help, they
    are refused."""
    counts = Counter(patient.name for patient in patients)
    longer = []
    for patient in patients:
        name = patient.name
        if counts[name] > 1:
            place = patient.flair.parent.relative_to(root).parts
            name = "_".join([*place, *([] if place[-1:] == (name,) else [name])])
        longer.append(Patient(name, patient.flair, patient.pre, patient.post))
    counts = Counter(patient.name for patient in longer)
    for patient in longer:
        if counts[patient.name] > 1:
            found = f"another patient called {patient.name}"
            refused.append(DataError(patient.flair, found, "each name once", "Rename one of them."))
    return Found([patient for patient in longer if counts[patient.name] == 1], refused)


def _contents(scans: int) -> str:
    return f"{scans} scans but none called after FLAIR" if scans else "no scan"


_EXPECTED = "files like sub-01_FLAIR.nii.gz, NAME-t2f.nii.gz or flair.nii.gz"
_ACTION = (
    "Put FLAIR into the name of each patient's FLAIR; or give one patient's FLAIR file itself, "
    "with --pre and --post."
)
