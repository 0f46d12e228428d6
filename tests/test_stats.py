from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from lggseg import stats


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        low, high = stats.bootstrap_interval(rng.beta(8, 2, 25))
        covered += low <= 0.8 <= high
    assert covered >= 50


def test_interval_is_deterministic_and_skips_nan() -> None:
    values = [0.2, 0.5, 0.9, 0.7]
    assert stats.bootstrap_interval(values) == stats.bootstrap_interval([*values, float("nan")])


@pytest.mark.parametrize(
    ("values", "expected"), [([0.4], (0.4, 0.4)), ([0.1, 0.9], (0.1, 0.9)), ([0.5] * 9, (0.5, 0.5))]
)
def test_interval_of_too_little(values: list[float], expected: tuple[float, float]) -> None:
    assert stats.bootstrap_interval(values) == expected


def test_interval_of_nothing() -> None:
    assert np.isnan(stats.bootstrap_interval([])).all()


def test_summary() -> None:
    table = pd.DataFrame({"patient": list("abcd"), "dice": [0.2, 0.4, 0.6, float("nan")]})
    summary = stats.summarise(table)
    assert set(summary) == {"dice"}
    assert summary["dice"]["mean"] == pytest.approx(0.4)
    assert summary["dice"]["n"] == 3
    assert summary["dice"]["low"] < 0.4 < summary["dice"]["high"]


def test_holm_by_hand() -> None:
    # Holm's own procedure: 0.01 × 4, 0.02 × 3, 0.03 × 2 = 0.06, 0.04 × 1 raised to 0.06.
    assert stats.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert stats.holm([0.5, 0.9]).tolist() == [1.0, 1.0]


def test_paired_comparison_against_scipy_and_by_hand() -> None:
    rng = np.random.default_rng(0)
    second = rng.uniform(0.6, 0.9, 30)
    first = second + rng.normal(0.02, 0.03, 30)
    result = stats.compare_paired(first, second)
    assert result["p"] == scipy_stats.wilcoxon(first, second).pvalue
    assert result["difference"] == pytest.approx((first - second).mean())
    assert result["low"] < result["difference"] < result["high"]
    # Differences 3, -1, 2, 0: ranks 3, 1, 2 of the three that changed.
    by_hand = stats.compare_paired(np.array([4.0, 1, 3, 5]), np.array([1.0, 2, 1, 5]))
    assert by_hand["rank_biserial"] == pytest.approx((3 - 1 + 2) / 6)
    assert by_hand["superiority"] == pytest.approx((2 + 0.5) / 4)


def test_paired_comparison_of_the_same_values() -> None:
    result = stats.compare_paired(np.ones(5), np.ones(5))
    assert (result["p"], result["rank_biserial"], result["superiority"]) == (1.0, 0.0, 0.5)
    with pytest.raises(ValueError, match="found 2 and 3 values"):
        stats.compare_paired(np.ones(2), np.ones(3))


def test_all_pairs_are_compared_and_adjusted() -> None:
    rng = np.random.default_rng(1)
    table = pd.DataFrame(rng.uniform(size=(20, 3)), columns=["a", "b", "c"])
    pairs = stats.compare_all(table)
    assert pairs[["first", "second"]].to_numpy().tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert pairs["p_holm"].tolist() == stats.holm(pairs["p"]).tolist()


def test_rank_shares() -> None:
    table = pd.DataFrame({"worse": np.linspace(0, 1, 10), "better": np.linspace(0.1, 1.1, 10)})
    shares = stats.rank_shares(table, draws=100)
    assert shares.loc["better"].tolist() == [1.0, 0.0]
    assert shares.loc["worse"].tolist() == [0.0, 1.0]
    noise = pd.DataFrame(np.random.default_rng(0).uniform(size=(40, 3)))
    assert stats.rank_shares(noise).sum(axis=1).tolist() == pytest.approx([1, 1, 1])
