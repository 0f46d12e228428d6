"""Shape of a tumour in its mask: what Buda, Saha and Mazurowski relate to genomics (Computers in
Biology and Medicine 109 (2019) 218–225), and the usual features of a solid as PyRadiomics defines
them (van Griethuysen et al., Cancer Research 77 (2017) e104).

A mask is bool ``(slices, height, width)``. All but ``components`` describe its largest part
(connected by faces, edges or corners): that paper keeps only this one, and a stray voxel far away
would stretch any bounding ellipsoid. The distance of the slices is unknown in this data, so each
function that needs it takes ``spacing``, in pixels. What that means:

===============================  ==============================================================
feature                          if the slices lie farther apart than assumed
===============================  ==============================================================
bounding_ellipsoid_volume_ratio  the same: an ellipsoid stretched with its tumour remains the
                                 smallest one, and both volumes grow alike
margin_fluctuation,              the same: they look at one slice and divide by its largest radius
angular_standard_deviation
components                       the same
volume                           grows in proportion: patients compare only if all have the same
                                 distance
surface_area, sphericity,        changes with the tumour's form: true only for the true distance
elongation, flatness
===============================  ==============================================================
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull
from skimage.measure import find_contours, label, marching_cubes, mesh_surface_area

# Pixels between slices, an assumption: about 4.5 mm (lggseg.data.nifti), of pixels of 240 mm / 256.
SLICE_SPACING = 4.8
# The features of Buda 2019; none depends on the distance of the slices.
PAPER = ("bounding_ellipsoid_volume_ratio", "margin_fluctuation", "angular_standard_deviation")
SOLID = ("volume", "surface_area", "sphericity", "elongation", "flatness")
FEATURES = (*PAPER, *SOLID, "components")
BINS = 10


def shape_features(mask: np.ndarray, spacing: float = SLICE_SPACING) -> dict[str, float]:
    """All features of :data:`FEATURES`, by name.

    volume is in pixels³ and surface_area in pixels². An empty mask has ``volume`` and
    ``components`` 0 and NaN for the rest. Raises ``ValueError`` unless the mask is bool of three
    dimensions and the spacing positive.

    >>> z, y, x = np.ogrid[-9:10, -9:10, -9:10]
    >>> ball = shape_features(z**2 + y**2 + x**2 <= 8**2, spacing=1)
    >>> ball["volume"], round(ball["sphericity"], 2), ball["flatness"]
    (2109.0, 0.92, 1.0)
    """
    if mask.dtype != bool or mask.ndim != 3 or not spacing > 0:
        found = f"found {mask.dtype} {mask.shape} with a spacing of {spacing}"
        raise ValueError(f"mask: {found}; expected bool (slices, height, width), more than 0")
    component, components = largest_component(mask)
    if not components:
        return dict.fromkeys(FEATURES, math.nan) | {"volume": 0.0, "components": 0.0}
    points, triangles = surface(component)
    radii, angles = margin(margin_points(largest_slice(component)))
    paper = (
        bounding_ellipsoid_volume_ratio(points, triangles),
        margin_fluctuation(radii),
        angular_standard_deviation(radii, angles),
    )
    solid = solid_features(component, spacing)
    return {**dict(zip(PAPER, paper, strict=True)), **solid, "components": float(components)}


def solid_features(component: np.ndarray, spacing: float = SLICE_SPACING) -> dict[str, float]:
    """The features of :data:`SOLID`, by name: those that depend on the distance of the slices."""
    points, triangles = surface(component)
    features = (
        float(np.count_nonzero(component) * spacing),
        *surface_area_and_sphericity(points * [spacing, 1, 1], triangles),
        *elongation_and_flatness(np.argwhere(component) * [spacing, 1, 1]),
    )
    return dict(zip(SOLID, features, strict=True))


def largest_component(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """The largest connected part of a mask of two or three dimensions, cropped to its bounding
    box, bool, and how many parts there are. Neighbours touch by faces, edges or corners."""
    parts, count = label(mask, return_num=True, connectivity=mask.ndim)
    if not count:
        return mask, 0
    largest = int(np.bincount(parts.ravel())[1:].argmax()) + 1
    box = ndimage.find_objects(parts)[largest - 1]
    return parts[box] == largest, count


def surface(component: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The surface of a part by marching cubes, half-way between the voxels on either side of it:
    points, float64 ``(points, 3)`` in voxels, and triangles of them, int ``(triangles, 3)``."""
    points, triangles, _, _ = marching_cubes(np.pad(component, 1).astype(np.float32), 0.5)
    return points.astype(float), triangles


def enclosed_volume(points: np.ndarray, triangles: np.ndarray) -> float:
    """The volume inside a closed surface."""
    return float(abs(np.linalg.det(points[triangles]).sum()) / 6)


def bounding_ellipsoid_volume_ratio(points: np.ndarray, triangles: np.ndarray) -> float:
    """Volume inside a surface over that of the smallest ellipsoid that holds it: 1 for an
    ellipsoid, less for anything else.

    Few slices make steps, which the ellipsoid has to hold too: an ellipsoid of 5 slices gets 0.75,
    one of 20 slices 0.92.
    """
    hull = points[ConvexHull(points).vertices]
    return enclosed_volume(points, triangles) / smallest_ellipsoid_volume(hull)


def smallest_ellipsoid_volume(
    points: np.ndarray, tolerance: float = 1e-4, steps: int = 100_000
) -> float:
    """Volume of the smallest ellipsoid that holds points ``(points, dimensions)``.

    Khachiyan's algorithm with the steps away of Todd and Yıldırım (Discrete Applied Mathematics
    155 (2007) 1731–1744). The ellipsoid found holds all points; it is too large by at most
    ``tolerance`` times half of the dimensions plus one. Raises ``RuntimeError`` when that is not
    reached in so many steps.
    """
    count, size = points.shape
    lifted = np.column_stack([points, np.ones(count)])
    weights = np.full(count, 1 / count)
    for _ in range(steps):
        moments = (lifted.T * weights) @ lifted
        distances = np.einsum("ij,jk,ik->i", lifted, np.linalg.inv(moments), lifted)
        far = int(distances.argmax())
        near = int(np.where(weights > 0, distances, np.inf).argmin())
        outside, inside = distances[far] - size - 1, size + 1 - distances[near]
        if max(outside, inside) < tolerance * (size + 1):
            ball = math.pi ** (size / 2) / math.gamma(size / 2 + 1)
            stretch = (distances[far] - 1) ** (size / 2)
            return float(ball * stretch * math.sqrt(np.linalg.det(moments)))
        index = far if outside >= inside else near
        step = (distances[index] / (size + 1) - 1) / (distances[index] - 1)
        step = max(step, -weights[index] / (1 - weights[index]))
        weights *= 1 - step
        weights[index] += step
    raise RuntimeError(f"{count} points: found no smallest ellipsoid in {steps} steps")


def largest_slice(component: np.ndarray) -> np.ndarray:
    """The largest piece of the slice with the largest area, its holes filled: bool
    ``(height, width)``, cropped."""
    piece, _ = largest_component(component[component.sum(axis=(1, 2)).argmax()])
    return ndimage.binary_fill_holes(piece)


def margin_points(piece: np.ndarray) -> np.ndarray:
    """Row and column of each point of the margin of a piece without holes, in order: float64
    ``(points, 2)``."""
    outline = find_contours(np.pad(piece, 1).astype(float), 0.5, fully_connected="high")[0]
    return outline[:-1] - 1


def margin(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Radii from the centroid of a piece to the points of its margin, over the largest of them, and
    their angles in radians: both float64 ``(points,)`` in the margin's order."""
    across = points - centroid(points)
    radii = np.hypot(*across.T)
    return radii / radii.max(), np.arctan2(*across.T)


def centroid(points: np.ndarray) -> np.ndarray:
    """The centre of the area inside a closed polygon ``(points, 2)``: float64 ``(2,)``."""
    after = np.roll(points, -1, axis=0)
    areas = np.linalg.det(np.stack([points, after], axis=1))
    return np.asarray(areas @ (points + after) / (3 * areas.sum()))


def smoothed(radii: np.ndarray) -> np.ndarray:
    """The moving average of radii along a closed margin, over a tenth of its points."""
    window = 2 * round(len(radii) / 20) + 1
    return ndimage.uniform_filter1d(radii, window, mode="wrap")


def margin_fluctuation(radii: np.ndarray) -> float:
    """How rough a margin is: the standard deviation of its radii minus their moving average over
    a tenth of the margin (Buda 2019)."""
    return float((radii - smoothed(radii)).std())


def angular_standard_deviation(radii: np.ndarray, angles: np.ndarray) -> float:
    """How much a margin strays from a circle: the standard deviation of the radii within each of
    ten sectors of 36°, averaged over the sectors (Buda 2019).

    Averaged further over four turns of the sectors by 9°, so that it does not depend on how the
    head is turned; the paper does not say where its sectors begin.
    """
    turns = math.tau / BINS / 4 * (np.arange(4) + 0.5)
    return float(np.mean([_deviation_in_sectors(radii, angles + turn) for turn in turns]))


def _deviation_in_sectors(radii: np.ndarray, angles: np.ndarray) -> float:
    sectors = (angles % math.tau * BINS / math.tau).astype(int) % BINS
    return float(np.mean([radii[sectors == sector].std() for sector in np.unique(sectors)]))


def surface_area_and_sphericity(points: np.ndarray, triangles: np.ndarray) -> tuple[float, float]:
    """Area of a surface, and the area of a ball of the same volume over it: 1 for a ball
    (PyRadiomics: SurfaceArea, Sphericity)."""
    area = float(mesh_surface_area(points, triangles))
    ball = (36 * math.pi * enclosed_volume(points, triangles) ** 2) ** (1 / 3)
    return area, ball / area


def elongation_and_flatness(voxels: np.ndarray) -> tuple[float, float]:
    """The second and the third principal axis of voxels ``(voxels, 3)`` over the first: both 1 for
    a ball, 0 for a line; NaN for a single voxel (PyRadiomics: Elongation, Flatness)."""
    variances = np.linalg.eigvalsh(np.cov(voxels.T, bias=True))[::-1].clip(0)
    with np.errstate(invalid="ignore"):
        elongation, flatness = np.sqrt(variances[1:] / variances[0])
    return float(elongation), float(flatness)
