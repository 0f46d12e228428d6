"""What the requirements pin can be installed where the README says so."""

from __future__ import annotations

from importlib.metadata import distributions

from packaging.specifiers import SpecifierSet

DEBIAN = "3.11.2"  # Python of Debian 12; that of the machine that tests may be a later 3.11


def test_debians_python_is_new_enough_for_every_package() -> None:
    wanted = {d.name: d.metadata["Requires-Python"] or "" for d in distributions()}
    assert len(wanted) > 50
    refused = [name for name, asked in wanted.items() if not SpecifierSet(asked).contains(DEBIAN)]
    assert not refused
