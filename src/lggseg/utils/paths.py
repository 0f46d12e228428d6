"""Where the project, its runs and the cache lie."""

from __future__ import annotations

import os
from pathlib import Path


def project_root() -> Path:
    """The nearest folder upwards from here that holds ``notebooks``; else the current folder."""
    here = Path.cwd()
    return next((p for p in (here, *here.parents) if (p / "notebooks").is_dir()), here)


def runs_root() -> Path:
    """Where runs go: ``$LGGSEG_RUNS``, else ``runs`` in the project."""
    return Path(os.environ.get("LGGSEG_RUNS") or project_root() / "runs")


def cache_root() -> Path:
    """Where caches go: ``$LGGSEG_CACHE``, else the user's cache folder."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("LGGSEG_CACHE") or user / "lggseg")
