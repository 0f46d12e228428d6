"""What no network is needed for: two baselines on the cross-validated patients.

    python -m report.baselines DATA

writes results/baselines.json, a row per patient. *Threshold on FLAIR*: brightness over the
background in units of the tissue scale, smoothed, above a threshold, away from the outline of the
head; its largest connected component alone. *Position map*: the share of the training patients
whose tumour holds this place of the head, above a threshold. Each fold's threshold is the best for
its training patients; the test patients are neither read nor scored.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from lggseg.data.cohort import Cohort, load_cohort
from lggseg.data.splits import folds_of, make_split, patients_of, split_fingerprint
from lggseg.evaluation.segmentation import dice, slice_dice
from lggseg.evaluation.statistics import summarise
from lggseg.preprocessing.postprocessing import drop_small_components
from lggseg.preprocessing.volume import FLAIR, channel_statistics
from lggseg.utils.files import write_json
from lggseg.utils.progress import progress_bar

RESULTS = Path(__file__).resolve().parent / "results"
BRIGHTNESS = np.arange(1.2, 3.01, 0.1)
SHARES = np.arange(0.02, 0.31, 0.02)
SKULL = 20  # pixels from the outline of the head: skin, fat and bone are bright, too
LEVELS = 12  # of the head, from its lowest slice to its highest
# The mask of a patient at a threshold.
Masks = Callable[[str, float], np.ndarray]


def flair_masks(cohort: Cohort) -> Masks:
    """The largest component of what is brighter on FLAIR than a threshold, in the brain."""

    @cache
    def brightness(patient: str) -> np.ndarray:
        volume = cohort.image(patient)
        air, scale = channel_statistics(volume)[:, FLAIR]
        smooth = ndimage.gaussian_filter(volume[..., FLAIR].astype(np.float32), (0, 2, 2))
        relative = (smooth - air) / scale
        depth = [
            ndimage.distance_transform_edt(ndimage.binary_fill_holes(s > 0.4)) for s in relative
        ]
        return np.where(np.array(depth) > SKULL, relative, 0).astype(np.float16)

    return lambda patient, threshold: drop_small_components(brightness(patient) > threshold, 1.0)


def levels(slices: int) -> np.ndarray:
    """The level of each slice of a volume."""
    return np.arange(slices) * LEVELS // slices


def position_masks(cohort: Cohort, patients: Sequence[str]) -> Masks:
    """Where more than a share of these patients have tumour."""
    held = np.zeros((LEVELS, *cohort.masks.shape[1:]), dtype=np.float32)
    for patient in patients:
        truth = cohort.mask(patient)
        for level in range(LEVELS):
            held[level] += truth[levels(len(truth)) == level].any(axis=0)
    share = ndimage.gaussian_filter(held / len(patients), (0.7, 6, 6))
    return lambda patient, threshold: share[levels(len(cohort.image(patient)))] > threshold


def table(cohort: Cohort, masks: Masks, thresholds: np.ndarray, patients: list[str]) -> np.ndarray:
    """Dice of each patient (row) at each threshold (column)."""
    rows = [[dice(cohort.mask(p), masks(p, t)) for t in thresholds] for p in patients]
    return np.array(rows)


def scores(cohort: Cohort, split: pd.DataFrame) -> pd.DataFrame:
    """Dice of both baselines per validation patient, and the threshold that its fold chose."""
    everyone = split["patient"][split["subset"] != "test"].tolist()
    flair = flair_masks(cohort)
    of_flair = dict(zip(everyone, table(cohort, flair, BRIGHTNESS, everyone), strict=True))
    rows = []
    for fold in progress_bar(folds_of(split), "baselines", "fold"):
        training, validation = (patients_of(split, r, fold) for r in ("train", "validation"))
        place = position_masks(cohort, training)
        best = {
            "flair": BRIGHTNESS[np.mean([of_flair[p] for p in training], axis=0).argmax()],
            "position": SHARES[table(cohort, place, SHARES, training).mean(axis=0).argmax()],
        }
        for patient in validation:
            row: dict[str, object] = {"patient": patient, "fold": fold}
            for name, masks in (("flair", flair), ("position", place)):
                mask, truth = masks(patient, best[name]), cohort.mask(patient)
                row |= {name: dice(truth, mask), f"{name}_slice_dice": slice_dice(truth, mask)}
                row[f"{name}_threshold"] = float(best[name])
            rows.append(row)
    return pd.DataFrame(rows)


def main() -> None:
    """Write the results file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    cohort = load_cohort(parser.parse_args().data)
    split = make_split(cohort, seed=0)
    found = scores(cohort, split)
    names = ["flair", "position", "flair_slice_dice", "position_slice_dice"]
    values = {
        "cohort": cohort.label,
        "data_fingerprint": cohort.fingerprint,
        "split_fingerprint": split_fingerprint(split),
        "summary": summarise(found[names]),
        "patients": found.round(4).to_dict("records"),
    }
    write_json(values, RESULTS / "baselines.json")


if __name__ == "__main__":
    main()
