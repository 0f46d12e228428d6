"""Intervals over patients, paired comparisons of models on the same patients, agreement of two
measurements, and tests of features between groups of patients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

MANY = 1000  # values, from which on an interval need not be BCa


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    *,
    statistic: Callable[..., Any] = np.mean,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval of a statistic over patients (BCa, Efron 1987), by ``scipy.stats``.

    NaN are left out. With fewer than three values, or values all alike, there is nothing to
    resample: the interval is their range. From 1,000 values on it is the percentile interval:
    BCa leaves out each value in turn, which takes the square of their number in time and memory,
    and corrects what falls with its root.

    >>> low, high = bootstrap_interval([0.91, 0.88, 0.85, 0.79, 0.42])  # the mean is 0.77
    >>> f"{low:.2f} to {high:.2f}"
    '0.52 to 0.87'
    """
    sample = np.asarray(values, dtype=float)
    sample = sample[~np.isnan(sample)]
    if len(sample) == 0:
        return float("nan"), float("nan")
    if len(sample) < 3 or np.ptp(sample) == 0:
        return float(sample.min()), float(sample.max())
    methods: list[Literal["BCa", "percentile"]] = ["BCa", "percentile"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a degenerate BCa warns and gives NaN; handled below
        for method in methods[len(sample) >= MANY :]:
            low, high = stats.bootstrap(
                (sample,),
                statistic,
                confidence_level=confidence,
                method=method,
                batch=1 + 2**24 // len(sample),  # resamples of 128 MiB at once
                rng=seed,
            ).confidence_interval
            if np.isfinite([low, high]).all():
                break
    return float(low), float(high)


def summarise(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Per numeric column: mean, its 95 % interval (low, high), median, and n without NaN.

    >>> table = pd.DataFrame({"patient": ["A", "B", "C"], "hd95": [2.0, 4.0, float("nan")]})
    >>> summarise(table)["hd95"]
    {'mean': 3.0, 'low': 2.0, 'high': 4.0, 'median': 3.0, 'n': 2}
    """
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


def examples(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the best, the median and the worst patient by Dice, each row once.

    >>> table = pd.DataFrame({"patient": ["A", "B", "C"], "dice": [0.8, 0.4, 0.9]})
    >>> examples(table)["patient"].tolist()
    ['C', 'A', 'B']
    """
    ordered = table.sort_values("dice", ascending=False)
    return ordered.iloc[sorted({0, len(ordered) // 2, len(ordered) - 1})]


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """P values adjusted for their number (Holm 1979): the k-th smallest of n times n - k + 1, at
    least the one before and at most 1. Same order as given.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
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

    >>> unet = np.array([0.90, 0.85, 0.83, 0.80, 0.51, 0.49])
    >>> found = compare_paired(np.array([0.91, 0.88, 0.85, 0.79, 0.62, 0.57]), unet)
    >>> round(found["difference"], 3), round(found["p"], 3)
    (0.04, 0.094)
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
    with ``p_holm``, the p value adjusted for the number of pairs; of one model, no row."""
    rows = [
        {"first": one, "second": two, **compare_paired(table[one], table[two])}
        for one, two in combinations(table.columns, 2)
    ]
    pairs = pd.DataFrame(rows) if rows else pd.DataFrame(columns=["first", "second", "p"])
    return pairs.assign(p_holm=holm(pairs["p"].to_numpy()))


def rank_shares(table: pd.DataFrame, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """How stable a ranking is: the share of bootstrap samples of patients in which each model
    (row) takes each rank by its mean (column, 1 is best); ties share the better rank."""
    rng = np.random.default_rng(seed)
    values = table.to_numpy()
    rows = rng.integers(0, len(values), (draws, len(values)))
    ranks = stats.rankdata(-values[rows].mean(axis=1), method="min", axis=1)
    positions = range(1, values.shape[1] + 1)
    shares = {position: (ranks == position).mean(axis=0) for position in positions}
    return pd.DataFrame(shares, index=table.columns)


def intraclass_correlation(ratings: np.ndarray) -> Any:
    """Absolute agreement of single ratings, ``(..., patients, raters)``: ICC(2,1) of Shrout and
    Fleiss (1979), which McGraw and Wong (1996) call ICC(A,1); 1 where all raters say the same.

    (R - E) / (R + (k - 1) E + k (C - E) / n), with the mean squares between patients R, between
    raters C and of the rest E. NaN where all ratings are alike, or for one patient.

    Returns:
        A number, or for leading dimensions as many numbers.
    """
    values = np.asarray(ratings, dtype=float)
    n, k = values.shape[-2:]
    both = (-2, -1)
    mean = values.mean(both, keepdims=True)
    rows, columns = values.mean(-1, keepdims=True), values.mean(-2, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = k * np.square(rows - mean).sum(both) / np.float64(n - 1)
        raters = n * np.square(columns - mean).sum(both) / (k - 1)
        error = np.square(values - rows - columns + mean).sum(both) / np.float64((n - 1) * (k - 1))
        found = (between - error) / (between + (k - 1) * error + k * (raters - error) / n)
    return np.where(np.ptp(values, axis=both) == 0, np.nan, found)[()]


def limits_of_agreement(differences: np.ndarray) -> tuple[float, float, float]:
    """The mean of differences ``(n,)`` and, 1.96 standard deviations around it, the limits between
    which 95 % of them lie if they are normal (Bland and Altman, Lancet 327:307, 1986)."""
    mean, spread = float(differences.mean()), 1.96 * float(differences.std(ddof=1))
    return mean, mean - spread, mean + spread


def agreement(first: np.ndarray | pd.Series, second: np.ndarray | pd.Series) -> dict[str, float]:
    """Two measurements of the same patients, in the same order.

    icc: :func:`intraclass_correlation` with its bootstrap 95 % interval over patients (low, high);
    bias, lower and upper: :func:`limits_of_agreement` of second - first; n patients with both. All
    but n are NaN for fewer than three.
    """
    pairs = np.column_stack([first, second]).astype(float)
    pairs = pairs[~np.isnan(pairs).any(axis=1)]
    numbers = dict.fromkeys(("icc", "low", "high", "bias", "lower", "upper"), float("nan"))
    if len(pairs) < 3:
        return {**numbers, "n": len(pairs)}
    limits = limits_of_agreement(pairs[:, 1] - pairs[:, 0])

    def icc_of(rows: np.ndarray, axis: int) -> Any:  # with an axis: of all resamples at once
        return intraclass_correlation(pairs[rows.astype(int)])

    interval = bootstrap_interval(np.arange(len(pairs)), statistic=icc_of)
    found = (intraclass_correlation(pairs), *interval, *limits)
    return {**dict(zip(numbers, map(float, found), strict=True)), "n": len(pairs)}


def kruskal_wallis(
    values: pd.Series, groups: pd.Series, *, permutations: int = 9999, seed: int = 0
) -> dict[str, float]:
    """Whether a feature differs between groups of patients; both have one value per patient.

    h and p: the rank test of Kruskal and Wallis (1952), by scipy; p_permutation: the share of
    random orders of the patients with an h at least as large, the true one counted among them,
    which holds for small groups too; epsilon_squared: h / (n - 1) (Tomczak and Tomczak 2014), from
    0 to 1, (groups - 1) / (n - 1) by chance alone; groups and n. A patient without a value or a
    group, and a group of one patient, are left out. All but groups and n are NaN with fewer than
    two groups, or where all values are alike.
    """
    table = pd.DataFrame({"value": values, "group": groups}).dropna()
    table = table[table.groupby("group")["value"].transform("size") > 1]
    samples = [sample.to_numpy() for _, sample in table.groupby("group")["value"]]
    names = ("h", "p", "p_permutation", "epsilon_squared")
    sizes = {"groups": len(samples), "n": len(table)}
    if len(samples) < 2 or table["value"].nunique() < 2:
        return dict.fromkeys(names, float("nan")) | sizes
    h, p = stats.kruskal(*samples)
    ranks = stats.rankdata(np.concatenate(samples))
    shuffled = np.random.default_rng(seed).permuted(np.tile(ranks, (permutations, 1)), axis=1)
    starts = np.cumsum([0, *map(len, samples[:-1])])
    # For given ranks, h grows with this sum alone.
    observed, others = (
        (np.add.reduceat(rows, starts, axis=-1) ** 2 / list(map(len, samples))).sum(axis=-1)
        for rows in (ranks, shuffled)
    )
    extreme = np.count_nonzero(others >= observed * (1 - 1e-12))
    p_permutation = (extreme + 1) / (permutations + 1)
    found = (h, p, p_permutation, h / (len(table) - 1))
    return dict(zip(names, map(float, found), strict=True)) | sizes


def associations(features: pd.DataFrame, groupings: pd.DataFrame) -> pd.DataFrame:
    """:func:`kruskal_wallis` of each column of features with each of groupings, rows of both being
    patients: a row per pair, with ``p_holm``, p adjusted for the number of tests that could be
    made."""
    rows = [
        {"feature": feature, "grouping": grouping, **kruskal_wallis(values, groups)}
        for feature, values in features.items()
        for grouping, groups in groupings.items()
    ]
    tests = pd.DataFrame(rows)
    tested = tests["p"].dropna()
    return tests.assign(p_holm=pd.Series(holm(tested.to_numpy()), tested.index))


# Of Fisher's test with more than two groups: p is a share of so many tables.
RANDOM_TABLES = 99_999


def fisher_at_median(values: pd.Series, groups: pd.Series, seed: int = 0) -> float:
    """P of Fisher's exact test between the groups and whether a feature lies above its median, by
    scipy: exact for two groups, else from :data:`RANDOM_TABLES`. NaN where either does not vary."""
    table = pd.DataFrame({"value": values, "group": groups}).dropna()
    counts = pd.crosstab(table["value"] > table["value"].median(), table["group"]).to_numpy()
    if min(counts.shape, default=0) < 2:
        return float("nan")
    random = stats.MonteCarloMethod(n_resamples=RANDOM_TABLES, rng=seed)
    method = None if counts.shape == (2, 2) else random
    # For some tables scipy 1.17 gives an array of one p.
    return float(np.squeeze(stats.fisher_exact(counts, method=method).pvalue))
