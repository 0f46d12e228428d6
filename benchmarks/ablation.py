"""What each part of the recipe is worth: train without it, or with something else in its place.

    python benchmarks/ablation.py DATA [--folds 0 1] [--epochs 12] [--out report/results]

Every variant changes one thing of the default and trains on the same folds, with the same seed and
as many epochs; the last epoch's Dice of each validation patient is compared with the default's,
pair by pair. Short runs are enough to tell what pays, and are what a short run would get. Results
are written to ablation.json after each variant; one that is there already is not trained again.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from lggseg.config import Config
from lggseg.data.cohort import Cohort, load_cohort
from lggseg.data.splits import make_split, slice_subsets
from lggseg.evaluation.statistics import bootstrap_interval
from lggseg.training.train import validation_dice
from lggseg.utils.files import write_json

DEFAULT = "the default"
VARIANTS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "AdamW alone": {"optimizer": "adamw"},
    "32 bits": {"precision": "32-true"},
    "at 64 pixels": {"downsample": 4},
    "no neighbouring slices": {"neighbours": False},
    "no augmentation": {"augmentation": 0.0},
    "augmentation of strength 1": {"augmentation": 1.0},
    "no pasted tumours": {"paste": False},
    "no sequence dropout": {"sequence_dropout": 0.0},
    "tumour slices only": {"healthy_ratio": 0.0},
    "hardly averaged weights": {"ema_decay": 0.5},
    "Dice + focal loss": {"loss": "dice_focal"},
    "hardly any weight decay": {"weight_decay": 0.01},
    "batches of 32": {"batch_size": 32},
    "16 filters": {"width": 16},
}


def measure(cohort: Cohort, config: Config, folds: list[int]) -> dict[str, Any]:
    """Dice of each validation patient of the folds, and the seconds a fold took."""
    split, start, dice = make_split(cohort), time.perf_counter(), []
    for fold in folds:
        subsets = slice_subsets(cohort, split, fold)
        dice.append(validation_dice(replace(config, fold=fold), cohort, subsets, progress=False))
    seconds = (time.perf_counter() - start) / len(folds)
    return {"seconds": round(seconds, 1), "dice": pd.concat(dice).round(4).to_dict()}


def compare(runs: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """One row per variant: mean, median, the paired difference to the default, its interval."""
    table = pd.DataFrame({name: run["dice"] for name, run in runs.items()})
    rows = {}
    for name in table:
        difference = table[name] - table[DEFAULT]
        low, high = bootstrap_interval(difference)
        rows[name] = {
            "mean": table[name].mean(),
            "median": table[name].median(),
            "difference": difference.mean(),
            "low": low,
            "high": high,
            "seconds": runs[str(name)]["seconds"],
        }
    return pd.DataFrame(rows).T.round(4)


def main() -> None:
    """Train what is missing; write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--only", nargs="*", default=list(VARIANTS))
    parser.add_argument("--out", type=Path, default=Path("report/results"))
    options = parser.parse_args()
    cohort, path = load_cohort(options.data), options.out / "ablation.json"
    facts = {
        "cohort": cohort.label,
        "data_fingerprint": cohort.fingerprint,
        "default": asdict(Config()),
        "folds": options.folds,
        "epochs": options.epochs,
    }
    results = json.loads(path.read_text()) if path.exists() else {**facts, "runs": {}}
    if any(results[name] != value for name, value in facts.items()):
        raise SystemExit(
            f"{path}: measured with other data, defaults, folds or epochs; move it away"
        )
    runs = results["runs"]
    for name in dict.fromkeys([DEFAULT, *options.only]):
        if name in runs:
            continue
        config = replace(Config(), epochs=options.epochs, **VARIANTS[name])
        runs[name] = measure(cohort, config, options.folds)
        table = compare(runs)
        write_json({**facts, "table": table.to_dict("index"), "runs": runs}, path)
        print(table.loc[[name]].to_string(), flush=True)


if __name__ == "__main__":
    main()
