"""The names that folders give: there, and imported only when they are used."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import lggseg

SOURCE = Path(lggseg.__file__).parent
FOLDERS = sorted(
    ".".join(("lggseg", *path.parent.relative_to(SOURCE).parts))
    for path in SOURCE.rglob("*/__init__.py")
    if path.parent != SOURCE
)
# What only training, tables or figures need.
HEAVY = {"torch", "pandas", "monai", "pytorch_lightning", "matplotlib", "optuna"}
AWS = {"boto3", "botocore", "sagemaker", "psutil"}
# What the notebooks import, and use where WHERE is "here".
LOCAL = [
    "cloud.train",
    "cloud.tune",
    "cloud.deploy",
    "cloud.clean_up",
    "cloud.cost",
    "cloud.platform",
    "cloud.registry",
    "notebooks",
    "plots",
    "experiments.search",
    "experiments.compare",
]


def imported_by(code: str, packages: set[str]) -> set[str]:
    """Which of these packages a new process has imported after this code."""
    code = f"import sys; {code}; print(*({packages!r} & set(sys.modules)))"
    return set(subprocess.check_output([sys.executable, "-c", code], text=True).split())


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_public_name_is_there(folder: str) -> None:
    package = import_module(folder)
    names = getattr(package, "__all__", [])
    modules = {path.stem for path in Path(package.__path__[0]).glob("*.py")}
    assert not modules & set(names), "a module and a function of one name hide each other"
    for name in names:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = package.no_such_name


def test_a_folder_imports_nothing_heavy() -> None:
    assert imported_by("import lggseg, lggseg.inference", HEAVY | AWS) == set()
    every = "; ".join(f"import {folder}" for folder in FOLDERS)
    assert imported_by(every, HEAVY | AWS) == set()


def test_the_segmenter_needs_neither_torch_nor_pandas() -> None:
    assert imported_by("from lggseg.inference import Segmenter", HEAVY | AWS) == set()


@pytest.mark.slow
def test_a_local_run_of_the_notebooks_needs_nothing_of_aws() -> None:
    """Blocked, so that an import which would fail elsewhere fails here."""
    block = f"sys.modules.update(dict.fromkeys({AWS!r}))"
    needed = "; ".join(f"import lggseg.{name}" for name in LOCAL)
    subprocess.run([sys.executable, "-c", f"import sys; {block}; {needed}"], check=True)
