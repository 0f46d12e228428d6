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
    """The background level and the tissue scale of each channel of a volume.

    Otsu's threshold (IEEE Trans. SMC 9:62, 1979) over the whole volume separates background from
    tissue. The background level is the mean grey level of the background; the tissue scale is the
    mean grey level of the tissue minus that. Unlike a z-score over non-zero voxels, this does not
    need a background of 0: in some volumes it is 100.

    Args:
        volume: uint8 ``(slices, height, width, channels)``.

    Returns:
        float32 ``(2, channels)``: background levels, then tissue scales. A constant channel gets
        the scale 1.
    """
    return np.stack([_background_and_scale(histogram) for histogram in _histograms(volume)], axis=1)


def _histograms(volume: np.ndarray) -> np.ndarray:
    histograms = np.zeros((volume.shape[-1], 256), dtype=np.int64)
    for image in volume:
        for channel, histogram in enumerate(histograms):
            histogram += np.bincount(image[..., channel].ravel(), minlength=256)
    return histograms


def _background_and_scale(histogram: np.ndarray) -> np.ndarray:
    levels = np.arange(256)
    if np.count_nonzero(histogram) < 2:
        return np.array([levels @ histogram / max(histogram.sum(), 1), 1], dtype=np.float32)
    background = levels <= threshold_otsu(hist=histogram)
    means = [
        np.average(levels[pixels], weights=histogram[pixels])
        for pixels in (background, ~background)
    ]
    return np.array([means[0], means[1] - means[0]], dtype=np.float32)


def stack_channels(volume: np.ndarray, neighbours: bool, slice_stride: int = 1) -> np.ndarray:
    """The network's input channels of every slice of a volume.

    Args:
        volume: uint8 ``(slices, height, width, 3)``.
        neighbours: Whether to add FLAIR of two neighbouring slices as channels.
        slice_stride: How many slices above and below these neighbours are.

    Returns:
        uint8 ``(slices, 3 or 5, height, width)``. At the ends of the volume, where a neighbour is
        missing, the slice's own FLAIR is used.
    """
    channels = np.moveaxis(volume, -1, 1)
    if not neighbours:
        return np.ascontiguousarray(channels)
    flair = channels[:, FLAIR : FLAIR + 1]
    above = np.r_[flair[:slice_stride], flair[:-slice_stride]]
    below = np.r_[flair[slice_stride:], flair[-slice_stride:]]
    return np.concatenate([channels, above, below], axis=1)
