"""The README's commands exist."""

from __future__ import annotations

import re
from pathlib import Path

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
