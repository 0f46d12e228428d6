from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

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
