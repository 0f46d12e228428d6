"""Results on real patients that come with the project, to draw beside those of a demo."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pandas as pd

from lggseg.inference.model_folder import read_card
from lggseg.utils.files import read_json, read_table
from lggseg.utils.paths import project_root

_ACTION = "Open the notebook in the whole project (git clone), which holds it."
# All that figures of numbers ask of a cohort: whether it is simulated, and what its title adds.
REAL: Any = SimpleNamespace(simulated=False, mark=" (real patients)")


def real_results(name: str) -> dict[str, Any]:
    """A results file of the project, such as ``04_tune_hyperparameters-full``.

    Args:
        name: The stem of a JSON file in ``report/results``.

    Raises:
        DataError: The project's folder holds no such file.
    """
    return read_json(project_root() / "report" / "results" / f"{name}.json", _ACTION)


def real_table(name: str) -> pd.DataFrame:
    """A table of the project, such as ``cross_validation``: a row per patient or trial.

    Args:
        name: The stem of a CSV file in ``report/results``.

    Raises:
        DataError: The project's folder holds no such file.
    """
    return read_table(project_root() / "report" / "results" / f"{name}.csv", _ACTION)


def real_split() -> pd.DataFrame:
    """The split of the real patients, as :func:`lggseg.data.make_split` gives one: patient,
    institution, tumour_pixels and fold (-1 for the test patients)."""
    development, test = real_table("cross_validation"), real_table("test").assign(fold=-1)
    columns = ["patient", "institution", "truth_voxels", "fold"]
    rows = pd.concat([development[columns], test[columns]], ignore_index=True)
    return rows.rename(columns={"truth_voxels": "tumour_pixels"})


def failures() -> pd.Series:
    """Why the trained models do badly for some real patients, as we see it in their slices."""
    reasons = read_json(project_root() / "report" / "failures.json", _ACTION)
    return pd.Series(reasons, name="what we see").rename_axis("patient")


def real_candidates() -> pd.DataFrame:
    """The networks that were compared (notebook 05), as candidates for the models that ship.

    Returns:
        A row per network, index its name: mean, low and high of Dice over the ``n`` patients of the
        folds, median, ``epochs``, ``seconds`` of training per fold, ``inference_ms`` of a
        prediction per slice, ``p`` of the paired test against the first row, and whether it is a
        network that ``ships``.
    """
    models = project_root() / "models"
    shipped = [read_card(models / name)[0].network for name in ("lgg-unet", "lgg-best")]
    results = real_results("05_compare_models-full")
    # Of the networks trained in equal time the seconds were not measured alone.
    scores = {name: score for name, score in results["scores"].items() if "," not in name}
    rows = {name: score["dice"] for name, score in scores.items()}
    table = pd.DataFrame(rows).T.rename_axis("name")
    costs = pd.DataFrame(results["costs"]).T
    p = {row["second"]: row["p"] for row in results["pairs"] if row["first"] == table.index[0]}
    columns = {"epochs": "epochs", "seconds": "training_seconds", "inference_ms": "inference_ms"}
    measured = costs[list(columns.values())].set_axis(list(columns), axis=1)
    table = table.join(measured)
    return table.assign(p=pd.Series(p), ships=table.index.isin(shipped))
