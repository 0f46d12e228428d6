"""Diagrams: who is in the study, what Dice is, from a slice to a mask, how networks are built."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from itertools import pairwise
from math import log2
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch

from lggseg.config import Config
from lggseg.models import profiling
from lggseg.models.profiling import Stage
from report.canvas import BLUE, GREEN, GREY, ORANGE, QUIET, TEXT, VERMILION, load
from report.values import CARD

Place = tuple[float, float]
GATE = 2.0  # steps between two boxes, on a narrow screen, from which a word has room between them


@cache
def stages(name: str) -> list[Stage]:
    """The stages of a network of the shipped recipe."""
    known = Config.__dataclass_fields__
    config = json.loads(Path(CARD).read_text())["config"]
    config = Config(**{k: v for k, v in config.items() if k in known})
    return profiling.stages(replace(config, network=name))


def sheet(width: float, height: float, limits: tuple[float, float]) -> tuple[Figure, Axes]:
    """An empty sheet with its own coordinates, without axes."""
    figure, axis = plt.subplots(figsize=(width, height), layout="constrained")
    axis.set(xlim=(0, limits[0]), ylim=(0, limits[1]))
    axis.set_axis_off()
    return figure, axis


def box(axis: Axes, place: Place, size: Place, text: str, colour: str = BLUE) -> None:
    """A box around a text, its centre at ``place``."""
    corner = place[0] - size[0] / 2, place[1] - size[1] / 2
    look = {"facecolor": "none", "edgecolor": colour, "linewidth": 1.4}
    style = "round,pad=0,rounding_size=0.06"
    axis.add_patch(FancyBboxPatch(corner, *size, boxstyle=style, **look))
    axis.text(*place, text, ha="center", va="center", linespacing=1.35)


def arrow(axis: Axes, start: Place, end: Place, style: str = "solid") -> None:
    """An arrow between two places."""
    look = {"arrowstyle": "-|>", "color": QUIET, "linewidth": 1.1, "linestyle": style}
    look |= {"shrinkA": 0, "shrinkB": 0}
    axis.annotate("", end, start, arrowprops=look)


def patient_flow(width: float) -> Figure:
    """From the published cohort to the patients that train and those that test."""
    published, here = load("published")["cohort"], load("01_explore_data")
    split = load("02_patient_split-full")["split"]
    development = here["patients"] - split["test"]
    held_back = published["patients"] - here["patients"]
    narrow = width < 5
    figure, axis = sheet(width, 3.3 if narrow else 2.5, (10, 7))
    wide = (4.4, 1.25)
    box(axis, (5, 6.3), wide, f"{published['patients']} patients published", GREY)
    box(axis, (5, 4.1), wide, f"{here['patients']} patients at hand")
    box(axis, (2.4, 1.0), (4.6, 1.9), f"{development} for development\n{split['folds']} folds")
    box(
        axis,
        (7.6, 1.0),
        (4.6, 1.9),
        f"{split['test']} for the test\nno choices made on them",
        ORANGE,
    )
    arrow(axis, (5, 5.65), (5, 4.75))
    arrow(axis, (5, 3.45), (2.4, 1.98))
    arrow(axis, (5, 3.45), (7.6, 1.98))
    who = "sampled\nwithin institutions" if narrow else "sampled within institutions"
    axis.text(5.2, 5.2, f"{held_back} withheld, {who}", va="center", fontsize=9)
    return figure


def overlap(width: float) -> Figure:
    """Truth and prediction as two circles, with the three parts that all overlap metrics count."""
    figure, axis = sheet(min(width, 4.2), 2.1, (10, 5))
    axis.set_aspect("equal")
    for place, colour, name in ((3.9, VERMILION, "truth"), (6.1, BLUE, "prediction")):
        look = {"facecolor": colour, "edgecolor": colour, "alpha": 0.22}
        axis.add_patch(Circle((place, 2.3), 2.0, **look))
        axis.add_patch(Circle((place, 2.3), 2.0, fill=False, edgecolor=colour, linewidth=1.6))
        axis.text(place + (-1 if name == "truth" else 1), 4.55, name, ha="center")
    for place, text in ((2.7, "FN\nmissed"), (5, "TP\nfound"), (7.3, "FP\nextra")):
        axis.text(place, 2.3, text, ha="center", va="center", linespacing=1.3)
    return figure


def chain(width: float, steps: list[tuple[str, str]], columns: int) -> Figure:
    """Boxes in rows of so many, with an arrow from each to the next, as one reads."""
    columns = 2 if width < 5 else columns
    rows = -(-len(steps) // columns)
    figure, axis = sheet(width, 0.95 * rows + 0.15, (columns * 3, rows * 2))
    places = [
        (1.5 + 3 * (i % columns), rows * 2 - 1 - 2 * (i // columns)) for i in range(len(steps))
    ]
    for (name, text), place in zip(steps, places, strict=True):
        box(axis, place, (2.55, 1.4), f"{name}\n{text}")
    for start, end in pairwise(places):
        if start[1] == end[1]:
            arrow(axis, (start[0] + 1.28, start[1]), (end[0] - 1.28, end[1]))
        else:
            middle = (start[1] + end[1]) / 2
            axis.plot([start[0], start[0], end[0]], [start[1] - 0.7, middle, middle], color=QUIET)
            arrow(axis, (end[0], middle), (end[0], end[1] + 0.7))
    return figure


def pipeline(width: float) -> Figure:
    """From TIFF slices to a mask, and where training comes in."""
    first, last = stages("unet")[0], stages("unet")[-1]
    pixels = load("published")["cohort"]["pixels"]
    steps = [
        ("TIFF slices", "checked, decoded once"),
        ("cohort", "bytes on the device"),
        ("batch by index", "with neighbours’ FLAIR"),
        ("normalise", "by tissue of the volume"),
        ("augment", "in training alone"),
        ("network", f"{first.channels} × {first.size}² to {last.channels} × {last.size}²"),
        ("logits", "mean with the mirror"),
        (f"mask, {pixels}²", "threshold, components"),
    ]
    return chain(width, steps, 4)


def deployment(width: float) -> Figure:
    """From a trained model to an answer over HTTP."""
    steps = [
        ("run folder", "weights, settings"),
        ("model folder", "ONNX graph, model card"),
        ("endpoint", "/ping, /invocations"),
        ("client", "TIFF or npy in"),
        ("answer", "mask, areas, picture"),
        ("viewer, files", "NIfTI, TIFF, table"),
    ]
    return chain(width, steps, 3)


def _network(width: float, name: str) -> Figure:
    """A network as boxes: channels in the box, resolution from top to bottom; dashed: copied."""
    steps = stages(name)
    narrow = width < 5
    figure, axis = plt.subplots(figsize=(width, 2.6 if narrow else 3.0), layout="constrained")
    places = [(float(x), log2(step.size)) for x, step in enumerate(steps)]
    size = (1.0 if narrow and len(steps) > 12 else 0.84, 0.6)
    for index, (step, place) in enumerate(zip(steps, places, strict=True)):
        plain = index in (0, len(steps) - 1)
        colour = GREY if plain else GREEN if step.kind in profiling.TRANSFORMER else BLUE
        box(axis, place, size, str(step.channels), colour)
        if index:
            _step(axis, places[index - 1], place, size)
    for first, last in profiling.joined(steps):
        end = places[last]
        start = (places[first][0] + size[0] / 2, places[first][1])
        arrow(axis, start, (end[0] - size[0] / 2, end[1]), "dashed")
        if "gate" in steps[last].kind and (not narrow or end[0] - start[0] > GATE):
            middle = ((start[0] + end[0]) / 2, start[1])
            axis.text(*middle, "gate", ha="center", va="bottom", color=TEXT, fontsize=9)
    sizes = sorted({step.size for step in steps})
    axis.set_yticks([log2(size) for size in sizes], [f"{size}²" for size in sizes])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set(xticks=[], xlim=(-0.6, len(steps) - 0.4), ylabel="pixels")
    axis.set_ylim(log2(sizes[0]) - 0.5, log2(sizes[-1]) + 0.5)
    return figure


def _step(axis: Axes, start: Place, end: Place, size: Place) -> None:
    """An arrow from one box to the next: level, down or up."""
    if start[1] == end[1]:
        arrow(axis, (start[0] + size[0] / 2, start[1]), (end[0] - size[0] / 2, end[1]))
        return
    sign = 1 if end[1] > start[1] else -1
    corner = (start[0] + 0.28, start[1] + sign * size[1] / 2)
    arrow(axis, corner, (end[0] - 0.28, end[1] - sign * size[1] / 2))


def unet(width: float) -> Figure:
    """The U-Net."""
    return _network(width, "unet")


def attention_unet(width: float) -> Figure:
    """The Attention U-Net."""
    return _network(width, "attention_unet")


def swin_unetr(width: float) -> Figure:
    """The Swin UNETR."""
    return _network(width, "swin_unetr")


def gate(width: float) -> Figure:
    """An attention gate: what comes from below decides where the copied features count."""
    narrow = width < 5
    figure, axis = sheet(width, 2.3, (10, 5))
    box(axis, (1.5, 4), (2.6, 1.2), "copied x\n1 × 1 conv.", BLUE)
    box(axis, (1.5, 1), (2.6, 1.2), "from below g\n1 × 1 conv.", BLUE)
    box(axis, (4.6, 2.5), (1.9, 1.2), "add\nReLU", GREY)
    box(axis, (7.1, 2.5), (1.9, 1.2), "1 × 1 conv.\nsigmoid", ORANGE)
    box(axis, (9.1, 4), (1.5, 1.2), "x times\nα", BLUE)
    arrow(axis, (2.8, 3.8), (3.65, 2.8))
    arrow(axis, (2.8, 1.2), (3.65, 2.2))
    arrow(axis, (5.55, 2.5), (6.15, 2.5))
    arrow(axis, (8.05, 2.5), (9.1, 3.4))
    arrow(axis, (2.8, 4.25), (8.35, 4.25))
    if not narrow:
        axis.text(8.8, 2.4, "α: a weight\nper pixel", va="center", fontsize=9)
    return figure
