"""Intervals over patients, and paired comparisons of models on the same patients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

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


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """P values adjusted for their number (Holm 1979): the k-th smallest of n times n - k + 1, at
    least the one before and at most 1. Same order as given."""
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values)
    factors = np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1)
    return adjusted


def compare_paired(first: np.ndarray | pd.Series, second: np.ndarray | pd.Series) -> dict[str, Any]:
    """Two models on the same patients, one value each, in the same order.

    difference: mean of first - second, with its bootstrap 95 % interval (low, high);
    p: Wilcoxon's signed-rank test, two-sided (1 where all pairs are alike);
    rank_biserial: share of rank sums that favour the first minus those that favour the second
    (Kerby 2014), from -1 to 1; superiority: probability that the first is better for a patient,
    ties counted half. Raises ``ValueError`` unless both have the same length.
    """
    one, two = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if one.shape != two.shape:
        raise ValueError(f"found {len(one)} and {len(two)} values, expected the same patients")
    difference = one - two
    low, high = bootstrap_interval(difference)
    changed = difference[difference != 0]
    ranks = stats.rankdata(np.abs(changed))
    return {
        "difference": float(difference.mean()),
        "low": low,
        "high": high,
        "p": float(stats.wilcoxon(changed).pvalue) if len(changed) else 1.0,
        "rank_biserial": float((np.sign(changed) @ ranks) / max(ranks.sum(), 1)),
        "superiority": float(np.mean((difference > 0) + 0.5 * (difference == 0))),
        "n": len(difference),
    }


def compare_all(table: pd.DataFrame) -> pd.DataFrame:
    """:func:`compare_paired` for each pair of columns (models) of a table with a row per patient,
    with ``p_holm``, the p value adjusted for the number of pairs."""
    rows = [
        {"first": one, "second": two, **compare_paired(table[one], table[two])}
        for one, two in combinations(table.columns, 2)
    ]
    pairs = pd.DataFrame(rows)
    return pairs.assign(p_holm=holm(pairs["p"].to_numpy()))


def rank_shares(table: pd.DataFrame, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """How stable a ranking is: the share of bootstrap samples of patients in which each model
    (row) takes each rank by its mean (column, 1 is best); ties share the better rank."""
    rng = np.random.default_rng(seed)
    values = table.to_numpy()
    rows = rng.integers(0, len(values), (draws, len(values)))
    ranks = stats.rankdata(-values[rows].mean(axis=1), method="min", axis=1)
    places = range(1, values.shape[1] + 1)
    shares = {place: (ranks == place).mean(axis=0) for place in places}
    return pd.DataFrame(shares, index=table.columns)
