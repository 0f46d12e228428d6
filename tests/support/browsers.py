"""Chromium without a window, drawing in software; tests that need it skip where it is missing."""

from __future__ import annotations

import importlib.util
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from tools import need

from lggseg.serving.standalone.runtime import npm_package
from lggseg.utils.errors import DataError

CHROMIUM = shutil.which("chromium")
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
# A graphics card that the processor plays.
WEBGPU = [*ARGUMENTS, "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
AXE = "axe-core", "4.14.1", "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
# What Chromium says where it has no WebGPU.
NO_ADAPTER = "warning: No available adapters."
# Choices whose words do not fit into their frame.
CUT_OFF = """[...document.querySelectorAll(".choice")].filter(
  (one) => one.scrollWidth > one.clientWidth).map(({ id }) => id)"""
_FAULTS = """axe.run().then(({ violations }) => violations.map(
  ({ id, nodes }) => `${id}: ${nodes.map(({ target }) => target).join(" ")}`))"""
_FOCUS = """() => {
  const at = document.activeElement;
  const drawn = at.matches(".choice input") ? at.nextElementSibling
    : at.id === "files" ? at.closest("label") : at;
  return [at.id || at.name, getComputedStyle(drawn).outlineStyle];
}"""


@contextmanager
def launched() -> Iterator[Any]:
    """A browser of playwright's."""
    need("chromium", CHROMIUM is not None and importlib.util.find_spec("playwright") is not None)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield found
        found.close()


def accessibility_faults(page: Any) -> list[str]:
    """What axe-core finds on a page as it is shown: names of controls, contrast, language, order
    of headings and more of WCAG 2.2; skips the test where npm cannot fetch it."""
    page.evaluate(_axe())
    return list(page.evaluate(_FAULTS))


def focused_by_tab(page: Any, presses: int) -> dict[str, bool]:
    """The controls that the key Tab reaches, and whether each shows that it has the focus."""
    seen = {}
    for _ in range(presses):
        page.keyboard.press("Tab")
        name, style = page.evaluate(_FOCUS)
        seen[name] = style != "none"
    return seen


@lru_cache(None)
def _axe() -> str:
    name, version, checksum = AXE
    with tempfile.TemporaryDirectory() as folder:
        try:
            package = npm_package(name, version, Path(folder))
        except DataError:
            need("axe-core", False)
            raise
        with tarfile.open(package) as archive:
            member = archive.extractfile("package/axe.min.js")
            content = member.read() if member else b""
    assert sha256(content).hexdigest() == checksum
    return content.decode()
