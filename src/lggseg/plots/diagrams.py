"""Drawings of what has no pixels: networks with their real shapes, a request, the places to run."""

from __future__ import annotations

from collections.abc import Mapping
from math import log2
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from lggseg.config import Config
from lggseg.models.profiling import PATCHES, REORDERED, TRANSFORMER, Stage, describe, stages
from lggseg.plots.style import BLUE, GREEN, GREY, ORANGE, title


def network(config: Config) -> Figure:
    """The network ``config.network`` as boxes: a number of channels after each step, resolution
    from top to bottom, order from left to right. Dashed: copied over and joined."""
    figure, axes = plt.subplots(figsize=(10, 4.6), layout="constrained")
    _draw_network(axes, config)
    plt.close(figure)
    return figure


def networks(configs: Mapping[str, Config]) -> Figure:
    """Several networks below each other, as :func:`network` draws one, with what each costs."""
    figure, axes = plt.subplots(
        len(configs), 1, figsize=(10, 4.2 * len(configs)), squeeze=False, layout="constrained"
    )
    for axis, config in zip(axes[:, 0], configs.values(), strict=True):
        _draw_network(axis, config)
    plt.close(figure)
    return figure


def _draw_network(axes: Axes, config: Config) -> None:
    steps = stages(config)
    cost = describe(config)
    places = [(float(x), log2(step.size)) for x, step in enumerate(steps)]
    bottom = min(range(len(steps)), key=lambda i: (steps[i].size, -steps[i].channels))
    for index, (step, place) in enumerate(zip(steps, places, strict=True)):
        colour = (
            GREEN if step.kind in TRANSFORMER else GREY if index in (0, len(steps) - 1) else BLUE
        )
        box(axes, place, str(step.channels), colour, (0.8, 0.56))
        if index:
            arrow(axes, places[index - 1], place, shrink=20)
    _draw_skips(axes, steps, places, bottom)
    weights, adds = cost["parameters"] / 1e6, cost["multiply_adds"] / 1e6
    name = f"{title(config.network)}: {weights:.1f} million weights, "
    axes.set_title(name + f"{adds:.0f} million multiplications per slice", fontsize=11)
    sizes = sorted({step.size for step in steps})
    axes.set_yticks([log2(size) for size in sizes], [f"{size} × {size} pixels" for size in sizes])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(xticks=[], xlim=(-0.6, len(steps) - 0.4))
    axes.set(ylim=(log2(sizes[0]) - 0.6, log2(sizes[-1]) + 0.6))


def _draw_skips(
    axes: Axes, steps: list[Stage], places: list[tuple[float, float]], bottom: int
) -> None:
    """A dashed arrow from each step on the way down to what is joined with it on the way up."""
    down = {steps[i].size: i for i in range(1, bottom)}
    up: dict[int, int] = {}
    for i in range(bottom + 1, len(steps) - 1):
        up.setdefault(steps[i].size, i)
    for size in down.keys() & up.keys():
        first, last = down[size], up[size]
        # A U-Net copies what its blocks give; a Swin UNETR the reordered pixels, too.
        if steps[first].kind == REORDERED and not _has_patches(steps):
            continue
        arrow(axes, places[first], places[last], style="dashed", shrink=24)
        if "gate" in steps[last].kind:
            middle = ((places[first][0] + places[last][0]) / 2, places[first][1])
            box(axes, middle, "gate", ORANGE, (0.66, 0.34))


def _has_patches(steps: list[Stage]) -> bool:
    return any(step.kind == PATCHES for step in steps)


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
