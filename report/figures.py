"""Draw the report's figures: numbers from results/, pictures of slices from the simulated cohort.

    python -m report.figures

draws those that the README and docs/scaling.md show into report/figures.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from lggseg import plots
from lggseg.data.cohort import Cohort, load_cohort
from lggseg.data.simulation import make_cohort
from lggseg.evaluation.segmentation import dice_from_counts
from lggseg.inference.segmenter import Segmenter
from lggseg.plots import BLUE, GREEN, GREY, ORANGE, RED, SKY
from lggseg.utils.files import replace_file

HERE = Path(__file__).resolve().parent
MODEL = HERE.parent / "models" / "lgg-unet"
# All that lggseg.plots asks of a cohort where it draws numbers: that these are real.
REAL: Any = SimpleNamespace(simulated=False)
# The same results give the same bytes.
plt.rcParams["svg.hashsalt"] = "lggseg"
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
    figure, axes = plt.subplots(2, 2, figsize=(8, 4.8), layout="constrained")
    axes = axes.ravel()
    titles = {
        "pipeline": "input pipeline, each at its own size",
        "pipeline_at_224": "input pipeline, 224 × 224 pixels",
        "train": "training, each at its own size",
    }
    for axis, (key, title) in zip(axes, titles.items(), strict=False):
        rows = results["contestants"].items()
        values = {n: max(row[key] for row in r) for n, r in rows}
        _bars(axis, [NAMES[n] for n in values], list(values.values()), list(COLOURS.values()))
        axis.set_title(title)
    engines = results.get("inference", {})
    _bars(axes[3], list(engines), list(engines.values()), [BLUE] * len(engines))
    axes[3].set_title("inference of whole volumes")
    axes[1].set_yticklabels([])
    for axis in axes:
        axis.set_xlabel("slices / s")
    return figure


def _bars(axes: Axes, names: list[str], values: list[float], colours: list[str]) -> None:
    bars = axes.barh(names, values, color=colours, height=0.6)
    axes.bar_label(bars, [f"{value:,.0f}" for value in values], padding=3, fontsize=9)
    axes.set_xlim(0, 1.2 * max(values, default=1))
    axes.invert_yaxis()


def scaling() -> Figure:
    """Processor seconds of each stage over the number of patients, and a line of slope 1."""
    measured = load("scaling")["measured"]
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    looks = (
        ("load_first", "cpu_seconds", "load, first", BLUE, "o"),
        ("load_later", "cpu_seconds", "load, later", SKY, "o"),
        ("split", "cpu_seconds", "split and check", GREY, "s"),
        ("device", "cpu_seconds", "onto the device", GREEN, "D"),
        ("train", "step_cpu_seconds", "a training step", RED, "x"),
        ("predict", "cpu_seconds", "predict", ORANGE, "^"),
        ("evaluate", "cpu_seconds", "evaluate", ORANGE, "v"),
    )
    looks = tuple(look for look in looks if look[0] in measured)
    for stage, key, label, colour, marker in looks:
        rows = pd.DataFrame(measured[stage])
        axes.plot(rows["patients"], rows[key], marker=marker, color=colour, label=label)
    line = rows["patients"] / rows["patients"].iloc[0] * rows["cpu_seconds"].iloc[0] * 2
    axes.plot(rows["patients"], line, ":", color=GREY, label="slope 1")
    axes.set(xscale="log", yscale="log", xlabel="patients", ylabel="processor seconds")
    sizes = sorted({row["patients"] for stage, *_ in looks for row in measured[stage]})
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.xaxis.set_minor_formatter(NullFormatter())
    figure.legend(loc="outside right center")
    return figure


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


def leak() -> Figure:
    """Mean Dice of the same slices under two splits, with intervals over patients."""
    dice = load("02_patient_split-full")["dice"]
    figure, axes = plt.subplots(figsize=(8, 1.7), layout="constrained")
    for place, (name, colour) in enumerate((("by patient", BLUE), ("random slices", ORANGE))):
        low, high = dice[name]["interval"]
        axes.plot([low, high], [place, place], color=colour, linewidth=3)
        axes.plot(dice[name]["mean"], place, "o", color=colour, markersize=8)
        place_of_text = (dice[name]["mean"], place + 0.18)
        axes.annotate(f"{dice[name]['mean']:.3f}", place_of_text, ha="center", va="bottom")
    axes.set_yticks([0, 1], ["split by patient", "random slices"])
    axes.set(xlim=(0.5, 0.9), ylim=(-0.4, 1.6), xlabel="mean Dice over patients, same slices")
    return figure


def search() -> Figure:
    """Dice of every trial of the search in its order, and the best so far."""
    trials = pd.read_csv(HERE / "results" / "search.csv")
    figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
    for state, colour, marker in (("complete", BLUE, "o"), ("pruned", GREY, "x")):
        rows = trials[trials["state"] == state]
        axes.scatter(rows["number"], rows["dice"], s=26, color=colour, marker=marker, label=state)
    complete = trials[trials["state"] == "complete"]
    best = complete["dice"].cummax()
    axes.step(complete["number"], best, where="post", color=RED, label="best so far")
    axes.set(xlabel="trial (0: the defaults)", ylabel="mean validation Dice", ylim=(0, 0.9))
    figure.legend(loc="outside right upper")
    return figure


def _title(network: str) -> str:
    words = {"attention_unet": "Attention UNet", "swin_unetr": "Swin UNETR", "unet": "UNet"}
    return next(network.replace(name, title) for name, title in words.items() if name in network)


def leaderboard() -> Figure:
    """Dice of every patient under each network, beside published means."""
    table = pd.read_csv(HERE / "results" / "comparison.csv")
    parts = table.groupby("model", sort=False)["dice"]
    dice = pd.DataFrame({_title(str(name)): part.to_numpy() for name, part in parts})
    peers = load("published")["peers"]
    published = {peer["label"]: peer["mean"] for peer in peers if "label" in peer}
    return plots.leaderboard(REAL, dice, published)


def reliability() -> Figure:
    """Share of tumour against predicted probability of each network."""
    tables = load("05_compare_models-full")["reliability"]
    named = {_title(name): np.array(table) for name, table in tables.items()}
    return plots.reliability(REAL, named)


def expected_dice() -> Figure:
    """The Dice that the UNet expects of its masks against the true one."""
    table = pd.read_csv(HERE / "results" / "comparison.csv")
    return plots.expected_against_true(REAL, table[table["model"] == "unet"])


def groups() -> Figure:
    """Mean Dice of each group of patients with its interval, cross-validated and test."""
    table = pd.DataFrame(load("groups")["groups"])
    table["name"] = table["by"] + ": " + table["group"]
    counts = table.pivot(index="name", columns="set", values="n").fillna(0).astype(int)
    order = list(table["name"].unique())[::-1]
    figure, axes = plt.subplots(figsize=(8, 0.36 * len(order) + 1), layout="constrained")
    looks = (("cross_validation", BLUE, "o", 0.13), ("test", ORANGE, "s", -0.13))
    for part, colour, marker, shift in looks:
        rows = table[table["set"] == part]
        places = np.array([order.index(name) + shift for name in rows["name"]])
        axes.hlines(places, rows["low"], rows["high"], color=colour, linewidth=2)
        label = part.replace("_", "-")
        axes.plot(rows["mean"], places, marker, color=colour, label=label, markersize=5)
    labels = [f"{n} (n = {counts.cross_validation[n]} + {counts.test[n]})" for n in order]
    axes.set_yticks(range(len(order)), labels)
    axes.set(xlim=(0.5, 1), xlabel="mean Dice over patients, 95 % interval")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def associations() -> Figure:
    """Effect size and p of each feature of shape with each genomic clustering."""
    results = load("06_tumour_shape-full")
    kinds = {"reference outlines": "true_masks", "predicted outlines": "predicted_masks"}
    tables = {label: pd.DataFrame(results[kind]) for label, kind in kinds.items()}
    figure = plots.associations(REAL, tables)
    figure.set_size_inches(11, 5)  # legible in the width of a page
    return figure


@cache
def _simulated(out: Path) -> Cohort:
    return load_cohort(make_cohort(out / "simulated", patients=3, progress=False), progress=False)


def simulated_channels(out: Path) -> Figure:
    """The three sequences of a simulated patient."""
    cohort = _simulated(out)
    return plots.channels(cohort, str(cohort.patients.index[0]))


def simulated_cases(out: Path) -> Figure:
    """The committed model on simulated patients."""
    cohort, segmenter = _simulated(out), Segmenter.load(MODEL)
    masks = {name: segmenter.predict(cohort.image(name)).mask for name in cohort.patients.index}
    rows = [(name, _dice(cohort.mask(name), mask)) for name, mask in masks.items()]
    return plots.cases(cohort, masks, pd.DataFrame(rows, columns=["patient", "dice"]))


def _dice(truth: np.ndarray, mask: np.ndarray) -> float:
    both, false, missed = (np.sum(part) for part in (truth & mask, mask & ~truth, truth & ~mask))
    return float(dice_from_counts(both, false, missed))


NUMBERS: tuple[Callable[[], Figure], ...] = (
    *(leak, search, leaderboard, reliability, expected_dice, cross_validation, groups),
    *(time_to_dice, throughput, scaling, ablation, associations),
)
PICTURES: tuple[Callable[[Path], Figure], ...] = (simulated_channels, simulated_cases)


def draw(names: Iterable[str], out: Path) -> dict[str, bytes]:
    """Pictures by file name, ``leak.svg`` or ``simulated_cases.png``, as such files.

    The simulated cohort is made in ``out`` where it is not there yet. Raises ``KeyError`` for an
    unknown name.
    """
    drawn = {}
    for name in names:
        path = Path(name)
        calls = {call.__name__: call for call in NUMBERS}
        calls |= {call.__name__: lambda call=call: call(out) for call in PICTURES}
        figure, file = calls[path.stem](), io.BytesIO()
        kind = path.suffix[1:]
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(file, format=kind, dpi=170, metadata=metadata)
        plt.close(figure)
        drawn[name] = file.getvalue()
    return drawn


def main() -> None:
    """Draw the figures of the README and of docs/scaling.md."""
    folder = HERE / "figures"
    folder.mkdir(exist_ok=True)
    for call in (cross_validation, time_to_dice, throughput, scaling):
        path = folder / f"{call.__name__}.png"
        replace_file(path, partial(call().savefig, dpi=110))
        print(path)


if __name__ == "__main__":
    main()
