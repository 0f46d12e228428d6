"""What should make a reader look twice at a mask."""

from __future__ import annotations

import numpy as np

from lggseg.inference.segmenter import Prediction
from lggseg.preprocessing.volume import BLANK

FLAGS = {
    "no_tumour": "No tumour was found.",
    "low_expected_dice": "The expected Dice is low: look at this mask with care.",
    "tumour_in_outermost_slice": (
        "The mask reaches the first or last slice: some tumour may lie outside."
    ),
    "blank_slice": "A slice is blank.",
    "pre_contrast_is_flair": "Pre-contrast is a copy of FLAIR: the sequence is missing.",
    "post_contrast_is_flair": "Post-contrast is a copy of FLAIR: the sequence is missing.",
    "normalised_by_one_slice": (
        "A single slice was normalised by itself; a whole volume works better."
    ),
}


def quality_flags(volume: np.ndarray, prediction: Prediction, *, alone: bool = True) -> list[str]:
    """The names in ``FLAGS`` that hold.

    Args:
        volume: uint8 ``(slices, 256, 256, 3)``.
        prediction: of that volume.
        alone: whether the statistics come of these slices and of no others.
    """
    mask = prediction.mask
    pre, flair, post = np.moveaxis(volume, -1, 0)
    flags = {
        "no_tumour": not mask.any(),
        "low_expected_dice": prediction.needs_review,
        "tumour_in_outermost_slice": bool(mask[[0, -1]].any()),
        "blank_slice": bool((volume.max(axis=(1, 2, 3)) <= BLANK).any()),
        "pre_contrast_is_flair": np.array_equal(pre, flair),
        "post_contrast_is_flair": np.array_equal(post, flair),
        "normalised_by_one_slice": len(volume) == 1 and alone,
    }
    return [name for name, raised in flags.items() if raised]
