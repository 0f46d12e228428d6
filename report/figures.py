"""Draw the report's figures from report/results into report/figures.

python report/figures.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from lggseg.plots import BLUE, GREEN, GREY, ORANGE, RED, SKY

HERE = Path(__file__).resolve().parent
NAMES = {"ours": "ours", "monai": "MONAI pipeline", "monai-device": "MONAI, cached on the device"}
COLOURS = {"ours": BLUE, "monai": ORANGE, "monai-device": GREEN}


def load(name: str) -> Any:
    """A results file."""
    return json.loads((HERE / "results" / f"{name}.json").read_text())


def time_to_dice() -> Figure:
    """Dice over the seconds since the process started, a line per run."""
    results = load("time_to_dice")
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    labelled: set[str] = set()
    for run in results["runs"]:
        who, _, epochs = run["name"].partition(" ")
        label = NAMES[who] + (f", {epochs} epochs" if epochs else "")
        rows = pd.DataFrame(run["rows"])
        style = "-" if epochs in ("", min(_schedules(results), key=int)) else "--"
        axes.plot(
            rows["wall"],
            rows["dice"],
            style,
            color=COLOURS[who],
            alpha=0.8,
            label=None if label in labelled else label,
        )
        labelled.add(label)
    for target in (0.80, 0.85):
        axes.axhline(target, color=GREY, linewidth=0.8, linestyle=":")
        axes.annotate(f"{target:.2f}", (1, target), xycoords=("axes fraction", "data"), fontsize=9)
    axes.set(xscale="log", ylim=(0, 0.92), xlabel="seconds since the process started")
    axes.set(ylabel="mean Dice over validation patients", title=_machine(results))
    seconds = [10, 20, 50, 100, 200, 500]
    axes.set_xticks(seconds, [str(second) for second in seconds])
    axes.xaxis.set_minor_formatter(NullFormatter())
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def _schedules(results: dict[str, Any]) -> list[str]:
    return [run["name"].split()[1] for run in results["runs"] if run["name"].startswith("ours")]


def _machine(results: dict[str, Any]) -> str:
    return f"{results['gpu'] or results['cpu']}, {results['cores']} cores, fold {results['fold']}"


def throughput() -> Figure:
    """Slices a second of pipeline and training by contestant, and of inference by engine."""
    results = load("throughput")
    figure, axes = plt.subplots(2, 2, figsize=(10, 5.6), layout="constrained")
    axes = axes.ravel()
    titles = {
        "pipeline": "input pipeline, each at the size it trains at",
        "pipeline_at_224": "input pipeline, 224 × 224 pixels",
        "train": "training",
    }
    for axis, (key, title) in zip(axes, titles.items(), strict=False):
        rows = results["contestants"].items()
        values = {n: max(row[key] for row in r) for n, r in rows}
        _bars(axis, [NAMES[n] for n in values], list(values.values()), list(COLOURS.values()))
        axis.set_title(title)
    engines = results.get("inference", {})
    _bars(axes[3], list(engines), list(engines.values()), [BLUE] * len(engines))
    axes[3].set_title("inference of whole volumes")
    for axis in axes:
        axis.set_xlabel("slices / s")
    return figure


def _bars(axes: Axes, names: list[str], values: list[float], colours: list[str]) -> None:
    bars = axes.barh(names, values, color=colours, height=0.6)
    axes.bar_label(bars, [f"{value:,.0f}" for value in values], padding=3, fontsize=9)
    axes.set_xlim(0, 1.2 * max(values, default=1))
    axes.invert_yaxis()


def ablation() -> Figure:
    """Paired difference of each variant to the default, with its interval."""
    results = load("ablation")
    table = pd.DataFrame(results["table"]).T.sort_values("difference")
    table = table.drop("the default")
    figure, axes = plt.subplots(figsize=(8, 0.32 * len(table) + 1.2), layout="constrained")
    places = np.arange(len(table))
    axes.hlines(places, table["low"], table["high"], color=BLUE, linewidth=1.5)
    axes.plot(table["difference"], places, "o", color=BLUE)
    axes.axvline(0, color=RED, linewidth=1)
    axes.set_yticks(places, table.index)
    default = results["table"]["the default"]
    axes.set_xlabel(
        f"Dice minus the default's ({default['mean']:.3f}), mean over patients, 95 % interval"
    )
    axes.set_title(f"One change at a time, {results['epochs']} epochs, folds {results['folds']}")
    return figure


def cross_validation() -> Figure:
    """Dice of each patient over the volume of the true tumour."""
    table = pd.read_csv(HERE / "results" / "cross_validation.csv")
    summary = load("cross_validation")["dice"]
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    axes.axhspan(summary["low"], summary["high"], color=GREY, alpha=0.25, linewidth=0)
    axes.axhline(summary["mean"], color=GREY, label=f"mean {summary['mean']:.3f}, 95 % interval")
    markers = zip("osD^v", (BLUE, ORANGE, GREEN, RED, SKY), strict=True)
    for (name, rows), (marker, colour) in zip(table.groupby("institution"), markers, strict=False):
        label = f"{name} (n={len(rows)})"
        places = rows["truth_voxels"], rows["dice"]
        axes.scatter(*places, s=22, color=colour, marker=marker, label=label)
    for rank, (_, row) in enumerate(table.nsmallest(5, "dice").iterrows()):
        place, apart = (row["truth_voxels"], row["dice"]), (5, -8 if rank < 3 else 2)
        name = row["patient"][5:12]
        axes.annotate(name, place, apart, textcoords="offset points", fontsize=8)
    axes.set(xscale="log", ylim=(-0.02, 1), xlabel="true tumour volume (voxels)")
    axes.set(ylabel="Dice over the whole volume", title=f"Cross-validation, {len(table)} patients")
    axes.legend(loc="lower right")
    return figure


def main() -> None:
    """Draw every figure whose results are there."""
    folder = HERE / "figures"
    folder.mkdir(exist_ok=True)
    for draw in (cross_validation, time_to_dice, throughput, ablation):
        if (HERE / "results" / f"{draw.__name__}.json").exists():
            draw().savefig(folder / f"{draw.__name__}.png", dpi=110)
            print(folder / f"{draw.__name__}.png")


if __name__ == "__main__":
    main()
