"""What the report says and no file of results holds: counts, comparisons and differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lggseg.config import Config
from lggseg.evaluation.quality import Quality, estimate_by_other_groups
from lggseg.evaluation.statistics import (
    RANDOM_TABLES,
    agreement,
    compare_all,
    compare_paired,
    holm,
    limits_of_agreement,
    summarise,
)

SIGNIFICANT = 0.05  # level of the tests, after correction
ROUND_DICE = 0.8  # a round number; no reader judged it
LOW = 0.7  # precision and recall both below it: tumour missed and other tissue marked
FAR = 5  # times the median HD95, from which on a patient raises the mean
FEWEST = 5  # patients of a group from which on an interval is given
CLOSE = 0.1  # relative error of a volume
WORST = 6  # cross-validated patients whose failures are described
# Folds that took part only in decisions measured on all five (docs/experiments.md: 0, 1 and 4).
REST = (2, 3)
# The RNASeq cluster whose share differs most between the sets.
CLUSTER = "3"
# The sets of patients that were scored, by the tables of their scores; the second two by the recipe
# of models/lgg-best.
SCORED = ("cross_validation", "test", "best_cross_validation", "best_test")
# Settings of a run that do not change what it trains.
OF_THE_RUN = {"fold", "accelerator", "tracker", "deterministic"}
Table = pd.DataFrame


def derive(
    tables: Mapping[str, Table], results: Mapping[str, Any], card: Mapping[str, Any]
) -> dict[str, Any]:
    """What templates name besides results: each value is that of the function of a similar name.

    ``test_pairs``: the networks compared on the test patients, ``best_on_test`` the one with the
    highest mean; ``gap``: p of the Dice of both sets being alike; ``small``: tumour volume against
    Dice; ``rest``: Dice of the folds in :data:`REST`; ``slices``: how many a patient has.
    """
    cross, test = tables["cross_validation"], tables["test"]
    other = tables["comparison_test"].pivot(index="patient", columns="model", values="dice")
    rank = stats.spearmanr(cross["truth_voxels"], cross["dice"])
    slices = tables["explored"].groupby("institution")["slices"]
    return {
        "test_pairs": compare_all(other).to_dict("records"),
        "best_on_test": str(other.mean().idxmax()),
        "main_pairs": main_pairs(tables["comparison"]),
        "sets": {name: describe(tables[name]) for name in SCORED},
        "by_group": by_group(results["groups"]["groups"]),
        "gap": float(stats.mannwhitneyu(cross["dice"], test["dice"]).pvalue),
        "small": {"rho": float(rank.statistic), "p": float(rank.pvalue)},
        "rest": {fold: _fold(cross, fold) for fold in REST},
        "slices": {
            "low": int(slices.min().min()),
            "high": int(slices.max().max()),
            "medians": slices.median().to_dict(),
        },
        "over_flair": over_baseline(cross, results["baselines"]["patients"], "flair"),
        "quality_test": judge_estimate(test, *estimate_by_card(test, card["quality"])),
        "quality_cv": judge_estimate(cross, *estimate_by_other_folds(cross)),
        "failed": kinds_of_failure(cross.nsmallest(WORST, "dice")),
        "changes": clear_changes(results["ablation"]),
        "seeds": seed_spreads(results),
        "lanes": lanes(results["time_to_dice"], results["targets"]["time_to_dice"]["dice"]),
        "test_differs": how_sets_differ(results),
        "smoother": smoother_outlines(tables["shape"]),
        "random_tables": RANDOM_TABLES,
        "settings": settings(card["config"]),
        "decided_on_all": decided_on(results["refinement"]["steps"], len(cross)),
    }


def _fold(table: Table, fold: int) -> dict[str, float]:
    return summarise(table.loc[table["fold"] == fold, ["dice"]])["dice"]


def describe(table: Table) -> dict[str, Any]:
    """Of a table of patients: how many exceed :data:`ROUND_DICE`, how far the predicted volumes are
    from the true ones (of each patient and of all together), and whose HD95 raises the mean.
    The interval of a share is Wilson's (J. Am. Stat. Assoc. 22:209, 1927)."""
    ratio = table["predicted_voxels"] / table["truth_voxels"]
    error = table["predicted_voxels"] - table["truth_voxels"]
    volume = agreement(table["truth_voxels"], table["predicted_voxels"])
    above = int((table["dice"] > ROUND_DICE).sum())
    return {
        "n": len(table),
        "above": above,
        "above_interval": stats.binomtest(above, len(table)).proportion_ci(method="wilson"),
        "share_above": float((table["dice"] > ROUND_DICE).mean()),
        "over": int((ratio > 1).sum()),
        "ratio": float(ratio.median()),
        "ratio_quartiles": [float(q) for q in ratio.quantile([0.25, 0.75])],
        "ratio_range": [float(ratio.min()), float(ratio.max())],
        "ratio_limits": ratio_limits(ratio),
        "excess": float(table["predicted_voxels"].sum() / table["truth_voxels"].sum() - 1),
        "close": float((error.abs() <= CLOSE * table["truth_voxels"]).mean()),
        "volume": volume,
        "missed": int(table["missed"].sum()),
        "lowest": float(table["dice"].min()),
        "distances": far_patients(table),
    }


def ratio_limits(ratio: pd.Series) -> dict[str, float]:
    """The geometric ``mean`` of ratios, and ``low`` and ``high``, between which 95 % of them lie if
    they are log-normal: :func:`limits_of_agreement` of their logarithms."""
    limits = np.exp(limits_of_agreement(np.log(ratio.to_numpy())))
    return dict(zip(("mean", "low", "high"), map(float, limits), strict=True))


def by_group(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """The rows of groups.json by set, by what they are grouped by, and by group."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["set"], {}).setdefault(row["by"], {})[row["group"]] = row
    return found


def far_patients(table: Table) -> dict[str, Any]:
    """The patients with more than :data:`FAR` times the median HD95: their number, the lowest and
    the highest of their HD95, whose the highest is, and the mean without that patient."""
    far = table["hd95"][table["hd95"] > FAR * table["hd95"].median()]
    worst = table.nlargest(1, "hd95")
    return {
        "n": len(far),
        "low": float(far.min()),
        "high": float(far.max()),
        "patient": worst["patient"].item(),
        "mean_without": float(table["hd95"].drop(worst.index).mean()),
    }


def over_baseline(table: Table, rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """:func:`compare_paired` of the recipe with a baseline on the same patients, and for how many
    of them the recipe scores ``higher``."""
    baseline = pd.DataFrame(rows).set_index("patient")[name]
    dice = table.set_index("patient")["dice"]
    found = compare_paired(dice, baseline[dice.index])
    return {**found, "higher": int((dice > baseline[dice.index]).sum())}


def estimate_by_card(table: Table, quality: Mapping[str, Any]) -> tuple[pd.Series, pd.Series]:
    """The estimate of each patient's Dice by the shipped line, and whether that flags the mask."""
    estimate = table["expected_dice"]
    return estimate, estimate < Quality.of(quality).review_below


def estimate_by_other_folds(table: Table) -> tuple[pd.Series, pd.Series]:
    """The same by the lines that were fitted on the other folds."""
    columns = table[["threshold_agreement", "dice", "fold"]].to_numpy().T
    estimate, flagged = estimate_by_other_groups(*columns)
    return pd.Series(estimate, table.index), pd.Series(flagged, table.index)


def judge_estimate(table: Table, estimate: pd.Series, flagged: pd.Series) -> dict[str, Any]:
    """How good the model's estimate of Dice is on patients whom its line was not fitted on.

    Returns:
        n, bias, mean_absolute_error, spearman; highest: by how much an estimate is too high at
        most; flagged: how many masks; poor: how many have at most :data:`ROUND_DICE`, and
        poor_flagged of them; unflagged: patient, dice and estimate of the worst that is not
        flagged.
    """
    dice = table["dice"]
    poor, worst = dice <= ROUND_DICE, dice[~flagged].idxmin()
    return {
        "n": len(table),
        "bias": float((estimate - dice).mean()),
        "mean_absolute_error": float((estimate - dice).abs().mean()),
        "spearman": float(stats.spearmanr(estimate, dice).statistic),
        "highest": float((estimate - dice).max()),
        "flagged": int(flagged.sum()),
        "poor": int(poor.sum()),
        "poor_flagged": int((poor & flagged).sum()),
        "unflagged": {
            "patient": table["patient"][worst],
            "dice": float(dice[worst]),
            "estimate": float(estimate[worst]),
        },
    }


def kinds_of_failure(worst: Table) -> dict[str, list[str]]:
    """Patients by what their masks do wrong: ``both``, precision and recall below :data:`LOW`;
    otherwise ``added``, a precision below the recall, or ``left_out``."""
    both = worst[["precision", "recall"]].max(axis=1) < LOW
    added = ~both & (worst["precision"] < worst["recall"])
    kinds = {"both": both, "added": added, "left_out": ~both & ~added}
    return {name: worst["patient"][rows].tolist() for name, rows in kinds.items()}


def clear_changes(ablation: Mapping[str, Any]) -> dict[str, list[str]]:
    """The changes of one setting whose interval lies ``below`` or ``above`` zero, and those that
    are ``significant`` by the signed-rank test with Holm's correction."""
    table, default = ablation["table"], pd.Series(ablation["runs"]["the default"]["dice"])
    names = [name for name in table if name != "the default"]
    dice = {name: pd.Series(ablation["runs"][name]["dice"])[default.index] for name in names}
    corrected = holm([compare_paired(dice[name], default)["p"] for name in names])
    return {
        "below": [name for name in names if table[name]["high"] < 0],
        "above": [name for name in names if table[name]["low"] > 0],
        "significant": [n for n, p in zip(names, corrected, strict=True) if p < SIGNIFICANT],
    }


def seed_spreads(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The number of seeds and the difference of the highest and the lowest mean Dice among them, of
    short trainings on a ``processor`` and on a ``gpu`` (with their ``epochs``), and of
    ``institutions`` left out."""
    race, gpu = results["time_to_dice"], results["gpu"]["summary"]
    first, on_gpu = (next(iter(names)) for names in (race["summary"], gpu["race"]))
    found = {
        "processor": [run["rows"][-1]["dice"] for run in race["runs"] if run["name"] == first],
        "gpu": [run["dice"] for run in gpu["race"][on_gpu]],
        "institutions": gpu["candidates"]["the recipe"]["institutions"]["by_seed"].values(),
    }
    epochs = {"processor": first.split()[-1], "gpu": on_gpu.split()[-1], "institutions": ""}
    return {
        name: {"n": len(dice), "spread": max(dice) - min(dice), "epochs": epochs[name]}
        for name, dice in found.items()
    }


def lanes(race: Mapping[str, Any], target: str) -> dict[str, dict[str, Any]]:
    """Each contestant of the race by its name without epochs.

    Returns:
        n: its runs; epochs: of its schedule, or ""; first: seconds to its first score; reached:
        seconds until each run's Dice reached the target, without those that never did; median: of
        all runs, ``None`` unless most did; until: how long its shortest run was watched; ended: the
        last Dice of each run; best: the best Dice of all; factor: ``median``, or else ``until``,
        over the median of the first.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, told in race["summary"].items():
        runs = [run["rows"] for run in race["runs"] if run["name"] == name]
        times = [[row["wall"] for row in rows if row["dice"] >= float(target)] for rows in runs]
        who, _, epochs = name.partition(" ")
        median, until = told[target]["wall"], told["scored_until"]
        ours = next(iter(race["summary"].values()))[target]["wall"]
        found[who] = {
            "n": len(runs),
            "epochs": epochs,
            "first": min(rows[0]["wall"] for rows in runs),
            "reached": [after[0] for after in times if after],
            "median": median,
            "until": until,
            "ended": [rows[-1]["dice"] for rows in runs],
            "best": told["best_dice"],
            "factor": (median or until) / ours,
        }
    return found


def how_sets_differ(results: Mapping[str, Any]) -> dict[str, Any]:
    """Median ``age`` of both sets, and [how many, of how many] of each are of the RNASeq
    :data:`CLUSTER` (of those with a known one) and lack a sequence (``missing``)."""
    rows = results["cohort"]["characteristics"]
    known = [r for r in rows if r["by"] == "RNASeq cluster" and r["group"] != "unknown"]
    own = [row for row in known if row["group"] == CLUSTER]
    names = {"development": "cross_validation", "test": "test"}
    groups = by_group(results["groups"]["groups"])
    parts = {
        name: {group: row["n"] for group, row in groups[of]["missing sequences"].items()}
        for name, of in names.items()
    }
    return {
        "age": {row["set"]: row["median"] for row in rows if row["by"] == "age"},
        "cluster": CLUSTER,
        "of_cluster": {n: [sum(r[n] for r in own), sum(r[n] for r in known)] for n in names},
        "missing": {name: [part["some"], sum(part.values())] for name, part in parts.items()},
    }


def smoother_outlines(shape: Table) -> dict[str, int]:
    """For how many patients each feature is lower in the predicted outline than in the reference's,
    and n, of how many."""
    wide = shape.pivot(index="patient", columns="mask")
    names = ("margin_fluctuation", "angular_standard_deviation")
    lower = {n: int((wide[n]["predicted masks"] < wide[n]["true masks"]).sum()) for n in names}
    return {**lower, "n": len(wide)}


def settings(config: Mapping[str, Any]) -> list[dict[str, str]]:
    """Name, value and meaning of each setting of a recipe, without those of the run."""
    fields = vars(Config)["__pydantic_fields__"]
    words = {True: "yes", False: "no"}
    return [
        {
            "name": name.replace("_", " "),
            "value": words[value] if isinstance(value, bool) else str(value),
            "meaning": str(fields[name].description),
        }
        for name, value in config.items()
        if name not in OF_THE_RUN
    ]


def decided_on(steps: list[dict[str, Any]], patients: int) -> int:
    """How many decisions were kept after a measurement on so many patients."""
    return sum(row["kept"] and row["n"] == patients for row in steps)


def main_pairs(comparison: Table) -> list[dict[str, Any]]:
    """The three networks against each other after the same epochs, and the U-Net against the other
    two in the same time: five questions, corrected for five tests."""
    dice = comparison.pivot(index="patient", columns="model", values="dice")
    alike = compare_all(dice[[name for name in comparison["model"].unique() if "," not in name]])
    rest = [name for name in comparison["model"].unique() if name.endswith(", equal time")]
    rows = alike.drop(columns="p_holm").to_dict("records")
    for name in rest:
        rows.append({"first": "unet", "second": name, **compare_paired(dice["unet"], dice[name])})
    corrected = holm([row["p"] for row in rows])
    return [{**row, "p_holm": float(p)} for row, p in zip(rows, corrected, strict=True)]
