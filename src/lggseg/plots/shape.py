"""Figures of a tumour's shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from lggseg.data.cohort import Cohort
from lggseg.evaluation import shape
from lggseg.evaluation.statistics import agreement
from lggseg.plots.style import BLUE, GREY, ORANGE, RED, looks, new_figure


def bland_altman(cohort: Cohort, table: pd.DataFrame) -> Figure:
    """Predicted minus true tumour volume against their mean (Bland and Altman 1986), with the mean
    difference and the limits of agreement (± 1.96 standard deviations)."""
    true, predicted = table["truth_voxels"] / 1000, table["predicted_voxels"] / 1000
    figure, axes = new_figure(cohort, "Tumour volume: prediction against truth", (7, 3.6))
    _bland_altman(axes[0], true, predicted, "+.1f")
    axes[0].set(xlabel="mean of both (thousand voxels)", ylabel="difference (thousand voxels)")
    return figure


def _bland_altman(axes: Axes, true: pd.Series, predicted: pd.Series, form: str) -> None:
    agreed = agreement(true, predicted)
    axes.scatter(
        (true + predicted) / 2, predicted - true, s=18, color=BLUE, alpha=0.7, linewidths=0
    )
    axes.axhline(0, color=GREY, linewidth=0.8)
    for name, style in (("bias", "solid"), ("lower", "dashed"), ("upper", "dashed")):
        if np.isfinite(agreed[name]):
            axes.axhline(agreed[name], color=RED, linestyle=style)
            axes.annotate(
                f"{agreed[name]:{form}}",
                (1, agreed[name]),
                (5, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="center",
            )


def margins(cohort: Cohort, patients: Sequence[str]) -> Figure:
    """The largest slice of each patient's tumour with its margin and centroid, and the radii along
    the margin with their moving average."""
    title, rows = "Margins: the radius along the outline", len(patients)
    figure, axes = new_figure(cohort, title, (9, 2.6 * rows + 0.4), rows, 2)
    for position, patient in enumerate(patients):
        piece = shape.largest_slice(shape.largest_component(cohort.mask(patient))[0])
        piece = np.pad(piece, 1)  # so that the outline is not cut off
        points = shape.margin_points(piece)
        radii, _ = shape.margin(points)
        picture, profile = axes[2 * position], axes[2 * position + 1]
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
    cohort: Cohort, true: pd.DataFrame, predicted: pd.DataFrame, features: Sequence[str]
) -> Figure:
    """Features of predicted masks minus those of true ones, against their mean (Bland and Altman
    1986), with bias and limits of agreement; the title holds the intraclass correlation."""
    size = (3.7 * len(features), 3.4)
    figure, axes = new_figure(cohort, "Shape: prediction against truth", size, 1, len(features))
    for axis, name in zip(axes, features, strict=True):
        agreed = agreement(true[name], predicted[name])
        axis.set_title(f"{words(name)}\nICC {agreed['icc']:.2f}, n = {agreed['n']}", fontsize=9)
        _bland_altman(axis, true[name], predicted[name], "+.3f")
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
    figure, axes = new_figure(cohort, title, size, 1, len(features))
    known = groups.dropna().astype(int)
    sizes = known.value_counts().sort_index()
    for axis, name in zip(axes, features, strict=True):
        for shift, (table, look) in enumerate(zip(tables.values(), looks(), strict=False)):
            for level in sizes.index:
                values = table[name].reindex(known.index[known == level]).dropna()
                draw_dots(axis, level + 0.36 * (shift - (len(tables) - 1) / 2), values, *look)
        axis.set_xticks(sizes.index, [f"{level}\n(n={size})" for level, size in sizes.items()])
        axis.set_title(words(name), fontsize=9)
    for label, (colour, marker) in zip(tables, looks(), strict=False):
        axes[0].scatter([], [], s=14, color=colour, marker=marker, label=label)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def draw_dots(axes: Axes, position: float, values: pd.Series, colour: str, marker: str) -> None:
    """A dot per value around a place, with their median."""
    jitter = position + np.random.default_rng(0).uniform(-0.1, 0.1, len(values))
    axes.scatter(jitter, values, s=14, color=colour, marker=marker, alpha=0.6, linewidths=0)
    if len(values):
        axes.hlines(values.median(), position - 0.16, position + 0.16, color=colour)


def associations(cohort: Cohort, tests: Mapping[str, pd.DataFrame]) -> Figure:
    """ε² of each feature (rows) with each grouping (columns), a panel for each of several tables
    of :func:`lggseg.evaluation.statistics.associations`; the numbers are p, bold with a star where
    Holm's correction leaves it below 0.05."""
    first = next(iter(tests.values()))
    size = (0.85 * first["grouping"].nunique() * len(tests) + 3, 0.4 * first["feature"].nunique())
    title = "Shape and genomics: ε² (colour) and p"
    figure, axes = new_figure(cohort, title, (size[0], size[1] + 2), 1, len(tests))
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
    axis.set_yticks(range(len(rows)), [words(row) for row in rows])
    return shown


def words(name: str) -> str:
    """A name of a table as words."""
    return name.replace("_", " ")
