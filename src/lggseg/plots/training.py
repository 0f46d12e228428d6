"""Figures of a training and of a search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from lggseg.data.cohort import Cohort
from lggseg.plots.style import BLUE, GREEN, GREY, ORANGE, RED, draw_outline, new_figure, title


def leak(
    cohort: Cohort, summary: Mapping[str, Mapping[str, Any]], dice: pd.DataFrame | None = None
) -> Figure:
    """The same model under two splits: mean Dice with its 95 % interval, and a dot per patient.

    Args:
        cohort: Whose patients they are.
        summary: Per split, ``mean`` and ``interval``.
        dice: A column per split and a row per patient, where it is known.
    """
    figure, axes = new_figure(cohort, "The same model, two splits", (8, 2.6))
    for position, (name, found) in enumerate(summary.items()):
        colour = (ORANGE, BLUE)[position % 2]
        if dice is not None:
            values = dice[name].dropna()
            jitter = position + np.random.default_rng(position).uniform(-0.2, 0.2, len(values))
            axes[0].scatter(values, jitter, s=16, color=colour, alpha=0.6)
        axes[0].plot(found["interval"], [position, position], color=RED, linewidth=3)
        axes[0].plot(found["mean"], position, "o", color=RED, markeredgecolor="white", markersize=8)
        axes[0].annotate(
            f"{found['mean']:.3f}", (1.01, position), va="center", annotation_clip=False
        )
    axes[0].set_yticks(range(len(summary)), [f"split by {_SPLITS.get(n, n)}" for n in summary])
    axes[0].set(xlabel="Dice per patient, the same slices", xlim=(0, 1))
    axes[0].set_ylim(-0.5, len(summary) - 0.5)
    return figure


_SPLITS = {"by patient": "patient", "random slices": "slice"}


def curves(cohort: Cohort, metrics: pd.DataFrame) -> Figure:
    """Loss and validation Dice per epoch."""
    figure, axes = new_figure(cohort, "Training", (9, 3.2), 1, 2)
    losses = (
        ("train/loss", BLUE, "training patients"),
        ("val/loss", ORANGE, "validation patients"),
    )
    for name, colour, label in losses:
        axes[0].plot(metrics["epoch"] + 1, metrics[name], color=colour, label=label)
    scores = (("val/dice_raw", BLUE, "mean"), ("val/dice_raw_median", GREEN, "median"))
    for name, colour, label in scores:
        axes[1].plot(metrics["epoch"] + 1, metrics[name], color=colour, label=label)
    axes[0].set(xlabel="epoch", ylabel="loss")
    axes[1].set(xlabel="epoch", ylabel="Dice over validation patients", ylim=(0, 1))
    for axis in axes:
        axis.legend()
    return figure


def augmented(cohort: Cohort, images: np.ndarray, masks: np.ndarray) -> Figure:
    """One slice, plain and then augmented several times: float ``(pictures, height, width)``."""
    figure, axes = new_figure(
        cohort, "One slice as training sees it (FLAIR)", (10, 2.4), 1, len(images)
    )
    for position, (axis, image, mask) in enumerate(zip(axes, images, masks, strict=True)):
        axis.imshow(image, cmap="gray", vmin=-0.2, vmax=np.percentile(images[0], 99.5))
        axis.set_title("plain" if position == 0 else f"draw {position}", fontsize=9)
        axis.set_axis_off()
        draw_outline(axis, mask > 0.5)
    return figure


def search_history(cohort: Cohort, trials: pd.DataFrame, importance: pd.Series) -> Figure:
    """Dice of each trial with the best so far, and how much of its spread each hyperparameter
    explains."""
    figure, axes = new_figure(cohort, "The search", (10, 3.6), 1, 2)
    for state, colour, marker in (("complete", BLUE, "o"), ("pruned", GREY, "x")):
        rows = trials[trials["state"] == state]
        axes[0].scatter(
            rows["number"], rows["dice"], s=22, color=colour, marker=marker, label=state
        )
    complete = trials[trials["state"] == "complete"].sort_values("number")
    best = complete["dice"].cummax()
    axes[0].step(complete["number"], best, where="post", color=RED, label="best so far")
    axes[0].set(xlabel="trial", ylabel="mean Dice over validation patients")
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].legend(loc="upper left", bbox_to_anchor=(0, -0.2), ncols=3)
    ordered = importance.sort_values()
    axes[1].barh([title(name) for name in ordered.index], ordered, color=BLUE)
    axes[1].set(xlabel="importance (share of the variance explained, fANOVA)", xlim=(0, 1))
    return figure


def search_slices(
    cohort: Cohort, trials: pd.DataFrame, hyperparameters: Mapping[str, bool]
) -> Figure:
    """Dice of the completed trials against each hyperparameter; hyperparameters: name → whether its
    axis is logarithmic."""
    complete = trials[trials["state"] == "complete"]
    columns = 5
    rows = -(-len(hyperparameters) // columns)
    head = "Each hyperparameter, all else varying"
    figure, axes = new_figure(cohort, head, (10, 2.3 * rows + 0.4), rows, columns)
    for axis in axes[len(hyperparameters) :]:
        axis.set_axis_off()
    for position, (axis, (name, log)) in enumerate(
        zip(axes, hyperparameters.items(), strict=False)
    ):
        values = complete[name]
        if not pd.api.types.is_float_dtype(values):  # levels in their order, equally far apart
            levels = sorted(values.unique())
            axis.set_xticks(range(len(levels)), [str(level) for level in levels])
            values = values.map(levels.index)
        axis.scatter(values, complete["dice"], s=14, color=BLUE)
        axis.set(xlabel=title(name), ylabel="" if position % columns else "Dice")
        if log:
            axis.set_xscale("log")
            axis.xaxis.set_minor_formatter(NullFormatter())
        axis.tick_params(labelsize=8)
    return figure


def search_paths(
    cohort: Cohort, trials: pd.DataFrame, hyperparameters: Mapping[str, bool]
) -> Figure:
    """Parallel coordinates: a line per completed trial across all hyperparameters, each scaled to
    its own range; the brighter, the better."""
    complete = trials[trials["state"] == "complete"].sort_values("dice")
    figure, axes = new_figure(cohort, "All hyperparameters of each completed trial", (10, 4))
    norm = Normalize(float(complete["dice"].quantile(0.1)), float(complete["dice"].max()))
    positions = {name: scaled(complete[name], log) for name, log in hyperparameters.items()}
    lines = np.stack([heights for heights, _ in positions.values()])
    for line, dice in zip(lines.T, complete["dice"], strict=True):
        axes[0].plot(range(len(lines)), line, color=colormaps["cividis"](norm(dice)), alpha=0.8)
    for position, (_, ends) in enumerate(positions.values()):
        axes[0].text(position, -0.04, ends[0], ha="center", va="top", fontsize=8)
        axes[0].text(position, 1.04, ends[1], ha="center", va="bottom", fontsize=8)
    axes[0].set_xticks(
        range(len(lines)),
        [title(name) for name in hyperparameters],
        rotation=20,
        ha="right",
        fontsize=9,
    )
    axes[0].set(yticks=[], ylim=(-0.14, 1.14))
    axes[0].grid(axis="x", alpha=0.4)
    figure.colorbar(ScalarMappable(norm, "cividis"), ax=axes[0], label="Dice", pad=0.01)
    return figure


def scaled(values: pd.Series, log: bool) -> tuple[np.ndarray, tuple[str, str]]:
    """Values from 0 to 1, and what the two ends mean."""
    if not pd.api.types.is_float_dtype(values):
        levels = sorted(values.unique())
        codes = values.map(levels.index).to_numpy() / max(len(levels) - 1, 1)
        return codes, (str(levels[0]), str(levels[-1]))
    numbers = np.log(values) if log else values
    spread = float(np.ptp(numbers)) or 1.0
    heights = ((numbers - numbers.min()) / spread).to_numpy()
    return heights, (f"{values.min():.2g}", f"{values.max():.2g}")


def gain(
    cohort: Cohort,
    test: Mapping[str, float],
    claimed: float,
    elsewhere: pd.DataFrame | None = None,
) -> Figure:
    """Dice of the winner minus that of the start on folds that the search did not see: the mean
    with its 95 % interval, a dot per patient where they are known, and the gain that the search
    claims.

    Args:
        cohort: Whose patients they are.
        test: What :func:`lggseg.evaluation.compare_paired` says of winner and start.
        claimed: The gain on the patients of the search.
        elsewhere: What :func:`lggseg.experiments.gain_elsewhere` gives.
    """
    figure, axes = new_figure(cohort, "What is left of the gain on other folds", (8, 2.6))
    if elsewhere is not None:
        difference = elsewhere["found"] - elsewhere["start"]
        jitter = np.random.default_rng(0).uniform(-0.3, 0.3, len(difference))
        axes[0].scatter(difference, jitter, s=16, color=BLUE, alpha=0.6, label="a patient")
    axes[0].axvline(0, color=GREY, linewidth=0.8)
    axes[0].plot([test["low"], test["high"]], [0, 0], color=RED, linewidth=3)
    label = f"other folds: {test['difference']:+.3f}"
    axes[0].plot(test["difference"], 0, "o", color=RED, markeredgecolor="white", label=label)
    label = f"claimed by the search: {claimed:+.3f}"
    axes[0].axvline(claimed, color=ORANGE, linestyle="dashed", label=label)
    axes[0].set(xlabel="Dice of the winner minus Dice of the start", yticks=[], ylim=(-0.6, 0.6))
    axes[0].xaxis.set_major_locator(MaxNLocator(5))
    axes[0].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure
