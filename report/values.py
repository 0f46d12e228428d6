"""What the report's templates can name: the files in results/, and what follows from them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

from lggseg.evaluation.quality import LENIENT, STRICT
from lggseg.evaluation.segmentation import TYPICAL_SPACING
from report.checks import recipe
from report.derived import CLOSE, FEWEST, LOW, ROUND_DICE, SIGNIFICANT, derive
from report.pages import AUTHOR
from report.two_models import compare_models

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results"
CARD = ROOT / "models" / "lgg-unet" / "model_card.json"
BEST = ROOT / "models" / "lgg-best" / "model_card.json"
PATIENTS = 5  # simulated ones, of whom the best, the middle one and the worst are shown
FAINT = 0.3  # of its contrast that a tumour keeps where a failure is provoked
STRONGEST = 0.4  # the effect size from which a cell of the associations has the full colour
COLLAPSED = 0.05  # a Dice below which a training has found nothing
# The metrics of the main table, in its order, as a reader knows them.
METRICS = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "precision",
    "recall": "recall",
    "hd95": "HD95 (voxels)",
    "assd": "ASSD (voxels)",
    "hd95_mm": "HD95 (mm, assumed spacing)",
    "assd_mm": "ASSD (mm, assumed spacing)",
    "lesion_f1": "lesion F1",
    "slice_dice": "Dice per tumour slice",
    "slices_found": "tumour slices found",
}


def load_results(folder: Path = RESULTS, card: Path = CARD) -> dict[str, Any]:
    """What templates can name.

    ``results``: each JSON file, ``tables``: each CSV file as a data frame, both by the file's name
    without a notebook's number and ``-full``; ``model``: the shipped model's card, ``best``: that
    of models/lgg-best; ``prices``: those of AWS that the package brings, if any; and what
    :func:`report.derived.derive` and :func:`report.two_models.compare_models` make of them.
    """
    names = {path: re.sub(r"^\d+_|-full$", "", path.stem) for path in sorted(folder.iterdir())}
    prices = ROOT / "src/lggseg/cloud/prices.json"
    tables = {n: pd.read_csv(p) for p, n in names.items() if p.suffix == ".csv"}
    results = {n: json.loads(p.read_text()) for p, n in names.items() if p.suffix == ".json"}
    model, best = json.loads(card.read_text()), json.loads(BEST.read_text())
    references = json.loads((HERE / "references.json").read_text())
    return {
        "results": results,
        "tables": tables,
        "failures": json.loads((HERE / "failures.json").read_text()),
        "metrics": METRICS,
        "candidate": candidate_of(results, model),
        "best_candidate": candidate_of(results, best),
        "quality": model["quality"],
        "round_dice": ROUND_DICE,
        "both_below": LOW,
        "fewest": FEWEST,
        "close": CLOSE,
        "spacing": TYPICAL_SPACING,
        "links": {key: each.get("url") for key, each in references.items()},
        "significant": SIGNIFICANT,
        "lenient": LENIENT,
        "strict": STRICT,
        "collapsed_below": COLLAPSED,
        "names": {"unet": "U-Net", "attention_unet": "Attention U-Net", "swin_unetr": "Swin UNETR"},
        "trained_on_test": trained_on_test(results, model),
        "real": False,  # whether pictures of real patients are at hand
        "author": AUTHOR,
        "built": f"{date.today():%d %B %Y}".lstrip("0"),
        "simulated_patients": PATIENTS,
        "faint_contrast": FAINT,
        "strongest": STRONGEST,
        "model": model,
        "best": best,
        "prices": json.loads(prices.read_text()) if prices.exists() else None,
        **derive(tables, results, model),
        **compare_models(tables, results, model, best),
    }


def trained_on_test(results: Mapping[str, Any], card: Mapping[str, Any]) -> bool:
    """Whether the shipped model's training included the test patients, after they were scored."""
    return bool(card["split_fingerprint"] != results["patient_split"]["split_fingerprint"])


def candidate_of(results: Mapping[str, Any], card: Mapping[str, Any]) -> Any:
    """The row of candidates.json, where it is there, that has a model's recipe and was scored on
    institutions that it was trained without."""
    rows = results.get("candidates", {}).get("rows", [])
    plain = [row for row in rows if "config" in row and not row.get("besides")]
    same = [row for row in plain if recipe(row["config"]) == recipe(card["config"])]
    return next((row for row in same if row.get("institutions")), None)
