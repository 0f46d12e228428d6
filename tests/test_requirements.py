"""What the requirements pin can be installed where the README says so, and is what was locked."""

from __future__ import annotations

import re
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
DEBIAN = "3.11.2"  # Python of Debian 12; that of the machine that tests may be a later 3.11


def test_debians_python_is_new_enough_for_every_package() -> None:
    wanted = {d.name: d.metadata["Requires-Python"] or "" for d in distributions()}
    assert len(wanted) > 50
    refused = [name for name, asked in wanted.items() if not SpecifierSet(asked).contains(DEBIAN)]
    assert not refused


def pins(name: str) -> dict[str, str]:
    """The versions that a requirements file pins, by normalised names."""
    lines = re.findall(r"^([\w.-]+)==([\w.+!]+)", (ROOT / name).read_text(), re.M)
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in lines}


def test_the_hashed_file_pins_what_requirements_pins() -> None:
    assert pins("requirements-hashed.txt") == pins("requirements.txt")


@pytest.mark.parametrize("name", ["requirements-hashed.txt", "requirements-cuda.txt"])
def test_every_locked_package_has_checksums(name: str) -> None:
    text = re.sub(r"\\\n\s*", " ", (ROOT / name).read_text())
    lines = text.splitlines()
    assert len(lines) == len(pins(name)) > 15
    assert all(re.search(r" --hash=sha256:[0-9a-f]{64}( |$)", line) for line in lines)


def test_the_cuda_libraries_are_for_linux_and_not_in_the_base_set() -> None:
    assert not set(pins("requirements-cuda.txt")) & set(pins("requirements.txt"))
    text = re.sub(r"\\\n\s*", " ", (ROOT / "requirements-cuda.txt").read_text())
    assert all("sys_platform == 'linux'" in line for line in text.splitlines())


def test_all_that_the_base_set_needs_is_locked() -> None:
    """``--no-deps`` installs nothing that the lock leaves out."""
    from packaging.requirements import Requirement

    locked = pins("requirements.txt")
    for found in distributions():
        if re.sub(r"[-_.]+", "-", found.name).lower() not in locked:
            continue
        for line in found.requires or []:
            need = Requirement(line)
            name = re.sub(r"[-_.]+", "-", need.name).lower()
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                assert name in locked or name in pins("requirements-cuda.txt"), (found.name, line)
