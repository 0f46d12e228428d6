"""How long the notebooks take on this machine: measured times of another, scaled by its speed."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

# Written by benchmarks/notebook_times.py, beside the folder of the notebooks.
TIMES = Path("report/results/notebook_times.json")


def seconds_per_step(seconds: float = 1.0) -> float:
    """The time of a training step of a small convolutional network on this machine's CPUs now.

    Args:
        seconds: How long to measure.

    Returns:
        The mean time of a step, in seconds, in 32 bits, after three steps that do not count.
    """
    import torch
    from torch import nn

    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)]
    network = nn.Sequential(*layers)
    image = torch.rand(16, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    steps, start = -3, 0.0
    while steps <= 0 or time.perf_counter() - start < seconds:
        if steps == 0:
            start = time.perf_counter()
        network(image).square().mean().backward()
        steps += 1
    return (time.perf_counter() - start) / steps


def expected_seconds(folder: Path, profile: str, step: float) -> float | None:
    """How long the notebooks take here on the simulated cohort.

    The measured machine whose step took the most similar time counts, and all of its time is taken
    to scale with the step.

    Args:
        folder: The folder of the notebooks, in the project.
        profile: The profile that they run with.
        step: What :func:`seconds_per_step` says of this machine.

    Returns:
        Seconds, the simulation included; ``None`` where the profile was not measured.
    """
    path = folder.resolve().parent / TIMES
    rows = json.loads(path.read_text())["measured"] if path.exists() else []
    rows = [row for row in rows if row["profile"] == profile and row["beside"] == 0]
    if not rows:
        return None
    nearest = min(rows, key=lambda row: abs(math.log(row["seconds_per_step"] / step)))
    return sum(nearest["seconds"].values()) * step / nearest["seconds_per_step"]


def as_text(seconds: float) -> str:
    """A time as a reader would say it, rounded up: "25 s", "1 min 10 s", "12 min".

    >>> [as_text(seconds) for seconds in (3.2, 48, 61, 119.9, 640)]
    ['5 s', '50 s', '1 min 10 s', '2 min', '11 min']
    """
    step = 5 if seconds <= 60 else 10 if seconds <= 300 else 60
    minutes, rest = divmod(step * math.ceil(seconds / step), 60)
    return " ".join([f"{minutes} min"] * bool(minutes) + [f"{rest} s"] * bool(rest))


def notebook_time(rows: list[dict[str, Any]], notebook: str) -> str:
    """What a notebook says at its top of its time with the demo profile on two idle CPU cores.

    Args:
        rows: The measurements in :data:`TIMES`.
        notebook: The stem of its file.

    >>> seconds = {"AVX512-BF16": {"02": 28, "06": 16}, "AVX2": {"02": 38, "06": 13}}
    >>> kind = {"profile": "demo", "beside": 0}
    >>> rows = [{**kind, "instructions": name, "seconds": of} for name, of in seconds.items()]
    >>> notebook_time(rows, "02"), notebook_time(rows, "06")
    ('30 s; without AVX-512 40 s', '20 s')
    """
    rows = [row for row in rows if row["profile"] == "demo" and row["beside"] == 0]
    rows = [row for row in rows if notebook in row["seconds"]]
    seconds = {row["instructions"]: row["seconds"][notebook] for row in rows}
    if not seconds:
        return "not measured"
    fast, slow = as_text(seconds.get("AVX512-BF16", 0)), as_text(max(seconds.values()))
    # Where both say the same, or the slower kind was faster by chance, one time stands alone.
    alone = fast == slow or len(seconds) == 1
    return slow if alone else f"{fast}; without AVX-512 {slow}"
