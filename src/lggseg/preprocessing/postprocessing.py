"""From a mask to one without small connected components."""

from __future__ import annotations

import numpy as np
from skimage.measure import label


def drop_small_parts(mask: np.ndarray, share: float) -> np.ndarray:
    """The mask without connected parts (by faces, edges or corners) of fewer voxels than this
    share of the largest part: bool ``(slices, height, width)``.

    >>> mask = np.array([[[True, True, True, True, False, True]]])
    >>> drop_small_parts(mask, 0.5).astype(int).tolist()
    [[[1, 1, 1, 1, 0, 0]]]
    """
    parts = label(mask, connectivity=3)
    voxels = np.bincount(parts.ravel())
    voxels[0] = 0
    return mask & (voxels >= share * voxels.max())[parts]
