"""Where things are: the project, its runs, the cache, and the Kaggle tree inside a download."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

if TYPE_CHECKING:
    import pandas as pd
    from filelock import BaseFileLock

PATIENT = re.compile(r"TCGA_(?P<institution>\w\w)_\w{4}_\d{8}")


class DataError(ValueError):
    """Bad input. Says which file, what was found, what was expected and what to do."""

    def __init__(self, path: Path | str, found: str, expected: str, action: str) -> None:
        super().__init__(f"{path}: found {found}; expected {expected}. {action}")


# What the system answers where a disk is full or may not be written to.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def writing(
    path: Path, action: str = "Free some space, or choose another folder."
) -> Iterator[None]:
    """What is written inside is ``path`` to the user: a full or a read-only disk raises
    ``DataError`` that names it and asks for ``action``."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        found = f"no way to write it ({os.strerror(error.errno)})"
        raise DataError(path, found, "free space and the right to write there", action) from error


def new_folder(path: Path) -> None:
    """Make a folder and those above it, where they are missing. Raises ``DataError``."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file beside ``path``, then rename it: never a half-written file.

    Raises ``DataError`` where the disk is full or may not be written to.
    """
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(beside)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)


def try_lock(file: Path) -> BaseFileLock | None:
    """A lock on a file, made if there is none, until it is released or the process ends, however it
    ends; ``None`` while another process holds it. Where the file system knows no locks there are
    none: everyone gets one."""
    from filelock import FileLock, Timeout

    lock = FileLock(file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise
    return lock


def lock_run(run: Path) -> BaseFileLock:
    """A lock on a run folder; raises ``DataError`` while another process trains in it."""
    with writing(run):
        lock = try_lock(run / ".lock")
    if lock is None:
        action = "Wait until it has ended, or choose another --run."
        raise DataError(run, "another process that trains in it", "no other", action)
    return lock


@contextmanager
def locked(file: Path, seconds: float = 60) -> Iterator[None]:
    """Hold a lock on a file, after the process that holds it. Raises ``DataError`` where that takes
    more than so many seconds."""
    end = time.monotonic() + seconds
    with writing(file):
        while (lock := try_lock(file)) is None:
            if time.monotonic() > end:
                found = f"another process at work there for {seconds:.0f} s"
                raise DataError(file, found, "none", "Wait until it has ended.")
            time.sleep(0.05)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def working_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder ``<prefix>…`` in ``parent`` to build something in that is then renamed out of
    it; it is gone at the end. What killed processes left under the prefix goes, too."""
    remove_abandoned(parent, prefix)
    made = parent / f"{prefix}{uuid4().hex}"
    lock = try_lock(Path(f"{made}.lock"))
    try:
        made.mkdir()
        yield made
    finally:
        _remove(made, lock)


def remove_abandoned(parent: Path, prefix: str) -> None:
    """Delete the working folders of processes that were killed."""
    for left in parent.glob(f"{prefix}*.lock"):
        with suppress(OSError):  # another user's
            if abandoned := try_lock(left):
                _remove(left.with_suffix(""), abandoned)


def _remove(folder: Path, lock: BaseFileLock | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    Path(f"{folder}.lock").unlink(missing_ok=True)
    if lock:
        lock.release()


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV without its index."""
    replace_file(path, lambda part: table.to_csv(part, index=False))


def read_table(path: Path, action: str) -> pd.DataFrame:
    """A CSV file as a table, patients' names as text. Raises ``DataError`` that asks for
    ``action`` when it cannot be read."""
    import pandas as pd

    try:
        return pd.read_csv(path, dtype={"patient": str, "Patient": str})
    except ValueError as error:  # pandas's parser errors and wrong encodings
        raise DataError(path, f"no readable table ({error})", "a CSV file", action) from error


def write_json(values: dict[str, Any], path: Path) -> None:
    """Write values as JSON."""
    text = json.dumps(values, indent=1) + "\n"
    replace_file(path, lambda part: part.write_text(text))


def read_json(path: Path, action: str) -> dict[str, Any]:
    """What :func:`write_json` wrote. Raises ``DataError`` that asks for ``action`` when it cannot
    be read."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(path, f"no readable JSON ({error})", "JSON values", action) from error
    if not isinstance(values, dict):
        raise DataError(path, f"a {type(values).__name__} in JSON", "an object", action)
    return values


def project_root() -> Path:
    """The nearest folder upwards from here that holds ``notebooks``; else the current folder."""
    here = Path.cwd()
    return next((p for p in (here, *here.parents) if (p / "notebooks").is_dir()), here)


def runs_root() -> Path:
    """Where runs go: ``$LGGSEG_RUNS``, else ``runs`` in the project."""
    return Path(os.environ.get("LGGSEG_RUNS") or project_root() / "runs")


def fresh_folder(path: Path) -> Path:
    """``path``, free for a new run: an earlier one is kept under its time. Raises ``DataError``
    while another process trains in it."""
    if path.exists():
        stamp = datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y%m%d-%H%M%S")
        lock_run(path).release()
        names = chain([""], (f"-{number}" for number in count(2)))
        places = (path.with_name(f"{path.name}-{stamp}{name}") for name in names)
        path.rename(next(place for place in places if not place.exists()))
    return path


def private_folder(path: Path) -> None:
    """Make a folder, and those above it, where they are missing, which only this user can look
    into: runs tell of patients. Raises ``DataError``."""
    for place in (*reversed(path.parents), path):
        if place.is_dir():
            continue
        with writing(path):
            try:
                place.mkdir(0o700, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                action = "Choose another folder."
                raise DataError(place, "a file", "a folder, or nothing yet", action) from error


def cache_root() -> Path:
    """Where caches go: ``$LGGSEG_CACHE``, else the user's cache folder."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("LGGSEG_CACHE") or user / "lggseg")


def slice_number(folder: Path, name: str) -> int | None:
    """N of ``<folder>_N.tif``; ``None`` for another name, a mask's included."""
    match = re.fullmatch(re.escape(folder.name) + r"_(\d+)\.tif", name)
    return int(match[1]) if match else None


def is_patient(folder: Path) -> bool:
    """Whether a folder holds slices ``<folder>_N.tif``."""
    return any(slice_number(folder, entry.name) is not None for entry in os.scandir(folder))


def _subfolders(folder: Path) -> list[Path]:
    return sorted(Path(e.path) for e in os.scandir(folder) if e.is_dir() and e.name[0] != ".")


def patient_folders(root: Path) -> list[Path]:
    """The patients' folders directly in ``root``, sorted by name."""
    return [folder for folder in _subfolders(root) if is_patient(folder)]


def _levels(root: Path, depth: int) -> Iterator[Path]:
    level = [root]
    for _ in range(depth):
        yield from level
        level = [below for folder in level for below in _subfolders(folder)]


def find_tree(root: Path | str) -> Path:
    """The folder that directly holds the patients' folders.

    ``root`` may lie up to two levels higher (Kaggle's archive holds the tree twice, once nested:
    the shallowest is taken) or be one patient's folder. Raises ``DataError``.
    """
    root = Path(root)
    if root.is_file():
        action = "Unpack Kaggle's archive and give its folder kaggle_3m."
        raise DataError(root, "a file", "the folder kaggle_3m", action)
    if not root.is_dir():
        raise DataError(root, "no such folder", "the Kaggle tree kaggle_3m", _GET)
    tree = tree_below(root)
    if tree is None:
        raise DataError(root, contents(root), "folders like TCGA_CS_4941_19960909", _GET)
    return tree


def tree_below(root: Path) -> Path | None:
    """What :func:`find_tree` finds in an existing folder, or ``None``."""
    if is_patient(root):
        return root.absolute().parent
    levels = _levels(root, 3)
    return next((f for f in levels if any(map(is_patient, _subfolders(f)))), None)


def contents(root: Path) -> str:
    """What lies in a folder without patients, for a message: ``no patient's folder, but 3 files
    .nii.gz``."""
    files = (e.name for folder in _levels(root, 3) for e in os.scandir(folder) if e.is_file())
    endings = Counter(ending(name) for name in files if name[0] != ".")
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
# For scans that are neither TIFF nor NIfTI.
CONVERT = (
    "DICOM becomes NIfTI by dcm2niix, other scans (NRRD, MINC, MetaImage) by 3D Slicer; pictures "
    "(PNG, JPEG) must be saved as TIFF."
)
