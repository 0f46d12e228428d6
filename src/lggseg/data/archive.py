"""A cohort as one file, which moves faster and more safely than thousands of slices."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from lggseg.data.clinical import CLINICAL
from lggseg.data.cohort import Cohort
from lggseg.data.kaggle import patient_files, patient_folders
from lggseg.utils.errors import DataError
from lggseg.utils.files import replace_file

PACKED = "cohort.tar.gz"
_FACTS = (CLINICAL, "simulated.json")


def packed_name(cohort: Cohort) -> str:
    """A name for what :func:`pack` would write: the same for the same pixels, patients and
    clinical data, wherever they lie. Takes no packing."""
    name = hashlib.blake2b(cohort.fingerprint.encode(), digest_size=16)
    for path in _facts(cohort.root, patient_folders(cohort.root)):
        name.update(path.read_bytes())
    return name.hexdigest()


def pack(cohort: Cohort, path: Path) -> None:
    """Write the tree of a cohort into a compressed tar, which :func:`unpack` restores."""

    def write(temporary: Path) -> None:
        # Level 1 makes 42 % of the size of real slices; level 6 makes 39 % in three times the time.
        with (
            temporary.open("wb") as file,
            gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as stream,
            tarfile.open(fileobj=stream, mode="w") as tar,
        ):
            for packed in _files(cohort):
                tar.add(packed, str(packed.relative_to(cohort.root)), filter=_plain)

    replace_file(path, write)


def _files(cohort: Cohort) -> Iterator[Path]:
    folders = [f for f in patient_folders(cohort.root) if f.name in cohort.patients.index]
    yield from _facts(cohort.root, folders)
    for folder in folders:
        for pair in patient_files(folder).pairs:
            yield from pair


def _facts(root: Path, folders: Sequence[Path]) -> list[Path]:
    """The tables and marks of the folder that holds all patients, and of those that hold some."""
    above = dict.fromkeys([root, *(folder.parent for folder in folders)])
    return [folder / fact for fact in _FACTS for folder in above if (folder / fact).exists()]


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without who and when, so that the same cohort gives the same file."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member


def unpack(channel: Path, folder: Path) -> Path:
    """Restore the tree that lies packed in ``channel`` into ``folder`` and return that; a channel
    that holds no packed cohort is returned as it is, since it may hold the tree.

    Raises ``DataError`` for a broken file, and for one that holds anything but files below it.
    """
    packed = channel / PACKED
    if not packed.exists():
        return channel
    try:
        with gzip.open(packed) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            extract_files(tar, folder.resolve())
            while stream.read(2**20):  # to the end, where gzip compares its checksum
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        action = "Upload the cohort again."
        raise DataError(packed, f"no whole archive ({error})", "a cohort", action) from error
    return folder


def extract_files(tar: tarfile.TarFile, folder: Path) -> None:
    """Write the files of an archive to their places below an absolute folder; ``TarError`` for
    anything else in it. ``extractall(filter="data")`` came with Python 3.11.4, after Debian's."""
    for member in tar:
        path = (folder / member.name).resolve()
        content = tar.extractfile(member) if member.isreg() else None
        if content is None or not path.is_relative_to(folder):
            raise tarfile.TarError(f"{member.name} is no file below it")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            shutil.copyfileobj(content, file)
