"""What the report says of models/lgg-best beside the shipped model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lggseg.evaluation.statistics import compare_paired, summarise
from report.derived import Table, estimate_by_card, estimate_by_other_folds, judge_estimate

# That of Swin UNETR after as many epochs, of the same seed as lgg-best.
SWIN = "swin_cross_validation"
# The tables of the shipped network's scores, and those of lgg-best's of the same seed on the same
# patients.
PAIRS = {
    "cross_validation": "best_cross_validation_seed_0",
    "cross_validation_seed_1": "best_cross_validation",
    "test": "best_test",
}


def compare_models(
    tables: Mapping[str, Table],
    results: Mapping[str, Any],
    card: Mapping[str, Any],
    best: Mapping[str, Any],
) -> dict[str, Any]:
    """What templates name.

    ``longer``, by the tables of :data:`PAIRS`: the Dice of lgg-best less the shipped network's;
    ``two_worst_gain``: how much of it two test patients make; ``other_seed``: the summary of Dice
    of the seed of either that was not shipped; ``swin_longer``: that of Swin UNETR, and its Dice
    less that of the other two, of the same patients and the same seed; ``times_as_long``: the
    training time of lgg-best over the shipped network's; ``quality_best`` and
    ``quality_best_cv``: as ``quality_test`` and ``quality_cv``.

    card, best: the model cards of the shipped model and of lgg-best.
    """
    other = {"unet": "cross_validation_seed_1", "best": "best_cross_validation_seed_0"}
    seconds = results["best_cross_validation"]["training_seconds"]
    test, folds = tables["best_test"], tables["best_cross_validation"]
    return {
        "other_seed": {who: summarise(tables[name])["dice"] for who, name in other.items()},
        "longer": {own: _compare(tables[best], tables[own]) for own, best in PAIRS.items()},
        "swin_longer": {
            **summarise(tables[SWIN])["dice"],
            "unet": _compare(tables[SWIN], tables[other["unet"]]),
            "best": _compare(tables[SWIN], folds),
        },
        "two_worst_gain": gain_of_worst(test, tables["test"], 2),
        "times_as_long": seconds[best["config"]["network"]] / seconds[card["config"]["network"]],
        "quality_best": judge_estimate(test, *estimate_by_card(test, best["quality"])),
        "quality_best_cv": judge_estimate(folds, *estimate_by_other_folds(folds)),
    }


def _compare(better: Table, table: Table) -> dict[str, Any]:
    dice, other = (each.set_index("patient")["dice"] for each in (better, table))
    return compare_paired(dice, other[dice.index])


def gain_of_worst(better: Table, table: Table, count: int) -> float:
    """Of all that ``better`` gains in Dice over ``table``, on the same patients, the share of the
    ``count`` worst patients of ``table``."""
    dice = table.set_index("patient")["dice"]
    gain = better.set_index("patient")["dice"] - dice
    return float(gain[dice.nsmallest(count).index].sum() / gain.sum())
