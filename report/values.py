"""What the report's templates can name: the files in results/, and what follows from them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from lggseg.evaluation.quality import LENIENT, STRICT
from lggseg.evaluation.statistics import agreement, compare_all, compare_paired, holm, summarise
from report.checks import recipe

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results"
CARD = ROOT / "models" / "lgg-unet" / "model_card.json"
PATIENTS = 5  # simulated ones, of whom the best, the middle one and the worst are shown
SIGNIFICANT = 0.05  # level of the tests, after correction
COLLAPSED = 0.05  # a Dice below which a training has found nothing
ACCEPTABLE = 0.8  # a Dice that a reader would hardly correct
# Folds that no setting was chosen on (docs/experiments.md names 0, 1 and 4).
UNTOUCHED = (2, 3)
# The metrics of the main table, in its order, as a reader knows them.
METRICS = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "precision",
    "recall": "recall",
    "hd95": "HD95 (voxels)",
    "assd": "ASSD (voxels)",
    "hd95_mm": "HD95 (mm, typical spacing)",
    "assd_mm": "ASSD (mm, typical spacing)",
    "lesion_f1": "lesion F1",
    "slice_dice": "Dice per tumour slice",
    "slices_found": "tumour slices found",
}


def load_results(folder: Path = RESULTS, card: Path = CARD) -> dict[str, Any]:
    """What templates can name.

    ``results``: each JSON file, ``tables``: each CSV file as a data frame, both by the file's name
    without a notebook's number and ``-full``; ``model``: the committed model's card; ``prices``:
    those of AWS that the package brings, if any; and what :func:`derive` makes of them.
    """
    names = {path: re.sub(r"^\d+_|-full$", "", path.stem) for path in sorted(folder.iterdir())}
    prices = ROOT / "src/lggseg/cloud/prices.json"
    tables = {n: pd.read_csv(p) for p, n in names.items() if p.suffix == ".csv"}
    results = {n: json.loads(p.read_text()) for p, n in names.items() if p.suffix == ".json"}
    model = json.loads(card.read_text())
    return {
        "results": results,
        "tables": tables,
        "failures": json.loads((HERE / "failures.json").read_text()),
        "metrics": METRICS,
        "candidate": shipped_candidate(results, model),
        "quality": model["quality"],
        "acceptable": ACCEPTABLE,
        "significant": SIGNIFICANT,
        "lenient": LENIENT,
        "strict": STRICT,
        "collapsed_below": COLLAPSED,
        "names": {"unet": "U-Net", "attention_unet": "Attention U-Net", "swin_unetr": "Swin UNETR"},
        "trained_on_test": trained_on_test(results, model),
        "real": False,  # whether pictures of real patients are at hand
        "simulated_patients": PATIENTS,
        "model": model,
        "prices": json.loads(prices.read_text()) if prices.exists() else None,
        **derive(tables),
    }


def trained_on_test(results: Mapping[str, Any], card: Mapping[str, Any]) -> bool:
    """Whether the shipped model's training included the test patients, after they were scored."""
    return bool(card["split_fingerprint"] != results["patient_split"]["split_fingerprint"])


def shipped_candidate(results: Mapping[str, Any], card: Mapping[str, Any]) -> Any:
    """The row of candidates.json, where it is there, that has the shipped recipe and was scored on
    institutions that it was trained without."""
    rows = results.get("candidates", {}).get("rows", [])
    same = [row for row in rows if recipe(row["config"]) == recipe(card["config"])]
    return next((row for row in same if row.get("institutions")), None)


def derive(tables: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """What the text says and no file holds.

    ``test_pairs``: the networks compared on the test patients; ``longer``: the Attention U-Net less
    the U-Net, both after all epochs; ``main_pairs``: the comparisons that answer a question, with
    Holm's correction over these alone; ``sets``: :func:`describe` of both sets of patients;
    ``gap``: between them; ``small``: tumour volume against Dice; ``untouched``: the folds on which
    nothing was chosen.
    """
    cross, test = tables["cross_validation"], tables["test"]
    other = tables["comparison_test"].pivot(index="patient", columns="model", values="dice")
    rank = stats.spearmanr(cross["truth_voxels"], cross["dice"])
    return {
        "test_pairs": compare_all(other).to_dict("records"),
        "longer": compare_paired(*_after_all_epochs(tables)),
        "main_pairs": main_pairs(tables["comparison"]),
        "sets": {"cross_validation": describe(cross), "test": describe(test)},
        "gap": float(stats.mannwhitneyu(cross["dice"], test["dice"]).pvalue),
        "small": {"rho": float(rank.statistic), "p": float(rank.pvalue)},
        "untouched": {fold: _fold(cross, fold) for fold in UNTOUCHED},
    }


def _fold(table: pd.DataFrame, fold: int) -> dict[str, float]:
    return summarise(table.loc[table["fold"] == fold, ["dice"]])["dice"]


def describe(table: pd.DataFrame) -> dict[str, Any]:
    """Of a table of patients: how many exceed an acceptable Dice, and how far the predicted
    volumes are from the true ones."""
    ratio = table["predicted_voxels"] / table["truth_voxels"]
    volume = agreement(table["truth_voxels"], table["predicted_voxels"])
    return {
        "n": len(table),
        "acceptable": int((table["dice"] > ACCEPTABLE).sum()),
        "share_acceptable": float((table["dice"] > ACCEPTABLE).mean()),
        "over": int((ratio > 1).sum()),
        "ratio": float(ratio.median()),
        "ratio_quartiles": [float(q) for q in ratio.quantile([0.25, 0.75])],
        "volume": volume,
        "missed": int(table["missed"].sum()),
        "lowest": float(table["dice"].min()),
        "far": int((table["hd95"] > 5 * table["hd95"].median()).sum()),
    }


def main_pairs(comparison: pd.DataFrame) -> list[dict[str, Any]]:
    """The three networks against each other after the same epochs, and the U-Net against the other
    two in the same time: five questions, corrected for five tests."""
    dice = comparison.pivot(index="patient", columns="model", values="dice")
    alike = compare_all(dice[[name for name in comparison["model"].unique() if "," not in name]])
    rest = [name for name in comparison["model"].unique() if name.endswith(", equal time")]
    rows = alike.drop(columns="p_holm").to_dict("records")
    for name in rest:
        rows.append(
            {"first": "unet", "second": name, **compare_paired(dice["unet"], dice[name])},
        )
    corrected = holm([row["p"] for row in rows])
    return [{**row, "p_holm": float(p)} for row, p in zip(rows, corrected, strict=True)]


def _after_all_epochs(tables: Mapping[str, pd.DataFrame]) -> list[pd.Series]:
    """Dice of the Attention U-Net and of the U-Net, over the patients of the former."""
    names = ("attention_40_epochs", "cross_validation")
    attention, unet = (tables[name].set_index("patient")["dice"] for name in names)
    return [attention, unet[attention.index]]
