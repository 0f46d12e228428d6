"""How well a mask fits, per patient, over the whole volume.

truth and prediction are bool ``(slices, height, width)``. The spacing of the voxels is unknown in
this data, so distances come twice: in voxels with unit spacing, and in millimetres as if pixels
were 0.94 mm wide and slices 4.5 mm apart (:data:`TYPICAL_SPACING`).

Empty masks, by policy:

============  ==========  ===============================  ===========================  ======
truth         prediction  dice iou precision recall         hd95 assd (and in mm)        missed
                          lesion_f1 slices_found
============  ==========  ===============================  ===========================  ======
empty         empty       1                                0                            0
empty         tumour      0                                the volume's diagonal        0
tumour        empty       0                                the volume's diagonal        1
============  ==========  ===============================  ===========================  ======
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy import ndimage

from lggseg.utils.lazy import NOT_FOR_MONAI, hidden

_TOUCHING = np.ones((3, 3, 3), dtype=bool)
# Slices, rows and columns in millimetres, of a usual FLAIR series of these patients' time.
TYPICAL_SPACING = (4.5, 0.94, 0.94)
_UNIT = (1.0, 1.0, 1.0)
Spacing = tuple[float, float, float]


def dice_from_counts(tp: Any, fp: Any, fn: Any) -> Any:
    """Dice = 2 TP / (2 TP + FP + FN), elementwise; 1 where all are 0. Arrays or tensors."""
    empty = (tp + fp + fn) == 0
    return (2 * tp + empty) / (2 * tp + fp + fn + empty)


def dice(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Dice of two masks, bool of the same shape.

    >>> round(dice(np.array([True, True, False]), np.array([True, False, False])), 3)
    0.667
    """
    overlap = np.count_nonzero(truth & prediction)
    false_voxels = np.count_nonzero(truth ^ prediction)
    return float(dice_from_counts(overlap, false_voxels, 0))


def iou(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Intersection over union, the Jaccard index."""
    return ratio(np.count_nonzero(truth & prediction), np.count_nonzero(truth | prediction))


def precision(truth: np.ndarray, prediction: np.ndarray) -> float:
    """The share of the predicted voxels that are tumour."""
    right, found = np.count_nonzero(truth & prediction), np.count_nonzero(prediction)
    return ratio(right, found, empty=float(not truth.any()))


def recall(truth: np.ndarray, prediction: np.ndarray) -> float:
    """The share of the tumour's voxels that are predicted."""
    return precision(prediction, truth)


def ratio(part: Any, whole: Any, empty: float = 1.0) -> float:
    """``part / whole``, and ``empty`` where the whole is 0."""
    return float(part / whole) if whole else empty


def hd95(truth: np.ndarray, prediction: np.ndarray, spacing: Spacing = _UNIT) -> float:
    """95th percentile of the Hausdorff distance, the larger of both directions, in the units of
    ``spacing`` (slices, rows, columns)."""
    # MONAI takes seconds to import, and most of this module does without.
    with hidden(*NOT_FOR_MONAI):
        from monai.metrics import compute_hausdorff_distance

    measure = partial(compute_hausdorff_distance, percentile=95)
    return _between_surfaces(measure, truth, prediction, spacing)


def assd(truth: np.ndarray, prediction: np.ndarray, spacing: Spacing = _UNIT) -> float:
    """Average symmetric surface distance, in the units of ``spacing`` (slices, rows, columns)."""
    with hidden(*NOT_FOR_MONAI):
        from monai.metrics import compute_average_surface_distance

    measure = partial(compute_average_surface_distance, symmetric=True)
    return _between_surfaces(measure, truth, prediction, spacing)


def _between_surfaces(
    measure: Callable[..., Any], truth: np.ndarray, prediction: np.ndarray, spacing: Spacing
) -> float:
    """A distance by MONAI, with the policy above for empty masks."""
    import torch

    if not truth.any() or not prediction.any():
        diagonal = np.linalg.norm(np.multiply(truth.shape, spacing))
        return float(diagonal) if (truth | prediction).any() else 0.0
    box = ndimage.find_objects((truth | prediction).astype(np.uint8))[0]
    masks = (torch.from_numpy(mask[box].copy())[None, None] for mask in (prediction, truth))
    return float(measure(*masks, include_background=True, spacing=spacing))


def lesion_f1(truth: np.ndarray, prediction: np.ndarray) -> float:
    """F1 over lesions: components connected by faces, edges or corners.

    A true lesion is found when a predicted voxel lies in it; a predicted lesion is right when it
    touches a true one. F1 is the harmonic mean of the found and the right shares.
    """
    true_lesions, true_count = ndimage.label(truth, structure=_TOUCHING)
    predicted_lesions, predicted_count = ndimage.label(prediction, structure=_TOUCHING)
    if not true_count or not predicted_count:
        return float(true_count == predicted_count)
    recall = np.count_nonzero(np.unique(true_lesions[prediction])) / true_count
    precision = np.count_nonzero(np.unique(predicted_lesions[truth])) / predicted_count
    return ratio(2 * precision * recall, precision + recall, empty=0.0)


def slices_found(truth: np.ndarray, prediction: np.ndarray) -> float:
    """The share of the slices with tumour in which the prediction meets it."""
    axes = (1, 2)
    found = (truth & prediction).any(axis=axes).sum()
    empty = float(not prediction.any())
    return ratio(found, truth.any(axis=axes).sum(), empty=empty)


def relative_volume_error(truth: np.ndarray, prediction: np.ndarray) -> float:
    """(predicted - true) / true voxels: above 0 where the mask is too large; NaN without tumour."""
    true = np.count_nonzero(truth)
    return ratio(np.count_nonzero(prediction) - true, true, empty=float("nan"))


def slice_dice(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Mean of :func:`slice_dices`; NaN when no slice contains tumour."""
    values = slice_dices(truth, prediction)
    return float(values.mean()) if len(values) else float("nan")


def slice_dices(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Dice of each slice that contains true tumour, float64.

    Only to compare with others: false positives on healthy slices do not count.
    """
    axes = (1, 2)
    slices = truth.any(axis=axes)
    overlap = (truth & prediction).sum(axis=axes)[slices]
    total = truth.sum(axis=axes)[slices] + prediction.sum(axis=axes)[slices]
    return 2 * overlap / total


# A line a metric: its column in the table per patient, and what makes it of the truth and the
# prediction (docs/extending.md).
METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "dice": dice,
    "iou": iou,
    "precision": precision,
    "recall": recall,
    "hd95": hd95,
    "assd": assd,
    "hd95_mm": partial(hd95, spacing=TYPICAL_SPACING),
    "assd_mm": partial(assd, spacing=TYPICAL_SPACING),
    "lesion_f1": lesion_f1,
    "slice_dice": slice_dice,
    "slices_found": slices_found,
    "relative_volume_error": relative_volume_error,
    "missed": lambda truth, prediction: float(truth.any() and not prediction.any()),
    "truth_voxels": lambda truth, _: float(np.count_nonzero(truth)),
    "predicted_voxels": lambda _, prediction: float(np.count_nonzero(prediction)),
}


def patient_metrics(truth: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    """All of :data:`METRICS` for one patient's volume, by name.

    missed: 1 when there is tumour and none was found. Raises ``ValueError`` unless both masks are
    bool of the same three-dimensional shape.

    >>> truth = np.zeros((3, 8, 8), dtype=bool)
    >>> truth[1, 2:6, 2:6] = True
    >>> scores = patient_metrics(truth, np.roll(truth, 1, axis=2))
    >>> scores["dice"], scores["hd95"], scores["missed"]
    (0.75, 1.0, 0.0)
    """
    alike = truth.shape == prediction.shape and truth.ndim == 3
    if not alike or truth.dtype != bool or prediction.dtype != bool:
        raise ValueError(
            f"masks: found truth {truth.dtype} {truth.shape} and prediction {prediction.dtype} "
            f"{prediction.shape}; expected two bool volumes (slices, height, width) alike"
        )
    return {name: metric(truth, prediction) for name, metric in METRICS.items()}
