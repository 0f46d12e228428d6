"""Augmentation of whole batches that are already on the device.

One affine resampling and a few elementwise operations for all slices of a batch at once, with no
loop over samples and no worker processes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lggseg.preprocessing.volume import FLAIR

Generator = torch.Generator | None


def _uniform(
    shape: tuple[int, ...], low: float, high: float, like: Tensor, generator: Generator
) -> Tensor:
    draw = torch.rand(*shape, 1, 1, device=like.device, generator=generator)
    return low + (high - low) * draw


def random_affine(
    slices: int, strength: float, device: torch.device, generator: Generator = None
) -> Tensor:
    """Random mirror, rotation (±20°), zoom (±15 %), shear (±0.1) and shift (±6 %).

    Returns float32 ``(slices, 2, 3)``, output to input in the coordinates of ``affine_grid``.
    """
    draw = (2 * torch.rand(7, slices, device=device, generator=generator) - 1) * strength
    angle, zoom = draw[0] * math.radians(20), torch.exp(draw[1] * 0.15)
    stretch = torch.exp(draw[2] * 0.05)
    mirror = torch.where(draw[3] < 0, -1.0, 1.0)
    shear, shift = draw[4] * 0.1, draw[5:] * 0.12
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    first = torch.stack([mirror * cos * stretch, mirror * (shear * cos - sin), shift[0]])
    second = torch.stack([sin * stretch, shear * sin + cos, shift[1]])
    return torch.stack([first, second]).permute(2, 0, 1)


def warp(image: Tensor, matrix: Tensor) -> Tensor:
    """Resample ``(slices, channels, height, width)`` by ``(slices, 2, 3)``; outside is 0."""
    grid = F.affine_grid(matrix, list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def drop_sequences(image: Tensor, probability: float, generator: Generator = None) -> Tensor:
    """Replace pre- or post-contrast by FLAIR, as the cohort does where a sequence is missing.

    Each of the two is replaced with ``probability`` / 2; in a further ``probability`` / 4 of the
    slices both are (the cohort's volumes with three identical channels). Changes ``image``, which
    must be normalised, since a copy has FLAIR's statistics; returns it.
    """
    slices, device = len(image), image.device
    draw = torch.rand(3, slices, 1, 1, device=device, generator=generator)
    both = draw[0] < probability / 4
    for index, channel in enumerate((0, 2), start=1):
        drop = (draw[index] < probability / 2) | both
        image[:, channel] = torch.where(drop, image[:, FLAIR], image[:, channel])
    return image


def paste_tumours(image: Tensor, mask: Tensor) -> None:
    """Copy into every second slice the tumour of the slice after it (TumorCP, Yang 2021), with a
    soft edge and only inside the head: the batch's tumours in other brains and other places.

    Changes both: ``image``, which must be normalised, and ``mask`` ``(slices, 1, height, width)``.
    """
    pairs = len(image) // 2 * 2
    target, source = image[0:pairs:2], image[1:pairs:2]
    inside = _local_mean(target[:, FLAIR : FLAIR + 1]) > 0.3
    tumour = mask[1:pairs:2] * inside
    target.lerp_(source, (tumour + _local_mean(tumour)) / 2)
    mask[0:pairs:2] = torch.maximum(mask[0:pairs:2], tumour)


def vary_intensity(image: Tensor, strength: float, generator: Generator = None) -> Tensor:
    """Random contrast and brightness of each channel; sharpness of the first quarter of the slices
    and noise in the last half (a batch is in random order already).

    Changes ``image``, which must be normalised; returns it.
    """
    slices, channels = image.shape[:2]
    contrast = torch.exp(_uniform((slices, channels), -0.2, 0.2, image, generator) * strength)
    brightness = _uniform((slices, channels), -0.2, 0.2, image, generator) * strength
    image.mul_(contrast).add_(brightness)
    # Blurring and sharpening are one operation: move towards the local mean, or away from it.
    some = image[: math.ceil(slices / 4)]
    sharpness = _uniform((len(some), 1), -0.6, 0.9, image, generator) * strength
    some.lerp_(_local_mean(some), sharpness)
    some = image[-math.ceil(slices / 2) :]
    some.addcmul_(
        _noise(some, generator), _uniform((len(some), 1), 0.0, 0.12, image, generator) * strength
    )
    return image


def _local_mean(image: Tensor) -> Tensor:
    """Mean of the four neighbours of each pixel; seven times as fast as pooling on a CPU."""
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    rows, columns = padded[..., 1:-1], padded[..., 1:-1, :]
    around = rows[..., :-2, :] + rows[..., 2:, :] + columns[..., :-2] + columns[..., 2:]
    return around / 4


def _noise(image: Tensor, generator: Generator) -> Tensor:
    """Gaussian noise like ``image``. Drawing it is slow, so the channels share one draw, each
    channel a pixel further along: neighbours in a slice and in its channels stay independent."""
    slices, channels, height, width = image.shape
    shape = (slices, height * width + channels - 1)
    draw = torch.randn(shape, device=image.device, generator=generator)
    return draw.unfold(1, height * width, 1).unflatten(2, (height, width))
