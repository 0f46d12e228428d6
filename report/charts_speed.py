"""Charts of the cohort, of time and of memory."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from report.canvas import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    QUIET,
    SKY,
    TEXT,
    VERMILION,
    load,
    panels,
    spread,
)

CONTESTANTS = {
    "ours": "this project",
    "monai": "MONAI pipeline",
    "monai-device": "MONAI, cached on the device",
    "monai-tuned": "MONAI, tuned",
}
COLOURS = {"ours": BLUE, "monai": ORANGE, "monai-device": GREEN, "monai-tuned": VERMILION}


def cohort(width: float) -> Figure:
    """Slices and tumour volumes of the patients, by institution, and where tumours lie."""
    facts = load("cohort")
    sizes = pd.DataFrame(facts["sizes"])
    figure, axes = panels(width, 2, 2.7)
    codes = sorted(sizes["institution"].unique())
    counts = sizes["institution"].value_counts()
    for place, code in enumerate(codes):
        values = sizes.loc[sizes["institution"] == code, "tumour_pixels"]
        look = {"s": 14, "color": BLUE, "alpha": 0.7, "linewidths": 0}
        axes[0].scatter(spread(place, len(values)), values, **look)
        axes[0].hlines(values.median(), place - 0.32, place + 0.32, color=VERMILION, linewidth=2)
    axes[0].set_xticks(range(len(codes)), [f"{code}\nn = {counts[code]}" for code in codes])
    axes[0].set(yscale="log", ylabel="tumour volume (voxels)")
    axes[0].set_yticks([1000, 10_000, 100_000], ["1,000", "10,000", "100,000"])
    share = 100 * np.array(facts["position"])
    ticks = [0, 128, 256]
    picture = axes[1].imshow(share, cmap="cividis", extent=(0, 256, 256, 0))
    axes[1].set(xticks=ticks, yticks=ticks, xlabel="column (pixels)", ylabel="row (pixels)")
    figure.colorbar(picture, ax=axes[1], label="tumour slices with tumour here (%)", shrink=0.9)
    return figure


def time_to_dice(width: float) -> Figure:
    """Dice over the seconds since the process started, a line per run."""
    results = load("time_to_dice")
    figure, [axis] = panels(width, 1, 3.2)
    labelled: set[str] = set()
    short = min((r["name"].split()[1] for r in results["runs"] if " " in r["name"]), key=int)
    for run in results["runs"]:
        who, _, epochs = run["name"].partition(" ")
        label = CONTESTANTS[who] + (f", {epochs} epochs" if epochs else "")
        rows = pd.DataFrame(run["rows"])
        style = "-" if epochs in ("", short) else "--"
        shown = None if label in labelled else label
        axis.plot(rows["wall"], rows["dice"], style, color=COLOURS[who], linewidth=1.5, label=shown)
        labelled.add(label)
    axis.axhline(0.8, color=GREY, linewidth=0.9, linestyle=":")
    axis.set(xscale="log", ylim=(-0.02, 0.9), xlabel="seconds since the process started")
    axis.set_ylabel("mean validation Dice")
    seconds = [10, 20, 50, 100, 200, 500]
    axis.set_xticks(seconds, [str(second) for second in seconds])
    axis.xaxis.set_minor_formatter(NullFormatter())
    figure.legend(loc="outside lower center", ncols=2 if width > 5 else 1)
    return figure


def latency(width: float) -> Figure:
    """How long the endpoint's answers take under load, and its memory over many requests."""
    results = load("serving")
    figure, axes = panels(width, 2, 1.9)
    times = results["load"]["milliseconds"]
    names = {"p50": "50 %", "p95": "95 %", "p99": "99 %"}
    bars = axes[0].barh(range(3), [times[key] / 1000 for key in names], color=BLUE, height=0.55)
    axes[0].bar_label(bars, [f"{times[key] / 1000:.1f} s" for key in names], padding=3)
    axes[0].set_yticks(range(3), list(names.values()))
    axes[0].set(
        xlim=(0, 1.25 * times["p99"] / 1000),
        xlabel="seconds to the answer",
        ylabel="of the requests",
    )
    axes[0].invert_yaxis()
    memory = results["memory"]
    places = np.linspace(0, memory["requests"], len(memory["rss_mib"]))
    axes[1].plot(places, memory["rss_mib"], color=BLUE)
    axes[1].set(ylim=(0, 1.2 * max(memory["rss_mib"])), xlabel="requests", ylabel="memory (MiB)")
    axes[1].xaxis.set_major_formatter("{x:,.0f}")
    return figure


def scaling(width: float) -> Figure:
    """Processor seconds of each stage over the number of patients, and a line of slope 1."""
    measured = load("scaling")["measured"]
    figure, axis = plt.subplots(figsize=(width, 3.8), layout="constrained")
    looks = (
        ("load_first", "cpu_seconds", "load, first", BLUE, "o"),
        ("load_later", "cpu_seconds", "load, later", SKY, "o"),
        ("split", "cpu_seconds", "split and check", GREY, "s"),
        ("device", "cpu_seconds", "onto the device", GREEN, "D"),
        ("train", "step_cpu_seconds", "a training step", VERMILION, "x"),
        ("predict", "cpu_seconds", "predict", ORANGE, "^"),
        ("evaluate", "cpu_seconds", "evaluate", ORANGE, "v"),
    )
    looks = tuple(look for look in looks if look[0] in measured)
    for stage, key, label, colour, marker in looks:
        rows = pd.DataFrame(measured[stage])
        axis.plot(rows["patients"], rows[key], marker=marker, color=colour, label=label)
    line = rows["patients"] / rows["patients"].iloc[0] * rows["cpu_seconds"].iloc[0] * 2
    axis.plot(rows["patients"], line, ":", color=QUIET, label="slope 1")
    axis.set(xscale="log", yscale="log", xlabel="patients", ylabel="processor seconds")
    sizes = sorted({row["patients"] for stage, *_ in looks for row in measured[stage]})
    axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axis.xaxis.set_minor_formatter(NullFormatter())
    figure.legend(loc="outside right center" if width > 5 else "outside lower center")
    return figure


def learning(width: float) -> Figure:
    """Loss and validation Dice per epoch of the trainings that are recorded."""
    from report.charts import table

    rows = table("learning_curves")
    figure, axes = panels(width, 2, 2.8)
    looks = {"train/loss": (BLUE, "loss, training"), "val/loss": (ORANGE, "loss, validation")}
    for name, (colour, label) in looks.items():
        for place, (_, part) in enumerate(rows.groupby("fold")):
            shown = label if not place else None
            axes[0].plot(part["epoch"] + 1, part[name], color=colour, linewidth=1.2, label=shown)
    for _, part in rows.groupby("fold"):
        axes[1].plot(part["epoch"] + 1, part["val/dice_raw"], color=BLUE, linewidth=1.2)
    axes[0].set(xlabel="epoch", ylabel="loss")
    axes[0].legend()
    axes[1].set(xlabel="epoch", ylabel="mean validation Dice", ylim=(0, 1))
    axes[1].spines["left"].set_color(TEXT)
    return figure
