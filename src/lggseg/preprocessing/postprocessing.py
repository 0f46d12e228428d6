"""From a mask to one without small connected components."""

from __future__ import annotations

import numpy as np
from skimage.measure import label


def drop_small_components(mask: np.ndarray, share: float) -> np.ndarray:
    """Remove the connected components that are much smaller than the largest one.

    Args:
        mask: bool ``(slices, height, width)``. Voxels are connected by faces, edges or corners.
        share: Components of fewer voxels than this share of the largest are removed.

    Returns:
        bool, of the same shape.

    >>> mask = np.array([[[True, True, True, True, False, True]]])
    >>> drop_small_components(mask, 0.5).astype(int).tolist()
    [[[1, 1, 1, 1, 0, 0]]]
    """
    components = label(mask, connectivity=3)
    voxels = np.bincount(components.ravel())
    voxels[0] = 0
    return mask & (voxels >= share * voxels.max())[components]
