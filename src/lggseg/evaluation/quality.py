"""An estimate of a mask's Dice without ground truth, and how good that estimate is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lggseg.evaluation.segmentation import ratio

# The probabilities at which a lenient and a strict mask begin.
LENIENT, STRICT = 0.2, 0.8
# The share of patients to look at again, and how many are too few to calibrate on.
REVIEWED, FEWEST = 0.2, 10


def threshold_agreement(probability: np.ndarray) -> float:
    """Dice between the masks of the probabilities from 0.2 and from 0.8, over the volume.

    Voxels between the two are those of which the network is unsure. On left-out patients this
    ranks masks better than the Dice that the probabilities themselves predict (see
    docs/experiments.md).

    Args:
        probability: Float ``(slices, height, width)``.

    Returns:
        A value from 0 to 1; 1 where both masks are empty.

    >>> threshold_agreement(np.array([[[0.1, 0.3, 0.9, 0.9]]]))
    0.8
    """
    strict = np.count_nonzero(probability >= STRICT)
    return ratio(2 * strict, strict + np.count_nonzero(probability >= LENIENT))


@dataclass(frozen=True)
class Quality:
    """The line that turns :func:`threshold_agreement` into an estimate of Dice.

    intercept, slope: of the line; the defaults leave the agreement as it is. review_below: masks
    with a lower estimate should be looked at.
    """

    intercept: float = 0.0
    slope: float = 1.0
    review_below: float = 0.0

    @classmethod
    def fit(
        cls, agreement: Sequence[float] | np.ndarray, dice: Sequence[float] | np.ndarray
    ) -> Quality:
        """The least-squares line through patients that the model has not seen; the fifth of them
        with the lowest estimates is below ``review_below``. The defaults where there are fewer than
        ten patients, or where the line does not rise.

        >>> Quality.fit(np.linspace(0.6, 0.9, 10), np.linspace(0.5, 0.9, 10)).review_below
        0.58
        """
        x, y = np.asarray(agreement, float), np.asarray(dice, float)
        if len(x) < FEWEST or np.ptp(x) == 0:
            return cls()
        slope, intercept = (round(float(value), 4) for value in np.polyfit(x, y, 1))
        if slope <= 0:
            return cls()
        line = cls(intercept, slope)
        return replace(line, review_below=round(float(np.quantile(line.at(x), REVIEWED)), 4))

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Quality:
        """As a model card or an endpoint's answer tells it; the defaults where it does not."""
        names = ("intercept", "slope", "review_below")
        return cls(*(float(facts[name]) for name in names)) if facts else cls()

    def at(self, agreement: float | np.ndarray) -> np.ndarray:
        """The line at these values of :func:`threshold_agreement`, within 0 and 1."""
        return np.clip(self.intercept + self.slope * np.asarray(agreement), 0, 1)

    def estimate(self, probability: np.ndarray) -> float:
        """The estimated Dice of the mask of a volume: a value from 0 to 1."""
        return float(self.at(threshold_agreement(probability)))


# The agreement itself as the estimate.
UNCALIBRATED = Quality()


def assess_quality(
    agreement: Sequence[float] | np.ndarray,
    dice: Sequence[float] | np.ndarray,
    group: Sequence[Any] | np.ndarray,
) -> dict[str, Any]:
    """How well the estimate does on groups of patients (folds, institutions) that its line was not
    fitted on.

    Args:
        agreement: :func:`threshold_agreement` of each patient, by a model that has not seen it.
        dice: The true Dice.
        group: Each group in turn is left out of the fit.

    Returns:
        n; spearman: rank correlation of estimate and Dice (None where either is the same for all);
        bias and mean_absolute_error of the
        estimate; flagged: the share of patients below their ``review_below``; worst_flagged: how
        many of the worst tenth (by Dice) are among them, and worst, of how many; risk_coverage:
        rows of [share of patients kept, mean Dice], the lowest estimates left out first.
    """
    from scipy import stats

    x, y, groups = (np.asarray(values) for values in (agreement, dice, group))
    estimate, flagged = estimate_by_other_groups(x, y, groups)
    worst = np.argsort(y)[: max(1, round(len(y) / 10))]
    kept = np.arange(1, len(y) + 1)
    curve = np.stack([kept / len(y), np.cumsum(y[np.argsort(-estimate)]) / kept], axis=1)
    constant = np.ptp(estimate) == 0 or np.ptp(y) == 0
    return {
        "n": len(y),
        "spearman": None if constant else float(stats.spearmanr(estimate, y).statistic),
        "bias": float((estimate - y).mean()),
        "mean_absolute_error": float(np.abs(estimate - y).mean()),
        "flagged": float(flagged.mean()),
        "worst_flagged": int(flagged[worst].sum()),
        "worst": len(worst),
        "risk_coverage": curve.round(4).tolist(),
    }


def estimate_by_other_groups(
    agreement: np.ndarray, dice: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The estimate of each patient's Dice by the line that was fitted on the other groups, and
    whether it is below that line's ``review_below``; the arguments are those of
    :func:`assess_quality`."""
    estimate, flagged = np.empty(len(dice)), np.zeros(len(dice), dtype=bool)
    for name in np.unique(groups):
        own = groups == name
        line = Quality.fit(agreement[~own], dice[~own])
        estimate[own] = line.at(agreement[own])
        flagged[own] = estimate[own] < line.review_below
    return estimate, flagged
