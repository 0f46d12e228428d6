"""The table of limits says what the code does, and each limit has a test."""

from __future__ import annotations

import json
import re
from functools import reduce
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def rows() -> list[list[str]]:
    """The cells of each limit in docs/limits.md: limit, constant, value, consequence, test."""
    lines = (ROOT / "docs" / "limits.md").read_text().splitlines()
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if "::" in line
    ]
    assert len(cells) > 8
    return cells


def split(name: str) -> tuple[str, list[str]]:
    """The module of a constant, and the attributes that lead to it."""
    parts = ["lggseg", *name.split(".")]
    last = next(n for n in range(len(parts), 0, -1) if module_file(parts[:n]).is_file())
    return ".".join(parts[:last]), parts[last:]


def module_file(parts: list[str]) -> Path:
    return ROOT.joinpath("src", *parts).with_suffix(".py")


def test_each_value_is_the_constants() -> None:
    for limit, constants, values, *_ in rows():
        for name, value in zip(
            re.findall(r"`([\w.]+)`", constants), values.split(" / "), strict=True
        ):
            module, path = split(name)
            found = reduce(getattr, path, import_module(module))
            assert found == float(value), (limit, name, found)


def test_each_test_is_there() -> None:
    for limit, *_, test in rows():
        file, name = test.strip("`").split("::")
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), (limit, test)


def test_the_table_of_attacks_is_that_of_the_last_run() -> None:
    results = json.loads((ROOT / "report" / "results" / "attacks.json").read_text())
    told = (ROOT / "docs" / "limits.md").read_text().partition("## Attacks")[2]
    counts = [int(count) for count in re.findall(r"^\| .* \| (\d+) \|$", told, re.M)]
    assert counts == [section["attacks"] for section in results["sections"].values()]
    assert [name for name, count in results["totals"].items() if count] == ["attacks"]
