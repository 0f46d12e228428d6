"""Resample a scan of any voxel size to the model's pixels, and a mask back to the scan's voxels.

The training slices are 256 × 256 pixels of a field of view of about 240 mm. A scan is resampled
within its axial slices, not between them: thin slices stay, and the network's neighbours of a slice
are those at about the distance of training (:func:`slice_stride`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .volume import SIZE

PIXEL = 240 / SIZE  # millimetres
SLICE = 4.5  # millimetres: a head of about 150 mm in a median of 34 slices
# The 99.9th percentile of a sequence, 159 to 175 in the median training volume.
BRIGHT = 165


def slice_stride(spacing: float) -> int:
    """How many slices, ``spacing`` mm each, make the slice distance of the training data."""
    return max(1, round(SLICE / spacing))


def finite(values: np.ndarray) -> np.ndarray:
    """The values with their darkest for NaN and infinity; 0 where there is no other."""
    known = np.isfinite(values)
    if known.all():
        return values
    return np.where(known, values, values[known].min() if known.any() else 0)


def _centre(inside: np.ndarray) -> list[float]:
    """``scipy.ndimage.center_of_mass`` of a mask, without its copies of eight bytes a voxel."""
    counts = [np.count_nonzero(np.moveaxis(inside, axis, 0), axis=(1, 2)) for axis in range(3)]
    return [float(count @ np.arange(len(count)) / count.sum()) for count in counts]


@dataclass(frozen=True)
class Grid:
    """Where the model's pixels lie in a scan that is turned to slices, rows and columns: pixel i
    is voxel ``zoom * i + offset`` of it, float64 ``(3,)`` each."""

    zoom: np.ndarray
    offset: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, spacing: np.ndarray) -> Grid:
        """The grid with the middle of the head in the middle. values: the turned scan, finite;
        spacing: millimetres between its slices, rows and columns, float64 ``(3,)``."""
        centre = _centre(values >= values.mean())
        zoom = PIXEL / spacing
        zoom[0] = 1
        # Whole voxels: what already has the right pixels stays as it is.
        offset = np.round(np.array(centre) - zoom * (SIZE - 1) / 2)
        offset[0] = 0
        return cls(zoom, offset)

    def pixels(self, values: np.ndarray) -> np.ndarray:
        """A turned, finite sequence in the model's pixels and grey levels: uint8
        ``(slices, 256, 256)``. Raises ``ValueError`` for a sequence that shows nothing."""
        # Voxels finer than pixels are averaged, as skimage.transform.resize does.
        smooth = ndimage.gaussian_filter(values, np.maximum(self.zoom - 1, 0) / 2)
        shape, background = (len(values), SIZE, SIZE), float(values.min())
        pixels = ndimage.affine_transform(
            smooth, self.zoom, self.offset, shape, order=1, cval=background
        )
        dark, bright = np.percentile(pixels, (0.1, 99.9))
        if not bright > dark:
            raise ValueError(f"hardly any voxel that is not {dark:g}")
        return np.clip((pixels - dark) / (bright - dark) * BRIGHT, 0, 255).round().astype(np.uint8)

    def voxels(self, mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """A mask of the model's pixels, ``(slices, 256, 256)``, on the turned scan's voxels of this
        shape: uint8, nearest neighbour."""
        return ndimage.affine_transform(
            mask.astype(np.uint8), 1 / self.zoom, -self.offset / self.zoom, shape, order=0
        )
