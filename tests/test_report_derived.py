"""What the report says and no file of results holds."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pandas as pd
import pytest

from lggseg.config import Config
from report import derived, two_models, values


@pytest.fixture(scope="module")
def loaded() -> dict[str, Any]:
    """What the templates can name."""
    return values.load_results()


def patients(**columns: list[float]) -> pd.DataFrame:
    """A table of as many patients as the columns are long."""
    count = len(next(iter(columns.values())))
    return pd.DataFrame({"patient": [*"ABCDEFGH"[:count]], **columns})


def test_main_pairs_are_corrected_for_their_number(loaded: dict[str, Any]) -> None:
    pairs = loaded["main_pairs"]
    assert len(pairs) == 5 and all(row["p_holm"] >= row["p"] for row in pairs)


@pytest.mark.parametrize(
    ("predicted", "over", "excess", "close"),
    [([110, 90], 1, 0.0, 1.0), ([50, 50], 0, -0.5, 0.0), ([105, 135], 2, 0.2, 0.5)],
)
def test_describe_compares_volumes(
    predicted: list[float], over: int, excess: float, close: float
) -> None:
    table = patients(truth_voxels=[100, 100], predicted_voxels=predicted)
    table = table.assign(dice=[0.9, 0.7], missed=0.0, hd95=[1.0, 40.0])
    found = derived.describe(table)
    assert (found["over"], found["above"], found["n"]) == (over, 1, 2)
    assert (found["excess"], found["close"]) == (pytest.approx(excess), close)
    low, high = found["above_interval"]  # Wilson's, of one of two
    assert (low, high) == (pytest.approx(0.0945, abs=1e-4), pytest.approx(0.9055, abs=1e-4))


def test_limits_of_agreement_are_those_of_the_logarithms() -> None:
    found = derived.ratio_limits(pd.Series([0.5, 1.0, 2.0]))
    assert found["mean"] == pytest.approx(1.0)
    assert found["low"] == pytest.approx(0.5**1.96) and found["high"] == pytest.approx(2**1.96)


def test_an_estimate_is_of_lines_that_were_fitted_on_other_folds() -> None:
    agreement = [0.5, 0.6, 0.7, 0.8, 0.9] * 8
    table = pd.DataFrame({"threshold_agreement": agreement, "fold": [0, 1] * 20})
    whole, half = table["threshold_agreement"], table["threshold_agreement"] / 2
    table["dice"] = whole.where(table["fold"] == 0, half)
    estimate, flagged = derived.estimate_by_other_folds(table)
    expected = half.where(table["fold"] == 0, whole)
    assert estimate.to_numpy() == pytest.approx(expected.to_numpy())
    assert flagged[whole < 0.55].all() and not flagged[whole > 0.85].any()


def test_far_patients_raise_the_mean() -> None:
    found = derived.far_patients(patients(hd95=[1.0, 2.0, 2.0, 11.0, 50.0]))
    assert found == {"n": 2, "low": 11.0, "high": 50.0, "patient": "E", "mean_without": 4.0}


def test_a_baseline_is_compared_on_the_same_patients() -> None:
    rows = [{"patient": name, "flair": dice} for name, dice in (("C", 0.1), ("B", 0.9), ("A", 0.2))]
    found = derived.over_baseline(patients(dice=[0.4, 0.8, 0.6]), rows, "flair")
    assert found["higher"] == 2 and found["difference"] == pytest.approx(0.2)


def test_an_estimate_is_judged_by_the_poor_masks_that_it_flags() -> None:
    table = patients(dice=[0.9, 0.8, 0.5, 0.6], expected_dice=[0.9, 0.7, 0.5, 0.9])
    line = {"intercept": 0, "slope": 1, "review_below": 0.75}
    found = derived.judge_estimate(table, *derived.estimate_by_card(table, line))
    assert (found["flagged"], found["poor"], found["poor_flagged"]) == (2, 3, 2)
    assert found["unflagged"] == {"patient": "D", "dice": 0.6, "estimate": 0.9}
    assert found["bias"] == pytest.approx(0.05) and found["highest"] == pytest.approx(0.3)
    assert found["mean_absolute_error"] == pytest.approx(0.1)


def test_a_failure_is_of_one_kind() -> None:
    table = patients(precision=[0.5, 0.5, 0.9], recall=[0.6, 0.9, 0.5])
    assert derived.kinds_of_failure(table) == {"both": ["A"], "added": ["B"], "left_out": ["C"]}


def test_changes_are_clear_by_interval_or_by_test() -> None:
    default = {name: 0.5 + i / 100 for i, name in enumerate("ABCDEFGHIJ")}
    lower = {name: dice - 0.1 - dice / 100 for name, dice in default.items()}
    one = {**default, "A": 0.0}
    rows = {"lower": (-0.2, -0.1), "one": (-0.2, -0.01), "the default": (0, 0)}
    found = derived.clear_changes(
        {
            "table": {name: {"low": low, "high": high} for name, (low, high) in rows.items()},
            "runs": {
                "the default": {"dice": default},
                "lower": {"dice": lower},
                "one": {"dice": one},
            },
        }
    )
    assert found == {"below": ["lower", "one"], "above": [], "significant": ["lower"]}


def test_a_contestant_that_never_arrives_is_told_by_how_long_it_was_watched() -> None:
    def run(name: str, *dice: float) -> dict[str, Any]:
        rows = [{"dice": each, "wall": 10.0 * (i + 1)} for i, each in enumerate(dice)]
        return {"name": name, "rows": rows}

    told = {"0.80": {"wall": 20.0}, "scored_until": 30.0, "best_dice": 0.9}
    never = {"0.80": {"wall": None}, "scored_until": 50.0, "best_dice": 0.5}
    runs = [run("ours 3", 0.1, 0.8, 0.9), run("ours 3", 0.1, 0.7, 0.79), run("peer", *[0.5] * 5)]
    race = {"summary": {"ours 3": told, "peer": never}, "runs": runs}
    found = derived.lanes(race, "0.80")
    assert found["ours"]["reached"] == [20.0] and found["ours"]["ended"] == [0.9, 0.79]
    assert (found["ours"]["n"], found["ours"]["epochs"], found["ours"]["factor"]) == (2, "3", 1.0)
    assert found["peer"]["reached"] == [] and found["peer"]["factor"] == 2.5


def test_seeds_differ_by_the_highest_less_the_lowest(loaded: dict[str, Any]) -> None:
    found = derived.seed_spreads(loaded["results"])
    seeds = loaded["results"]["gpu"]["summary"]["candidates"]["the recipe"]["institutions"]
    low, high = sorted(seeds["by_seed"].values())
    assert found["institutions"] == {"n": 2, "spread": high - low, "epochs": ""}
    assert found["processor"]["n"] == found["gpu"]["n"] == 3


def test_the_parts_of_both_sets_add_up_to_them(loaded: dict[str, Any]) -> None:
    found = loaded["test_differs"]
    sizes = {name: loaded["sets"][name]["n"] for name in ("cross_validation", "test")}
    assert [found["missing"]["development"][1], found["missing"]["test"][1]] == [*sizes.values()]
    assert found["of_cluster"]["test"][1] <= sizes["test"] and set(found["age"]) == {
        "development",
        "test",
    }


def test_smoother_outlines_are_counted() -> None:
    masks = ["true masks"] * 2 + ["predicted masks"] * 2
    table = pd.DataFrame({"mask": masks, "patient": [*"ABAB"]})
    table = table.assign(margin_fluctuation=[2, 2, 1, 3], angular_standard_deviation=[2, 2, 1, 1])
    assert derived.smoother_outlines(table) == {
        "margin_fluctuation": 1,
        "angular_standard_deviation": 2,
        "n": 2,
    }


def test_the_gain_of_the_worst_is_a_share_of_all_gain() -> None:
    before = pd.DataFrame({"patient": [*"ABC"], "dice": [0.9, 0.5, 0.6]})
    after = pd.DataFrame({"patient": [*"CBA"], "dice": [0.7, 0.8, 0.9]})
    assert two_models.gain_of_worst(after, before, 1) == pytest.approx(0.75)
    assert two_models.gain_of_worst(after, before, 2) == pytest.approx(1)


def test_both_networks_are_compared_on_the_same_patients(loaded: dict[str, Any]) -> None:
    found, tables = loaded["longer"], loaded["tables"]
    assert {name: row["n"] for name, row in found.items()} == {
        "cross_validation": 70,
        "cross_validation_seed_1": 70,
        "test": 17,
    }
    assert found["test"]["n"] == len(tables["best_test"])
    swin = loaded["swin_longer"]
    assert (
        swin["n"] == swin["unet"]["n"] == swin["best"]["n"] == len(tables["swin_cross_validation"])
    )
    assert loaded["other_seed"]["best"]["mean"] == pytest.approx(
        tables["best_cross_validation_seed_0"]["dice"].mean()
    )
    gain = tables["best_test"]["dice"].mean() - tables["test"]["dice"].mean()
    assert found["test"]["difference"] == pytest.approx(gain)


def test_each_setting_of_the_recipe_is_explained(loaded: dict[str, Any]) -> None:
    rows = derived.settings(asdict(Config(paste=False)))
    names = {row["name"] for row in rows}
    assert "batch size" in names and not names & derived.OF_THE_RUN
    assert {"name": "paste", "value": "no"}.items() <= next(
        row.items() for row in rows if row["name"] == "paste"
    )
    assert all(len(row["meaning"]) > 5 for row in loaded["settings"])


def test_decisions_are_counted_that_were_kept_on_all() -> None:
    steps = [{"kept": True, "n": 70}, {"kept": False, "n": 70}, {"kept": True, "n": 14}]
    assert derived.decided_on(steps, 70) == 1


def test_the_failures_described_are_those_of_the_worst(loaded: dict[str, Any]) -> None:
    """As many of each set as the model card names."""
    counts = {"cross_validation": derived.WORST, "test": 2}
    counts |= {"best_cross_validation": 4, "best_test": 2}
    worst = [loaded["tables"][name].nsmallest(n, "dice")["patient"] for name, n in counts.items()]
    assert set(loaded["failures"]) == set(pd.concat(worst))
