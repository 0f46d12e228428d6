"""The largest diameters of a tumour in a slice, as readers measure them on a screen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist, squareform
from skimage.measure import label


class Diameters(NamedTuple):
    """longest: the largest distance of two points of the tumour in a slice; perpendicular: its
    largest width at right angles to that, both in the unit of the pixel; slice: counted from 0."""

    longest: float
    perpendicular: float
    slice: int


def largest_diameters(mask: np.ndarray, pixel: float) -> Diameters | None:
    """The two diameters whose product is largest over all axial slices, of one connected component.

    The product of perpendicular diameters is what RANO follows for lower-grade glioma (van den Bent
    et al., Lancet Oncol. 12:583, 2011); a person chooses the ends, here the outermost corners of
    pixels are taken, so the numbers are like RANO's, not RANO's.

    Args:
        mask: bool ``(slices, height, width)``.
        pixel: the edge of its square pixels.

    Returns:
        ``None`` for an empty mask.

    >>> square = np.zeros((1, 9, 9), bool)
    >>> square[0, 2:6, 2:6] = True
    >>> [round(edge, 1) for edge in largest_diameters(square, pixel=2.0)[:2]]
    [11.3, 11.3]
    """
    found = []
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        components = label(mask[index], connectivity=2)
        for number in range(1, components.max() + 1):
            longest, perpendicular = _measure(np.argwhere(components == number))
            found.append(Diameters(longest * pixel, perpendicular * pixel, int(index)))
    return max(found, key=lambda one: one.longest * one.perpendicular, default=None)


def _measure(pixels: np.ndarray) -> tuple[float, float]:
    """Both diameters of one component in pixels, ``(n, 2)``, counted in edges of a pixel."""
    corners = np.concatenate([pixels + offset for offset in ((0, 0), (0, 1), (1, 0), (1, 1))])
    corners = np.unique(corners, axis=0).astype(float)
    hull = corners[ConvexHull(corners).vertices]
    distances = squareform(pdist(hull))
    start, end = np.unravel_index(distances.argmax(), distances.shape)
    longest = float(distances[start, end])
    along = (hull[end] - hull[start]) / longest
    across = np.array([-along[1], along[0]])
    # Strips across the longest diameter, one pixel wide.
    strip = np.floor(corners @ along).astype(int)
    width = corners @ across
    widths = [np.ptp(width[strip == one]) for one in np.unique(strip)]
    return longest, float(max(widths))
