"""Is the training step ever starved? Epoch time on real batches ÷ on one constant batch.

    python benchmarks/starvation.py DATA [--profile full] [--steps 40] [--rounds 3]

The two are interleaved, and the median of the ratios is printed as JSON. The aim is at most 1.1 on
a GPU. On a CPU the augmentation shares the cores with the network, so it counts in full.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from lggseg import config as configuration
from lggseg.data import load_cohort
from lggseg.datamodule import Batch, DeviceCohort
from lggseg.models import build_loss, build_network
from lggseg.train import choose_precision


def seconds(steps: int, step: Callable[[Batch], None], batch: Callable[[], Batch]) -> float:
    """Wall time of this many training steps."""
    synchronise = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    synchronise()
    start = time.perf_counter()
    for _ in range(steps):
        step(batch())
    synchronise()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    configuration.add_options(parser)
    options = parser.parse_args()
    config = configuration.from_options(options)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cohort = DeviceCohort(load_cohort(options.data), config, device)
    precision = choose_precision(config)
    network, loss = build_network(config).to(device), build_loss(config)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    rng = np.random.default_rng(0)
    dtype = torch.bfloat16 if "16" in precision else torch.float32

    def fresh() -> Batch:
        rows = torch.from_numpy(rng.integers(0, len(cohort.image), config.batch_size))
        return cohort.batch(rows.to(device), training=True)

    def step(batch: Batch) -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = network(batch.image)
        loss(logits.float(), batch.mask).backward()
        optimizer.step()
        optimizer.zero_grad()

    constant = fresh()
    seconds(5, step, fresh)
    pairs = [
        (seconds(options.steps, step, fresh), seconds(options.steps, step, lambda: constant))
        for _ in range(options.rounds)
    ]
    slices = options.steps * config.batch_size
    result = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "precision": precision,
        "ratio": round(statistics.median(real / same for real, same in pairs), 3),
        "slices_per_second": round(slices / statistics.median(real for real, _ in pairs), 1),
        "slices_per_second_constant": round(slices / statistics.median(s for _, s in pairs), 1),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
