"""What is in a cohort: what notebook 01 measures, and groups of its patients."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import ndimage

from lggseg.data.cohort import Cohort, missing_sequences
from lggseg.preprocessing.volume import CHANNELS, FLAIR


def contrast_in_mask(cohort: Cohort, margin: int = 8) -> pd.DataFrame:
    """Mean grey level in the mask minus that of the tissue around it, per patient and channel.

    The surroundings are the pixels within ``margin`` pixels of the mask in the same slice. Index
    patient, one column per name in ``CHANNELS``.
    """
    return pd.DataFrame(
        {patient: _contrast(cohort, patient, margin) for patient in cohort.patients.index},
        index=list(CHANNELS),
    ).T.rename_axis("patient")


def brightest_channel(contrast: pd.DataFrame) -> pd.Series:
    """The channel that is brightest in the mask, per patient with a tumour.

    Where FLAIR ties with another channel, it counts as FLAIR: the other one is a copy of it.

    Args:
        contrast: What :func:`contrast_in_mask` gives.

    >>> rows = {"pre-contrast": [5.0, -3.0], "FLAIR": [5.0, 20.0], "post-contrast": [1.0, 4.0]}
    >>> brightest_channel(pd.DataFrame(rows, index=["copied", "usual"])).tolist()
    ['FLAIR', 'FLAIR']
    """
    first = sorted(contrast, key=lambda name: name != CHANNELS[FLAIR])
    return contrast.dropna()[first].idxmax(axis=1)


def slice_likeness(cohort: Cohort, seed: int = 0) -> dict[str, list[float]]:
    """How alike FLAIR of two slices is, as correlations, one of either kind per patient.

    Returns:
        ``same patient, neighbours``: of the slice with most tumour and the next one. ``two
        patients``: of that slice and the one of another patient, drawn at random.
    """
    names = list(cohort.patients.index)
    others = np.roll(np.random.default_rng(seed).permutation(names), 1)
    partner = dict(zip(np.roll(others, 1), others, strict=True))
    flair = {}
    for name in names:
        place = min(int(cohort.mask(name).sum(axis=(1, 2)).argmax()), len(cohort.mask(name)) - 2)
        flair[name] = cohort.image(name)[place : place + 2, ..., FLAIR].reshape(2, -1)
    same = [float(np.corrcoef(*flair[name])[0, 1]) for name in names]
    pairs = [(flair[name][0], flair[partner[name]][0]) for name in names]
    other = [float(np.corrcoef(one, two)[0, 1]) for one, two in pairs]
    return {"same patient, neighbours": same, "two patients": other}


def by_group(cohort: Cohort, values: pd.Series) -> pd.DataFrame:
    """Number, mean, median and lowest of a value per patient in each of :func:`groupings`."""
    rows = {
        (name, str(group)): part.agg(["count", "mean", "median", "min"])
        for name, groups in groupings(cohort).items()
        for group, part in values.groupby(groups[values.index], observed=True)
    }
    return pd.DataFrame(rows).T.rename_axis(["by", "group"])


def _contrast(cohort: Cohort, patient: str, margin: int) -> np.ndarray:
    mask = cohort.mask(patient)
    slices = mask.any(axis=(1, 2))
    if not slices.any():
        return np.full(len(CHANNELS), np.nan)
    image, inside = cohort.image(patient)[slices], mask[slices]
    near = ndimage.maximum_filter(inside, (1, 2 * margin + 1, 2 * margin + 1))
    around = near & ~inside & (image[..., FLAIR] > 0)
    return image[inside].mean(axis=0) - image[around].mean(axis=0)


def tissue_level(cohort: Cohort) -> pd.Series:
    """Median grey level of FLAIR over the pixels that are brighter than the volume's mean."""
    levels = {}
    for patient in cohort.patients.index:
        flair = cohort.image(patient)[..., FLAIR]
        levels[patient] = float(np.median(flair[flair > flair.mean()]))
    return pd.Series(levels, name="FLAIR").rename_axis("patient")


def groupings(cohort: Cohort) -> dict[str, pd.Series]:
    """By name, the group of each patient (NaN where unknown): institution; tumour, thirds of the
    cohort by volume; missing sequences; grade, where data.csv tells it."""
    patients = cohort.patients
    missing = missing_sequences(cohort).any(axis=1).map({False: "none", True: "some"})
    ranks = patients["tumour_pixels"].rank(method="first")  # two alike would be no limit
    thirds = pd.qcut(ranks, 3, labels=["small", "medium", "large"])
    groups = {"institution": patients["institution"], "tumour": thirds}
    groups["missing sequences"] = missing
    if "neoplasm_histologic_grade" in patients:
        groups["grade"] = patients["neoplasm_histologic_grade"].map({1: "II", 2: "III"})
    return groups
