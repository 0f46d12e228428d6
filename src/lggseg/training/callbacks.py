"""What happens at the end of an epoch: tables, checkpoints, the progress bar."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException
from tqdm import tqdm

from lggseg.training import loggers
from lggseg.training.module import SegmentationModule
from lggseg.utils.files import read_table, write_table
from lggseg.utils.progress import progress_bar
from lggseg.utils.stopping import SIGNALS

# What earlier versions called columns of metrics.csv.
_EARLIER_NAMES = {"val/dice": "val/dice_raw", "val/dice_median": "val/dice_raw_median"}


class RunFolder(Checkpoint):
    """Writes ``metrics.csv`` (a row per epoch), and ``checkpoints/last.ckpt`` after each epoch and
    when the run is told to stop."""

    def __init__(self, run: Path) -> None:
        self.path, self.last = run / "metrics.csv", run / "checkpoints" / "last.ckpt"
        self.rows: list[dict[Any, Any]] = []
        self.started = time.perf_counter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size > 1:
            # Processes cannot agree on a step at which all of them stop; the last epoch's file is
            # what such a run goes on from.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        SIGNALS.after_step = trainer.world_size == 1
        if self.path.exists():
            table = read_table(self.path, "Restore it, or begin a new run in another folder.")
            table = table.rename(columns=_EARLIER_NAMES)
            self.rows = table[table["epoch"] < trainer.current_epoch].to_dict("records")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        seconds = round(time.perf_counter() - self.started, 3)
        if trainer.is_global_zero:
            row = {"epoch": trainer.current_epoch, **metrics, "learning_rate": rate}
            self.rows.append({**row, "seconds": seconds})
            if loggers.in_sagemaker_job():
                print(loggers.metric_line(metrics), flush=True)
            write_table(pd.DataFrame(self.rows), self.path)
        trainer.save_checkpoint(self.last)  # which all processes call, and the first writes

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        # Of a stop while validating, or in the middle of a step, the last epoch's file stands.
        stopped = isinstance(exception, SIGTERMException)
        if trainer.training and stopped and trainer.world_size == 1:
            trainer.save_checkpoint(self.last)


class TrainingBar(Callback):
    """One bar for a whole training, with the epoch and the last validation Dice."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bar: tqdm[Any] = progress_bar((), name, "step", show=False)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, SegmentationModule)
        show, total = trainer.is_global_zero, int(trainer.estimated_stepping_batches)
        self.bar = progress_bar((), self.name, "step", total=total, show=show)
        self.bar.update(pl_module.steps_done)

    def on_train_batch_end(self, *_: Any) -> None:
        self.bar.update()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        text = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        if "val/dice_raw" in trainer.callback_metrics:
            text += f", Dice {trainer.callback_metrics['val/dice_raw']:.3f}"
        self.bar.set_postfix_str(text)

    def on_train_end(self, *_: Any) -> None:
        self.bar.close()

    def on_exception(self, *_: Any) -> None:
        self.bar.close()  # the message that follows gets a line of its own
