"""Where the project, its runs and the cache are located."""

from __future__ import annotations

import os
from pathlib import Path

# What a folder holds that is a checkout of this project, or a copy of its notebooks.
_MARK = Path("notebooks") / "00_start_here.ipynb"


def project_root() -> Path:
    """The nearest folder upwards from here that holds this series of notebooks; else this folder.

    A folder ``notebooks`` of another project does not count.
    """
    here = Path.cwd()
    return next((p for p in (here, *here.parents) if (p / _MARK).is_file()), here)


def runs_root() -> Path:
    """Where runs go: ``$LGGSEG_RUNS``, else ``runs`` in the project."""
    return Path(os.environ.get("LGGSEG_RUNS") or project_root() / "runs")


def cache_root() -> Path:
    """Where caches go: ``$LGGSEG_CACHE``, else the user's cache folder."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("LGGSEG_CACHE") or user / "lggseg")
