from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from lggseg.evaluation import statistics


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        low, high = statistics.bootstrap_interval(rng.beta(8, 2, 25))
        covered += low <= 0.8 <= high
    assert covered >= 50


def test_interval_is_deterministic_and_skips_nan() -> None:
    values = [0.2, 0.5, 0.9, 0.7]
    assert statistics.bootstrap_interval(values) == statistics.bootstrap_interval(
        [*values, float("nan")]
    )


@pytest.mark.parametrize(
    ("values", "expected"), [([0.4], (0.4, 0.4)), ([0.1, 0.9], (0.1, 0.9)), ([0.5] * 9, (0.5, 0.5))]
)
def test_interval_of_too_little(values: list[float], expected: tuple[float, float]) -> None:
    assert statistics.bootstrap_interval(values) == expected


def test_interval_of_many_leaves_out_no_value_and_bounds_its_memory() -> None:
    values, shapes = np.random.default_rng(0).beta(8, 2, 30_000), set()

    def mean(sample: np.ndarray, axis: int = -1) -> np.ndarray:
        shapes.add(sample.shape)
        return sample.mean(axis=axis)

    low, high = statistics.bootstrap_interval(values, statistic=mean)
    assert {shape[-1] for shape in shapes} == {len(values)}
    assert max(np.prod(shape) for shape in shapes) <= 2**24 + len(values)
    half = 1.96 * values.std() / np.sqrt(len(values))  # the central limit theorem
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=half / 10)


def test_interval_of_few_is_bca() -> None:
    values = np.random.default_rng(0).beta(8, 2, 70)
    known = scipy_stats.bootstrap((values,), np.mean, method="BCa", rng=0).confidence_interval
    assert statistics.bootstrap_interval(values) == (known.low, known.high)


def test_interval_of_nothing() -> None:
    assert np.isnan(statistics.bootstrap_interval([])).all()


def test_summary() -> None:
    table = pd.DataFrame({"patient": list("abcd"), "dice": [0.2, 0.4, 0.6, float("nan")]})
    summary = statistics.summarise(table)
    assert set(summary) == {"dice"}
    assert summary["dice"]["mean"] == pytest.approx(0.4)
    assert summary["dice"]["n"] == 3
    assert summary["dice"]["low"] < 0.4 < summary["dice"]["high"]


def test_holm_by_hand() -> None:
    # Holm's own procedure: 0.01 × 4, 0.02 × 3, 0.03 × 2 = 0.06, 0.04 × 1 raised to 0.06.
    assert statistics.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert statistics.holm([0.5, 0.9]).tolist() == [1.0, 1.0]


def test_paired_comparison_against_scipy_and_by_hand() -> None:
    rng = np.random.default_rng(0)
    second = rng.uniform(0.6, 0.9, 30)
    first = second + rng.normal(0.02, 0.03, 30)
    result = statistics.compare_paired(first, second)
    assert result["p"] == scipy_stats.wilcoxon(first, second).pvalue
    assert result["difference"] == pytest.approx((first - second).mean())
    assert result["low"] < result["difference"] < result["high"]
    # Differences 3, -1, 2, 0: ranks 3, 1, 2 of the three that changed.
    by_hand = statistics.compare_paired(np.array([4.0, 1, 3, 5]), np.array([1.0, 2, 1, 5]))
    assert by_hand["rank_biserial"] == pytest.approx((3 - 1 + 2) / 6)
    assert by_hand["superiority"] == pytest.approx((2 + 0.5) / 4)


def test_paired_comparison_of_the_same_values() -> None:
    result = statistics.compare_paired(np.ones(5), np.ones(5))
    assert (result["p"], result["rank_biserial"], result["superiority"]) == (1.0, 0.0, 0.5)
    with pytest.raises(ValueError, match="found 2 and 3 values"):
        statistics.compare_paired(np.ones(2), np.ones(3))


def test_all_pairs_are_compared_and_adjusted() -> None:
    rng = np.random.default_rng(1)
    table = pd.DataFrame(rng.uniform(size=(20, 3)), columns=["a", "b", "c"])
    pairs = statistics.compare_all(table)
    assert pairs[["first", "second"]].to_numpy().tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert pairs["p_holm"].tolist() == statistics.holm(pairs["p"]).tolist()


def test_rank_shares() -> None:
    table = pd.DataFrame({"worse": np.linspace(0, 1, 10), "better": np.linspace(0.1, 1.1, 10)})
    shares = statistics.rank_shares(table, draws=100)
    assert shares.loc["better"].tolist() == [1.0, 0.0]
    assert shares.loc["worse"].tolist() == [0.0, 1.0]
    noise = pd.DataFrame(np.random.default_rng(0).uniform(size=(40, 3)))
    assert statistics.rank_shares(noise).sum(axis=1).tolist() == pytest.approx([1, 1, 1])


# Shrout and Fleiss (1979), table 2: six targets, four judges.
RATINGS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
)


def test_intraclass_correlation_of_shrout_and_fleiss() -> None:
    # Their table 3 has the mean squares 11.24, 32.49 and 1.02, their table 4 the ICC(2,1) of 0.29.
    by_hand = (11.24 - 1.02) / (11.24 + 3 * 1.02 + 4 * (32.49 - 1.02) / 6)
    found = statistics.intraclass_correlation(RATINGS)
    assert found == pytest.approx(by_hand, abs=1e-3) and round(found, 2) == 0.29


def test_a_constant_error_lowers_the_agreement_but_not_the_correlation() -> None:
    truth = np.arange(10.0)
    same, shifted = (np.column_stack([truth, truth + error]) for error in (0, 3))
    assert statistics.intraclass_correlation(same) == 1
    assert statistics.intraclass_correlation(shifted) < 0.8
    assert np.isnan(statistics.intraclass_correlation(np.ones((5, 2))))
    assert np.isnan(statistics.intraclass_correlation(np.ones((1, 2))))


def test_agreement_by_hand() -> None:
    # Differences 1, 3, 2 and -2: mean 1, standard deviation sqrt(14 / 3).
    found = statistics.agreement([1.0, 2, 5, 9, np.nan], pd.Series([2.0, 5, 7, 7, 3]))
    assert found["n"] == 4 and found["bias"] == pytest.approx(1)
    assert found["upper"] - found["bias"] == pytest.approx(1.96 * np.sqrt(14 / 3))
    assert found["bias"] - found["lower"] == pytest.approx(1.96 * np.sqrt(14 / 3))
    ratings = np.array([[1, 2], [2, 5], [5, 7], [9, 7]])
    assert found["icc"] == statistics.intraclass_correlation(ratings)


def test_agreement_has_an_interval_over_patients() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=60)
    found = statistics.agreement(truth, truth + rng.normal(0, 0.5, 60))
    # Variances 1 between patients and 0.25 / 2 of each rating around their mean.
    assert found["low"] < 1 / 1.125 < found["high"]
    assert found["low"] < found["icc"] < found["high"] < 1
    few = statistics.agreement([1.0, 2.0], [1.0, 3.0])
    assert few.pop("n") == 2 and np.isnan(list(few.values())).all()


def grouped_values() -> tuple[pd.Series, pd.Series]:
    rng = np.random.default_rng(0)
    groups = pd.Series(rng.integers(1, 5, 60))
    return pd.Series(rng.normal(size=60) + 0.5 * (groups == 2)).round(1), groups


def test_kruskal_wallis_against_scipy() -> None:
    values, groups = grouped_values()
    found = statistics.kruskal_wallis(values, groups)
    h, p = scipy_stats.kruskal(*(values[groups == group] for group in range(1, 5)))
    assert (found["h"], found["p"]) == pytest.approx((h, p))
    assert found["epsilon_squared"] == pytest.approx(h / 59)
    assert (found["groups"], found["n"]) == (4, 60)
    assert found["p_permutation"] == pytest.approx(p, abs=0.03)


def test_permutations_against_all_orders() -> None:
    # Of the 20 ways to draw three of six, two part them as well as this one does, itself included.
    values, groups = pd.Series([1.0, 2, 3, 4, 5, 6]), pd.Series(list("aaabbb"))
    found = statistics.kruskal_wallis(values, groups)
    assert found["p_permutation"] == pytest.approx(2 / 20, abs=0.01)
    # By hand: rank sums 6 and 15, h = 12 / 42 (36 / 3 + 225 / 3) - 21.
    assert found["h"] == pytest.approx(27 / 7)
    assert found["epsilon_squared"] == pytest.approx(27 / 35)
    rows = {"a": [0, 1, 2], "b": [3, 4, 5]}
    assert scipy_stats.permutation_test(
        [values[part].to_numpy() for part in rows.values()],
        lambda *parts: scipy_stats.kruskal(*parts).statistic,
        permutation_type="independent",
        alternative="greater",
    ).pvalue == pytest.approx(found["p_permutation"], abs=0.01)


def test_kruskal_wallis_leaves_out_what_tells_nothing() -> None:
    values = pd.Series([1.0, 2, 3, 4, np.nan, 6, 7])
    groups = pd.Series([1, 1, 2, 2, 1, np.nan, 3])
    found = statistics.kruskal_wallis(values, groups)
    assert (found["groups"], found["n"]) == (2, 4)
    for nothing in (pd.Series(range(7)), pd.Series([1] * 7)):
        found = statistics.kruskal_wallis(values, nothing)
        assert np.isnan([found["h"], found["p"], found["p_permutation"]]).all()
    assert np.isnan(statistics.kruskal_wallis(pd.Series([5.0] * 7), groups)["p"])


def test_associations_are_adjusted_for_all_that_could_be_tested() -> None:
    values, groups = grouped_values()
    features = pd.DataFrame({"one": values, "constant": 1.0, "two": values[::-1].to_numpy()})
    groupings = pd.DataFrame({"four": groups, "two": groups % 2})
    tests = statistics.associations(features, groupings)
    assert len(tests) == 6
    tested = tests["feature"] != "constant"
    assert tests.loc[~tested, ["p", "p_holm"]].isna().all(axis=None)
    adjusted = statistics.holm(tests.loc[tested, "p"].to_numpy())
    assert tests.loc[tested, "p_holm"].to_numpy() == pytest.approx(adjusted)


def test_fisher_at_the_median() -> None:
    values, groups = pd.Series(np.arange(12.0)), pd.Series([1] * 5 + [2, 1] + [2] * 5)
    exact = scipy_stats.fisher_exact([[5, 1], [1, 5]]).pvalue
    assert statistics.fisher_at_median(values, groups) == pytest.approx(exact)
    three = pd.Series([1] * 4 + [2] * 4 + [3] * 4)
    # Above the median lie 0, 2 and 4 of the groups: 6 of the 924 ways to draw six of twelve, and 6
    # for each order of the groups. No other table is as rare.
    extreme = 6 * 6 / 924
    assert statistics.fisher_at_median(values, three) == pytest.approx(extreme, abs=0.01)
    # The fourth of four is in group 3, as likely as in 2, half as likely as in 1.
    few = statistics.fisher_at_median(pd.Series([1.0, 2, 3, 9]), pd.Series([1, 1, 2, 3]))
    assert few == pytest.approx(1 / 3, abs=0.02)
    assert np.isnan(statistics.fisher_at_median(values, pd.Series([1] * 12)))
    assert np.isnan(statistics.fisher_at_median(pd.Series([1.0] * 12), groups))
