"""A comparison scored by the protocol of others, and the reliability of its probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lggseg.data.cohort import Cohort
from lggseg.evaluation import calibration, segmentation
from lggseg.experiments.compare import out_of_fold
from lggseg.utils.progress import progress_bar

# The crop of 224 × 224 pixels in which robsmith155's course project scores.
CROP = np.s_[:, 16:240, 16:240]


def score_like_peers(
    names: Sequence[str], cohort: Cohort, split: pd.DataFrame, run: Path | str
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Predict each patient of a comparison by the model that had not seen it.

    Returns:
        A row per model: the mean Dice over the tumour slices of all patients, in a crop, false
        alarms on other slices not counted (the protocol of the course project that this one grew
        from), and the expected calibration error. And per model the sum of the tables of
        :func:`lggseg.evaluation.calibration.reliability`.
    """
    rows, tables = {}, {}
    for name in progress_bar(names, "predict", "model"):
        dice, bins = [], []
        for patient, found in out_of_fold(Path(run) / name, cohort, split):
            truth = cohort.mask(patient)
            dice.append(segmentation.slice_dices(truth[CROP], found.mask[CROP]))
            bins.append(calibration.reliability(found.probability, truth))
        tables[name] = np.sum(bins, axis=0)
        error = calibration.expected_calibration_error(tables[name])
        mean = float(np.concatenate(dice).mean())
        rows[name] = {"slice Dice in the crop": mean, "calibration error": error}
    return pd.DataFrame(rows).T, tables
