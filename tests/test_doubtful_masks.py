"""What is doubtful about a reference mask: planted faults are found, a sound mask is not."""

from __future__ import annotations

import doubtful_masks
import numpy as np
import pytest


def ball(row: int = 30, size: int = 12) -> np.ndarray:
    """A blob on slices 2 to 7 of 10, 64 pixels wide."""
    volume = np.zeros((10, 64, 64), dtype=bool)
    volume[2:8, row : row + size, 20 : 20 + size] = True
    return volume


MODELS = [ball(), ball(31), ball(30, 13)]


def reasons(truth: np.ndarray) -> dict[int, str]:
    return dict(doubtful_masks.doubtful_slices(truth, MODELS))


def test_a_sound_mask_is_not_doubtful() -> None:
    found = doubtful_masks.examine(ball(), MODELS)
    assert not found["slices"] and not found["reasons"]
    assert found["dice"] == found["dice_without_slices"] > 0.9


@pytest.mark.parametrize("index", [3, 6])
def test_slices_are_named_with_their_reason(index: int) -> None:
    unmarked, elsewhere, unfound, jump = ball(), ball(), ball(), ball()
    unmarked[index] = False
    elsewhere[index] = np.roll(elsewhere[index], 8, axis=0)
    unfound[9, 50:60, 50:60] = True
    assert reasons(unmarked) == {index: "unmarked"}
    assert reasons(elsewhere)[index] == "elsewhere"
    assert reasons(unfound) == {9: "unfound"}
    jump[2:index] = np.roll(jump[2:index], 5, axis=2)
    jump[index:8] = np.roll(jump[index:8], -4, axis=2)
    assert set(reasons(jump).values()) == {"jumps"} and {index - 1, index} == set(reasons(jump))


def test_a_shifted_mask_says_by_how_much_it_moves_back() -> None:
    found = doubtful_masks.examine(np.roll(ball(), (5, -4), (1, 2)), MODELS)
    assert "shifted by -5 rows and 4 columns" in found["reasons"]
    assert "disagrees" in found["reasons"]


def test_the_scores_without_what_is_doubtful_are_told_beside_the_others() -> None:
    wrong = ball()
    wrong[3:6] = False
    found = {"a": doubtful_masks.examine(ball(), MODELS)}
    found["b"] = doubtful_masks.examine(wrong, MODELS)
    told = doubtful_masks.summary(found)
    assert told["slices"] == 3 and told["with_all"]["n"] == 2
    assert told["without_doubtful_slices"]["mean"] > told["with_all"]["mean"]
    assert told["without_doubtful_patients"] == {
        "n": 1, "mean": found["a"]["dice"], "median": found["a"]["dice"]
    }  # fmt: skip
