"""What all figures of the report are drawn on: the page's width, typeface and colours.

A figure is drawn for the width at which it is read, once for a wide and once for a narrow screen,
so that its letters are as large as those of a caption. Colours are those of Okabe and Ito (2008);
the page replaces them by its own in the dark (svg.py).
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
FONT = HERE / "fonts" / "source-sans-3-regular.ttf"
TEXT, QUIET, LINE, GROUND = "#1d2126", "#5a626b", "#d9dcdf", "#fdfdfc"
BLUE, ORANGE, GREEN, VERMILION = "#0072b2", "#e69f00", "#009e73", "#d55e00"
SKY, GREY = "#56b4e9", "#767676"
# Of the column of text, in inches of 96 CSS pixels.
WIDE, NARROW = 648 / 96, 342 / 96
NAMES = {"unet": "U-Net", "attention_unet": "Attention U-Net", "swin_unetr": "Swin UNETR"}
LOOKS = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "D"), (VERMILION, "^"), (SKY, "v"))

font_manager.fontManager.addfont(FONT)
STYLE = {
    "font.family": [font_manager.FontProperties(fname=FONT).get_name(), "DejaVu Sans"],
    "font.size": 9.75,  # 13 pixels
    "axes.labelsize": 9.75,
    "axes.titlesize": 9.75,
    "axes.titlelocation": "left",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": QUIET,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "grid.color": LINE,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    # Powers of ten as plain numbers: a superscript would be too small to read.
    "axes.formatter.min_exponent": 9,
    "svg.hashsalt": "lggseg",  # the same results give the same bytes
    "axes.unicode_minus": True,
}


def load(name: str) -> Any:
    """A results file."""
    return json.loads((HERE / "results" / f"{name}.json").read_text())


def network(name: str) -> str:
    """A network as the text names it: ``attention_unet, equal time`` → ``Attention U-Net, …``."""
    head, comma, rest = name.partition(",")
    return NAMES.get(head, head) + comma + rest


def panels(width: float, count: int, height: float) -> tuple[Figure, list[Axes]]:
    """Panels side by side, and below each other where the width is narrow; ``height`` of one."""
    narrow = width < 5
    rows, columns = (count, 1) if narrow else (1, count)
    size = (width, height * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    return figure, list(axes.flat)


def spread(place: float, count: int, width: float = 0.2) -> np.ndarray:
    """Places around one, so that dots do not hide each other; the same at each call."""
    return place + np.random.default_rng(int(place * 7) + count).uniform(-width, width, count)


def drawn(figure: Figure, kind: str, dpi: int = 170) -> bytes:
    """A figure as a file."""
    file = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else None
    figure.savefig(file, format=kind, dpi=dpi, metadata=metadata)
    plt.close(figure)
    return file.getvalue()
