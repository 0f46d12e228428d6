"""Drawings of a request and of the places to run; the box and the arrow of all drawings."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from lggseg.plots.style import BLUE, GREEN, GREY, ORANGE


def box(
    axes: Axes,
    place: tuple[float, float],
    text: str,
    colour: str = BLUE,
    size: tuple[float, float] = (1.0, 0.6),
    layer: int = 2,
) -> None:
    """A rounded box around a text, its centre at ``place``; in layer 0 it lies behind arrows."""
    corner = (place[0] - size[0] / 2, place[1] - size[1] / 2)
    style = "round,pad=0,rounding_size=0.08"
    pale = tuple(1 - 0.15 * (1 - value) for value in to_rgb(colour))  # hides an arrow behind it
    look: dict[str, Any] = {
        "facecolor": pale,
        "edgecolor": colour,
        "linewidth": 1.3,
        "zorder": layer,
    }
    axes.add_patch(FancyBboxPatch(corner, *size, boxstyle=style, **look))
    axes.text(*place, text, ha="center", va="center", fontsize=9, zorder=3)


def arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    text: str = "",
    *,
    style: str = "solid",
    shrink: float = 0,
) -> None:
    """An arrow between two points, ``shrink`` points shorter at either end, a text above it."""
    look: dict[str, Any] = {"arrowstyle": "-|>", "color": GREY, "linestyle": style}
    look |= {"shrinkA": shrink, "shrinkB": shrink}
    axes.annotate("", end, start, arrowprops=look, zorder=1)
    if text:
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.06)
        axes.text(*middle, text, ha="center", va="bottom", fontsize=9)


def exchange(url: str, volume: str, answer: str) -> Figure:
    """A request and its answer: who sends what to whom, and what happens at the endpoint.

    Args:
        url: The address that is asked.
        volume: What is sent, in words, such as its shape.
        answer: What comes back, in words.
    """
    figure, axes = plt.subplots(figsize=(10, 3.6), layout="constrained")
    box(axes, (7.0, 1), "", GREEN, (2.6, 2.2), layer=0)
    box(axes, (0.9, 1), "client\n\nthis notebook,\ncurl, a browser", GREY, (1.5, 2.0))
    steps = ("decode and check", "normalise by the volume", "network", "threshold, clean up")
    for place, step in enumerate(steps):
        box(axes, (7.0, 1.75 - 0.5 * place), step, BLUE, (2.1, 0.36))
        if place:
            arrow(axes, (7.0, 2.07 - 0.5 * place), (7.0, 1.93 - 0.5 * place))
    axes.text(7.0, 2.18, "endpoint: a web server and a model", ha="center", fontsize=9)
    arrow(axes, (1.75, 1.6), (5.6, 1.6), f"POST {url}\n{volume}")
    arrow(axes, (5.6, 0.4), (1.75, 0.4), f"200 OK\n{answer}")
    axes.set(xlim=(0, 8.5), ylim=(-0.3, 2.4))
    axes.set_axis_off()
    plt.close(figure)
    return figure


# Per place: what a request meets on its way to the model, from the outside in.
PLACES = {
    "here": ("this machine", "a child process,\na free local port", "no account, no Docker"),
    "sagemaker-local": (
        "Docker on this machine",
        "SageMaker's container,\na local port",
        "no cost",
    ),
    "sagemaker": ("AWS", "the same container on\nan instance, signed requests", "costs per hour"),
}


def places(where: str) -> Figure:
    """The three places in which an endpoint can run, side by side; the one that is used is orange.

    Args:
        where: A key of :data:`PLACES`.
    """
    figure, axes = plt.subplots(figsize=(10, 3), layout="constrained")
    for column, (name, (outside, inside, cost)) in enumerate(PLACES.items()):
        colour = ORANGE if name == where else GREY
        box(axes, (column, 0), "", colour, (0.92, 1.5), layer=0)
        text = f'WHERE = "{name}"'
        axes.text(column, 0.58, text, ha="center", fontsize=9, weight="bold")
        axes.text(column, 0.38, outside, ha="center", fontsize=9)
        box(axes, (column, -0.08), f"{inside}\nthe same model.onnx", colour, (0.78, 0.62))
        axes.text(column, -0.6, cost, ha="center", fontsize=9)
    axes.set(xlim=(-0.5, 2.5), ylim=(-0.8, 0.8))
    axes.set_axis_off()
    plt.close(figure)
    return figure
