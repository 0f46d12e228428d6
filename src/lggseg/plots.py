"""Every figure of the notebooks and the report. Each function returns a new matplotlib Figure.

Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart; the ground is
white, so that a figure reads the same on a dark page. Figures of a simulated cohort say so.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from lggseg.data import CHANNELS, FLAIR, Cohort

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#767676"
SKY = "#56B4E9"  # blue that shows on a dark slice

plt.rcParams.update(
    {
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "figure.dpi": 90,
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "legend.frameon": False,
    }
)


def _figure(
    cohort: Cohort, title: str, size: tuple[float, float], rows: int = 1, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure with its axes as one list; the title names a simulated cohort."""
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    mark = " (simulated)" if cohort.simulated else ""
    figure.suptitle(title + mark, fontsize=12)
    plt.close(figure)  # a notebook shows the returned figure once, not twice
    return figure, list(axes.flat)


def table(cohort: Cohort, frame: pd.DataFrame, caption: str) -> Styler:
    """A table with a caption that names a simulated cohort."""
    mark = " (simulated)" if cohort.simulated else ""
    # A fixed name instead of a random one: the same notebook gives the same output twice.
    name = "".join(letter for letter in caption.lower() if letter.isalnum())
    return frame.style.format(precision=3).set_caption(caption + mark).set_uuid(name)


def _picture(axes: Axes, image: np.ndarray, title: str = "") -> None:
    """A slice in grey, window set on its own brightest percentile."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=max(float(np.percentile(image, 99.5)), 1))
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def _outline(axes: Axes, mask: np.ndarray, colour: str = RED, style: str = "solid") -> None:
    if mask.any():
        axes.contour(mask, levels=[0.5], colors=colour, linewidths=1.2, linestyles=style)


def _largest_slice(cohort: Cohort, patient: str) -> int:
    return int(cohort.mask(patient).sum(axis=(1, 2)).argmax())


def channels(cohort: Cohort, patient: str) -> Figure:
    """The three channels of the slice with the largest tumour."""
    figure, axes = _figure(cohort, f"Three channels of {patient}", (9, 3.4), 1, 3)
    index = _largest_slice(cohort, patient)
    for channel, name in enumerate(CHANNELS):
        image = cohort.image(patient)[index, ..., channel]
        _picture(axes[channel], image, f"channel {channel}: {name}")
    return figure


def outlines(cohort: Cohort, patients: Sequence[str]) -> Figure:
    """FLAIR of each patient's largest tumour slice, the mask's outline in red."""
    figure, axes = _figure(cohort, "FLAIR and the mask's outline", (9, 3.4), 1, len(patients))
    for axis, patient in zip(axes, patients, strict=True):
        index = _largest_slice(cohort, patient)
        _picture(axis, cohort.image(patient)[index, ..., FLAIR], f"{patient}\nslice {index + 1}")
        _outline(axis, cohort.mask(patient)[index])
    return figure


def montage(cohort: Cohort, patient: str, columns: int = 8) -> Figure:
    """All slices of a patient, from the lowest to the highest, the mask's outline in red."""
    flair, mask = cohort.image(patient)[..., FLAIR], cohort.mask(patient)
    rows = -(-len(flair) // columns)
    title = f"All FLAIR slices of {patient}"
    figure, axes = _figure(cohort, title, (columns * 1.2, rows * 1.35 + 0.4), rows, columns)
    for axis in axes:
        axis.set_axis_off()
    for index, axis in enumerate(axes[: len(flair)]):
        _picture(axis, flair[index], str(index + 1))
        _outline(axis, mask[index])
    return figure


def position_map(cohort: Cohort) -> Figure:
    """How often each pixel is tumour, over the slices that contain some."""
    rows = np.flatnonzero(cohort.slices["tumour_pixels"] > 0)
    share = np.zeros(cohort.masks.shape[1:])
    for row in rows:
        share += cohort.masks[row] > 0
    figure, axes = _figure(cohort, "Where tumours lie", (5, 4.2))
    picture = axes[0].imshow(100 * share / max(len(rows), 1), cmap="cividis")
    axes[0].set(xlabel="column (pixels)", ylabel="row (pixels)")
    figure.colorbar(picture, label="tumour slices with tumour here (%)")
    return figure


def sizes(cohort: Cohort) -> Figure:
    """Slices a patient, tumour slices a patient, and tumour area a slice."""
    figure, axes = _figure(cohort, "Sizes", (10, 3.2), 1, 3)
    area = cohort.slices["tumour_pixels"]
    area = 100 * area[area > 0] / cohort.masks[0].size
    data = [cohort.patients["slices"], cohort.patients["tumour_slices"], area]
    labels = ["slices a patient", "tumour slices a patient", "tumour area of a tumour slice (%)"]
    for axis, values, label in zip(axes, data, labels, strict=True):
        axis.hist(values, bins=20, color=BLUE)
        axis.axvline(values.median(), color=RED, label=f"median {values.median():.3g}")
        axis.set(xlabel=label)
        axis.legend()
    axes[0].set_ylabel("patients")
    axes[1].set_ylabel("patients")
    axes[2].set_ylabel("slices")
    return figure


def grouped(cohort: Cohort, values: pd.Series, label: str, title: str) -> Figure:
    """A dot per patient, by institution, with the institution's median."""
    figure, axes = _figure(cohort, title, (7, 3.4))
    codes = sorted(cohort.patients["institution"].unique())
    rng = np.random.default_rng(0)
    for place, code in enumerate(codes):
        part = values[cohort.patients["institution"] == code]
        jitter = place + rng.uniform(-0.2, 0.2, len(part))
        axes[0].scatter(jitter, part, s=14, color=BLUE, alpha=0.7)
        axes[0].hlines(part.median(), place - 0.3, place + 0.3, color=RED)
    names = [f"{code}\n(n={(cohort.patients['institution'] == code).sum()})" for code in codes]
    axes[0].set_xticks(range(len(codes)), names)
    axes[0].set(xlabel="institution", ylabel=label)
    return figure


def contrast_in_mask(cohort: Cohort, contrast: pd.DataFrame) -> Figure:
    """How much brighter the mask is than its surroundings, per channel: a dot per patient."""
    figure, axes = _figure(
        cohort, "Which channel is FLAIR? The one that is bright in the mask", (7, 3.4)
    )
    for place, name in enumerate(CHANNELS):
        jitter = place + np.random.default_rng(place).uniform(-0.2, 0.2, len(contrast))
        axes[0].scatter(jitter, contrast[name], s=14, color=BLUE, alpha=0.7)
        axes[0].hlines(contrast[name].median(), place - 0.3, place + 0.3, color=RED)
    axes[0].axhline(0, color=GREY, linewidth=0.8)
    axes[0].set_xticks(range(3), [f"channel {i}\n{name}" for i, name in enumerate(CHANNELS)])
    axes[0].set_ylabel("mask minus surroundings\n(grey levels)")
    return figure


def split_balance(cohort: Cohort, split: pd.DataFrame) -> Figure:
    """Institutions and tumour volume on each side of the split."""
    figure, axes = _figure(cohort, "Every side sees every institution and size", (10, 3.4), 1, 2)
    side = split["fold"].map(lambda fold: "test" if fold < 0 else f"fold {fold}")
    counts = pd.crosstab(side, split["institution"])
    bottom = np.zeros(len(counts))
    colours = [BLUE, ORANGE, GREEN, RED, GREY]
    for position, code in enumerate(counts):
        colour = colours[position % len(colours)]
        axes[0].bar(counts.index, counts[code], bottom=bottom, label=code, color=colour)
        bottom += counts[code].to_numpy()
    axes[0].set(ylabel="patients", ylim=(0, bottom.max() * 1.35))
    axes[0].legend(ncols=5, loc="upper center")
    for place, name in enumerate(counts.index):
        volume = split["tumour_pixels"][side == name] / 1000
        axes[1].scatter([place] * len(volume), volume, s=14, color=BLUE, alpha=0.7)
        axes[1].hlines(volume.median(), place - 0.3, place + 0.3, color=RED)
    axes[1].set_xticks(range(len(counts)), counts.index)
    axes[1].set_ylabel("tumour volume (thousand voxels)")
    return figure


def leak(cohort: Cohort, dice: pd.DataFrame) -> Figure:
    """The same model under two splits: a dot per validation patient, and the mean."""
    figure, axes = _figure(cohort, "The same model, two splits", (6, 3.6))
    for place, name in enumerate(dice.columns):
        values = dice[name].dropna()
        jitter = place + np.random.default_rng(place).uniform(-0.15, 0.15, len(values))
        axes[0].scatter(jitter, values, s=16, color=(ORANGE, BLUE)[place % 2], alpha=0.7)
        axes[0].hlines(values.mean(), place - 0.3, place + 0.3, color=RED)
        axes[0].text(place + 0.32, values.mean(), f"mean {values.mean():.3f}", va="center")
    axes[0].set_xticks(range(dice.shape[1]), list(dice.columns))
    axes[0].set(ylabel="Dice per validation patient", ylim=(-0.03, 1.03), xlim=(-0.5, 1.75))
    return figure


def curves(cohort: Cohort, metrics: pd.DataFrame) -> Figure:
    """Loss and validation Dice per epoch."""
    figure, axes = _figure(cohort, "Training", (9, 3.2), 1, 2)
    for name, colour in (("train/loss", BLUE), ("val/loss", ORANGE)):
        axes[0].plot(metrics["epoch"] + 1, metrics[name], color=colour, label=name)
    for name, colour in (("val/dice", BLUE), ("val/dice_median", GREEN)):
        axes[1].plot(metrics["epoch"] + 1, metrics[name], color=colour, label=name)
    axes[0].set(xlabel="epoch", ylabel="loss")
    axes[1].set(xlabel="epoch", ylabel="Dice over validation patients", ylim=(0, 1))
    for axis in axes:
        axis.legend()
    return figure


def dice_per_patient(cohort: Cohort, table: pd.DataFrame, summary: dict[str, float]) -> Figure:
    """Dice of each patient, sorted, with the mean and its 95 % interval."""
    ordered = table.sort_values("dice")
    figure, axes = _figure(cohort, "Dice per validation patient", (7, 0.24 * len(table) + 1.4))
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
    title = "Truth (red, solid) and prediction (blue, dashed)"
    figure, axes = _figure(cohort, title, (9, 3.6), 1, len(masks))
    dice = table.set_index("patient")["dice"]
    for axis, (patient, mask) in zip(axes, masks.items(), strict=True):
        index = _largest_slice(cohort, patient)
        image = cohort.image(patient)[index, ..., FLAIR]
        _picture(axis, image, f"{patient}\nDice {dice[patient]:.2f}, slice {index + 1}")
        _outline(axis, cohort.mask(patient)[index])
        _outline(axis, mask[index], SKY, "dashed")
    return figure


def augmented(cohort: Cohort, images: np.ndarray, masks: np.ndarray) -> Figure:
    """One slice, plain and then augmented several times: float ``(pictures, height, width)``."""
    figure, axes = _figure(
        cohort, "One slice as training sees it (FLAIR)", (10, 2.4), 1, len(images)
    )
    for place, (axis, image, mask) in enumerate(zip(axes, images, masks, strict=True)):
        axis.imshow(image, cmap="gray", vmin=-0.2, vmax=np.percentile(images[0], 99.5))
        axis.set_title("plain" if place == 0 else f"draw {place}", fontsize=9)
        axis.set_axis_off()
        _outline(axis, mask > 0.5)
    return figure
