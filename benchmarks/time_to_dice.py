"""Seconds to a validation Dice of 0.80 and 0.85: ours against what a user would pick instead.

    python benchmarks/time_to_dice.py DATA [--rounds 3] [--fold 0] [--out report/results]

Each contestant is a process of its own. Its clock starts with the process (imports included), the
cohort's cache is warm, and its Dice is the mean over the fold's validation patients, each over its
whole volume at native pixels, scored after every epoch. The contestants of a round run one after
another, each with the threads and workers that were fastest for it in a short trial. A peer stops
at ``--patience`` times our median time to the target: what it needs is then known to be longer.
Writes time_to_dice.json, which holds every curve.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psutil

TARGETS = (0.80, 0.85)
OURS = "ours"
CONTESTANTS = (OURS, "monai", "monai-device")
# (torch threads, loader workers) worth trying on two cores; ours has no workers.
SETTINGS = {
    OURS: [(1, 0), (2, 0)],
    "monai": [(1, 1), (1, 2), (2, 0), (2, 1), (2, 2)],
    "monai-device": [(1, 0), (2, 0)],
}
Report = Callable[[float], None]


def contest(options: argparse.Namespace) -> None:
    """Train one contestant in this process; prints a line of JSON after each epoch."""
    import torch

    from lggseg.data import load_cohort
    from lggseg.splits import fold_sides, make_split

    torch.set_num_threads(options.threads)
    cohort = load_cohort(options.data, progress=False)
    sides = fold_sides(cohort, make_split(cohort), options.fold)

    def report(dice: float) -> None:
        print(json.dumps({"dice": round(dice, 4)}), flush=True)

    (_ours if options.contestant == OURS else _peer)(options, cohort, sides, report)


def _ours(options: argparse.Namespace, cohort: Any, sides: Any, report: Report) -> None:
    from lggseg.config import Config
    from lggseg.train import validation_dice

    config = replace(Config(), epochs=options.epochs, fold=options.fold, seed=options.seed)
    validation_dice(config, cohort, sides, progress=False, each_epoch=report)


def _peer(options: argparse.Namespace, cohort: Any, sides: Any, report: Report) -> None:
    import peers
    import torch

    torch.manual_seed(options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for dice in peers.epochs(options.contestant, cohort, sides, options.workers, device):
        report(float(dice.mean()))


def watch(command: list[str], limit: float) -> list[dict[str, float]]:
    """Run a contestant for at most ``limit`` seconds.

    Returns a row per epoch: dice, and the wall and CPU seconds since its process started.
    """
    start, rows = time.perf_counter(), []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        family = psutil.Process(process.pid)
        timer = threading.Timer(limit, _end, [family])
        timer.start()
        for line in process.stdout or ():
            wall = time.perf_counter() - start
            rows.append({**json.loads(line), "wall": wall, "cpu": _cpu_seconds(family)})
        timer.cancel()
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


def reached(rows: list[dict[str, float]], target: float, clock: str) -> float | None:
    """Seconds by which the Dice first reached the target; ``None`` when it did not."""
    return next((row[clock] for row in rows if row["dice"] >= target), None)


def _command(
    who: str, options: argparse.Namespace, setting: tuple[int, int], seed: int
) -> list[str]:
    threads, workers = setting
    return [
        sys.executable, __file__, options.data, "--contestant", who, "--fold", str(options.fold),
        "--threads", str(threads), "--workers", str(workers), "--seed", str(seed),
        "--epochs", str(options.epochs),
    ]  # fmt: skip
