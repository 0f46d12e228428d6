"""The anatomy of a simulated patient: tissue maps that are deformed for each patient, a tumour, and
the grey levels of three sequences.

The maps are those of the MNI ICBM152 template that nilearn ships (Fonov et al. 2011, NeuroImage
54).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from lggseg.preprocessing.volume import SIZE


@dataclass(frozen=True)
class Anatomy:
    """Maps from 0 to 1, float32 ``(slices, 256, 256)``, the first slice lowest."""

    gray: np.ndarray
    white: np.ndarray
    fluid: np.ndarray
    head: np.ndarray  # falls from 1 inside to 0 outside; the skin is at 0.06
    skull: np.ndarray  # 1 in the brain, falls to 0 at the outer face of the skull

    @property
    def brain(self) -> np.ndarray:
        """All that lies inside the skull."""
        return self.gray + self.white + self.fluid


@cache
def template() -> tuple[np.ndarray, np.ndarray]:
    """The five maps of :class:`Anatomy` for the MNI head, float32, one row per voxel of 1 mm; and
    bool ``(up, front to back, left to right)``: whether the cube of eight voxels that begins there
    holds anything to draw, which is tissue, or a head beyond the skin."""
    gray, white, head = (_mni152_map(name) for name in ("gm", "wm", "t1"))
    brain = ndimage.binary_fill_holes(head > 0.2).astype(np.float32)
    fluid = np.clip(brain - gray - white, 0, 1)
    # The maps end at the skull: below its widest section the head is that section, narrowing.
    above = np.maximum.accumulate(brain[::-1], axis=0)[::-1]
    narrowing = np.clip(0.35 * (1 - np.arange(len(brain), dtype=np.float32) / 50), 0, None)
    head = _blurred(above, 15) - narrowing[:, None, None]
    maps = np.stack([gray, white, fluid, head, _blurred(brain, 7)], axis=-1)
    holds = (maps > [0, 0, 0, 0.06, 0]).any(axis=-1)
    # A cube begins up to one voxel before what it holds.
    return maps.reshape(-1, 5), ndimage.maximum_filter(holds, size=2, origin=-1)


def _mni152_map(name: str) -> np.ndarray:
    """One of the maps that nilearn ships, scaled to a maximum of 1: float32. What its functions
    ``load_mni152_*`` give, without importing nilearn and scikit-learn, which takes seconds."""
    import nibabel as nib

    package = find_spec("nilearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("No module named 'nilearn'", name="nilearn")
    file = f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
    image: Any = nib.load(Path(package.origin).parent / "datasets" / "data" / file)
    values = np.asarray(image.dataobj).astype(np.float32)
    values /= values.max()
    return np.ascontiguousarray(values.transpose(2, 1, 0)[:, ::-1])


def _blurred(volume: np.ndarray, width: int) -> np.ndarray:
    """Two box filters: near a Gaussian, and as fast for any width."""
    return ndimage.uniform_filter(ndimage.uniform_filter(volume, width), width)


def smooth_noise(
    shape: tuple[int, ...], scale: tuple[float, ...], rng: np.random.Generator
) -> np.ndarray:
    """Gaussian noise of mean 0 and deviation 1 in clumps of ``scale`` voxels: float32."""
    # Drawn coarsely and smoothed before it is stretched: fast, and without creases.
    steps = [max(1.0, s / 2) for s in scale]
    coarse = [max(3, round(n / step) + 1) for n, step in zip(shape, steps, strict=True)]
    noise = ndimage.gaussian_filter(
        rng.standard_normal(coarse, dtype=np.float32),
        [s / step / 2 for s, step in zip(scale, steps, strict=True)],
    )
    noise = _stretched(noise, shape)
    return (noise - noise.mean()) / noise.std()


def _stretched(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Trilinear interpolation to ``shape``, corner on corner: float32. What ``ndimage.zoom`` of
    order 1 gives, axis by axis, which is several times faster."""
    planes = volume.astype(np.float64)
    planes = np.stack([_between(_between(plane, 0, shape[1]), 1, shape[2]) for plane in planes])
    stretched = np.empty(shape, np.float32)
    sampled = zip(stretched, *_neighbours(len(planes), shape[0]), strict=True)
    for plane, low, high, weight in sampled:
        plane[...] = planes[low] * (1 - weight) + planes[high] * weight
    return stretched


def _between(plane: np.ndarray, axis: int, size: int) -> np.ndarray:
    """A plane stretched along one axis."""
    low, high, weight = _neighbours(plane.shape[axis], size)
    weight = weight[:, None] if axis == 0 else weight
    return plane.take(low, axis) * (1 - weight) + plane.take(high, axis) * weight


def _neighbours(before: int, after: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of ``after`` positions along an axis: the two of ``before`` that it lies between,
    and the weight of the second."""
    position = np.arange(after) * ((before - 1) / (after - 1))
    low = np.minimum(position.astype(int), before - 1)
    return low, np.minimum(low + 1, before - 1), position - low


def deformed(slices: int, pixel: float, rng: np.random.Generator) -> Anatomy:
    """The anatomy of one patient: the template, turned, scaled and smoothly displaced."""
    shape, (_, height, width) = (slices, SIZE, SIZE), template()[1].shape
    turn, tilt = rng.normal(0, 0.06), rng.normal(0, 0.04)
    pitch, width_scale = (pixel * rng.normal(1, 0.035, 2)).astype(np.float32)
    across = np.arange(SIZE, dtype=np.float32) - SIZE / 2
    upwards = np.linspace(rng.uniform(0, 16), rng.uniform(151, 166), slices, dtype=np.float32)
    z, y, x = np.meshgrid(upwards, across * pitch, across * width_scale, indexing="ij")
    rows = math.cos(turn) * y - math.sin(turn) * x + height / 2
    columns = math.sin(turn) * y + math.cos(turn) * x + width / 2
    points = np.stack([z + tilt * y, rows, columns])
    for axis in points:
        axis += 3.0 * smooth_noise(shape, (6, 40, 40), rng)
    return Anatomy(*_interpolated(points))


def _interpolated(coordinates: np.ndarray) -> np.ndarray:
    """The maps of the template at places ``(3, slices, height, width)`` by trilinear interpolation:
    float32 ``(maps, slices, height, width)``. What ``ndimage.map_coordinates`` of order 1 gives
    wherever anything is drawn, 0 elsewhere, for all maps at once and so several times faster."""
    maps, drawn = template()
    result = np.zeros((coordinates.shape[1], coordinates[0, 0].size, maps.shape[1]), np.float32)
    for slice_, points in zip(result, coordinates.swapaxes(0, 1), strict=True):
        points = points.reshape(3, -1).astype(np.float64)
        # A place on the last voxel lies at the end of the cube before it.
        low = [
            np.clip(p.astype(np.intp), 0, n - 2) for p, n in zip(points, drawn.shape, strict=True)
        ]
        inside = drawn[tuple(low)]
        for position, length in zip(points, drawn.shape, strict=True):
            inside &= (position >= 0) & (position <= length - 1)
        chosen = np.flatnonzero(inside)
        weights = [(p - start)[chosen] for p, start in zip(points, low, strict=True)]
        first = np.ravel_multi_index([start[chosen] for start in low], drawn.shape)
        slice_[chosen] = _in_cubes(maps, drawn.shape, first, weights)
    return np.moveaxis(result, -1, 0).reshape(-1, *coordinates.shape[1:])


def _in_cubes(
    maps: np.ndarray, shape: tuple[int, ...], first: np.ndarray, weights: list[np.ndarray]
) -> np.ndarray:
    """The weighted mean of the eight corners of each cube: float64 ``(cubes, maps)``."""
    total = np.zeros((len(first), maps.shape[1]))
    for corner in np.ndindex(2, 2, 2):
        z, y, x = (w if far else 1 - w for w, far in zip(weights, corner, strict=True))
        corners = maps.take(first + np.ravel_multi_index(corner, shape), axis=0)
        total += corners * (z * y * x)[:, None]
    return total


def make_tumour(
    anatomy: Anatomy, rough: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mask (bool) and soft extent (0 to 1) of a tumour, both ``(slices, 256, 256)``.

    An ellipsoid with its centre in white matter, whose border noise of several scales moves by
    ``rough``; only the part that is connected to the centre, inside the brain, is kept.
    """
    brain = anatomy.brain > 0.6
    slices = len(brain)
    inner = ndimage.binary_erosion(anatomy.white > 0.5, iterations=2)
    inner[: slices // 4] = inner[slices * 4 // 5 :] = False
    centre = rng.choice(np.argwhere(inner if inner.any() else brain))
    share = float(np.clip(rng.lognormal(-1.3, 0.5), 0.09, 0.85))  # of the slices
    radii = np.full(3, share * slices / 2)
    radii[1:] = rng.uniform(22, 38) * rng.uniform(0.75, 1.25, 2) * math.sqrt(share / 0.36)
    axes = np.ogrid[tuple(slice(0, n) for n in brain.shape)]
    squares = (((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True))
    noise = smooth_noise(brain.shape, (3, 22, 22), rng)
    noise += 0.5 * smooth_noise(brain.shape, (2, 8, 8), rng)
    depth = 1 - np.sqrt(sum(squares)) + rough * 0.4 * (noise - noise[tuple(centre)])
    components, _ = ndimage.label((depth > 0) & brain)
    mask = components == components[tuple(centre)]
    soft = ndimage.gaussian_filter(mask.astype(np.float32), (0, 2.5, 2.5)) * brain
    return mask, soft


def contrasts(anatomy: Anatomy, extent: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Pre-contrast, FLAIR and post-contrast without scanner effects; tissue is near 1."""
    shape = extent.shape
    gray, white, fluid = anatomy.gray, anatomy.white, anatomy.fluid
    texture = np.clip(1 + 0.2 * smooth_noise(shape, (3, 14, 14), rng), 0.35, 1.7)
    tumour = extent * texture
    around = _around_brain(anatomy, rng)
    pre = (0.72 * gray + 0.98 * white + 0.32 * fluid) * (1 - rng.uniform(0.15, 0.4) * tumour)
    pre += rng.uniform(1.2, 2.2) * around
    flair = rng.normal(0.86, 0.03) * gray + 0.68 * white + 0.22 * fluid
    flair = flair * (1 - 0.5 * extent) + rng.uniform(0.65, 1.25) * tumour
    flair += _white_matter_lesions(anatomy, rng) + rng.uniform(0.8, 1.8) * around
    vessels = np.clip(smooth_noise(shape, (1, 4, 4), rng) - 1.9, 0, 1) * (fluid + 0.3 * gray)
    rim = 4 * extent * (1 - extent) * float(rng.choice([0.0, 0.2, 0.6], p=[0.5, 0.3, 0.2]))
    return [pre, flair, pre + 0.9 * vessels + rim * texture]


def _around_brain(anatomy: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """Dark skull, bright fat under the skin, and mixed soft tissue and air below the brain."""
    outside = (anatomy.head > 0.06) & (anatomy.skull < 0.03)
    fat = np.exp(-(((anatomy.head - 0.10) / 0.05) ** 2))
    noise = smooth_noise(outside.shape, (2, 10, 10), rng)
    soft = np.clip(0.5 + 0.35 * (noise + noise[..., ::-1]), 0, 1.6)  # a face is symmetric
    mixed = np.where(anatomy.head > 0.25, soft, np.maximum(1.3 * fat, 0.6 * soft))
    return outside * mixed + 0.07 * (anatomy.head > 0.06)


def _white_matter_lesions(anatomy: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """Bright FLAIR in spots and beside the ventricles that is no tumour, so not in the mask."""
    near_fluid = ndimage.gaussian_filter(anatomy.fluid, (0.5, 5, 5))
    caps = np.clip(near_fluid - 0.2, 0, 0.4) * anatomy.white
    spots = np.clip(smooth_noise(caps.shape, (1.5, 7, 7), rng) - 1.7, 0, 1) * anatomy.white
    return rng.uniform(0.4, 1.5) * caps + rng.uniform(0.2, 1.0) * spots
