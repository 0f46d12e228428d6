"""The README's commands exist, and its first screen says what there is. That its numbers are those
of the results holds tests/test_report.py."""

from __future__ import annotations

import json
import math
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
    for link in re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", README):
        assert (ROOT / link).exists(), link


def test_every_notebook_is_in_the_readme() -> None:
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"notebooks/{notebook.name}" in README


def test_every_notebook_is_in_the_first_one() -> None:
    start = (ROOT / "notebooks" / "00_start_here.ipynb").read_text()
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        number, *words = notebook.stem.split("_")
        assert f"| {number} {' '.join(words)} |" in start


def test_the_first_screen_opens_the_door() -> None:
    """What it is, one picture, how to try it, how to use it: before the first other heading."""
    first = README.split("\n## ", 1)[0]
    assert first.count("![") == 1 and len(first.splitlines()) <= 50
    for wanted in ("make try", "make run", "make test", "lggseg predict", "not for clinical use"):
        assert wanted in first, wanted
    for link in ("docs/README.md", "MODEL_CARD.md", "docs/leaderboard.md"):
        assert f"({link}" in first, link


def test_times_of_the_first_screen_are_those_that_were_measured() -> None:
    """``make run`` installs for a minute first, as its entry says."""
    measured = json.loads((ROOT / "report" / "results" / "commands.json").read_text())["simulated"]
    said = dict(re.findall(r"^make (\w+) .*?(\d+) (?:seconds|minutes)", README, re.M))
    assert "after installing (1 minute)" in measured["run"]["gives"]
    assert abs(int(said["try"]) - 60 * measured["try"]["minutes"]) < 5
    assert int(said["run"]) == math.ceil(measured["run"]["minutes"]) + 1
    assert int(said["test"]) == math.ceil(measured["test"]["minutes"])
