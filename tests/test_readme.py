"""The README's commands exist, and its numbers are those of the results that it names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lggseg.cli import build_parser

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.S)
    for line in block.splitlines()
    if line.strip()
]


def test_the_two_commands_are_there() -> None:
    assert {"make run", "make test"} <= set(COMMANDS)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_targets_exist(command: str) -> None:
    target, *options = command.split()[1:]
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{target}:.*## ", makefile, re.M)
    for option in options:
        assert re.search(rf"^{option.split('=')[0]} \?=", makefile, re.M), option


@pytest.mark.parametrize("command", [c for c in COMMANDS if "lggseg " in c])
def test_command_lines_parse(command: str) -> None:
    build_parser().parse_args(command.split("lggseg ", 1)[1].split())


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / link).exists(), link


def test_every_notebook_is_in_the_readme() -> None:
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"notebooks/{notebook.name}" in README


def test_every_notebook_is_in_the_first_one() -> None:
    start = (ROOT / "notebooks" / "00_start_here.ipynb").read_text()
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        number, *words = notebook.stem.split("_")
        assert f"| {number} {' '.join(words)} |" in start


def rows_with_results() -> Iterator[tuple[str, Path]]:
    """Each row of a table that names a results file, ``the same`` standing for the one before."""
    source = None
    for line in README.splitlines():
        link = re.search(r"\((report/results/[\w.-]+)\) \|$", line)
        source = ROOT / link[1] if link else source if line.endswith("| the same |") else None
        if source and source.suffix == ".json":
            yield line, source


def numbers(value: Any) -> Iterator[float]:
    """All numbers of a results file, and those that are keys; tables of patients are left out."""
    if isinstance(value, (int, float)):
        yield abs(value)
    for key, below in value.items() if isinstance(value, dict) else ():
        if re.fullmatch(r"[\d.]+", key):
            yield float(key)
        if not str(key).startswith("TCGA_") and key != "reliability":
            yield from numbers(below)
    for below in value if isinstance(value, list) else ():
        yield from numbers(below)


@pytest.mark.parametrize(("row", "source"), rows_with_results())
def test_numbers_are_those_of_the_results(row: str, source: Path) -> None:
    known = list(numbers(json.loads(source.read_text())))
    for text in re.findall(r"(?<![\d.])\d+\.\d+", row.rsplit("|", 2)[0]):
        digits = len(text.split(".")[1])
        assert any(f"{value:.{digits}f}" == text for value in known), f"{text} is not in {source}"
