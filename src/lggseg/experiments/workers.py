"""Additional worker processes of one search."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from lggseg.utils.threads import threads_each


@contextmanager
def helpers(count: int, arguments: Sequence[str]) -> Iterator[None]:
    """``count`` further processes of ``lggseg`` with these arguments, waited for at the end; they
    and this one share the cores evenly."""
    threads = threads_each(count + 1)
    command = [sys.executable, "-m", "lggseg.cli", *arguments, "--workers", "1", "--worker"]
    options: dict[str, Any] = {
        "env": {**os.environ, "OMP_NUM_THREADS": str(threads)},
        "stdout": subprocess.DEVNULL,
    }
    started = [subprocess.Popen([*command, str(n + 1)], **options) for n in range(count)]
    if started:
        torch.set_num_threads(threads)
    try:
        yield
    except BaseException:
        for process in started:
            process.terminate()
        raise
    finally:
        for process in started:
            process.wait()
