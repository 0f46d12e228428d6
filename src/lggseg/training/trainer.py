"""Lightning's trainer, as every training here uses it."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import warnings
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import DDPStrategy

from lggseg.config import Config
from lggseg.training import distributed
from lggseg.training.callbacks import TrainingBar
from lggseg.training.checkpoint import WholeCheckpoints
from lggseg.utils import threads

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next tensors instead of returning it to the system.

    Else each step on a CPU gets its large tensors as fresh pages, which the kernel has to clear.
    Holds for the whole process from then on; does nothing where there is no ``mallopt``.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, 2**26)


def make_trainer(config: Config, callbacks: list[Callback], bar: str, **options: Any) -> pl.Trainer:
    """Lightning's trainer; ``bar`` is the name of its progress bar, empty for none."""
    keep_freed_memory()
    threads.leave_busy_cpus()
    # Lightning's advice on worker processes and on its own logger does not apply here.
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    if bar:
        callbacks = [*callbacks, TrainingBar(bar)]
    return pl.Trainer(
        accelerator=config.accelerator,
        **_processes(),
        max_epochs=config.epochs,
        deterministic=config.deterministic,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[WholeCheckpoints()],
        num_sanity_val_steps=0,
        **{"logger": False, **options},
    )


def _processes() -> dict[str, Any]:
    """How Lightning finds the other processes, if there are any."""
    if distributed.processes() == 1:
        return {"devices": 1}
    devices = int(os.environ["LOCAL_WORLD_SIZE"])
    return {
        "devices": devices,
        "num_nodes": distributed.processes() // devices,
        # Processes validate different numbers of batches, so none may wait for another there.
        "strategy": DDPStrategy(broadcast_buffers=False),
        "use_distributed_sampler": False,
    }
