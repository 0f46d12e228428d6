"""Archives that SageMaker unpacks for a container, and makes of a container's output."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lggseg.inference.model_folder import model_files
from lggseg.utils.errors import DataError
from lggseg.utils.files import replace_file


def pack_model(model: Path, file: Path) -> Path:
    """Write a model folder as the tar file that SageMaker unpacks into /opt/ml/model, with files
    that any user may read; returns ``file``."""
    with tarfile.open(file, "w:gz", compresslevel=1) as archive:
        for path in model_files(model):
            archive.add(path, path.name, filter=_readable)
    return file


def _readable(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mode, entry.uid, entry.gid, entry.uname, entry.gname = 0o644, 0, 0, "", ""
    return entry


def extract(archive: Path, names: Sequence[str], folder: Path, source: Path | str) -> None:
    """Write these files of what a job left into ``folder``, wherever they lie in the archive;
    ``DataError`` that names its ``source`` when one is missing."""
    with tarfile.open(archive) as tar:
        members = {Path(member.name).name: member for member in tar if member.isfile()}
        missing = sorted(set(names) - set(members))
        if missing:
            action = "Train again; the job's log says what it wrote."
            raise DataError(source, f"no {missing[0]}", f"the files {', '.join(names)}", action)
        for name in names:
            content = tar.extractfile(members[name])
            assert content
            replace_file(folder / name, partial(Path.write_bytes, data=content.read()))
