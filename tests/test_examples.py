"""The examples in the docstrings show what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
MODULES = [
    ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for path in sorted((SOURCE / "lggseg").rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples run: empty but for the models of the project."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "models").symlink_to(ROOT / "models")
    return folder


def test_there_are_examples_of_what_users_call() -> None:
    assert {
        "lggseg.data.cohort",
        "lggseg.inference.segmenter",
        "lggseg.evaluation.segmentation",
        "lggseg.evaluation.statistics",
    } <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(
    name: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("LGGSEG_RUNS", raising=False)
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, tried = doctest.testmod(importlib.import_module(name), optionflags=options)
    assert tried and not failed, capsys.readouterr().out
