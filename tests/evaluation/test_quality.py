"""The estimate of a mask's Dice, and what is said of it."""

import numpy as np
import pytest

from lggseg.evaluation.quality import (
    Quality,
    assess_quality,
    estimate_by_other_groups,
    threshold_agreement,
)


def test_the_agreement_is_the_dice_of_the_two_masks() -> None:
    probability = np.random.default_rng(0).uniform(size=(3, 8, 8))
    lenient, strict = probability >= 0.2, probability >= 0.8
    expected = 2 * (lenient & strict).sum() / (lenient.sum() + strict.sum())
    assert threshold_agreement(probability) == pytest.approx(expected)
    assert threshold_agreement(np.zeros((1, 2, 2))) == 1.0
    assert threshold_agreement(np.full((1, 2, 2), 0.5)) == 0.0


def test_the_line_is_that_of_least_squares_and_flags_a_fifth() -> None:
    x = np.linspace(0.5, 0.95, 50)
    quality = Quality.fit(x, 1.2 * x - 0.2)
    assert (quality.slope, quality.intercept) == pytest.approx((1.2, -0.2))
    estimates = quality.intercept + quality.slope * x
    assert (estimates < quality.review_below).mean() == pytest.approx(0.2)
    volume = np.array([[[0.9, 0.9, 0.3, 0.0]]])  # agreement 0.8
    assert quality.estimate(volume) == pytest.approx(0.76)
    assert Quality(-1.0, 1.0).estimate(volume) == 0.0


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.linspace(0.5, 0.9, 9), np.linspace(0.5, 0.9, 9)),  # too few
        (np.full(20, 0.7), np.linspace(0.5, 0.9, 20)),
        (np.linspace(0.5, 0.9, 20), np.linspace(0.9, 0.5, 20)),  # does not rise
    ],
)
def test_without_a_rising_line_the_agreement_is_the_estimate(x: np.ndarray, y: np.ndarray) -> None:
    assert Quality.fit(x, y.tolist()) == Quality()


def test_what_a_card_tells_is_what_was_fitted() -> None:
    quality = Quality(-0.3, 1.3, 0.7)
    facts = {"intercept": -0.3, "slope": 1.3, "review_below": 0.7, "spearman": 0.8}
    assert Quality.of(facts) == quality and Quality.of({}) == Quality()


def test_the_line_is_judged_on_groups_that_it_has_not_seen() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0.5, 0.95, 60)
    group = np.repeat(["A", "B", "C"], 20)
    y = x - 0.1 + rng.normal(0, 0.01, 60)
    y[group == "C"] -= 0.3  # what lines of A and B cannot have learned
    facts = assess_quality(x, y, group)
    assert facts["n"] == 60 and facts["worst"] == 6
    # A and B are fitted with C among the others, C without: too low there, too high here.
    own = Quality.fit(x[group != "C"], y[group != "C"].tolist())
    too_high = own.intercept + own.slope * x[group == "C"] - y[group == "C"]
    assert too_high.mean() == pytest.approx(0.3, abs=0.02)
    assert facts["mean_absolute_error"] > 0.15
    assert facts["risk_coverage"][-1] == [1.0, pytest.approx(y.mean(), abs=1e-4)]
    assert facts["risk_coverage"][0][0] == pytest.approx(1 / 60, abs=1e-4)


def test_each_group_is_estimated_by_the_line_of_the_others() -> None:
    x = np.tile(np.linspace(0.5, 0.95, 15), 2)
    group = np.repeat([0, 1], 15)
    y = np.where(group == 0, 0.9 * x, 0.8 * x)
    estimate, flagged = estimate_by_other_groups(x, y, group)
    assert estimate == pytest.approx(np.where(group == 0, 0.8 * x, 0.9 * x), abs=1e-3)
    assert flagged.tolist() == [*([True] * 3 + [False] * 12)] * 2


def test_of_perfect_estimates_all_of_the_worst_are_flagged() -> None:
    x = np.tile(np.linspace(0.4, 0.9, 30), 2)
    facts = assess_quality(x, x, np.repeat([0, 1], 30))
    assert facts["spearman"] == pytest.approx(1.0) and facts["worst_flagged"] == facts["worst"] == 6
    assert facts["bias"] == pytest.approx(0.0, abs=1e-6)
    kept = [row[1] for row in facts["risk_coverage"]]
    assert kept == sorted(kept, reverse=True)
