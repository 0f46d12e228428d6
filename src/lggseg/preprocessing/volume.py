"""A volume in NumPy: its sequences, its statistics, the network's channels.

What a client and a server need without torch; training uses the same functions.
"""

from __future__ import annotations

import numpy as np
from skimage.filters import threshold_otsu

CHANNELS = ("pre-contrast", "FLAIR", "post-contrast")
FLAIR = 1
SIZE = 256
# The brightest grey level of a slice that shows nothing but noise.
BLANK = 15


def channel_statistics(volume: np.ndarray) -> np.ndarray:
    """The grey level of air and the contrast between tissue and air, of each channel.

    Otsu's threshold (IEEE Trans. SMC 9:62, 1979) over the whole volume parts air from tissue;
    the two values are the mean of the one, and the mean of the other minus that. Unlike a z-score
    over non-zero voxels this does not need air to be 0: in some volumes it is 100.

    volume: uint8 ``(slices, height, width, channels)``. Returns float32 ``(2, channels)``. A
    constant channel gets contrast 1.
    """
    return np.stack([_air_and_contrast(histogram) for histogram in _histograms(volume)], axis=1)


def _histograms(volume: np.ndarray) -> np.ndarray:
    histograms = np.zeros((volume.shape[-1], 256), dtype=np.int64)
    for image in volume:
        for channel, histogram in enumerate(histograms):
            histogram += np.bincount(image[..., channel].ravel(), minlength=256)
    return histograms


def _air_and_contrast(histogram: np.ndarray) -> np.ndarray:
    levels = np.arange(256)
    if np.count_nonzero(histogram) < 2:
        return np.array([levels @ histogram / max(histogram.sum(), 1), 1], dtype=np.float32)
    air = levels <= threshold_otsu(hist=histogram)
    means = [np.average(levels[part], weights=histogram[part]) for part in (air, ~air)]
    return np.array([means[0], means[1] - means[0]], dtype=np.float32)


def stack_channels(volume: np.ndarray, neighbours: bool, apart: int = 1) -> np.ndarray:
    """The network's input channels of every slice of a volume.

    volume: uint8 ``(slices, height, width, 3)``. Returns uint8 ``(slices, 3 or 5, height, width)``;
    the two extra channels are FLAIR ``apart`` slices above and below (its own at the ends).
    """
    channels = np.moveaxis(volume, -1, 1)
    if not neighbours:
        return np.ascontiguousarray(channels)
    flair = channels[:, FLAIR : FLAIR + 1]
    above = np.r_[flair[:apart], flair[:-apart]]
    below = np.r_[flair[apart:], flair[-apart:]]
    return np.concatenate([channels, above, below], axis=1)
