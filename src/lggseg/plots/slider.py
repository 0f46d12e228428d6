"""A slider through the slices of a patient, where a kernel and ipywidgets are there."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from matplotlib.figure import Figure

from lggseg.data.cohort import Cohort
from lggseg.plots.style import draw_outline, draw_slice, largest_slice, new_figure
from lggseg.preprocessing.volume import CHANNELS


def one_slice(cohort: Cohort, patient: str, number: int) -> Figure:
    """The three sequences of a slice, counted from 1, with the mask's outline."""
    figure, axes = new_figure(cohort, f"{patient}, slice {number}", (9, 3.4), 1, 3)
    for channel, name in enumerate(CHANNELS):
        draw_slice(axes[channel], cohort.image(patient)[number - 1, ..., channel], name)
        draw_outline(axes[channel], cohort.mask(patient)[number - 1])
    return figure


def browse(cohort: Cohort, patient: str) -> Any:
    """A slider through :func:`one_slice`, or, without ipywidgets, a sentence that says how to get
    one."""
    if find_spec("ipywidgets") is None:
        print("No slider here: it needs ipywidgets (pip install ipywidgets) and a running kernel.")
        return None
    import ipywidgets

    count = len(cohort.mask(patient))
    start = largest_slice(cohort, patient) + 1
    slider = ipywidgets.IntSlider(start, 1, count, description="slice", continuous_update=False)
    return ipywidgets.interactive(lambda number: one_slice(cohort, patient, number), number=slider)
