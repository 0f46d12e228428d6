"""Colours, axes and slices as all figures draw them.

Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart; the ground is
white, so that a figure reads the same on a dark page. Figures of a simulated cohort say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

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
