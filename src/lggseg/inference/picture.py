"""A slice with the outline of its mask, as a PNG, drawn without matplotlib."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image
from scipy.ndimage import binary_erosion

ORANGE_RED = (213, 94, 0)


def largest_slice(mask: np.ndarray) -> int:
    """The slice with most of the mask, bool ``(slices, height, width)``; the middle one of none."""
    return int(mask.sum(axis=(1, 2)).argmax()) if mask.any() else len(mask) // 2


def outline_png(flair: np.ndarray, mask: np.ndarray, *, zoom: int = 1) -> bytes:
    """FLAIR in grey, its window set by its own brightest percentile, and the outline of the mask in
    orange-red.

    Args:
        flair: uint8 ``(height, width)``.
        mask: bool of the same shape.
        zoom: pixels of the picture per pixel of the slice.

    Returns:
        The bytes of a PNG file.
    """
    grey = np.clip(flair * (255 / max(np.percentile(flair, 99.5), 1)), 0, 255).astype(np.uint8)
    size = (zoom * grey.shape[1], zoom * grey.shape[0])
    picture = np.array(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC).convert("RGB"))
    large = mask.repeat(zoom, axis=0).repeat(zoom, axis=1)
    picture[large & ~binary_erosion(large, iterations=max(zoom - 1, 1))] = ORANGE_RED
    file = BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()
