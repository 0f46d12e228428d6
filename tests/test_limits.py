"""The table of limits says what the code does, and each limit has a test."""

from __future__ import annotations

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


def test_each_value_is_the_constants() -> None:
    for limit, constants, values, *_ in rows():
        for name, value in zip(
            re.findall(r"`([\w.]+)`", constants), values.split(" / "), strict=True
        ):
            module, *path = name.split(".")
            found = reduce(getattr, path, import_module(f"lggseg.{module}"))
            assert found == float(value), (limit, name, found)


def test_each_test_is_there() -> None:
    for limit, *_, test in rows():
        file, name = test.strip("`").split("::")
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), (limit, test)
