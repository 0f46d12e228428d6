"""Seconds to a validation Dice of 0.80 and 0.85: ours against what a user would pick instead.

    python benchmarks/time_to_dice.py DATA [--rounds 3] [--epochs 12] [--tuned 20]

Each contestant is a process of its own. Its clock starts with the process (imports included), the
cohort's cache is warm, and its Dice is the mean over the fold's validation patients, each over its
whole volume at native pixels. Ours is scored after every epoch; a peer after as many slices, and
its clock stands still meanwhile. Ours and the tuned peer run once for each of ``--epochs`` and
``--tuned``, since their schedules have an end. The contestants of a round run one after another,
each with the threads and workers that throughput.json found fastest for it. The other peers stop
after a multiple of our median time to 0.80 (see ``PATIENCE``): what they need is then known to be
longer. Writes time_to_dice.json, which holds every curve, after every run; a run that is there
already is not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

TARGETS = (0.80, 0.85)
# How many times as long as ours a peer may take: a little more than what is claimed of it.
PATIENCE = {"monai": 11.0, "monai-device": 6.0}
TUNED = "monai-tuned"  # runs to the end of its schedule; threads and workers of "monai-device"
Report = Callable[..., None]
# Slices that one of our epochs trains on in fold 0 of the real cohort.
SLICES_BETWEEN_SCORES = 1181
Row = dict[str, float]
LIMIT = 3600.0  # seconds, for ours


def report(dice: float, scoring: float = 0.0) -> None:
    """Tell :func:`watch` a Dice and the seconds that all scoring has taken so far."""
    print(json.dumps({"dice": round(dice, 4), "scoring": round(scoring, 2)}), flush=True)


def contest(options: argparse.Namespace) -> None:
    """Train one contestant in this process; prints a line of JSON after each scoring."""
    import torch

    from lggseg.data.cohort import load_cohort
    from lggseg.data.splits import make_split, slice_subsets

    torch.set_num_threads(options.threads)
    cohort = load_cohort(options.data, progress=False)
    subsets = slice_subsets(cohort, make_split(cohort), options.fold)

    (_ours if options.contestant == "ours" else _peer)(options, cohort, subsets, report)


def short_recipe(epochs: int) -> Any:
    """The shipped recipe for so few epochs: pasted tumours pay in runs long enough to overfit."""
    from lggseg.config import Config

    return replace(Config(), paste=False, epochs=epochs)


def _ours(options: argparse.Namespace, cohort: Any, subsets: Any, report: Report) -> None:
    from lggseg.training.train import validation_dice

    config = short_recipe(options.epochs[0])
    config = replace(config, fold=options.fold, seed=options.seed)
    validation_dice(
        config, cohort, subsets, progress=False, each_epoch=lambda dice: report(float(dice.mean()))
    )


def _peer(options: argparse.Namespace, cohort: Any, subsets: Any, report: Report) -> None:
    import peers
    import torch
    from monai.utils import set_determinism

    set_determinism(options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    arguments = (options.contestant, cohort, subsets, options.workers, device)
    epochs = options.epochs[0] if options.contestant == TUNED else 0
    for dice, scoring in peers.scores(*arguments, SLICES_BETWEEN_SCORES, epochs):
        report(dice, scoring)


def watch(command: list[str], limit: float) -> list[Row]:
    """Run a contestant for at most ``limit`` seconds.

    Returns a row per scoring: dice, and the wall and CPU seconds since its process started, less
    those of scoring where the contestant says so. Raises ``RuntimeError`` when it fails.
    """
    start, rows = time.perf_counter(), []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        family = psutil.Process(process.pid)
        timer = threading.Timer(limit, _end, [family])
        timer.start()
        for line in process.stdout or ():
            row = json.loads(line)
            row["wall"] = time.perf_counter() - start - row["scoring"]
            row["cpu"] = _cpu_seconds(family) - row["scoring"]
            rows.append(row)
        timed_out = not timer.is_alive()
        timer.cancel()
    if process.returncode and not timed_out:
        raise RuntimeError(f"{' '.join(command)} failed with status {process.returncode}")
    return rows


def _family(process: psutil.Process) -> list[psutil.Process]:
    return [*process.children(recursive=True), process]


def _end(process: psutil.Process) -> None:
    for member in _family(process):
        member.kill()


def _cpu_seconds(process: psutil.Process) -> float:
    """CPU seconds of a process, its loader workers, and those that have ended."""
    times = [member.cpu_times() for member in _family(process)]
    own = sum(t.user + t.system for t in times)
    return own + times[-1].children_user + times[-1].children_system


def reached(rows: list[Row], target: float, clock: str) -> float | None:
    """Seconds by which the Dice first reached the target; ``None`` when it did not."""
    return next((row[clock] for row in rows if row["dice"] >= target), None)


def _command(name: str, options: argparse.Namespace, setting: list[int], seed: int) -> list[str]:
    who, _, epochs = name.partition(" ")
    knobs = {"contestant": who, "fold": options.fold, "seed": seed, "epochs": epochs or 1}
    knobs |= dict(zip(("threads", "workers"), setting, strict=True))
    flags = [part for key, value in knobs.items() for part in (f"--{key}", str(value))]
    return [sys.executable, __file__, options.data, *flags]


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Per contestant and target: the median of the rounds (``None`` unless most reached it); the
    best Dice of all, and until when the shortest run was scored."""
    table: dict[str, Any] = {}
    for name in dict.fromkeys(run["name"] for run in runs):
        mine = [run for run in runs if run["name"] == name]
        for target in TARGETS:
            for clock in ("wall", "cpu"):
                times = [reached(run["rows"], target, clock) for run in mine]
                known = sorted(time if time is not None else float("inf") for time in times)
                middle = statistics.median_high(known)
                entry = table.setdefault(name, {}).setdefault(f"{target:.2f}", {})
                entry[clock] = None if middle == float("inf") else round(middle, 1)
        table[name]["scored_until"] = min(run["rows"][-1]["wall"] for run in mine)
        table[name]["best_dice"] = max(row["dice"] for run in mine for row in run["rows"])
    return table


def compete(options: argparse.Namespace) -> None:
    """Run all rounds; write the results after every run."""
    from lggseg.notebooks import recipe
    from lggseg.utils.files import write_json

    measured = json.loads((options.out / "throughput.json").read_text())
    settings, path = measured["settings"], options.out / "time_to_dice.json"
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    settings[TUNED] = settings["monai-device"]
    ours = [f"ours {epochs}" for epochs in options.epochs]
    tuned = [f"{TUNED} {epochs}" for epochs in options.tuned]
    for seed in range(options.rounds):
        for name in (*ours, *tuned, *PATIENCE):
            if any(run["name"] == name and run["seed"] == seed for run in runs):
                continue
            limit = PATIENCE[name] * _our_time(runs) if name in PATIENCE else LIMIT
            rows = watch(_command(name, options, settings[name.split()[0]], seed), limit)
            runs.append({"name": name, "seed": seed, "rows": rows})
            print(name, seed, rows[-1], flush=True)
            facts = {**measured["machine"], "settings": settings, "fold": options.fold}
            facts["recipe"] = recipe(short_recipe(options.epochs[0]))
            write_json({**facts, "summary": summarise(runs), "runs": runs}, path)


def _our_time(runs: list[dict[str, Any]]) -> float:
    """The median time of our runs that reached the first target."""
    ours = [run["rows"] for run in runs if run["name"].startswith("ours")]
    times = [reached(rows, TARGETS[0], "wall") for rows in ours]
    known = [time for time in times if time is not None]
    if not known:
        raise SystemExit(f"ours did not reach {TARGETS[0]}: give more --epochs")
    return statistics.median(known)


def main() -> None:
    """Compete, or be a contestant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, nargs="+", default=[12])
    parser.add_argument("--tuned", type=int, nargs="+", default=[20])
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("report/results"))
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    for name in ("seed", "threads", "workers"):
        parser.add_argument(f"--{name}", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    (contest if options.contestant else compete)(options)


if __name__ == "__main__":
    main()
