"""Intervals over patients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy import stats


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    *,
    statistic: Callable[..., float] = np.mean,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval of a statistic over patients (BCa, Efron 1987), by ``scipy.stats``.

    NaN are left out. With fewer than three values, or values all alike, there is nothing to
    resample: the interval is their range.
    """
    sample = np.asarray(values, dtype=float)
    sample = sample[~np.isnan(sample)]
    if len(sample) == 0:
        return float("nan"), float("nan")
    if len(sample) < 3 or np.ptp(sample) == 0:
        return float(sample.min()), float(sample.max())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a degenerate BCa warns and gives NaN; handled below
        for method in ("BCa", "percentile"):
            low, high = stats.bootstrap(
                (sample,), statistic, confidence_level=confidence, method=method, rng=seed
            ).confidence_interval
            if np.isfinite([low, high]).all():
                break
    return float(low), float(high)


def summarise(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Per numeric column: mean, its 95 % interval (low, high), median, and n without NaN."""
    summary = {}
    for name, values in table.select_dtypes("number").items():
        low, high = bootstrap_interval(values.to_numpy())
        summary[str(name)] = {
            "mean": float(values.mean()),
            "low": low,
            "high": high,
            "median": float(values.median()),
            "n": int(values.count()),
        }
    return summary
