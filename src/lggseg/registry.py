"""A registry of models on this machine: numbered versions of a name, with aliases.

``runs/registry/<name>/v1/``, ``v2/``, … are model folders; ``aliases.json`` beside them says which
version an alias means. No account, no server, no pickle.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from lggseg import tracking
from lggseg.model_folder import FILES
from lggseg.paths import DataError, runs_root, working_folder, write_json, writing
from lggseg.predict import Segmenter

LATEST = "latest"


def register(model: Path | str, name: str, *, aliases: Sequence[str] = (), to: str = "here") -> str:
    """Keep a copy of a model folder as the next version of ``name``; returns the version, ``v3``.

    ``latest`` and the given aliases mean it from then on. ``to="wandb"`` logs it as an artifact of
    Weights & Biases instead, which numbers the versions itself, and returns the artifact's name.
    ``to="sagemaker"`` registers it in SageMaker's Model Registry, which has no aliases, and returns
    the version's ARN. Raises ``DataError`` unless the folder holds a model that loads,
    ``ValueError`` for a name that is no name of a folder.

    >>> register("models/lgg-unet", "unet", aliases=["best"])
    'v1'
    >>> resolve("unet:best").name
    'v1'
    """
    folder = _folder(name)
    Segmenter.load(model)
    if to == "wandb":
        return tracking.register(Path(model), name, aliases)
    if to == "sagemaker":
        from lggseg.cloud.account import open_account
        from lggseg.cloud.model_registry import register_on_aws

        return register_on_aws(Path(model), name, open_account())
    version = _keep(Path(model), folder)
    write_json({**_aliases(folder), **dict.fromkeys([*aliases, LATEST], version)}, _table(folder))
    return version


def _keep(model: Path, folder: Path) -> str:
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with working_folder(folder, ".registering-") as beside:
            copy = beside / "model"
            copy.mkdir()
            for file in FILES:
                shutil.copy2(model / file, copy / file)
            while True:
                version = f"v{max(_versions(folder), default=0) + 1}"
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
    version = aliases.get(wanted or LATEST, wanted)
    if not version or not (folder / version).is_dir():
        known = [*(f"v{number}" for number in _versions(folder)), *aliases]
        expected = f"one of {known}" if known else "a registered model"
        action = "Run notebook 07, which registers one, or ask for one that is there."
        raise DataError(folder, f"no {wanted or LATEST!r}", expected, action)
    return folder / version


def _folder(name: str) -> Path:
    if not name or name != Path(name).name or name.startswith(".") or ":" in name:
        raise ValueError(f"name={name!r}: expected the plain name of a model")
    return runs_root() / "registry" / name


def _versions(folder: Path) -> list[int]:
    return sorted(int(path.name[1:]) for path in folder.glob("v[0-9]*"))


def _table(folder: Path) -> Path:
    return folder / "aliases.json"


def _aliases(folder: Path) -> dict[str, str]:
    table = _table(folder)
    return dict(json.loads(table.read_text())) if table.exists() else {}
