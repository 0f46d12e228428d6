from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_hausdorff_distance
from scipy import ndimage, stats
from scipy.spatial.distance import cdist

from lggseg.evaluation import calibration, segmentation

SHAPE = (5, 12, 14)


def blob(seed: int, share: float = 0.3) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(SHAPE), 1.5)
    return noise > np.quantile(noise, 1 - share)


def surface(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask & ~ndimage.binary_erosion(mask))


def box(*size: int, at: tuple[int, int, int] = (0, 0, 0)) -> np.ndarray:
    mask = np.zeros((10, 20, 20), dtype=bool)
    mask[tuple(slice(a, a + s) for a, s in zip(at, size, strict=True))] = True
    return mask


pairs = st.tuples(st.integers(0, 500), st.integers(0, 500), st.floats(0.02, 0.6))


@settings(max_examples=40, deadline=None)
@given(pairs)
def test_overlap_matches_the_definitions(pair: tuple[int, int, float]) -> None:
    truth, prediction = blob(pair[0]), blob(pair[1], pair[2])
    found = segmentation.patient_metrics(truth, prediction)
    both, either = (truth & prediction).sum(), (truth | prediction).sum()
    assert found["dice"] == pytest.approx(2 * both / (truth.sum() + prediction.sum()))
    assert found["iou"] == pytest.approx(both / either)
    assert found["precision"] == pytest.approx(both / prediction.sum())
    assert found["recall"] == pytest.approx(both / truth.sum())
    assert found["iou"] == pytest.approx(found["dice"] / (2 - found["dice"]))


@settings(max_examples=25, deadline=None)
@given(pairs)
def test_distances_match_brute_force_and_monai(pair: tuple[int, int, float]) -> None:
    truth, prediction = blob(pair[0]), blob(pair[1], pair[2])
    hd95, assd = segmentation.hd95(truth, prediction), segmentation.assd(truth, prediction)
    distance = cdist(surface(truth), surface(prediction))
    there, back = distance.min(axis=1), distance.min(axis=0)
    assert hd95 == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), rel=1e-4)
    assert assd == pytest.approx(np.concatenate([there, back]).mean(), rel=1e-4)
    whole = [torch.from_numpy(mask)[None, None] for mask in (prediction, truth)]
    assert hd95 == pytest.approx(float(compute_hausdorff_distance(*whole, percentile=95)), rel=1e-4)
    back = segmentation.hd95(prediction, truth), segmentation.assd(prediction, truth)
    assert back == pytest.approx((hd95, assd), rel=1e-4)


def test_a_shifted_box_has_known_values() -> None:
    truth, prediction = box(4, 8, 8, at=(2, 2, 2)), box(4, 8, 8, at=(2, 2, 5))
    found = segmentation.patient_metrics(truth, prediction)
    assert found["dice"] == pytest.approx(5 / 8)
    assert found["hd95"] == pytest.approx(3.0)
    assert found["lesion_f1"] == 1.0
    assert found["slice_dice"] == pytest.approx(5 / 8)
    assert found["hd95_mm"] == pytest.approx(3 * 0.94)
    assert found["relative_volume_error"] == 0.0 and found["slices_found"] == 1.0


def test_distances_in_millimetres_count_slices_as_wider_than_pixels() -> None:
    truth, prediction = box(2, 8, 8, at=(2, 2, 2)), box(2, 8, 8, at=(4, 2, 2))
    found = segmentation.patient_metrics(truth, prediction)
    assert found["hd95"] == pytest.approx(2.0) and found["hd95_mm"] == pytest.approx(9.0)
    spacing = np.array(segmentation.TYPICAL_SPACING)
    distance = cdist(surface(truth) * spacing, surface(prediction) * spacing)
    mean = np.concatenate([distance.min(axis=1), distance.min(axis=0)]).mean()
    assert found["assd_mm"] == pytest.approx(mean, rel=1e-4)


def test_volume_error_and_slices_found() -> None:
    truth, prediction = box(4, 8, 8), box(2, 8, 16, at=(3, 0, 0))
    found = segmentation.patient_metrics(truth, prediction)
    assert found["relative_volume_error"] == 0.0
    assert found["slices_found"] == 0.25  # the fourth of four
    larger = segmentation.patient_metrics(truth, box(5, 8, 8))
    assert larger["relative_volume_error"] == pytest.approx(0.25)


@pytest.mark.parametrize("alone", ["truth", "prediction", "neither"])
def test_policy_of_empty_masks(alone: str) -> None:
    empty, full = np.zeros((10, 20, 20), dtype=bool), box(3, 3, 3)
    truth = full if alone == "truth" else empty
    prediction = full if alone == "prediction" else empty
    found = segmentation.patient_metrics(truth, prediction)
    score, distance = (1.0, 0.0) if alone == "neither" else (0.0, np.sqrt(10**2 + 2 * 20**2))
    for name in ("dice", "iou", "precision", "recall", "lesion_f1"):
        assert found[name] == score, name
    for name in ("hd95", "assd"):
        assert found[name] == pytest.approx(distance), name
    in_mm = distance and np.linalg.norm(np.multiply((10, 20, 20), segmentation.TYPICAL_SPACING))
    assert found["hd95_mm"] == found["assd_mm"] == pytest.approx(in_mm)
    assert found["slices_found"] == score
    assert np.isnan(found["relative_volume_error"]) == (alone != "truth")
    assert found["missed"] == (alone == "truth")
    assert np.isnan(found["slice_dice"]) == (alone != "truth")


def test_lesions_are_counted_with_corners_touching() -> None:
    truth = box(2, 2, 2) | box(2, 2, 2, at=(2, 2, 2)) | box(2, 2, 2, at=(6, 10, 10))
    assert segmentation.lesion_f1(truth, truth) == 1.0
    # One of two true lesions found, one of two predicted ones right.
    prediction = box(2, 2, 2) | box(1, 1, 1, at=(9, 19, 0))
    assert segmentation.lesion_f1(truth, prediction) == pytest.approx(0.5)


def test_slice_dice_ignores_healthy_slices() -> None:
    truth, prediction = box(1, 4, 4), box(1, 4, 4) | box(1, 9, 9, at=(5, 5, 5))
    assert segmentation.slice_dice(truth, prediction) == 1.0
    assert segmentation.patient_metrics(truth, prediction)["dice"] < 0.5


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_dice_from_counts(kind: type) -> None:
    dice = segmentation.dice_from_counts(
        kind([1.0, 0.0, 0.0]), kind([1.0, 0.0, 2.0]), kind([1.0, 0, 0])
    )
    assert [float(value) for value in dice] == [0.5, 1.0, 0.0]


def test_calibration() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(200_000).astype(np.float32)
    truth = rng.random(200_000) < probability
    assert (
        calibration.expected_calibration_error(calibration.reliability(probability, truth)) < 0.01
    )
    wrong = calibration.reliability(np.ones(10, np.float32), np.zeros(10, bool))
    assert calibration.expected_calibration_error(wrong) == pytest.approx(1.0)


def test_reliability_of_two_halves_adds_up_to_that_of_the_whole() -> None:
    probability = np.array([0.0, 0.1, 0.6, 0.9, 1.0])
    truth = np.array([False, False, True, False, True])
    table = calibration.reliability(probability, truth, bins=2)
    assert table == pytest.approx(np.array([[2, 0.1, 0], [3, 2.5, 2]]))
    parts = [
        calibration.reliability(probability[p], truth[p], bins=2) for p in np.split(range(5), [2])
    ]
    assert sum(parts) == pytest.approx(table)
    # |0.1 - 0| + |2.5 - 2| over five voxels
    assert calibration.expected_calibration_error(table) == pytest.approx(0.12)


def test_entropy_is_that_of_scipy_in_bits() -> None:
    probability = np.array([[0.0, 0.5], [0.9, 1.0]], np.float32)
    expected = stats.entropy(np.stack([probability, 1 - probability]), base=2)
    assert calibration.entropy(probability) == pytest.approx(expected, abs=1e-6)
    assert calibration.entropy(probability).dtype == np.float32


def test_slice_dices_leave_healthy_slices_out() -> None:
    truth = np.zeros((3, 2, 2), bool)
    truth[0], truth[1, 0] = True, True
    prediction = np.zeros_like(truth)
    prediction[0, 0], prediction[2] = True, True
    assert segmentation.slice_dices(truth, prediction) == pytest.approx([2 / 3, 0])


def test_masks_must_be_alike() -> None:
    with pytest.raises(ValueError, match=r"found truth bool \(1, 2, 3\) and prediction uint8"):
        segmentation.patient_metrics(np.zeros((1, 2, 3), bool), np.zeros((1, 2, 3), np.uint8))
    with pytest.raises(ValueError, match="expected two bool volumes"):
        segmentation.patient_metrics(np.zeros((2, 3), bool), np.zeros((2, 3), bool))


@pytest.mark.slow
def test_no_warning_of_a_library_reaches_the_reader() -> None:
    code = "import numpy as np; from lggseg.evaluation.segmentation import patient_metrics; "
    code += "mask = np.indices((9, 9, 9)).sum(axis=0) < 9; patient_metrics(mask, mask)"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Warning" not in result.stderr
