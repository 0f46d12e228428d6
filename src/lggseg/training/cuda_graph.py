"""A function of row numbers as one CUDA graph: one launch instead of hundreds."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

# Calls that run launch by launch first, so that libraries and optimiser states are set up.
CALLS_BEFORE_CAPTURE = 3


def available(device: torch.device) -> bool:
    """Whether CUDA graphs work on this device and ``LGGSEG_CUDA_GRAPH=0`` does not forbid them."""
    return device.type == "cuda" and os.environ.get("LGGSEG_CUDA_GRAPH", "1") != "0"


class Captured:
    """``function(*rows)``, recorded once for each size of its inputs and replayed from then on.

    The small network of this project takes several hundred kernels a step, which take longer to
    launch than to run. Every call, the recorded ones too, does the function's work exactly once.
    The function may read nothing back from the device, keeps what it changes at its address, and
    draws random numbers from ``generators`` alone, which are seeded before each call.

    Args:
        function: takes int64 tensors and returns a tensor, valid until the next call.
        generators: those of the device that the function draws from.
    """

    def __init__(
        self, function: Callable[..., Tensor], generators: Sequence[torch.Generator]
    ) -> None:
        self.function, self.generators = function, generators
        self.calls = 0
        self.graphs: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]] = {}
        self.stream = torch.cuda.Stream()
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, *rows: Tensor) -> Tensor:
        self.calls += 1
        if self.calls <= CALLS_BEFORE_CAPTURE:
            return self._launch(*rows)
        sizes = tuple(map(len, rows))
        if sizes not in self.graphs:
            self.graphs[sizes] = self._capture(rows)
        graph, inputs, output = self.graphs[sizes]
        for held, given in zip(inputs, rows, strict=True):
            held.copy_(given, non_blocking=True)
        graph.replay()
        return output

    def _launch(self, *rows: Tensor) -> Tensor:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            output = self.function(*rows)
        torch.cuda.current_stream().wait_stream(self.stream)
        return output

    def _capture(self, rows: Sequence[Tensor]) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
        graph, inputs = torch.cuda.CUDAGraph(), [row.clone() for row in rows]
        for generator in self.generators:
            graph.register_generator_state(generator)
        torch.cuda.synchronize()
        mode = "thread_local"  # other threads may use the device meanwhile
        with (
            _no_collection(),
            torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode=mode),
        ):
            output = self.function(*inputs)
        return graph, inputs, output


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's garbage collector runs before, not within: the graph of an earlier training must not
    be destroyed while another is recorded."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
