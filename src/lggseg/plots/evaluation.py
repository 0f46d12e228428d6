"""Figures of how well models do."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lggseg.data.cohort import Cohort
from lggseg.evaluation.statistics import bootstrap_interval
from lggseg.plots.style import (
    BLUE,
    GREY,
    ORANGE,
    RED,
    SKY,
    draw_outline,
    draw_slice,
    largest_slice,
    looks,
    new_figure,
    title,
)
from lggseg.preprocessing.volume import FLAIR


def dice_per_patient(cohort: Cohort, table: pd.DataFrame, summary: dict[str, float]) -> Figure:
    """Dice of each patient, sorted, with the mean and its 95 % interval."""
    ordered = table.sort_values("dice")
    figure, axes = new_figure(cohort, "Dice per validation patient", (7, 0.24 * len(table) + 1.4))
    axes[0].axvspan(
        summary["low"], summary["high"], color=ORANGE, alpha=0.25, label="95 % interval"
    )
    axes[0].axvline(summary["mean"], color=RED, label=f"mean {summary['mean']:.3f}")
    axes[0].scatter(ordered["dice"], ordered["patient"], color=BLUE, s=22, zorder=3)
    axes[0].set(xlabel="Dice over the whole volume", xlim=(-0.02, 1.02))
    axes[0].tick_params(axis="y", labelsize=8)
    axes[0].grid(axis="x", alpha=0.3)
    axes[0].legend(loc="upper left")
    return figure


def cases(cohort: Cohort, masks: dict[str, np.ndarray], table: pd.DataFrame) -> Figure:
    """FLAIR with truth (solid) and prediction (dashed), at each patient's largest tumour slice."""
    head = "Truth (orange-red, solid) and prediction (blue, dashed)"
    figure, axes = new_figure(cohort, head, (9, 3.9), 1, len(masks))
    dice = table.set_index("patient")["dice"]
    for axis, (patient, mask) in zip(axes, masks.items(), strict=True):
        index = largest_slice(cohort, patient)
        image = cohort.image(patient)[index, ..., FLAIR]
        draw_slice(axis, image, f"{patient}\nDice {dice[patient]:.2f}, slice {index + 1}")
        draw_outline(axis, cohort.mask(patient)[index])
        draw_outline(axis, mask[index], SKY, "dashed")
    return figure


def leaderboard(
    cohort: Cohort, dice: pd.DataFrame, published: Mapping[str, float] | None = None
) -> Figure:
    """Dice of every patient (dots) under each model, best mean at the top, with the mean and its
    95 % interval; published means as lines."""
    ordered = dice[dice.mean().sort_values().index]
    figure, axes = new_figure(cohort, "Dice per patient", (9, 0.8 * dice.shape[1] + 1.6))
    for position, name in enumerate(ordered):
        values = ordered[name].dropna().to_numpy()
        jitter = position + np.random.default_rng(position).uniform(-0.22, 0.22, len(values))
        axes[0].scatter(values, jitter, s=12, color=BLUE, alpha=0.5, linewidths=0)
        low, high = bootstrap_interval(values)
        axes[0].plot([low, high], [position, position], color=RED, linewidth=3)
        axes[0].plot(values.mean(), position, "o", color=RED, markersize=7, markeredgecolor="white")
        axes[0].text(1.03, position, f"{values.mean():.3f}\n({low:.3f}–{high:.3f})", va="center")
    styles = ("dashed", "dotted", "dashdot")
    for style, (label, value) in zip(cycle(styles), (published or {}).items(), strict=False):
        axes[0].axvline(value, color=GREY, linestyle=style, label=f"{label}: {value:.2f}")
    axes[0].set_yticks(range(dice.shape[1]), [title(name) for name in ordered])
    axes[0].set(xlabel="Dice over the whole volume", xlim=(-0.02, 1.02))
    if published:
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def rank_stability(cohort: Cohort, shares: pd.DataFrame) -> Figure:
    """How often each model takes each rank when the patients are drawn again."""
    head = "Rank of each model, patients drawn again"
    figure, axes = new_figure(cohort, head, (5, 0.6 * len(shares) + 1.6))
    axes[0].imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(shares.shape):
        share = shares.to_numpy()[row, column]
        colour = "white" if share > 0.6 else "black"
        axes[0].text(column, row, f"{share:.0%}", ha="center", va="center", color=colour)
    axes[0].set_xticks(range(shares.shape[1]), [str(rank) for rank in shares])
    axes[0].set_yticks(range(len(shares)), [title(name) for name in shares.index])
    axes[0].set_xlabel("rank by mean Dice")
    return figure


def expected_against_true(cohort: Cohort, table: pd.DataFrame) -> Figure:
    """The Dice that the model expects against the true one, a dot per patient; Spearman's ρ."""
    varies = (table[["expected_dice", "dice"]].nunique() > 1).all()
    rank = table["expected_dice"].corr(table["dice"], method="spearman") if varies else float("nan")
    figure, axes = new_figure(cohort, f"Expected and true Dice (ρ = {rank:.2f})", (4.6, 4.4))
    axes[0].plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    axes[0].scatter(table["expected_dice"], table["dice"], s=18, color=BLUE, alpha=0.7)
    axes[0].set(xlabel="Dice that the model expects", ylabel="true Dice")
    axes[0].set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    return figure


def disagreement(cohort: Cohort, dice: pd.DataFrame) -> Figure:
    """Dice of the 12 patients on whom the models differ most, a colour and a marker per model."""
    spread = dice.max(axis=1) - dice.min(axis=1)
    rows = dice.loc[spread.nlargest(12).index[::-1]]
    figure, axes = new_figure(cohort, "Where the models disagree", (8, 0.28 * len(rows) + 1.4))
    axes[0].hlines(range(len(rows)), rows.min(axis=1), rows.max(axis=1), color=GREY, linewidth=0.8)
    for name, (colour, marker) in zip(rows, looks(), strict=False):
        axes[0].scatter(
            rows[name], range(len(rows)), color=colour, marker=marker, label=title(name)
        )
    axes[0].set_yticks(range(len(rows)), rows.index.tolist())
    axes[0].set(xlabel="Dice over the whole volume", xlim=(-0.02, 1.02))
    axes[0].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def reliability(cohort: Cohort, tables: Mapping[str, np.ndarray]) -> Figure:
    """Observed tumour frequency against predicted probability, of the tables of
    :func:`lggseg.evaluation.calibration.reliability`, and how many voxels have which
    probability."""
    figure, axes = new_figure(cohort, "Are the probabilities right?", (9, 4), 1, 2)
    axes[0].plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    for (name, table), (colour, marker) in zip(tables.items(), looks(), strict=False):
        voxels, probabilities, tumours = table[table[:, 0] > 0].T
        mean = probabilities / voxels
        axes[0].plot(
            mean, tumours / voxels, color=colour, marker=marker, markersize=4, label=title(name)
        )
        axes[1].plot(mean, voxels, color=colour, marker=marker, markersize=4)
    axes[0].set(xlabel="predicted probability", ylabel="share of tumour", aspect="equal")
    axes[1].set(xlabel="predicted probability", ylabel="voxels", yscale="log")
    axes[0].legend(loc="upper left")
    return figure


def uncertainty(cohort: Cohort, patient: str, mask: np.ndarray, entropy: np.ndarray) -> Figure:
    """The slice with most predicted tumour: FLAIR with both outlines, and the entropy in bits."""
    position = int(mask.sum(axis=(1, 2)).argmax())
    figure, axes = new_figure(cohort, f"{patient}: where the model is unsure", (8, 4), 1, 2)
    flair = cohort.image(patient)[position, ..., FLAIR]
    draw_slice(axes[0], flair, "FLAIR: truth (solid), prediction (dashed)")
    draw_outline(axes[0], cohort.mask(patient)[position])
    draw_outline(axes[0], mask[position], SKY, "dashed")
    draw_slice(axes[1], flair, "entropy of the label")
    shown = axes[1].imshow(entropy[position], cmap="magma", vmin=0, vmax=1, alpha=0.8)
    figure.colorbar(shown, ax=axes[1], label="bits", shrink=0.8)
    return figure


def latency(cohort: Cohort, table: pd.DataFrame) -> Figure:
    """Milliseconds of requests over the slices of their volumes, a dot per request."""
    figure, axes = new_figure(cohort, "From request to answer", (6, 3.6))
    axes[0].scatter(table["slices"], table["milliseconds"], s=18, color=BLUE, alpha=0.6)
    axes[0].set(xlabel="slices of the volume", ylabel="milliseconds")
    axes[0].set(xlim=(0, None), ylim=(0, None))
    return figure


def disk(cohort: Cohort, mib: pd.Series) -> Figure:
    """MiB that each of several positions takes."""
    figure, axes = new_figure(cohort, "What is left on this machine", (7, 0.5 * len(mib) + 1.2))
    bars = axes[0].barh(mib.index.tolist(), mib, color=BLUE)
    axes[0].bar_label(bars, fmt="%.0f", padding=3)
    axes[0].invert_yaxis()
    axes[0].set(xlabel="MiB")
    return figure


def dice_by_volume(cohort: Cohort, tables: Mapping[str, pd.DataFrame], named: int = 5) -> Figure:
    """Dice of each patient over the volume of the true tumour, a look per table of patients; the
    worst few are named."""
    figure, axes = new_figure(cohort, "Small tumours are the hard ones", (8, 4))
    for (name, table), (colour, marker) in zip(tables.items(), looks(), strict=False):
        positions, label = (table["truth_voxels"], table["dice"]), f"{name} (n={len(table)})"
        axes[0].scatter(*positions, s=22, color=colour, marker=marker, alpha=0.8, label=label)
    worst = pd.concat(tables.values()).nsmallest(named, "dice")
    height = 0.0  # of a name; each stands above the one before
    for row in worst.to_dict("records"):
        text = str(row["patient"]).removeprefix("TCGA_").rpartition("_")[0]
        volume, score = float(row["truth_voxels"]), float(row["dice"])
        height = max(score - 0.06, height + 0.045)
        line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0}
        place, beside = (volume, score), (1.3 * volume, height)
        axes[0].annotate(text, place, beside, fontsize=7, va="center", arrowprops=line)
    axes[0].set(xscale="log", ylim=(-0.02, 1.02), xlabel="true tumour volume (voxels)")
    axes[0].set(ylabel="Dice over the whole volume")
    axes[0].legend(loc="lower right")
    return figure


def candidates(cohort: Cohort, table: pd.DataFrame) -> Figure:
    """Mean Dice of each candidate with its interval, and the seconds that a fold trains.

    Args:
        cohort: Whose patients they are.
        table: A row per candidate: mean, low, high, and seconds where they were measured.
    """
    figure, axes = new_figure(cohort, "The candidates", (10, 0.5 * len(table) + 1.4), 1, 2)
    positions = range(len(table))
    axes[0].hlines(positions, table["low"], table["high"], color=BLUE, linewidth=3)
    axes[0].plot(table["mean"], positions, "o", color=BLUE, markeredgecolor="white", markersize=8)
    axes[0].set_yticks(positions, [title(name) for name in table.index])
    axes[0].set(xlabel="mean Dice, 95 % interval")
    bars = axes[1].barh(positions, table["seconds"], color=ORANGE)
    axes[1].bar_label(bars, fmt="{:,.0f}", padding=3)
    axes[1].set(xlabel="seconds of training per fold", yticks=[])
    for axis in axes:
        axis.set_ylim(len(table) - 0.5, -0.5)
    return figure
