"""Small JSON files that the report is built from: numbers, and what they were measured on."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

from lggseg import __version__
from lggseg.data import Cohort
from lggseg.paths import runs_root, write_json


def runs_of(cohort: Cohort) -> Path:
    """The folder of all runs on a cohort: ``runs/simulated`` or ``runs/real``."""
    return runs_root() / cohort.label


def save_results(cohort: Cohort, name: str, values: dict[str, Any]) -> Path:
    """Write ``results/<name>.json`` into :func:`runs_of`; returns the file."""
    facts = {
        "cohort": cohort.label,
        "patients": len(cohort.patients),
        "data_fingerprint": cohort.fingerprint,
        "lggseg": __version__,
        "date": date.today().isoformat(),
    }
    path = runs_of(cohort) / "results" / f"{name}.json"
    write_json({**facts, **values}, path)
    return path
