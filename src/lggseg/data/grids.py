"""Sequences that were scanned on grids of their own, brought onto FLAIR's voxels.

Two sequences of one session share the scanner's space, so their affines say where a voxel of one
lies in the other. Where the patient moved between them, a rigid registration finds by how much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage

from lggseg.preprocessing.resampling import finite
from lggseg.utils.errors import DataError, install_command

if TYPE_CHECKING:
    import SimpleITK as sitk

# Millimetres by which two grids that count as one may differ.
TOLERANCE = 0.5
# The least share of the head in FLAIR that another sequence must show.
LEAST_OVERLAP = 0.5
FARTHEST = 80.0  # millimetres that a head may have moved within a session
# Voxels that a registration compares.
SAMPLES = 1_000_000
MOST_TURNED = 45.0  # degrees


@dataclass(frozen=True)
class Move:
    """By how much a sequence was moved onto FLAIR: millimetres at the middle of the scan, and
    degrees."""

    millimetres: float
    degrees: float

    def __str__(self) -> str:
        return f"moved by {self.millimetres:.1f} mm and {self.degrees:.1f}°"


def same_grid(image: nib.Nifti1Image, reference: nib.Nifti1Image) -> bool:
    """Whether the voxels of two scans lie in the same places, to ``TOLERANCE``."""
    if image.shape != reference.shape:
        return False
    distance = np.abs(image.affine - reference.affine) @ [*image.shape, 1]
    return bool(np.max(distance) <= TOLERANCE)


def resampled(
    image: nib.Nifti1Image, reference: nib.Nifti1Image, moved: np.ndarray | None = None
) -> nib.Nifti1Image:
    """A scan on the voxels of another, by linear interpolation: float32.

    Where the other's voxels are larger, the scan is smoothed first, as
    :meth:`lggseg.preprocessing.resampling.Grid.pixels` does. moved: ``(4, 4)``, where a point of
    the reference, in millimetres, lies in the scan's own space (default: the same point). Raises
    ``DataError`` where the scan shows too little of the head in the reference.
    """
    moved = np.eye(4) if moved is None else moved
    # Rounded, so that a voxel at the scan's edge does not fall off by the last bit.
    matrix = np.round(np.linalg.inv(image.affine) @ moved @ reference.affine, 9)
    _check_overlap(image, reference, matrix)
    values = finite(image.get_fdata(caching="unchanged", dtype=np.float32))
    steps = np.abs(matrix[:3, :3]).max(axis=1)
    smooth = ndimage.gaussian_filter(values, np.maximum(steps - 1, 0) / 2)
    on_grid = ndimage.affine_transform(
        smooth, matrix, output_shape=reference.shape, order=1, cval=float(values.min())
    )
    result = nib.Nifti1Image(on_grid, reference.affine)
    result.file_map = image.file_map
    return result


def _check_overlap(image: nib.Nifti1Image, reference: nib.Nifti1Image, matrix: np.ndarray) -> None:
    places = [
        np.linspace(0, edge - 1, min(edge, 24)).round().astype(int) for edge in reference.shape
    ]
    points = np.stack(np.meshgrid(*places, indexing="ij"), axis=-1).reshape(-1, 3)
    grey = np.asarray(reference.dataobj)[np.ix_(*places)].astype(float).ravel()
    head = points[grey >= np.nanmean(grey)]
    inside = apply_affine(matrix, head)
    share = np.mean(np.all((inside >= -0.5) & (inside <= np.array(image.shape) - 0.5), axis=1))
    if share < LEAST_OVERLAP:
        found = f"a scan that shows {share:.0%} of the head in FLAIR"
        expected = f"at least {LEAST_OVERLAP:.0%}, by the positions in both headers"
        action = "Check that both are of one patient and one session, or leave this one out."
        raise DataError(str(image.get_filename()), found, expected, action)


def registered(image: nib.Nifti1Image, reference: nib.Nifti1Image) -> tuple[nib.Nifti1Image, Move]:
    """A scan on the voxels of another after a rigid registration, and by how much it was moved.

    Mutual information (Mattes et al., IEEE Trans. Med. Imaging 22:120, 2003) by SimpleITK, from
    coarse to fine, starting from the positions in the headers; deterministic. Raises ``DataError``
    where SimpleITK is missing, and for a move that a head does not make.
    """
    moved = _rigid(image, reference)
    middle = apply_affine(reference.affine, (np.array(reference.shape) - 1) / 2)
    cosine = (np.trace(moved[:3, :3]) - 1) / 2
    move = Move(
        float(np.linalg.norm(apply_affine(moved, middle) - middle)),
        float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))),
    )
    if move.millimetres > FARTHEST or move.degrees > MOST_TURNED:
        expected = f"at most {FARTHEST:g} mm and {MOST_TURNED:g}°"
        action = "Check that both are of one patient, or register them by another program."
        raise DataError(
            str(image.get_filename()), f"a scan that had to be {move}", expected, action
        )
    return resampled(image, reference, moved), move


def _rigid(image: nib.Nifti1Image, reference: nib.Nifti1Image) -> np.ndarray:
    """Where a point of the reference, in NIfTI's millimetres, lies in the scan: ``(4, 4)``."""
    try:
        import SimpleITK as sitk
    except ImportError:
        found, action = "no SimpleITK", f"Run {install_command('dicom')}."
        raise DataError("--register", found, "the package SimpleITK", action) from None

    fixed, moving = _itk(reference), _itk(image)
    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    start.SetTranslation((0.0, 0.0, 0.0))
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    # All voxels of a small scan: a fifth of them was wrong by up to 0.6 degrees.
    share = SAMPLES / fixed.GetNumberOfPixels()
    if share < 1:
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(share, 1)  # seeded: the default seed is the clock
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 200)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SetInitialTransform(start)
    method.SetNumberOfThreads(1)  # the same sum in the same order, run by run
    found = method.Execute(fixed, moving)
    origin = np.array(found.TransformPoint((0.0, 0.0, 0.0)))
    axes = [np.array(found.TransformPoint(tuple(axis))) - origin for axis in np.eye(3)]
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = np.stack(axes, axis=1), origin
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's axes go left and back
    return flip @ matrix @ flip


def _itk(image: nib.Nifti1Image) -> sitk.Image:
    import SimpleITK as sitk

    values = finite(image.get_fdata(caching="unchanged", dtype=np.float32))
    result = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
    spacing = voxel_sizes(image.affine)
    flip = np.diag([-1.0, -1.0, 1.0])
    result.SetSpacing([float(edge) for edge in spacing])
    # The nearest axes at right angles, which ITK wants.
    u, _, v = np.linalg.svd(flip @ image.affine[:3, :3] / spacing)
    result.SetDirection((u @ v).ravel().tolist())
    result.SetOrigin((flip @ image.affine[:3, 3]).tolist())
    return result
