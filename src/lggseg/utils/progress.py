"""Progress bars as text, which a saved notebook shows again."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress_bar(
    items: Iterable[Item], does: str, unit: str, *, total: int | None = None, show: bool = True
) -> tqdm[Item]:
    """The items, with a bar that says what is done with them, such as ``"evaluate"``, and counts
    them by their unit. ``total``: how many, where ``len(items)`` does not tell.

    In a notebook it goes to standard output, since standard error looks like an error there.
    """
    file = sys.stdout if "ipykernel" in sys.modules else sys.stderr
    return tqdm(items, does, total, file=file, unit=unit, disable=not show)
