"""Figures of the data: slices, tumours, institutions, the split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

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
from lggseg.preprocessing.volume import CHANNELS, FLAIR


def channels(cohort: Cohort, patient: str) -> Figure:
    """The three channels of the slice with the largest tumour."""
    figure, axes = new_figure(cohort, f"Three channels of {patient}", (9, 3.4), 1, 3)
    index = largest_slice(cohort, patient)
    for channel, name in enumerate(CHANNELS):
        image = cohort.image(patient)[index, ..., channel]
        draw_slice(axes[channel], image, f"channel {channel}: {name}")
    return figure


def outlines(cohort: Cohort, patients: Sequence[str]) -> Figure:
    """FLAIR of each patient's largest tumour slice, the mask's outline in orange-red."""
    figure, axes = new_figure(cohort, "FLAIR and the mask's outline", (9, 3.4), 1, len(patients))
    for axis, patient in zip(axes, patients, strict=True):
        index = largest_slice(cohort, patient)
        draw_slice(axis, cohort.image(patient)[index, ..., FLAIR], f"{patient}\nslice {index + 1}")
        draw_outline(axis, cohort.mask(patient)[index])
    return figure


def montage(cohort: Cohort, patient: str) -> Figure:
    """All slices of a patient, from the lowest to the highest, the mask's outline in orange-red."""
    flair, mask = cohort.image(patient)[..., FLAIR], cohort.mask(patient)
    columns = 8
    rows = -(-len(flair) // columns)
    title = f"All FLAIR slices of {patient}"
    figure, axes = new_figure(cohort, title, (columns * 1.2, rows * 1.35 + 0.4), rows, columns)
    for axis in axes:
        axis.set_axis_off()
    for index, axis in enumerate(axes[: len(flair)]):
        draw_slice(axis, flair[index], str(index + 1))
        draw_outline(axis, mask[index])
    return figure


def position_map(cohort: Cohort) -> Figure:
    """How often each pixel is tumour, over the slices that contain some."""
    rows = np.flatnonzero(cohort.slices["tumour_pixels"] > 0)
    share = np.zeros(cohort.masks.shape[1:])
    for row in rows:
        share += cohort.masks[row] > 0
    figure, axes = new_figure(cohort, "Where tumours lie", (5, 4.2))
    picture = axes[0].imshow(100 * share / max(len(rows), 1), cmap="cividis")
    axes[0].set(xlabel="column (pixels)", ylabel="row (pixels)")
    figure.colorbar(picture, label="tumour slices with tumour here (%)")
    return figure


def sizes(cohort: Cohort) -> Figure:
    """Slices per patient, tumour slices per patient, and tumour area per slice."""
    figure, axes = new_figure(cohort, "Sizes", (10, 3.2), 1, 3)
    area = cohort.slices["tumour_pixels"]
    area = 100 * area[area > 0] / cohort.masks[0].size
    data = [cohort.patients["slices"], cohort.patients["tumour_slices"], area]
    labels = [
        "slices per patient",
        "tumour slices per patient",
        "tumour area of a tumour slice (%)",
    ]
    for axis, values, label in zip(axes, data, labels, strict=True):
        axis.hist(values, bins=20, color=BLUE)
        axis.axvline(values.median(), color=RED)
        axis.set(xlabel=label, title=f"line: median {values.median():.3g}")
    axes[0].set_ylabel("patients")
    axes[1].set_ylabel("patients")
    axes[2].set_ylabel("slices")
    return figure


def grouped(
    cohort: Cohort, values: pd.Series, institutions: pd.Series, label: str, title: str
) -> Figure:
    """A dot per patient, by institution, with the institution's median."""
    figure, axes = new_figure(cohort, title, (7, 3.4))
    codes = sorted(institutions.unique())
    rng = np.random.default_rng(0)
    for position, code in enumerate(codes):
        own = values[institutions == code]
        jitter = position + rng.uniform(-0.2, 0.2, len(own))
        axes[0].scatter(jitter, own, s=14, color=BLUE, alpha=0.7)
        axes[0].hlines(own.median(), position - 0.3, position + 0.3, color=RED)
    names = [f"{code}\n(n={(institutions == code).sum()})" for code in codes]
    axes[0].set_xticks(range(len(codes)), names)
    axes[0].set(xlabel="institution", ylabel=label)
    return figure


def contrast_in_mask(cohort: Cohort, contrast: pd.DataFrame) -> Figure:
    """How much brighter the mask is than its surroundings, per channel: a dot per patient."""
    figure, axes = new_figure(
        cohort, "Which channel is FLAIR? The one that is bright in the mask", (7, 3.4)
    )
    for position, name in enumerate(CHANNELS):
        jitter = position + np.random.default_rng(position).uniform(-0.2, 0.2, len(contrast))
        axes[0].scatter(jitter, contrast[name], s=14, color=BLUE, alpha=0.7)
        axes[0].hlines(contrast[name].median(), position - 0.3, position + 0.3, color=RED)
    axes[0].axhline(0, color=GREY, linewidth=0.8)
    axes[0].set_xticks(range(3), [f"channel {i}\n{name}" for i, name in enumerate(CHANNELS)])
    axes[0].set_ylabel("mask minus surroundings\n(grey levels)")
    return figure


def split_balance(cohort: Cohort, split: pd.DataFrame) -> Figure:
    """Institutions and tumour volume in each subset of the split."""
    figure, axes = new_figure(
        cohort, "Institutions and tumour sizes in each subset", (10, 3.4), 1, 2
    )
    subset = split["fold"].map(lambda fold: "test" if fold < 0 else f"fold {fold}")
    counts = pd.crosstab(subset, split["institution"])
    bottom = np.zeros(len(counts))
    colours = [BLUE, ORANGE, GREEN, RED, GREY]
    # The same colour for an institution in every figure, also where another one is missing.
    order = list(dict.fromkeys(["CS", "DU", "EZ", "FG", "HT", *counts]))
    for code in counts:
        colour = colours[order.index(code) % len(colours)]
        axes[0].bar(counts.index, counts[code], bottom=bottom, label=code, color=colour)
        bottom += counts[code].to_numpy()
    axes[0].set(ylabel="patients", ylim=(0, bottom.max() * 1.35))
    axes[0].legend(ncols=5, loc="upper center")
    for position, name in enumerate(counts.index):
        volume = split["tumour_pixels"][subset == name] / 1000
        axes[1].scatter([position] * len(volume), volume, s=14, color=BLUE, alpha=0.7)
        axes[1].hlines(volume.median(), position - 0.3, position + 0.3, color=RED)
    axes[1].set_xticks(range(len(counts)), counts.index)
    axes[1].set_ylabel("tumour volume (thousand voxels)")
    return figure
