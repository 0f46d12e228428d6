"""Every figure of the notebooks and the report. Each function returns a new matplotlib Figure.

Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart; the ground is
white, so that a figure reads the same on a dark page. Figures of a simulated cohort say so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator, NullFormatter
from pandas.io.formats.style import Styler

from lggseg.data.cohort import Cohort
from lggseg.evaluation import shape
from lggseg.evaluation.statistics import agreement, bootstrap_interval
from lggseg.preprocessing.volume import CHANNELS, FLAIR

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#767676"
SKY = "#56B4E9"  # blue that shows on a dark slice
# Colours and markers of several models; 5 and 6 of them give 30 pairs.
_COLOURS, _MARKERS = (BLUE, ORANGE, GREEN, RED, SKY), "osD^vP"

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


def _looks() -> Iterator[tuple[str, str]]:
    """Colour and marker of one model after another."""
    return zip(cycle(_COLOURS), cycle(_MARKERS), strict=False)


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
    """A table with a caption that names a simulated cohort; columns of whole numbers have no
    decimals, even where pandas made floats of them."""
    mark = " (simulated)" if cohort.simulated else ""
    # A fixed name instead of a random one: the same notebook gives the same output twice.
    name = "".join(letter for letter in caption.lower() if letter.isalnum())
    numbers = frame.infer_objects().select_dtypes("number")
    whole = [column for column in numbers if not (numbers[column].dropna() % 1).any()]
    style = frame.style.format(precision=3, thousands=",", na_rep="–")
    style = style.format("{:,.0f}", subset=whole, na_rep="–")
    return style.set_caption(caption + mark).set_uuid(name)


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


def montage(cohort: Cohort, patient: str) -> Figure:
    """All slices of a patient, from the lowest to the highest, the mask's outline in red."""
    flair, mask = cohort.image(patient)[..., FLAIR], cohort.mask(patient)
    columns = 8
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
    for name, colour in (("val/dice_raw", BLUE), ("val/dice_raw_median", GREEN)):
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


def search_history(cohort: Cohort, trials: pd.DataFrame, importance: pd.Series) -> Figure:
    """Dice of each trial with the best so far, and how much of its spread each hyperparameter
    explains."""
    figure, axes = _figure(cohort, "The search", (10, 3.6), 1, 2)
    for state, colour, marker in (("complete", BLUE, "o"), ("pruned", GREY, "x")):
        part = trials[trials["state"] == state]
        axes[0].scatter(
            part["number"], part["dice"], s=22, color=colour, marker=marker, label=state
        )
    complete = trials[trials["state"] == "complete"].sort_values("number")
    best = complete["dice"].cummax()
    axes[0].step(complete["number"], best, where="post", color=RED, label="best so far")
    axes[0].set(xlabel="trial", ylabel="mean Dice over validation patients")
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].legend(loc="lower right")
    ordered = importance.sort_values()
    axes[1].barh(ordered.index, ordered, color=BLUE)
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
    title = "Each hyperparameter, all else varying"
    figure, axes = _figure(cohort, title, (10, 2.3 * rows + 0.4), rows, columns)
    for axis in axes[len(hyperparameters) :]:
        axis.set_axis_off()
    for place, (axis, (name, log)) in enumerate(zip(axes, hyperparameters.items(), strict=False)):
        values = complete[name]
        numeric = pd.api.types.is_float_dtype(values)
        axis.scatter(values if numeric else values.astype(str), complete["dice"], s=14, color=BLUE)
        axis.set(xlabel=name, ylabel="" if place % columns else "Dice")
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
    figure, axes = _figure(cohort, "All hyperparameters of each completed trial", (10, 4))
    norm = Normalize(float(complete["dice"].quantile(0.1)), float(complete["dice"].max()))
    places = {name: _scaled(complete[name], log) for name, log in hyperparameters.items()}
    lines = np.stack([heights for heights, _ in places.values()])
    for line, dice in zip(lines.T, complete["dice"], strict=True):
        axes[0].plot(range(len(lines)), line, color=colormaps["cividis"](norm(dice)), alpha=0.8)
    for place, (_, ends) in enumerate(places.values()):
        axes[0].text(place, -0.04, ends[0], ha="center", va="top", fontsize=8)
        axes[0].text(place, 1.04, ends[1], ha="center", va="bottom", fontsize=8)
    axes[0].set_xticks(
        range(len(lines)), list(hyperparameters), rotation=20, ha="right", fontsize=9
    )
    axes[0].set(yticks=[], ylim=(-0.14, 1.14))
    axes[0].grid(axis="x", alpha=0.4)
    figure.colorbar(ScalarMappable(norm, "cividis"), ax=axes[0], label="Dice", pad=0.01)
    return figure


def _scaled(values: pd.Series, log: bool) -> tuple[np.ndarray, tuple[str, str]]:
    """Values from 0 to 1, and what the two ends mean."""
    if not pd.api.types.is_float_dtype(values):
        levels = sorted(values.unique())
        codes = values.map(levels.index).to_numpy() / max(len(levels) - 1, 1)
        return codes, (str(levels[0]), str(levels[-1]))
    numbers = np.log(values) if log else values
    spread = float(np.ptp(numbers)) or 1.0
    heights = ((numbers - numbers.min()) / spread).to_numpy()
    return heights, (f"{values.min():.2g}", f"{values.max():.2g}")


def gain(cohort: Cohort, elsewhere: pd.DataFrame, claimed: float) -> Figure:
    """Dice of the winner minus that of the start, a dot per patient, on folds that the search did
    not see; their mean, and the gain that the search claims."""
    figure, axes = _figure(cohort, "What is left of the gain on other folds", (8, 3.4))
    difference = elsewhere["found"] - elsewhere["start"]
    for place, (_, part) in enumerate(difference.groupby(elsewhere["fold"])):
        jitter = place + np.random.default_rng(place).uniform(-0.2, 0.2, len(part))
        axes[0].scatter(part, jitter, s=16, color=BLUE, alpha=0.7)
    mean = difference.mean()
    axes[0].axvline(0, color=GREY, linewidth=0.8)
    axes[0].axvline(mean, color=RED, label=f"mean over these patients {mean:+.3f}")
    label = f"claimed by the search {claimed:+.3f}"
    axes[0].axvline(claimed, color=ORANGE, linestyle="dashed", label=label)
    folds = sorted(elsewhere["fold"].unique())
    axes[0].set_yticks(range(len(folds)), [f"fold {fold}" for fold in folds])
    axes[0].set(xlabel="Dice of the winner minus Dice of the start")
    axes[0].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def leaderboard(
    cohort: Cohort, dice: pd.DataFrame, published: Mapping[str, float] | None = None
) -> Figure:
    """Dice of every patient (dots) under each model, best mean at the top, with the mean and its
    95 % interval; published means as lines."""
    ordered = dice[dice.mean().sort_values().index]
    figure, axes = _figure(cohort, "Dice per patient", (9, 0.8 * dice.shape[1] + 1.6))
    for place, name in enumerate(ordered):
        values = ordered[name].dropna().to_numpy()
        jitter = place + np.random.default_rng(place).uniform(-0.22, 0.22, len(values))
        axes[0].scatter(values, jitter, s=12, color=BLUE, alpha=0.5, linewidths=0)
        low, high = bootstrap_interval(values)
        axes[0].plot([low, high], [place, place], color=RED, linewidth=3)
        axes[0].plot(values.mean(), place, "o", color=RED, markersize=7, markeredgecolor="white")
        axes[0].text(1.03, place, f"{values.mean():.3f}\n({low:.3f}–{high:.3f})", va="center")
    styles = ("dashed", "dotted", "dashdot")
    for style, (label, value) in zip(cycle(styles), (published or {}).items(), strict=False):
        axes[0].axvline(value, color=GREY, linestyle=style, label=f"{label}: {value:.2f}")
    axes[0].set_yticks(range(dice.shape[1]), ordered.columns.tolist())
    axes[0].set(xlabel="Dice over the whole volume", xlim=(-0.02, 1.02))
    if published:
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def rank_stability(cohort: Cohort, shares: pd.DataFrame) -> Figure:
    """How often each model takes each rank when the patients are drawn again."""
    title = "Rank of each model, patients drawn again"
    figure, axes = _figure(cohort, title, (5, 0.6 * len(shares) + 1.6))
    axes[0].imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(shares.shape):
        share = shares.to_numpy()[row, column]
        colour = "white" if share > 0.5 else "black"
        axes[0].text(column, row, f"{share:.0%}", ha="center", va="center", color=colour)
    axes[0].set_xticks(range(shares.shape[1]), [str(rank) for rank in shares])
    axes[0].set_yticks(range(len(shares)), list(shares.index))
    axes[0].set_xlabel("rank by mean Dice")
    return figure


def bland_altman(cohort: Cohort, table: pd.DataFrame) -> Figure:
    """Predicted minus true tumour volume against their mean (Bland and Altman 1986), with the mean
    difference and the limits of agreement (± 1.96 standard deviations)."""
    true, found = table["truth_voxels"] / 1000, table["predicted_voxels"] / 1000
    figure, axes = _figure(cohort, "Tumour volume: prediction against truth", (7, 3.6))
    _bland_altman(axes[0], true, found, "+.1f")
    axes[0].set(xlabel="mean of both (thousand voxels)", ylabel="difference (thousand voxels)")
    return figure


def _bland_altman(axes: Axes, true: pd.Series, found: pd.Series, form: str) -> None:
    agreed = agreement(true, found)
    axes.scatter((true + found) / 2, found - true, s=18, color=BLUE, alpha=0.7, linewidths=0)
    axes.axhline(0, color=GREY, linewidth=0.8)
    for name, style in (("bias", "solid"), ("lower", "dashed"), ("upper", "dashed")):
        if np.isfinite(agreed[name]):
            axes.axhline(agreed[name], color=RED, linestyle=style)
            place, text = (1.01, agreed[name]), f"{agreed[name]:{form}}"
            axes.annotate(text, place, xycoords=("axes fraction", "data"), va="center")


def expected_against_true(cohort: Cohort, table: pd.DataFrame) -> Figure:
    """The Dice that the model expects against the true one, a dot per patient."""
    rank = table["expected_dice"].corr(table["dice"], method="spearman")
    figure, axes = _figure(cohort, f"Does it know? Spearman's ρ = {rank:.2f}", (4.6, 4.4))
    axes[0].plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    axes[0].scatter(table["expected_dice"], table["dice"], s=18, color=BLUE, alpha=0.7)
    axes[0].set(xlabel="Dice that the model expects", ylabel="true Dice")
    axes[0].set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    return figure


def disagreement(cohort: Cohort, dice: pd.DataFrame) -> Figure:
    """Dice of the 12 patients on whom the models differ most, a colour and a marker per model."""
    spread = dice.max(axis=1) - dice.min(axis=1)
    rows = dice.loc[spread.nlargest(12).index[::-1]]
    figure, axes = _figure(cohort, "Where the models disagree", (8, 0.28 * len(rows) + 1.4))
    axes[0].hlines(range(len(rows)), rows.min(axis=1), rows.max(axis=1), color=GREY, linewidth=0.8)
    for name, (colour, marker) in zip(rows, _looks(), strict=False):
        axes[0].scatter(rows[name], range(len(rows)), color=colour, marker=marker, label=name)
    axes[0].set_yticks(range(len(rows)), rows.index.tolist())
    axes[0].set(xlabel="Dice over the whole volume", xlim=(-0.02, 1.02))
    axes[0].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def reliability(cohort: Cohort, tables: Mapping[str, np.ndarray]) -> Figure:
    """Observed tumour frequency against predicted probability, of the tables of
    :func:`lggseg.evaluation.segmentation.reliability`, and how many voxels have which
    probability."""
    figure, axes = _figure(cohort, "Are the probabilities right?", (9, 4), 1, 2)
    axes[0].plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    for (name, table), (colour, marker) in zip(tables.items(), _looks(), strict=False):
        voxels, probabilities, tumours = table[table[:, 0] > 0].T
        mean = probabilities / voxels
        axes[0].plot(mean, tumours / voxels, color=colour, marker=marker, markersize=4, label=name)
        axes[1].plot(mean, voxels, color=colour, marker=marker, markersize=4)
    axes[0].set(xlabel="predicted probability", ylabel="share of tumour", aspect="equal")
    axes[1].set(xlabel="predicted probability", ylabel="voxels", yscale="log")
    axes[0].legend(loc="upper left")
    return figure


def uncertainty(cohort: Cohort, patient: str, mask: np.ndarray, entropy: np.ndarray) -> Figure:
    """The slice with most predicted tumour: FLAIR with both outlines, and the entropy in bits."""
    place = int(mask.sum(axis=(1, 2)).argmax())
    figure, axes = _figure(cohort, f"{patient}: where the model is unsure", (8, 4), 1, 2)
    flair = cohort.image(patient)[place, ..., FLAIR]
    _picture(axes[0], flair, "FLAIR: truth (red), prediction (blue, dashed)")
    _outline(axes[0], cohort.mask(patient)[place])
    _outline(axes[0], mask[place], SKY, "dashed")
    _picture(axes[1], flair, "entropy of the label")
    shown = axes[1].imshow(entropy[place], cmap="magma", vmin=0, vmax=1, alpha=0.8)
    figure.colorbar(shown, ax=axes[1], label="bits", shrink=0.8)
    return figure


def latency(cohort: Cohort, table: pd.DataFrame) -> Figure:
    """Milliseconds of requests over the slices of their volumes, a dot per request."""
    figure, axes = _figure(cohort, "From request to answer", (6, 3.6))
    axes[0].scatter(table["slices"], table["milliseconds"], s=18, color=BLUE, alpha=0.6)
    axes[0].set(xlabel="slices of the volume", ylabel="milliseconds")
    axes[0].set(xlim=(0, None), ylim=(0, None))
    return figure


def disk(cohort: Cohort, mib: pd.Series) -> Figure:
    """MiB that each of several places takes."""
    figure, axes = _figure(cohort, "What is left on this machine", (7, 0.5 * len(mib) + 1.2))
    bars = axes[0].barh(mib.index.tolist(), mib, color=BLUE)
    axes[0].bar_label(bars, fmt="%.0f", padding=3)
    axes[0].invert_yaxis()
    axes[0].set(xlabel="MiB")
    return figure


def margins(cohort: Cohort, patients: Sequence[str]) -> Figure:
    """The largest slice of each patient's tumour with its margin and centroid, and the radii along
    the margin with their moving average."""
    title, rows = "Margins: the radius along the outline", len(patients)
    figure, axes = _figure(cohort, title, (9, 2.6 * rows + 0.4), rows, 2)
    for place, patient in enumerate(patients):
        piece = shape.largest_slice(shape.largest_part(cohort.mask(patient))[0])
        points = shape.margin_points(piece)
        radii, _ = shape.margin(points)
        picture, profile = axes[2 * place], axes[2 * place + 1]
        picture.imshow(piece, cmap="Greys", vmax=4)
        picture.plot(*np.vstack([points, points[:1]]).T[::-1], color=RED, linewidth=1)
        picture.plot(*shape.centroid(points)[::-1], "+", color=BLUE)
        picture.set_title(patient, fontsize=9)
        picture.set_axis_off()
        profile.plot(radii, color=BLUE, linewidth=1, label="radius")
        profile.plot(shape.smoothed(radii), color=ORANGE, label="moving average")
        profile.set_title(f"margin fluctuation {shape.margin_fluctuation(radii):.3f}", fontsize=9)
        profile.set(ylabel="radius over the largest", ylim=(0, 1.05))
    axes[-1].set_xlabel("point along the margin")
    axes[1].legend(loc="lower left", ncols=2)
    return figure


def shape_agreement(
    cohort: Cohort, true: pd.DataFrame, found: pd.DataFrame, features: Sequence[str]
) -> Figure:
    """Features of predicted masks minus those of true ones, against their mean (Bland and Altman
    1986), with bias and limits of agreement; the title holds the intraclass correlation."""
    size = (3.7 * len(features), 3.4)
    figure, axes = _figure(cohort, "Shape: prediction against truth", size, 1, len(features))
    for axis, name in zip(axes, features, strict=True):
        agreed = agreement(true[name], found[name])
        axis.set_title(f"{_words(name)}\nICC {agreed['icc']:.2f}, n = {agreed['n']}", fontsize=9)
        _bland_altman(axis, true[name], found[name], "+.3f")
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.set_xlabel("mean of both")
    axes[0].set_ylabel("predicted minus true")
    return figure


def features_by_group(
    cohort: Cohort, tables: Mapping[str, pd.DataFrame], groups: pd.Series, features: Sequence[str]
) -> Figure:
    """Features of each patient (dots) by group, from several masks side by side, with the median of
    each; patients without a group are left out."""
    size, title = (3.7 * len(features), 3.8), f"Shape by {groups.name}"
    figure, axes = _figure(cohort, title, size, 1, len(features))
    known = groups.dropna().astype(int)
    sizes = known.value_counts().sort_index()
    for axis, name in zip(axes, features, strict=True):
        for shift, (table, look) in enumerate(zip(tables.values(), _looks(), strict=False)):
            for level in sizes.index:
                values = table[name].reindex(known.index[known == level]).dropna()
                _dots(axis, level + 0.36 * (shift - (len(tables) - 1) / 2), values, *look)
        axis.set_xticks(sizes.index, [f"{level}\n(n={size})" for level, size in sizes.items()])
        axis.set_title(_words(name), fontsize=9)
    for label, (colour, marker) in zip(tables, _looks(), strict=False):
        axes[0].scatter([], [], s=14, color=colour, marker=marker, label=label)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _dots(axes: Axes, place: float, values: pd.Series, colour: str, marker: str) -> None:
    """A dot per value around a place, with their median."""
    jitter = place + np.random.default_rng(0).uniform(-0.1, 0.1, len(values))
    axes.scatter(jitter, values, s=14, color=colour, marker=marker, alpha=0.6, linewidths=0)
    if len(values):
        axes.hlines(values.median(), place - 0.16, place + 0.16, color=colour)


def associations(cohort: Cohort, tests: Mapping[str, pd.DataFrame]) -> Figure:
    """ε² of each feature (rows) with each grouping (columns), a panel for each of several tables
    of :func:`lggseg.evaluation.statistics.associations`; the numbers are p, bold with a star where
    Holm's correction leaves it below 0.05."""
    first = next(iter(tests.values()))
    size = (0.85 * first["grouping"].nunique() * len(tests) + 3, 0.4 * first["feature"].nunique())
    title = "Shape and genomics: ε² (colour) and p"
    figure, axes = _figure(cohort, title, (size[0], size[1] + 2), 1, len(tests))
    for axis, (label, table) in zip(axes, tests.items(), strict=True):
        shown = _association_panel(axis, table)
        axis.set_title(label)
    for axis in axes[1:]:
        axis.set_yticklabels([])
    figure.colorbar(shown, ax=axes, label="ε²", shrink=0.8, extend="max")
    return figure


def _association_panel(axis: Axes, table: pd.DataFrame) -> AxesImage:
    rows, columns = table["feature"].unique(), table["grouping"].unique()
    wide = table.pivot(index="feature", columns="grouping").loc[rows]
    shares = wide["epsilon_squared"][columns].to_numpy(dtype=float)
    p_values, adjusted = (wide[name][columns].to_numpy(dtype=float) for name in ("p", "p_holm"))
    shown = axis.imshow(shares, cmap="Blues", vmin=0, vmax=0.4, aspect="auto")
    for row, column in np.argwhere(np.isfinite(p_values)):
        p, star = p_values[row, column], "*" if adjusted[row, column] < 0.05 else ""
        text = ("<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")) + star
        colour = "white" if shares[row, column] > 0.25 else "black"
        weight = "bold" if star else "normal"
        axis.text(column, row, text, ha="center", va="center", color=colour, weight=weight)
    axis.set_xticks(range(len(columns)), list(columns), rotation=40, ha="right")
    axis.set_yticks(range(len(rows)), [_words(row) for row in rows])
    return shown


def _words(name: str) -> str:
    return name.replace("_", " ")
