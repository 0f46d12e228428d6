"""Drawings of networks with their real shapes."""

from __future__ import annotations

from collections.abc import Mapping
from math import log2

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lggseg.config import Config
from lggseg.models.profiling import TRANSFORMER, describe, joined, stages
from lggseg.plots.diagrams import arrow, box
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
    for index, (step, place) in enumerate(zip(steps, places, strict=True)):
        colour = (
            GREEN if step.kind in TRANSFORMER else GREY if index in (0, len(steps) - 1) else BLUE
        )
        box(axes, place, str(step.channels), colour, (0.8, 0.56))
        if index:
            arrow(axes, places[index - 1], place, shrink=20)
    for first, last in joined(steps):
        arrow(axes, places[first], places[last], style="dashed", shrink=24)
        if "gate" in steps[last].kind:
            middle = ((places[first][0] + places[last][0]) / 2, places[first][1])
            box(axes, middle, "gate", ORANGE, (0.66, 0.34))
    weights, adds = cost["parameters"] / 1e6, cost["multiply_adds"] / 1e6
    name = f"{title(config.network)}: {weights:.1f} million weights, "
    axes.set_title(name + f"{adds:.0f} million multiplications per slice", fontsize=11)
    sizes = sorted({step.size for step in steps})
    axes.set_yticks([log2(size) for size in sizes], [f"{size} × {size} pixels" for size in sizes])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(xticks=[], xlim=(-0.6, len(steps) - 0.4))
    axes.set(ylim=(log2(sizes[0]) - 0.6, log2(sizes[-1]) + 0.6))
