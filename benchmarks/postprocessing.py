"""What happens after the network, chosen on validation patients: flips, threshold, small parts.

    python benchmarks/postprocessing.py DATA RUN [--out report/results]

RUN is what ``lggseg crossvalidate`` wrote: each fold's model segments the patients that it has not
seen, so no test patient is involved. Writes postprocessing.json: the Dice of every threshold with
every smallest component, and of other steps with the recipe's; and ``nested``, what choosing by the
mean of four folds gives on the fifth, where the choice is not praised on its own patients; and the
bins of the probabilities' reliability.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from lggseg.config import Config
from lggseg.data.cohort import Cohort, load_cohort
from lggseg.data.splits import folds_of, patients_of, read_split
from lggseg.evaluation.calibration import reliability
from lggseg.evaluation.segmentation import dice
from lggseg.inference.engines import torch_engine
from lggseg.inference.segmenter import Segmenter
from lggseg.notebooks import recipe
from lggseg.preprocessing.postprocessing import drop_small_components
from lggseg.utils.files import write_json

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
SHARES = (0.0, 0.1, 0.2, 0.5, 1.0)
GRID = {
    f"threshold {threshold}, components of at least {share:.0%} of the largest": (threshold, share)
    for threshold in THRESHOLDS
    for share in SHARES
}


def choices(
    truth: np.ndarray, probability: np.ndarray, plain: np.ndarray, threshold: float, share: float
) -> Iterator[tuple[str, float]]:
    """The Dice of one patient under every choice."""
    for name, choice in GRID.items():
        yield name, dice(truth, drop_small_components(probability >= choice[0], choice[1]))
    yield (
        "without the mirrored slice",
        dice(truth, drop_small_components(plain >= threshold, share)),
    )
    smooth = (
        np.r_[probability[:1], probability[:-1]] + np.r_[probability[1:], probability[-1:]]
    ) / 4
    mask = drop_small_components(probability / 2 + smooth >= threshold, share)
    yield "averaged with the neighbouring slices", dice(truth, mask)


def score(cohort: Cohort, run: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """One row per patient: its fold, and a column per choice; and the bins of
    :func:`lggseg.evaluation.calibration.reliability` over all voxels of all patients."""
    split = read_split(run / "fold-0" / "split.csv", cohort)
    rows, bins = {}, []
    for fold in tqdm(folds_of(split), unit="fold"):
        folder = run / f"fold-{fold}" / "model"
        flipped = Segmenter.load(folder, "torch")
        config = replace(flipped.config, test_flips=False)
        plain = replace(flipped, config=config, run=torch_engine(folder, config))
        for patient in patients_of(split, "validation", fold):
            volume, truth = cohort.image(patient), cohort.mask(patient)
            both = [segmenter.predict(volume).probability for segmenter in (flipped, plain)]
            bins.append(reliability(both[0], truth))
            rows[patient] = {"fold": fold} | dict(
                choices(truth, *both, config.threshold, config.min_component_fraction)
            )
    return pd.DataFrame(rows).T, np.sum(bins, axis=0)


def nested(table: pd.DataFrame) -> dict[str, Any]:
    """The Dice of each fold by that choice of the grid which is best on the others."""
    chosen, scores = {}, []
    for fold in sorted(table["fold"].unique()):
        others = table[table["fold"] != fold]
        chosen[f"fold {fold:.0f}"] = best = str(others[list(GRID)].mean().idxmax())
        scores.append(table.loc[table["fold"] == fold, best])
    found = pd.concat(scores)
    return {"mean": round(found.mean(), 4), "median": round(found.median(), 4), "chosen": chosen}


def main() -> None:
    """Score every choice; write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("report/results"))
    options = parser.parse_args()
    cohort = load_cohort(options.data)
    by_patient, bins = score(cohort, options.run)
    table = by_patient.drop(columns="fold").agg(["mean", "median", "min"]).T.round(4)
    facts = {"cohort": cohort.label, "data_fingerprint": cohort.fingerprint}
    trained = Config.load(options.run / "fold-0" / "config.json")
    results = {
        **facts,
        "table": table.to_dict("index"),
        "nested": nested(by_patient),
        "reliability": bins.tolist(),
        "recipe": recipe(trained),
    }
    write_json(results, options.out / "postprocessing.json")
    print(table.to_string())


if __name__ == "__main__":
    main()
