"""A registry of models on this machine: numbered versions of a name, with aliases.

``runs/registry/<name>/v1/``, ``v2/``, … are model folders; ``aliases.json`` beside them says which
version an alias means. No account, no server, no pickle.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from lggseg.inference.model_folder import model_files
from lggseg.inference.segmenter import Segmenter
from lggseg.training import loggers
from lggseg.utils.errors import DataError
from lggseg.utils.files import (
    locked,
    private_folder,
    read_json,
    working_folder,
    write_json,
    writing,
)
from lggseg.utils.paths import runs_root

LATEST = "latest"
_VERSION = re.compile(r"v[1-9][0-9]*")


def register(model: Path | str, name: str, *, aliases: Sequence[str] = (), to: str = "here") -> str:
    """Keep a copy of a model folder as the next version of ``name``; returns the version, ``v3``.

    ``latest`` and the given aliases mean it from then on. ``to="wandb"`` logs it as an artifact of
    Weights & Biases instead, which numbers the versions itself, and returns the artifact's name.
    ``to="sagemaker"`` registers it in SageMaker's Model Registry, which has no aliases, and returns
    the version's ARN. Raises ``DataError`` unless the folder holds a model that loads,
    ``ValueError`` for a name that is no name of a folder, and for an alias that may mean a version.

    >>> register("models/lgg-unet", "unet", aliases=["best"])
    'v1'
    >>> resolve("unet:best").name
    'v1'
    """
    folder = _folder(name)
    for alias in aliases:
        if not alias or ":" in alias or _VERSION.fullmatch(alias):
            expected = "a word other than a version's, v1, v2, …, without a colon"
            raise ValueError(f"alias={alias!r}: expected {expected}")
    Segmenter.load(model)
    if to == "wandb":
        return loggers.register(Path(model), name, aliases)
    if to == "sagemaker":
        from lggseg.cloud.aws.account import open_account
        from lggseg.cloud.aws.model_registry import register_on_aws

        return register_on_aws(Path(model), name, open_account())
    private_folder(folder)
    with locked(folder / ".lock"):
        version = _keep(Path(model), folder)
        known = {**_aliases(folder), **dict.fromkeys([*aliases, LATEST], version)}
        write_json(known, _table(folder))
    return version


def _keep(model: Path, folder: Path) -> str:
    with writing(folder), working_folder(folder, ".registering-") as staging:
        copy = staging / "model"
        copy.mkdir()
        for file in model_files(model):
            shutil.copy2(file, copy / file.name)
        while True:
            version = f"v{max(_numbers(folder), default=0) + 1}"
            try:
                copy.rename(folder / version)
            except OSError:
                if not (folder / version).exists():  # else another process was first
                    raise
            else:
                return version


def resolve(name: str) -> Path:
    """The model folder of ``name``, ``name:version`` or ``name:alias`` (default: ``latest``).

    Raises ``DataError`` that says which versions and aliases there are.
    """
    name, _, wanted = name.partition(":")
    folder = _folder(name)
    aliases = _aliases(folder)
    versions = [f"v{number}" for number in _numbers(folder) if (folder / f"v{number}").is_dir()]
    version = wanted if wanted in versions else aliases.get(wanted or LATEST)
    if version not in versions:
        known = [*versions, *aliases]
        expected = f"one of {known}" if known else "a registered model"
        action = "Run notebook 07, which registers one, or ask for one that is there."
        raise DataError(folder, f"no {wanted or LATEST!r}", expected, action)
    return folder / version


def _folder(name: str) -> Path:
    if not name or name != Path(name).name or name.startswith(".") or ":" in name:
        raise ValueError(f"name={name!r}: expected the plain name of a model")
    return runs_root() / "registry" / name


def _numbers(folder: Path) -> list[int]:
    """The numbers that are taken, by whatever has the name of a version."""
    return sorted(int(path.name[1:]) for path in folder.glob("v*") if _VERSION.fullmatch(path.name))


def _table(folder: Path) -> Path:
    return folder / "aliases.json"


def _aliases(folder: Path) -> dict[str, str]:
    table = _table(folder)
    action = "Restore it, or delete it: the versions themselves stay."
    return read_json(table, action) if table.exists() else {}
