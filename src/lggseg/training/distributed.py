"""Several processes that train one network together, one per GPU, as torchrun starts them.

Lightning averages their gradients in every step. What is here is what it leaves open: which process
holds which patients, what only the first may do, and metrics that are exact although each process
has seen its own patients only. In a process that torchrun did not start, all of it does nothing.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch.distributed
from torch import nn

T = TypeVar("T")


def join(accelerator: str = "auto") -> None:
    """Join the processes that torchrun started beside this one. accelerator: as in
    :class:`lggseg.config.Config`."""
    alone = int(os.environ.get("WORLD_SIZE", 1)) == 1
    if alone or not torch.distributed.is_torchelastic_launched() or processes() > 1:
        return
    backend = "gloo"
    if torch.cuda.is_available() and accelerator in ("auto", "gpu"):
        backend = "nccl"
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # The others wait while the first scores the model; torchrun ends all of them when one fails.
    torch.distributed.init_process_group(backend, timeout=timedelta(days=1))
    atexit.register(torch.distributed.destroy_process_group)


def processes() -> int:
    """How many processes train together."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def rank() -> int:
    """The number of this process among them, from 0."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def from_first(make: Callable[[], T]) -> T:
    """What ``make`` returns in the first process, which alone calls it, in every process."""
    shared = [make() if rank() == 0 else None]
    if processes() > 1:
        torch.distributed.broadcast_object_list(shared)
    return shared[0]  # type: ignore[return-value]


def of_all(value: T) -> list[T]:
    """The values of all processes, in their order, in every process."""
    values: list[Any] = [value] * processes()
    if processes() > 1:
        torch.distributed.all_gather_object(values, value)
    return values


def average_buffers(network: nn.Module) -> None:
    """Average what a network counts beside its weights (batch normalisation's means and variances)
    over the processes: each has counted its own patients."""
    if processes() == 1:
        return
    for buffer in network.buffers():
        if buffer.is_floating_point():
            torch.distributed.all_reduce(buffer)
            buffer.div_(processes())


def shares(weights: pd.Series, count: int) -> pd.Series:
    """Deal patients into ``count`` shares of about the same weight: index as ``weights``, the
    number of the share. The heaviest patient first, each to the share that is lightest so far
    (Graham 1969)."""
    loads, owner = np.zeros(count), {}
    for patient, weight in weights.sort_values(ascending=False, kind="stable").items():
        owner[patient] = int(loads.argmin())
        loads[owner[patient]] += weight
    return pd.Series(owner, dtype=int).reindex(weights.index)
