"""Atomic writes (a file is complete or absent), locks, and tables and JSON on the disk."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from lggseg.utils.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    from filelock import BaseFileLock

# What the system answers where a disk is full or may not be written to.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
_NO_FOLDER = (errno.EEXIST, errno.ENOTDIR)
_ELSEWHERE = "Free some space, or choose another folder."


@contextmanager
def writing(path: Path, action: str = _ELSEWHERE) -> Iterator[None]:
    """What is written inside is ``path`` to the user: a full or a read-only disk raises
    ``DataError`` that names it and asks for ``action``."""
    try:
        yield
    except OSError as error:
        expected = "free space and the right to write there"
        if error.errno == errno.ENAMETOOLONG:
            expected, action = "a shorter name", "Rename what it is named after."
        elif error.errno not in _UNWRITABLE:
            raise
        found = f"no way to write it ({os.strerror(error.errno or 0)})"
        raise DataError(path, found, expected, action) from error


def new_folder(path: Path, mode: int = 0o777, action: str = _ELSEWHERE) -> None:
    """Make a folder of this mode, and those above it, where they are missing. Raises
    ``DataError`` that asks for ``action``."""
    with writing(path, action):
        try:
            path.mkdir(mode, parents=True, exist_ok=True)
        except OSError as error:
            if error.errno not in _NO_FOLDER:
                raise
            blocking = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
            action = action.removeprefix("Free some space, or ")
            action = action[:1].upper() + action[1:]
            raise DataError(blocking, "a file", "a folder, or nothing yet", action) from error


def not_a_file(path: Path) -> str:
    """What there is instead of a file that can be read, such as ``no such file`` or ``a folder``;
    empty where there is one. Whoever opens a pipe may wait for ever, and a device may not end."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "a link to no file" if path.is_symlink() else "no such file"
    except OSError as error:
        return f"no way to read it ({os.strerror(error.errno or 0)})"
    if stat.S_ISREG(mode):
        return ""
    return "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"


def read_file(path: Path, expected: str, action: str) -> bytes:
    """The bytes of a file. Raises ``DataError`` where there is none that can be read."""
    try:
        if not (found := not_a_file(path)):
            return path.read_bytes()
    except OSError as error:
        found = f"no way to read it ({os.strerror(error.errno or 0)})"
    raise DataError(path, found, expected, action)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file beside ``path``, then rename it: never a half-written file.

    Raises ``DataError`` where the disk is full or may not be written to.
    """
    temporary = path.with_name(f".{os.getpid()}.{path.name[-50:]}")
    with writing(path):
        new_folder(path.parent)
        try:
            write(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def try_lock(file: Path, *, seconds: float = 0) -> BaseFileLock | None:
    """A lock on a file, made if there is none, until it is released or the process ends, however it
    ends; ``None`` where another process still holds it after so many seconds, -1 for any number of
    them. Where the file system knows no locks there are none: everyone gets one."""
    from filelock import FileLock, Timeout

    lock = FileLock(file)
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise
    return lock


@contextmanager
def locked(file: Path, seconds: float = 60) -> Iterator[None]:
    """Hold a lock on a file, after the process that holds it. Raises ``DataError`` where that takes
    more than so many seconds."""
    with writing(file):
        lock = try_lock(file, seconds=seconds)
    if lock is None:
        found = f"another process at work there for {seconds:.0f} s"
        raise DataError(file, found, "none", "Wait until it has ended.")
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


def table_bytes(table: pd.DataFrame) -> bytes:
    """A table without its index as the bytes of a CSV file that a spreadsheet does not execute:
    a text that it would take for a formula gets an apostrophe, which :func:`read_table` drops."""
    texts = table.select_dtypes(exclude=["number", "bool"]).columns
    table = table.assign(**{name: table[name].map(_escape_formula) for name in texts})
    # Where semicolons separate cells, a formula may follow one.
    every = any(";" in text for name in texts for text in table[name] if isinstance(text, str))
    quoting: Any = csv.QUOTE_NONNUMERIC if every else csv.QUOTE_MINIMAL
    return table.to_csv(index=False, quoting=quoting).encode()


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV without its index (:func:`table_bytes`)."""
    replace_file(path, lambda temporary: temporary.write_bytes(table_bytes(table)))


def read_table(path: Path, action: str = "Let lggseg write it again.") -> pd.DataFrame:
    """A CSV file as a table; names are text, whatever they look like (``001``, ``NA``). Raises
    ``DataError`` that asks for ``action`` when it cannot be read."""
    import pandas as pd

    content = read_file(path, "a CSV file", action)
    try:
        table = pd.read_csv(BytesIO(content))
        names = [name for name in table.columns if name in _TEXTS]
        texts = pd.read_csv(BytesIO(content), usecols=names, dtype=str, keep_default_na=False)
        return table.assign(**{name: texts[name].map(_read_text) for name in names})
    except ValueError as error:  # pandas's parser errors and wrong encodings
        raise DataError(path, f"no readable table ({error})", "a CSV file", action) from error


# The columns of names. Every other column may have empty cells.
_TEXTS = ("patient", "Patient", "institution", "digest", "mask", "model", "missing", "subset")
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def _escape_formula(cell: Any) -> Any:
    formula = isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if formula else cell


def _read_text(cell: str) -> str:
    return cell[1:] if cell[:1] == "'" and _FORMULA.match(cell[1:]) else cell


def json_bytes(values: dict[str, Any]) -> bytes:
    """Values as the bytes of a JSON file."""
    return (json.dumps(values, indent=1) + "\n").encode()


def write_json(values: dict[str, Any], path: Path) -> None:
    """Write values as JSON."""
    replace_file(path, lambda temporary: temporary.write_bytes(json_bytes(values)))


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


def private_folder(path: Path) -> None:
    """Make a folder, and those above it, where they are missing, which only this user can look
    into: runs tell of patients. Raises ``DataError``."""
    for folder in (*reversed(path.parents), path):
        if folder.is_dir():
            continue
        with writing(path):
            try:
                folder.mkdir(0o700, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                action = "Choose another folder."
                raise DataError(folder, "a file", "a folder, or nothing yet", action) from error
