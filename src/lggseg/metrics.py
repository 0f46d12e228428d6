"""How well a mask fits, per patient, over the whole volume.

truth and prediction are bool ``(slices, height, width)``. Distances are in voxels with unit
spacing, since the spacing of the slices is unknown in this data.

Empty masks, by policy:

============  ==========  ===============================  ===========================  ======
truth         prediction  dice iou precision recall         hd95 assd                    missed
                          lesion_f1
============  ==========  ===============================  ===========================  ======
empty         empty       1                                0                            0
empty         tumour      0                                the volume's diagonal        0
tumour        empty       0                                the volume's diagonal        1
============  ==========  ===============================  ===========================  ======
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage, special

_TOUCHING = np.ones((3, 3, 3), dtype=bool)


def dice_from_counts(tp: Any, fp: Any, fn: Any) -> Any:
    """Dice = 2 TP / (2 TP + FP + FN), elementwise; 1 where all are 0. Arrays or tensors."""
    empty = (tp + fp + fn) == 0
    return (2 * tp + empty) / (2 * tp + fp + fn + empty)


def dice(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Dice of two masks, bool of the same shape."""
    overlap = np.count_nonzero(truth & prediction)
    odd = np.count_nonzero(truth ^ prediction)
    return float(dice_from_counts(overlap, odd, 0))


def patient_metrics(truth: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    """All metrics of one patient's volume.

    dice, iou, precision, recall; hd95 (95th percentile of the Hausdorff distance, the larger of
    both directions) and assd (average symmetric surface distance) in voxels; lesion_f1;
    slice_dice (mean over the slices with true tumour, as others report it; NaN without any);
    missed (1 when there is tumour and none was found); truth_voxels and predicted_voxels. Raises
    ``ValueError`` unless both are bool of the same three-dimensional shape.
    """
    _check_masks(truth, prediction)
    tp = int(np.count_nonzero(truth & prediction))
    fp = int(np.count_nonzero(prediction)) - tp
    fn = int(np.count_nonzero(truth)) - tp
    hd95, assd = surface_distances(truth, prediction)
    return {
        "dice": float(dice_from_counts(tp, fp, fn)),
        "iou": _ratio(tp, tp + fp + fn),
        "precision": _ratio(tp, tp + fp, empty=float(fn == 0)),
        "recall": _ratio(tp, tp + fn, empty=float(fp == 0)),
        "hd95": hd95,
        "assd": assd,
        "lesion_f1": lesion_f1(truth, prediction),
        "slice_dice": slice_dice(truth, prediction),
        "missed": float(tp + fn > 0 and tp + fp == 0),
        "truth_voxels": float(tp + fn),
        "predicted_voxels": float(tp + fp),
    }


def _check_masks(truth: np.ndarray, prediction: np.ndarray) -> None:
    alike = truth.shape == prediction.shape and truth.ndim == 3
    if not alike or truth.dtype != bool or prediction.dtype != bool:
        raise ValueError(
            f"masks: found truth {truth.dtype} {truth.shape} and prediction {prediction.dtype} "
            f"{prediction.shape}; expected two bool volumes (slices, height, width) alike"
        )


def _ratio(part: float, whole: float, empty: float = 1.0) -> float:
    return part / whole if whole else empty


def surface_distances(truth: np.ndarray, prediction: np.ndarray) -> tuple[float, float]:
    """HD95 and ASSD in voxels, by MONAI, with the policy above for empty masks."""
    # MONAI takes seconds to import, and most of this module does without.
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    if not truth.any() and not prediction.any():
        return 0.0, 0.0
    if not truth.any() or not prediction.any():
        diagonal = float(np.linalg.norm(truth.shape))
        return diagonal, diagonal
    box = _bounding_box(truth | prediction)
    masks = [torch.from_numpy(mask[box].copy())[None, None] for mask in (prediction, truth)]
    found, true = masks
    hd95 = compute_hausdorff_distance(found, true, include_background=True, percentile=95)
    assd = compute_average_surface_distance(found, true, include_background=True, symmetric=True)
    return float(hd95), float(assd)


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    return ndimage.find_objects(mask.astype(np.uint8))[0]


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
    return _ratio(2 * precision * recall, precision + recall, empty=0.0)


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


def expected_dice(probability: np.ndarray, prediction: np.ndarray) -> float:
    """The Dice that the model itself expects, without a truth: 2 Σ p m / (Σ p + Σ m) over the
    volume, for probabilities p and its mask m. 1 where both are empty.

    If the probabilities are right, it is the ratio of the expected overlap and the expected sizes.
    """
    overlap, sizes = float(probability[prediction].sum()), float(probability.sum())
    return _ratio(2 * overlap, sizes + np.count_nonzero(prediction))


def reliability(probability: np.ndarray, truth: np.ndarray, bins: int = 15) -> np.ndarray:
    """Voxels, the sum of their probabilities, and tumour voxels in each of equal-width bins of the
    probability: float64 ``(bins, 3)``. Tables of several patients add up."""
    bin_of = np.minimum((probability.ravel() * bins).astype(np.intp), bins - 1)
    weights = (None, probability.ravel(), truth.ravel())
    return np.stack([np.bincount(bin_of, w, bins).astype(float) for w in weights], axis=1)


def expected_calibration_error(table: np.ndarray) -> float:
    """Mean gap between predicted probability and observed frequency, over the bins of
    :func:`reliability` weighted by their voxels (Guo et al. 2017, equation 3, for the tumour
    class)."""
    voxels, probabilities, tumours = table.T
    return float(np.abs(probabilities - tumours).sum() / voxels.sum())


def entropy(probability: np.ndarray) -> np.ndarray:
    """Entropy of each voxel's label in bits, from 0 (sure) to 1 (either): float32, same shape."""
    nats = special.entr(probability) + special.entr(1 - probability)
    return np.asarray(nats / np.log(2), dtype=np.float32)
