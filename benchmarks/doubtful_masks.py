"""Reference masks that look doubtful: models that never saw the patient agree, the mask differs.

    python benchmarks/doubtful_masks.py DATA runs/candidates --out report/results

The folder is that of benchmarks/candidates.py: at least two trainings without a patient (other
networks, seeds, or patients that trained) give its masks. Writes doubtful_masks.json: each slice
and patient with its reason, and the models' Dice with all of them and without. The rules were fixed
before any result was seen; they say where to look, not who is wrong, and nothing in the data is
changed.

Of a slice, where the models agree (mean Dice of two models at least 0.8):

unmarked    all models mark at least 50 pixels, the reference fewer than a tenth of what they share
elsewhere   models and reference mark at least 50 pixels each, with a mean Dice below 0.5
jumps       the reference has a Dice below 0.4 with a neighbouring slice, both with at least 100
            pixels, and the models' masks there have 0.7 or more
unfound     the reference marks at least 50 pixels, the models' largest mask not one of them

Of a patient: ``shifted``, where moving the whole reference by 3 pixels or more raises its Dice with
the majority of the models by at least 0.03; ``disagrees``, where the models' Dice among each other
is higher than theirs with the reference by 0.15 or more.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from candidates import predictions, stored

from lggseg.config import Config
from lggseg.data.cohort import Cohort, load_cohort
from lggseg.evaluation.segmentation import dice
from lggseg.utils.files import write_json

SMALL, LARGE = 50, 100
AGREE = 0.8
MODELS = 2


def masks_of(cohort: Cohort, folder: Path) -> dict[str, list[np.ndarray]]:
    """By patient: the mask of each training without it, bool ``(slices, 256, 256)``."""
    found: dict[str, list[np.ndarray]] = {}
    for path in sorted(folder.glob("*/without *.npz")):
        for patient, _, made in predictions(cohort, Config(), *stored(path)):
            found.setdefault(patient, []).append(made.mask)
    return found


def pairwise(masks: list[np.ndarray]) -> float:
    """The mean Dice of two of the masks."""
    return float(np.mean([dice(one, other) for one, other in itertools.combinations(masks, 2)]))


def mean_dice(truth: np.ndarray, masks: list[np.ndarray]) -> float:
    """The models' mean Dice with a reference."""
    return float(np.mean([dice(truth, mask) for mask in masks]))


def doubtful_slices(truth: np.ndarray, masks: list[np.ndarray]) -> Iterator[tuple[int, str]]:
    """The index and the reason of each doubtful slice; the rules are at the top of this file."""
    size = truth.sum((1, 2))
    for index, reference in enumerate(truth):
        own = [mask[index] for mask in masks]
        least, shared = min(mask.sum() for mask in own), np.logical_and.reduce(own)
        if size[index] >= SMALL and not (np.logical_or.reduce(own) & reference).any():
            yield index, "unfound"
        elif least >= SMALL and pairwise(own) >= AGREE:
            if (shared & reference).sum() < shared.sum() / 10:
                yield index, "unmarked"
            elif size[index] >= SMALL and mean_dice(reference, own) < 0.5:
                yield index, "elsewhere"
            elif _jumps(truth, masks, index):
                yield index, "jumps"


def _jumps(truth: np.ndarray, masks: list[np.ndarray], index: int) -> bool:
    for other in (index - 1, index + 1):
        if 0 <= other < len(truth) and min(truth[index].sum(), truth[other].sum()) >= LARGE:
            smooth = np.mean([dice(mask[index], mask[other]) for mask in masks])
            if dice(truth[index], truth[other]) < 0.4 and smooth >= 0.7:
                return True
    return False


def shift(truth: np.ndarray, majority: np.ndarray, reach: int = 8) -> tuple[int, int, float]:
    """The rows and columns by which moving the reference fits the models best, and the Dice then
    less the Dice now."""
    moved = {
        (down, right): dice(np.roll(truth, (down, right), (1, 2)), majority)
        for down in range(-reach, reach + 1)
        for right in range(-reach, reach + 1)
    }
    best = max(moved, key=lambda by: moved[by])
    return (*best, moved[best] - moved[0, 0])


def examine(truth: np.ndarray, masks: list[np.ndarray]) -> dict[str, Any]:
    """What is doubtful about one patient's reference, and the models' Dice with all slices and
    without the doubtful ones."""
    slices = dict(doubtful_slices(truth, masks))
    majority = np.mean(masks, axis=0) > 0.5
    down, right, gain = shift(truth, majority)
    among, against = pairwise(masks), mean_dice(truth, masks)
    reasons = []
    if max(abs(down), abs(right)) >= 3 and gain >= 0.03:
        reasons.append(f"shifted by {down} rows and {right} columns")
    if among - against >= 0.15:
        reasons.append("disagrees")
    kept = np.setdiff1d(np.arange(len(truth)), list(slices))
    left = mean_dice(truth[kept], [mask[kept] for mask in masks])
    facts = {"dice": against, "among_models": among, "dice_without_slices": left}
    rounded = {name: round(value, 3) for name, value in facts.items()}
    return {**rounded, "models": len(masks), "reasons": reasons, "slices": slices}


def summary(patients: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How many are doubtful, and the scores with all patients and slices and without them."""
    sound = {name: facts for name, facts in patients.items() if not facts["reasons"]}

    def told(values: list[float]) -> dict[str, float]:
        return {
            "n": len(values),
            "mean": round(float(np.mean(values)), 4),
            "median": round(float(np.median(values)), 4),
        }

    return {
        "with_all": told([facts["dice"] for facts in patients.values()]),
        "without_doubtful_slices": told([f["dice_without_slices"] for f in patients.values()]),
        "without_doubtful_patients": told([facts["dice"] for facts in sound.values()]),
        "slices": sum(len(facts["slices"]) for facts in patients.values()),
    }


def main() -> None:
    """Examine all patients of whom there are enough masks; write and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("candidates", type=Path)
    parser.add_argument("--out", type=Path, default=Path("report/results"))
    options = parser.parse_args()
    cohort = load_cohort(options.data)
    found = {
        patient: examine(cohort.mask(patient), masks)
        for patient, masks in masks_of(cohort, options.candidates).items()
        if len(masks) >= MODELS
    }
    if not found:
        parser.error(f"{options.candidates}: found no patient with {MODELS} trainings without it")
    doubtful = {name: f for name, f in found.items() if f["reasons"] or f["slices"]}
    results = {
        "data_fingerprint": cohort.fingerprint,
        "trainings": sorted({str(p.parent.name) for p in options.candidates.glob("*/*.npz")}),
        **summary(found),
        "patients": dict(sorted(doubtful.items(), key=lambda item: item[1]["dice"])),
    }
    write_json(results, options.out / "doubtful_masks.json")
    print({name: results[name] for name in summary(found)})


if __name__ == "__main__":
    main()
