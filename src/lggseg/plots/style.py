"""Colours, axes and slices as all figures draw them.

Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart; the ground is
white, so that a figure reads the same on a dark page. Figures of a simulated cohort say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from lggseg.data.cohort import Cohort

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#767676"
SKY = "#56B4E9"  # blue that shows on a dark slice
# Colours and markers of several models; 5 and 6 of them give 30 pairs.
_COLOURS, _MARKERS = (BLUE, ORANGE, GREEN, RED, SKY), "osD^vP"
_TITLES = {
    "unet": "U-Net",
    "attention_unet": "Attention U-Net",
    "swin_unetr": "Swin UNETR",
    "dice": "Dice",
    "iou": "IoU",
    "hd95": "HD95 (voxels)",
    "assd": "ASSD (voxels)",
    "lesion_f1": "lesion F1",
    "slice_dice": "slice Dice",
    "expected_dice": "expected Dice",
    "p_holm": "p (Holm)",
    "p_fisher": "p (Fisher)",
    "p_permutation": "p (permutation)",
    "rank_biserial": "rank-biserial r",
    "superiority": "first better (share)",
    "epsilon_squared": "ε²",
    "icc": "ICC",
    "activation_mib": "activations (MiB)",
    "model_mib": "model (MiB)",
    "training_seconds": "training (s)",
    "inference_ms": "inference (ms)",
}

# On import, so that what a notebook draws itself looks alike.
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


def looks() -> Iterator[tuple[str, str]]:
    """Colour and marker of one model after another."""
    return zip(cycle(_COLOURS), cycle(_MARKERS), strict=False)


def new_figure(
    cohort: Cohort, title: str, size: tuple[float, float], rows: int = 1, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure with its axes as one list; the title names a simulated cohort."""
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    figure.suptitle(title + mark_of(cohort), fontsize=12)
    plt.close(figure)  # a notebook shows the returned figure once, not twice
    return figure, list(axes.flat)


def mark_of(cohort: Cohort) -> str:
    """What a title adds: whether the patients are simulated, or those of the project's results."""
    return " (simulated)" if cohort.simulated else str(getattr(cohort, "mark", ""))


def title(name: object) -> str:
    """A name of a table as a reader would write it; names of patients stay as they are.

    >>> [title(name) for name in ("unet, equal time", "institution: p_holm", "TCGA_CS_4941", 3)]
    ['U-Net, equal time', 'institution: p (Holm)', 'TCGA_CS_4941', '3']
    """
    parts = re.split("(, |: )", str(name))
    own = re.compile("[a-z0-9_]+").fullmatch
    return "".join(_TITLES.get(p, p.replace("_", " ")) if own(p) else p for p in parts)


def _cell(value: object) -> str:
    """Three decimals, or none from a thousand on; a sign is not parted from its number."""
    if not isinstance(value, float | np.floating):
        return str(value).replace("< ", "<\u00a0")
    return f"{value:,.0f}" if abs(float(value)) >= 1000 else f"{value:.3f}"


def _probability(value: Any) -> str:
    return "&lt;0.001" if value < 0.001 else f"{value:.3f}"


def table(cohort: Cohort, frame: pd.DataFrame, caption: str) -> Styler:
    """A table with a caption that names a simulated cohort; columns of whole numbers have no
    decimals, even where pandas made floats of them, and a p below 0.001 is not shown as 0."""
    # A fixed name instead of a random one: the same notebook gives the same output twice.
    name = "".join(letter for letter in caption.lower() if letter.isalnum())
    numbers = frame.infer_objects().select_dtypes("number")
    whole = [column for column in numbers if not (numbers[column].dropna() % 1).any()]
    tested = [column for column in numbers if re.fullmatch("p(_[a-z]+)?", str(column))]
    style = frame.style.format(_cell, na_rep="–")
    style = style.format("{:,.0f}", subset=whole, na_rep="–")
    style = style.format(_probability, subset=tested, na_rep="–")
    for axis in (0, 1):
        style = style.format_index(title, axis=axis)
    return style.set_caption(caption + mark_of(cohort)).set_uuid(name)


def draw_slice(axes: Axes, image: np.ndarray, title: str = "") -> None:
    """A slice in grey, window set on its own brightest percentile."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=max(float(np.percentile(image, 99.5)), 1))
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def draw_outline(axes: Axes, mask: np.ndarray, colour: str = RED, style: str = "solid") -> None:
    """Draw the outline of a mask."""
    if mask.any():
        axes.contour(mask, levels=[0.5], colors=colour, linewidths=1.2, linestyles=style)


def largest_slice(cohort: Cohort, patient: str) -> int:
    """The slice of a patient with most tumour."""
    return int(cohort.mask(patient).sum(axis=(1, 2)).argmax())
