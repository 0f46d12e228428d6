"""Slices a second and memory: ours against what a user would pick instead, and inference engines.

    python benchmarks/throughput.py DATA [--model models/lgg-unet] [--out report/results]

For each contestant and each setting of threads and workers, in a process of its own: the input
pipeline alone (augmented batches on the device), training (the whole step), the same step on one
constant batch, and peak memory. Then slices a second of whole volumes through the model folder by
ONNX Runtime, torch, compiled torch, and OpenVINO where it is installed. Everything is measured in
one run and repeated in turn; medians are written to throughput.json.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lggseg.config import Config
from lggseg.data import load_cohort

OURS = "ours"
# (torch threads, loader workers) worth trying on two cores; ours has no workers.
SETTINGS = {
    OURS: [(1, 0), (2, 0)],
    "monai": [(1, 1), (1, 2), (2, 0), (2, 1), (2, 2)],
    "monai-device": [(1, 0), (2, 0)],
}


def device() -> torch.device:
    """The GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def rate(call: Callable[[], int], seconds: float) -> float:
    """Slices a second of a call that says how many it handled, repeated for ``seconds``."""
    synchronise = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    call()
    synchronise()
    start, slices = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        slices += call()
        synchronise()
    return slices / (time.perf_counter() - start)


def measure_ours(options: argparse.Namespace) -> dict[str, float]:
    """Rates of this package's pipeline and training step, at its own resolution and at 224."""
    from lggseg.datamodule import Batch, DeviceCohort
    from lggseg.module import SegmentationModule
    from lggseg.train import choose_precision

    config = Config()
    cohort = load_cohort(options.data, progress=False)
    on_device = DeviceCohort(cohort, config, device())
    module = SegmentationModule(config).to(device()).train()
    optimizer = module.optimizer()
    half = choose_precision(config) != "32-true"
    rng = np.random.default_rng(0)

    def fresh(source: DeviceCohort = on_device) -> Batch:
        rows = rng.integers(0, len(source.image), config.batch_size)
        return source.batch(torch.from_numpy(rows).to(device()), training=True)

    def step(batch: Batch) -> int:
        with torch.autocast(device().type, torch.bfloat16, enabled=half):
            loss, _ = module.model_step(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return len(batch.rows)

    constant = fresh()
    pairs = [
        (
            rate(lambda: step(fresh()), options.seconds),
            rate(lambda: step(constant), options.seconds),
        )
        for _ in range(3)
    ]
    middle = slice(16, 240)
    cropped = replace(
        cohort, images=cohort.images[:, middle, middle], masks=cohort.masks[:, middle, middle]
    )
    large = DeviceCohort(cropped, replace(config, downsample=1), device())
    return {
        "pipeline": rate(lambda: len(fresh().rows), options.seconds),
        "pipeline_at_224": rate(lambda: len(fresh(large).rows), options.seconds),
        "train": statistics.median(real for real, _ in pairs),
        "real_over_constant": statistics.median(same / real for real, same in pairs),
        "size": config.size,
    }


def measure_peer(options: argparse.Namespace) -> dict[str, float]:
    """Rates of a peer's pipeline and training step."""
    import peers

    cohort = load_cohort(options.data, progress=False)
    rows = np.flatnonzero(~cohort.slices["blank"].to_numpy())[: options.slices]
    loader = peers.loader(options.contestant, cohort, rows, options.workers, device(), True)
    # Epoch after epoch, so that workers that were started once stay busy.
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    trainer = peers.Trainer(device())

    def step(batch: dict[str, Any]) -> int:
        trainer.step(batch)
        return len(batch["row"])

    pipeline = rate(lambda: len(next(batches)["row"]), options.seconds)
    return {
        "pipeline": pipeline,
        "pipeline_at_224": pipeline,
        "train": rate(lambda: step(next(batches)), options.seconds),
        "size": peers.SIZE,
    }
