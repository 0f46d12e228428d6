"""Figures that explain an idea: overlap and Dice, neighbouring slices, a schedule, a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from lggseg.data.cohort import Cohort
from lggseg.plots.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    draw_outline,
    draw_slice,
    largest_slice,
    new_figure,
)
from lggseg.preprocessing.volume import FLAIR

_CASES = {"both (TP)": GREEN, "prediction only (FP)": BLUE, "truth only (FN)": RED}


def overlap(cohort: Cohort, truth: np.ndarray, prediction: np.ndarray) -> Figure:
    """Two masks of a slice as pixels and as two overlapping sets, with the number of pixels that
    lie in both, in the prediction alone and in the truth alone."""
    cases = truth & prediction, prediction & ~truth, truth & ~prediction
    both, false, missed = (int(case.sum()) for case in cases)
    dice = 2 * both / (2 * both + false + missed)
    figure, axes = new_figure(
        cohort, f"Dice is the overlap of two sets: {dice:.2f}", (9, 3.8), 1, 2
    )
    rows, columns = (np.flatnonzero((truth | prediction).any(axis=axis)) for axis in (1, 0))
    window = np.s_[max(rows[0] - 6, 0) : rows[-1] + 7, max(columns[0] - 6, 0) : columns[-1] + 7]
    painted = sum(case[window] * (position + 1) for position, case in enumerate(cases))
    axes[0].imshow(painted, cmap=ListedColormap(["#eeeeee", *_CASES.values()]), vmin=0, vmax=3)
    axes[0].set_title("the two masks, pixel by pixel", fontsize=9)
    for position, colour, name in ((-0.45, RED, "truth"), (0.45, BLUE, "prediction")):
        axes[1].add_patch(Circle((position, 0), 1, facecolor=colour + "33", edgecolor=colour, lw=2))
        axes[1].text(2.2 * position, 1.1, name, ha="center", color=colour)
    for position, count in ((-0.95, missed), (0, both), (0.95, false)):
        axes[1].text(position, 0, f"{count:,}", ha="center", va="center", fontsize=12)
    axes[1].set(xlim=(-1.7, 1.7), ylim=(-1.3, 1.4), aspect="equal")
    axes[1].set_title("the same as sets, in pixels", fontsize=9)
    for axis in axes:
        axis.set_axis_off()
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in _CASES.values()]
    figure.legend(handles, list(_CASES), loc="outside lower center", ncols=3)
    return figure


def neighbours(cohort: Cohort, patient: str, other: str) -> Figure:
    """FLAIR of two neighbouring slices of a patient, and the slice of another patient with most
    tumour, each with its correlation with the first."""
    figure, axes = new_figure(cohort, "Whose slice is next to whose?", (9, 3.6), 1, 3)
    index, there = largest_slice(cohort, patient), largest_slice(cohort, other)
    slices = [(patient, index), (patient, index + 1), (other, there)]
    first = cohort.image(patient)[index, ..., FLAIR]
    for axis, (name, position) in zip(axes, slices, strict=True):
        flair = cohort.image(name)[position, ..., FLAIR]
        like = np.corrcoef(first.ravel(), flair.ravel())[0, 1]
        draw_slice(axis, flair, f"{name}\nslice {position + 1}: correlation {like:.2f}")
        draw_outline(axis, cohort.mask(name)[position])
    return figure


def alike(cohort: Cohort, groups: Mapping[str, Sequence[float]]) -> Figure:
    """How alike pairs of slices are: a histogram per kind of pair."""
    figure, axes = new_figure(cohort, "How alike are two slices?", (7, 3))
    lowest = min(min(values) for values in groups.values())
    bins = np.linspace(lowest, 1, 30).tolist()
    for (name, values), colour in zip(groups.items(), (ORANGE, BLUE), strict=True):
        label = f"{name}: median {np.median(values):.2f}"
        axes[0].hist(values, bins=bins, color=colour, alpha=0.7, label=label)
    axes[0].set(xlabel="correlation of FLAIR", ylabel="pairs of slices")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def schedule(rates: Sequence[float]) -> Figure:
    """The learning rate of each step of a training."""
    figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
    axes.plot(range(1, len(rates) + 1), rates, color=BLUE)
    peak = int(np.argmax(rates))
    place = (peak + 1, rates[peak])
    axes.annotate(f"peak {rates[peak]:g}", place, (0, 4), textcoords="offset points", ha="center")
    axes.margins(y=0.2)
    axes.set(xlabel="step", ylabel="learning rate", title="One cycle: warm up, then cool down")
    plt.close(figure)
    return figure


def batch_times(cohort: Cohort, rates: Mapping[str, float]) -> Figure:
    """Slices per second of several ways to make a batch."""
    figure, axes = new_figure(cohort, "How fast batches are made", (8, 0.5 * len(rates) + 1.3))
    bars = axes[0].barh(
        list(rates), list(rates.values()), color=[ORANGE, GREY, BLUE][-len(rates) :]
    )
    axes[0].bar_label(bars, fmt="{:,.0f}", padding=3)
    axes[0].set(xlabel="slices per second", xlim=(0, 1.15 * max(rates.values())))
    axes[0].invert_yaxis()
    return figure


def surrogate(grid: np.ndarray, tried: pd.DataFrame, good: np.ndarray, rest: np.ndarray) -> Figure:
    """What a tree-structured Parzen estimator computes: the scores so far, the densities of good
    and of other settings, and their ratio, whose maximum is tried next.

    Args:
        grid: Settings ``(points,)``.
        tried: A row per trial: setting, score, and whether it counts as good.
        good: The density of the good settings on the grid.
        rest: That of the others.
    """
    figure, axes = plt.subplots(3, 1, figsize=(8, 5.4), sharex=True, layout="constrained")
    for is_good, colour, name in ((True, ORANGE, "good"), (False, GREY, "others")):
        part = tried[tried["good"] == is_good]
        axes[0].scatter(part["setting"], part["score"], color=colour, label=name, s=28, zorder=3)
    axes[1].plot(grid, good, color=ORANGE, label="l: density of the good")
    axes[1].plot(grid, rest, color=GREY, label="g: density of the others")
    ratio = good / rest
    axes[2].plot(grid, ratio, color=BLUE, label="l / g: where to try next")
    axes[2].axvline(grid[ratio.argmax()], color=RED, linestyle="dashed", label="next trial")
    for axis, name in zip(axes, ("score", "density", "promise"), strict=True):
        axis.set_ylabel(name)
        axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    axes[2].set_xlabel("setting (log10 of the learning rate)")
    figure.suptitle("How a Bayesian search works (a toy)", fontsize=12)
    plt.close(figure)
    return figure


def winners_luck(expected: pd.Series) -> Figure:
    """The best score of several equally good settings, over their number, on average."""
    figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
    axes.plot(expected.index, expected, color=RED, marker="o", markersize=3)
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set(xlabel="trials, all of the same setting", ylabel="best score\nminus the true one")
    axes.set_title("Luck alone makes a winner (a toy)")
    plt.close(figure)
    return figure


def losses(cohort: Cohort, values: Sequence[float]) -> Figure:
    """The loss of one batch, step after step."""
    figure, axes = new_figure(cohort, "The same eight slices, step after step", (7, 2.6))
    axes[0].plot(range(1, len(values) + 1), values, color=BLUE, marker="o", markersize=4)
    axes[0].set(xlabel="step", ylabel="loss", ylim=(0, None))
    return figure
