"""What a test needs of the machine."""

from __future__ import annotations

import os

import pytest


def need(tool: str, present: bool) -> None:
    """Skip a test of a tool that is missing; fail it where LGGSEG_REQUIRE names the tool, as CI's
    does."""
    if present:
        return
    if tool in os.environ.get("LGGSEG_REQUIRE", "").split(","):
        pytest.fail(f"{tool} is missing, and LGGSEG_REQUIRE names it")
    pytest.skip(f"{tool} is missing")
