"""The choice between 32 and 16 bits."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from lggseg.config import Config, Precision
from lggseg.models.networks import build_network


def choose_precision(config: Config) -> Precision:
    """16 bits where they are faster here: by capability on a GPU, by a short trial on a CPU, one
    for a network and a process, so that what is compared there does not differ by the answer."""
    if torch.cuda.is_available() and config.accelerator in ("auto", "gpu"):
        return "bf16-mixed" if torch.cuda.is_bf16_supported(False) else "16-mixed"
    if config.accelerator == "mps" or torch.backends.mps.is_available():
        return "32-true"
    names = ("network", "width", "downsample", "neighbours")
    return _faster_on_cpu(replace(Config(), **{name: getattr(config, name) for name in names}))


@cache
def _faster_on_cpu(config: Config) -> Precision:
    network = build_network(config)
    image = torch.randn(8, config.channels, config.size, config.size)
    image = image.contiguous(memory_format=torch.channels_last)
    # In turn, so that whatever else the machine does meets both.
    pairs = [[_seconds_of_a_step(network, image, half) for half in (False, True)] for _ in range(5)]
    full, half = np.min(pairs, axis=0)
    return "bf16-mixed" if half < 0.9 * full else "32-true"


def _seconds_of_a_step(network: nn.Module, image: Tensor, half: bool) -> float:
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        logits = network(image)
    logits.float().square().mean().backward()
    return time.perf_counter() - start
