"""Whether probabilities are right: reliability, calibration error, entropy."""

from __future__ import annotations

import numpy as np
from scipy import special


def reliability(probability: np.ndarray, truth: np.ndarray, bins: int = 15) -> np.ndarray:
    """Voxels, the sum of their probabilities, and tumour voxels in each of equal-width bins of the
    probability: float64 ``(bins, 3)``. Tables of several patients add up."""
    bin_of = np.minimum((probability.ravel() * bins).astype(np.intp), bins - 1)
    weights = (None, probability.ravel(), truth.ravel())
    return np.stack([np.bincount(bin_of, w, bins).astype(float) for w in weights], axis=1)


def expected_calibration_error(table: np.ndarray) -> float:
    """Mean gap between predicted probability and observed frequency, over the bins of
    :func:`reliability` weighted by their voxels (Guo et al. 2017, equation 3, for the tumour
    class)."""
    voxels, probabilities, tumours = table.T
    return float(np.abs(probabilities - tumours).sum() / voxels.sum())


def entropy(probability: np.ndarray) -> np.ndarray:
    """Entropy of each voxel's label in bits, from 0 (sure) to 1 (either): float32, same shape."""
    nats = special.entr(probability) + special.entr(1 - probability)
    return np.asarray(nats / np.log(2), dtype=np.float32)
