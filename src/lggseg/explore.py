"""What notebook 01 measures on a cohort."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import ndimage

from lggseg.data import CHANNELS, FLAIR, Cohort


def contrast_in_mask(cohort: Cohort, margin: int = 8) -> pd.DataFrame:
    """Mean grey level in the mask minus that of the tissue around it, per patient and channel.

    The surroundings are the pixels within ``margin`` pixels of the mask in the same slice. Index
    patient, one column per name in ``CHANNELS``.
    """
    return pd.DataFrame(
        {patient: _contrast(cohort, patient, margin) for patient in cohort.patients.index},
        index=list(CHANNELS),
    ).T.rename_axis("patient")


def _contrast(cohort: Cohort, patient: str, margin: int) -> np.ndarray:
    mask = cohort.mask(patient)
    slices = mask.any(axis=(1, 2))
    if not slices.any():
        return np.full(len(CHANNELS), np.nan)
    image, inside = cohort.image(patient)[slices], mask[slices]
    disk = np.ones((1, 2 * margin + 1, 2 * margin + 1), dtype=bool)
    around = ndimage.binary_dilation(inside, disk) & ~inside & (image[..., FLAIR] > 0)
    return image[inside].mean(axis=0) - image[around].mean(axis=0)


def tissue_level(cohort: Cohort) -> pd.Series:
    """Median grey level of FLAIR over the pixels that are brighter than the volume's mean."""
    levels = {}
    for patient in cohort.patients.index:
        flair = cohort.image(patient)[..., FLAIR]
        levels[patient] = float(np.median(flair[flair > flair.mean()]))
    return pd.Series(levels, name="FLAIR").rename_axis("patient")
