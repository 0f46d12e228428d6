"""What share of a training step the optimiser takes, with and without AVX-512.

    python benchmarks/optimiser.py [--quick]

Each line is a process of its own, which measures the default recipe's step of 16 slices: the way
there and back, the optimiser (ours, and torch's Muon on the same gradients) and the average of the
weights; medians in milliseconds. Without AVX-512 means ``ATEN_CPU_CAPABILITY=avx2`` and
``ONEDNN_MAX_CPU_ISA=AVX2``; torch's Muon iterates in bfloat16, which such processors emulate.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from contention import AVX2


def milliseconds(call: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def measure(network: str, steps: int, label: str) -> None:
    """Print one line."""
    import torch

    from lggseg.config import Config
    from lggseg.training.datamodule import Batch
    from lggseg.training.muon import as_matrix, is_matrix
    from lggseg.training.precision import choose_precision
    from lggseg.training.step import Networks, build_optimizer
    from lggseg.training.trainer import keep_freed_memory

    keep_freed_memory()
    config = Config(network=network)
    config = replace(config, precision=choose_precision(config))
    networks = Networks(config).train()
    optimizer = build_optimizer(networks)
    image = torch.rand(16, config.channels, config.size, config.size)
    mask = (torch.rand(16, 1, config.size, config.size) > 0.9).float()
    batch = Batch(image.contiguous(memory_format=torch.channels_last), mask, torch.arange(16))
    views = [as_matrix(w.detach()) for w in networks.trained.parameters() if is_matrix(w)]
    for view in views:
        view.grad = torch.randn_like(view)
    torchs = torch.optim.Muon(views, 1e-3, adjust_lr_fn="match_rms_adamw")

    def there_and_back() -> None:
        optimizer.zero_grad()
        networks.loss(networks.trained, batch)[0].backward()

    calls = (there_and_back, optimizer.update, lambda: networks.average(0.99))
    rows = [[milliseconds(call) for call in calls] for _ in range(steps + 2)][2:]
    step, update, average = map(statistics.median, zip(*rows, strict=True))
    muon = statistics.median(milliseconds(torchs.step) for _ in range(max(steps // 4, 2)))
    share = update / (step + update + average)
    print(
        f"{label:16} {network:15} {config.precision:10} there and back {step:6.0f}, "
        f"optimiser {update:5.1f} ({share:.0%}; torch's Muon {muon:6.0f}), average {average:4.1f}",
        flush=True,
    )


def main() -> None:
    """Measure each network with and without AVX-512."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the U-Net, and few steps")
    parser.add_argument("--network", help=argparse.SUPPRESS)
    parser.add_argument("--label", help=argparse.SUPPRESS)
    options = parser.parse_args()
    steps = 8 if options.quick else 24
    if options.network:
        return measure(options.network, steps, options.label)
    networks = ["unet"] if options.quick else ["unet", "attention_unet", "swin_unetr"]
    print("milliseconds:", flush=True)
    for label, settings in (("as it is", {}), ("without AVX-512", AVX2)):
        for network in networks:
            command = [sys.executable, __file__, "--network", network, "--label", label]
            command += ["--quick"] if options.quick else []
            subprocess.run(command, env={**os.environ, **settings}, check=True)


if __name__ == "__main__":
    main()
