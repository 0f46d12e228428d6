"""Charts of what the model reaches: patients, volumes, groups, networks, search, calibration."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETLEFT, CARETRIGHT
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter

from lggseg.evaluation.statistics import bootstrap_interval
from report.canvas import (
    BLUE,
    GREEN,
    GREY,
    GROUND,
    HERE,
    LOOKS,
    ORANGE,
    QUIET,
    TEXT,
    VERMILION,
    load,
    network,
    panels,
    spread,
)
from report.derived import FEWEST, estimate_by_other_folds, ratio_limits
from report.values import STRONGEST, load_results

SETS = {"cross_validation": "cross-validation", "test": "test"}
COLOURS = {"cross_validation": BLUE, "test": ORANGE}


def table(name: str) -> pd.DataFrame:
    """A table of results."""
    return pd.read_csv(HERE / "results" / f"{name}.csv")


def _mean(axis: Axes, place: float, values: np.ndarray, colour: str = VERMILION) -> None:
    """Mean and 95 % interval of values as a line with a dot at a height."""
    low, high = bootstrap_interval(values)
    axis.plot([low, high], [place, place], color=colour, linewidth=2.5, solid_capstyle="butt")
    axis.plot(values.mean(), place, "o", color=colour, markersize=6)


def _rows(axis: Axes, names: list[str]) -> None:
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x")
    axis.set_axisbelow(True)


def patients(width: float) -> Figure:
    """Dice of every patient, cross-validated and test, with mean and interval."""
    figure, [axis] = panels(width, 1, 2.3)
    for place, (name, _) in enumerate(reversed(SETS.items())):
        dice = table(name)["dice"].to_numpy()
        look = {"s": 16, "alpha": 0.75, "linewidths": 0, "color": COLOURS[name]}
        axis.scatter(dice, spread(place - 0.12, len(dice), 0.16), **look)
        _mean(axis, place + 0.3, dice, TEXT)
        axis.plot(np.median(dice), place + 0.3, "|", color=TEXT, markersize=12)
    _rows(axis, [f"{label}\nn = {len(table(name))}" for name, label in reversed(SETS.items())])
    axis.set(xlim=(0.4, 1), xlabel="Dice over the whole volume")
    return figure


def cross_validation(width: float) -> Figure:
    """Dice of each patient over the volume of the true tumour."""
    values = table("cross_validation")
    summary = load("cross_validation")["dice"]
    figure, [axis] = panels(width, 1, 3.6 if width > 5 else 3.4)
    axis.axhspan(summary["low"], summary["high"], color=GREY, alpha=0.2, linewidth=0)
    axis.axhline(summary["mean"], color=GREY, linewidth=1, label="mean, 95 % interval")
    for (name, rows), (colour, marker) in zip(values.groupby("institution"), LOOKS, strict=False):
        places = rows["truth_voxels"], rows["dice"]
        axis.scatter(*places, s=20, color=colour, marker=marker, label=f"{name}, n = {len(rows)}")
    for row in values.nsmallest(5, "dice").itertuples():
        name = row.patient[5:12].replace("_", " ")
        place = row.truth_voxels, row.dice
        axis.annotate(name, place, **_side(values, *place))
    ticks = [1000, 3000, 10_000, 30_000, 100_000]
    axis.set(xscale="log", xlabel="true tumour volume (voxels)", ylabel="Dice", ylim=(0.4, 1))
    axis.set_xlim(1000 if width > 5 else 500, 100_000)
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.xaxis.set_minor_formatter(NullFormatter())
    figure.legend(loc="outside lower center", ncols=5 if width > 5 else 2, columnspacing=1)
    return figure


def _side(values: pd.DataFrame, voxels: float, dice: float) -> dict[str, Any]:
    """How to write a name beside a dot: to the right, or to the left where another dot is near on
    the right."""
    near = values[(values["dice"] - dice).abs() < 0.03]
    steps = np.log10(near["truth_voxels"] / voxels)
    look = {"textcoords": "offset points", "fontsize": 8.25}
    if not ((steps > 0) & (steps < 0.25)).any():
        return {**look, "xytext": (6, -3)}
    return {**look, "xytext": (-6, -3), "ha": "right"}


def volume(width: float) -> Figure:
    """Bland and Altman's plot of predicted against true volume, on a logarithmic scale."""
    figure, axes = panels(width, 2, 2.7)
    for axis, (name, label) in zip(axes, SETS.items(), strict=True):
        values = table(name)
        ratio = values["predicted_voxels"] / values["truth_voxels"]
        mean = np.sqrt(values["predicted_voxels"] * values["truth_voxels"])
        limits = ratio_limits(ratio)
        axis.scatter(mean, ratio, s=16, color=COLOURS[name], alpha=0.8, linewidths=0)
        axis.axhline(1, color=QUIET, linewidth=0.8, linestyle=":")
        axis.axhline(limits["mean"], color=TEXT, linewidth=1.2)
        for end in ("low", "high"):
            axis.axhline(limits[end], color=TEXT, linewidth=0.9, linestyle="--")
        axis.set(xscale="log", yscale="log", ylim=(0.33, 3), title=label)
        axis.set_yticks([0.5, 1, 2], ["0.5", "1", "2"])
        axis.set_xticks([1000, 10_000, 100_000], ["1,000", "10,000", "100,000"])
        for ticks in (axis.xaxis, axis.yaxis):
            ticks.set_minor_formatter(NullFormatter())
        axis.set_xlabel("mean volume (voxels, geometric)")
    axes[0].set_ylabel("predicted / true volume")
    return figure


def groups(width: float) -> Figure:
    """Mean Dice of groups of patients; intervals only where there are five or more."""
    values = pd.DataFrame(load("groups")["groups"])
    values["name"] = values["by"] + ": " + values["group"]
    counts = values.pivot(index="name", columns="set", values="n").fillna(0).astype(int)
    order = list(values["name"].unique())[::-1]
    figure, [axis] = panels(width, 1, 0.31 * len(order) + 0.8)
    for name, shift in (("cross_validation", 0.14), ("test", -0.14)):
        rows = values[values["set"] == name]
        places = np.array([order.index(group) + shift for group in rows["name"]])
        many = (rows["n"] >= FEWEST).to_numpy()
        axis.hlines(places[many], rows["low"][many], rows["high"][many], color=COLOURS[name])
        axis.plot(rows["mean"], places, LOOKS[name == "test"][1], color=COLOURS[name])
    labels = [f"{n} ({counts.cross_validation[n]} + {counts.test[n]})" for n in order]
    _rows(axis, labels)
    axis.set(xlim=(0.6, 1), xlabel="mean Dice")
    return figure


def leak(width: float) -> Figure:
    """Mean Dice of the same slices under two splits, with intervals over patients."""
    dice = load("02_patient_split-full")["dice"]
    figure, [axis] = panels(width, 1, 1.5)
    for place, (name, colour) in enumerate((("by patient", BLUE), ("random slices", ORANGE))):
        low, high = dice[name]["interval"]
        axis.plot([low, high], [place, place], color=colour, linewidth=3, solid_capstyle="butt")
        axis.plot(dice[name]["mean"], place, "o", color=colour, markersize=8)
    _rows(axis, ["split by patient", "random slices"])
    axis.set(xlim=(0.5, 0.9), xlabel="mean Dice over patients, same slices")
    return figure


def search(width: float) -> Figure:
    """Dice of the finished trials in their order, the stopped ones, and the best so far."""
    trials = table("search")
    figure, [axis] = panels(width, 1, 2.8)
    complete = trials[trials["state"] == "complete"]
    pruned = trials[trials["state"] == "pruned"]
    bottom = complete["dice"].min() - 0.015
    axis.scatter(complete["number"], complete["dice"], s=24, color=BLUE, label="finished")
    stopped = np.full(len(pruned), bottom)
    axis.scatter(pruned["number"], stopped, s=20, color=GREY, marker="x", label="stopped early")
    best = complete["dice"].cummax()
    ends = [*complete["number"], trials["number"].max()]
    axis.step(ends, [*best, best.iloc[-1]], where="post", color=VERMILION, label="best so far")
    axis.set(xlabel="trial (0: the defaults)", ylabel="mean validation Dice")
    axis.set_ylim(bottom - 0.01, complete["dice"].max() + 0.01)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def leaderboard(width: float) -> Figure:
    """Dice of every patient under each network, the best mean at the top."""
    parts = table("comparison").groupby("model")["dice"]
    order = parts.mean().sort_values().index
    figure, [axis] = panels(width, 1, 0.62 * len(order) + 0.7)
    for place, name in enumerate(order):
        dice = parts.get_group(name).to_numpy()
        axis.scatter(
            dice, spread(place - 0.1, len(dice)), s=11, color=BLUE, alpha=0.45, linewidths=0
        )
        _mean(axis, place + 0.26, dice)
    _rows(axis, [network(str(name)).replace(", ", "\n") for name in order])
    axis.set(xlabel="Dice over the whole volume", xlim=(-0.02, 1.02))
    return figure


def reliability(width: float) -> Figure:
    """Share of tumour against predicted probability of the shipped recipe, and how many voxels."""
    values = np.array(load("postprocessing")["reliability"])
    voxels, probabilities, tumours = values[values[:, 0] > 0].T
    figure, axes = panels(width, 2, 2.7)
    axes[0].plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    for axis, shown in zip(axes, (tumours / voxels, voxels), strict=True):
        axis.plot(
            probabilities / voxels, shown, color=BLUE, marker="o", markersize=4, linewidth=1.2
        )
        axis.set(xlabel="predicted probability")
    axes[0].set(ylabel="share of tumour")
    axes[1].set(ylabel="voxels (millions)", yscale="log")
    axes[1].yaxis.set_major_formatter(lambda count, _: f"{count / 1e6:g}")
    return figure


def expected_dice(width: float) -> Figure:
    """The estimate of each patient's Dice, by a line fitted on other patients, against the true
    one."""
    own, other = table("cross_validation"), table("test")
    dice, (estimate, _) = own["dice"], estimate_by_other_folds(own)
    figure, axis = plt.subplots(figsize=(min(width, 3.6), 3.4), layout="constrained")
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    axis.scatter(estimate, dice, s=16, color=BLUE, alpha=0.8, linewidths=0)
    axis.scatter(other["expected_dice"], other["dice"], s=16, color=ORANGE, linewidths=0)
    low = min(dice.min(), estimate.min()) - 0.03
    axis.set(xlabel="estimated Dice", ylabel="true Dice")
    axis.set(xlim=(low, 1), ylim=(low, 1), aspect="equal")
    return figure


def ablation(width: float) -> Figure:
    """Paired difference of each variant to the default, with its interval."""
    values = pd.DataFrame(load("ablation")["table"]).T.sort_values("difference")
    values = values.drop("the default")
    figure, [axis] = panels(width, 1, 0.27 * len(values) + 0.8)
    places = np.arange(len(values))
    clear = np.where(values["high"] < 0, VERMILION, np.where(values["low"] > 0, GREEN, BLUE))
    axis.hlines(places, values["low"], values["high"], color=clear, linewidth=1.6)
    axis.scatter(values["difference"], places, color=clear, s=24)
    axis.axvline(0, color=QUIET, linewidth=0.9)
    _rows(axis, list(values.index))
    axis.set_xlabel("change of mean Dice")
    return figure


def steps(width: float) -> Figure:
    """What each decision changed, before and after, each under its own protocol."""
    rows = load("refinement")["steps"][::-1]
    figure, [axis] = panels(width, 1, 0.28 * len(rows) + 0.8)
    for place, row in enumerate(rows):
        colour = GREEN if row["kept"] else GREY
        ends = row["before"], row["after"]
        axis.plot(ends, [place, place], color=colour, linewidth=1.8)
        axis.plot(row["before"], place, "o", color=colour, markersize=4)
        # The point of the triangle, not its middle, stands at the value.
        if abs(ends[1] - ends[0]) > 0.0005:
            head = CARETLEFT if ends[1] < ends[0] else CARETRIGHT
            axis.plot(row["after"], place, marker=head, color=colour, markersize=6)
    _rows(axis, [row["short"] for row in rows])
    ends = [value for row in rows for value in (row["before"], row["after"])]
    axis.set(xlim=(min(ends) - 0.02, max(ends) + 0.02), xlabel="mean Dice before and after")
    return figure


def associations(width: float) -> Figure:
    """Effect size and p of each feature of shape with each genomic clustering."""
    results = load("06_tumour_shape-full")
    kinds = {"reference outlines": "true_masks", "predicted outlines": "predicted_masks"}
    figure, axes = panels(width, 2, 3.4)
    for place, (axis, (label, kind)) in enumerate(zip(axes, kinds.items(), strict=True)):
        rows = pd.DataFrame(results[kind])
        wide = rows.pivot(index="feature", columns="grouping", values="epsilon_squared")
        wide = wide.loc[list(dict.fromkeys(rows["feature"])), list(dict.fromkeys(rows["grouping"]))]
        axis.set(xlim=(0, wide.shape[1]), ylim=(0, wide.shape[0]))
        for row in rows.itertuples():
            _cell(axis, wide, row)
        axis.set_xticks(
            np.arange(wide.shape[1]) + 0.5, _short(wide.columns), rotation=40, ha="right"
        )
        features = [name.replace("_", " ") for name in wide.index]
        axis.set_yticks(np.arange(len(wide)) + 0.5, features if not place or width < 5 else [])
        axis.tick_params(length=0, labelsize=8.25)
        axis.invert_yaxis()
        axis.spines[:].set_visible(False)
        axis.set_title(label)
    return figure


def _cell(axis: Axes, wide: pd.DataFrame, row: object) -> None:
    """The p value of one test in its cell, with a star where it survives the correction."""
    feature, grouping = row.feature, row.grouping  # type: ignore[attr-defined]
    p, corrected = row.p, row.p_holm  # type: ignore[attr-defined]
    if pd.isna(p):
        return
    x, y = wide.columns.get_loc(grouping), wide.index.get_loc(feature)
    strength = min(wide.loc[feature, grouping] / STRONGEST, 1)
    axis.add_patch(Rectangle((x, y), 1, 1, color=BLUE, alpha=strength, linewidth=0))
    star = "*" if corrected < 0.05 else ""
    text = ("<.001" if p < 0.001 else f"{p:.3f}"[1:] if p < 0.1 else f"{p:.2f}".lstrip("0")) + star
    # Both are the page's own colours, so that they stand out on it in the dark as well.
    colour = GROUND if strength > 0.6 else TEXT
    axis.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=7.5, color=colour)


def _short(names: Iterable[str]) -> list[str]:
    return [str(name).removesuffix("Cluster") for name in names]


def risk_coverage(width: float) -> Figure:
    """Mean Dice of the masks that are kept when the least trusted are set aside."""
    found = load_results()["quality"]
    share, dice = np.array(found["risk_coverage"]).T
    figure, [axis] = panels(width, 1, 2.4)
    axis.plot(share, dice, color=BLUE)
    axis.axhline(dice[-1], color=GREY, linewidth=0.9, linestyle=":")
    axis.set(xlabel="share of patients whose mask is kept", ylabel="mean Dice of the kept")
    return figure
