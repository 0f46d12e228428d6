"""Scans in NIfTI: a simulated head, written with its voxels in any order."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage

# 11° about the left-right axis: no axis of the scan is one of the patient.
OBLIQUE = np.array([[1, 0, 0], [0, 0.98, -0.19], [0, 0.19, 0.98]])


def affine_of(spacing: tuple[float, float, float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = OBLIQUE * spacing
    affine[:3, 3] = -70, -90, 12
    return affine


def head(spacing: tuple[float, float, float] = (4, 3.5, 6)) -> nib.Nifti1Image:
    """An ellipsoid of 100 in a background of 0, with a blob of 200 left, in front and high.

    RAS, float32.
    """
    size = [round(edge / mm) for edge, mm in zip((200, 217, 78), spacing, strict=True)]
    x, y, z = np.ogrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j, -1 : 1 : size[2] * 1j]
    values = np.where(x**2 + y**2 + z**2 / 2 < 0.8, 100, 0)
    values[(x + 0.4) ** 2 + (y - 0.4) ** 2 + (z - 0.4) ** 2 < 0.05] = 200
    return nib.Nifti1Image(values.astype(np.float32), affine_of(spacing))


def saved(image: SpatialImage, path: Path) -> Path:
    nib.save(image, path)
    return path
