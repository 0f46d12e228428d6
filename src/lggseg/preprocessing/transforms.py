"""From raw slices to what the network sees: shrink, normalise.

Preprocessing is the same code when training and when serving.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .volume import FLAIR


def neighbour_rows(rows: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of the slices above and below, staying inside each slice's own volume."""
    return torch.maximum(rows - 1, first), torch.minimum(rows + 1, last)


def with_neighbours(per_channel: Tensor, neighbours: bool) -> Tensor:
    """Extend ``(..., 3)`` values per sequence to the channels that
    :func:`.volume.stack_channels` gives."""
    if not neighbours:
        return per_channel
    flair = per_channel[..., FLAIR : FLAIR + 1]
    return torch.cat([per_channel, flair, flair], dim=-1)


def shrink(image: Tensor, factor: int) -> Tensor:
    """Average over ``factor`` × ``factor`` pixels; ``(slices, channels, height, width)``, 0–255."""
    image = image.float()
    return image if factor == 1 else F.avg_pool2d(image, factor).round()


def normalise(image: Tensor, background: Tensor, scale: Tensor) -> Tensor:
    """``(image - background) / scale``: background becomes 0, the mean of tissue 1.

    image: ``(slices, channels, height, width)``; the others as
    :func:`.volume.channel_statistics` gives them, ``(slices, channels)`` or
    ``(1, channels)``.
    """
    return (image - background[..., None, None]) / scale[..., None, None]


def enlarge(logits: Tensor, factor: int) -> Tensor:
    """Bilinear interpolation back to native pixels; ``(slices, channels, height, width)``."""
    if factor == 1:
        return logits
    return F.interpolate(logits, scale_factor=float(factor), mode="bilinear", align_corners=False)
