"""``train(config, cohort, split, run)``: what the notebook, the command line and SageMaker call."""

from __future__ import annotations

import ctypes
import io
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint, LambdaCallback
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor, nn
from tqdm import tqdm

from lggseg.config import Config, Precision
from lggseg.data.cohort import Cohort
from lggseg.data.splits import NO_FOLD, fold_sides, folds_of, patients_of, split_fingerprint
from lggseg.evaluation.statistics import summarise
from lggseg.inference.model_folder import amend_card, write_card
from lggseg.inference.predict import Segmenter, evaluate, export_model
from lggseg.models.networks import build_network
from lggseg.training import distributed, loggers
from lggseg.training.checks import check_accelerator, check_start
from lggseg.training.datamodule import CohortDataModule
from lggseg.training.module import NonFiniteLoss, SegmentationModule
from lggseg.training.run_folder import (
    alone_in,
    begin_run,
    find_run,
    has_begun,
    is_finished,
    last_checkpoint,
)
from lggseg.utils import threads
from lggseg.utils.paths import read_table, replace_file, write_table
from lggseg.utils.progress import progress_bar
from lggseg.utils.stopping import SIGNALS, Stopped


def train(
    config: Config,
    cohort: Cohort,
    split: pd.DataFrame,
    run: Path | str,
    *,
    resume: bool = False,
    progress: bool = True,
) -> Path:
    """Train on the training patients of ``config.fold``, score its validation patients, and write
    the run folder (see docs/architecture.md). The model is the last epoch's: the validation
    patients choose no epoch. Test patients are not touched.

    ``resume`` goes on from ``checkpoints/last.ckpt`` where there is one, to the same metrics as an
    uninterrupted run. Returns the run folder. Raises what
    :func:`lggseg.training.checks.check_start` raises, ``DataError`` when the run folder holds
    another run (of another config, split or data) or another process trains in it,
    ``NonFiniteLoss`` when the loss is, ``Stopped`` on SIGTERM and SIGINT. What fails before the
    first epoch's end leaves no run.

    Processes that torchrun starts train together (see :mod:`lggseg.training.distributed`); the run
    folder is the first one's.
    """
    run = Path(run)
    check_start(config, cohort, split)
    distributed.join(config.accelerator)
    with SIGNALS, alone_in(run), _what_is_kept(run):
        return _train(config, cohort, split, run, resume, progress)


@contextmanager
def _what_is_kept(run: Path) -> Iterator[None]:
    """Where a training is stopped or fails, say what there is of it and how to go on."""
    try:
        yield
    except Stopped as stop:
        if not has_begun(run):
            raise
        kept = f"{last_checkpoint(run)} holds the training so far."
        kept += " Go on with the same command and --resume."
        raise Stopped(stop.number, kept) from None
    except NonFiniteLoss as error:
        if not has_begun(run):
            raise
        kept = f"{run} keeps the epochs before; with other options choose another --run."
        raise NonFiniteLoss(f"{error} {kept}") from error


def _train(
    config: Config, cohort: Cohort, split: pd.DataFrame, run: Path, resume: bool, progress: bool
) -> Path:
    asked = config
    stored = distributed.from_first(lambda: find_run(run, asked, cohort, split, resume))
    if stored and distributed.from_first(lambda: is_finished(run)):
        return run
    config = stored or distributed.from_first(lambda: _begin(run, asked, cohort, split))
    checkpoint = last_checkpoint(run) if stored else None
    pl.seed_everything(config.seed, verbose=False)
    module = SegmentationModule(config)
    datamodule = CohortDataModule(cohort, fold_sides(cohort, split, config.fold), config)
    logger = loggers.tracker(config, run) if distributed.rank() == 0 else None
    fold = "all patients" if config.fold == NO_FOLD else f"fold {config.fold}"
    bar = f"train {config.network}, {fold}" if progress else ""
    try:
        trainer = _trainer(
            config, [RunFolder(run)], bar, logger=logger or False, default_root_dir=run
        )
        _fit(trainer, module, datamodule, ckpt_path=checkpoint, weights_only=True)
        distributed.from_first(lambda: _finish(run, config, cohort, split, progress))
        if logger:
            loggers.log_results(logger.experiment, run, cohort)
    finally:
        if logger:
            logger.experiment.finish()
    return run


def _begin(run: Path, config: Config, cohort: Cohort, split: pd.DataFrame) -> Config:
    """Write down what the run is; the config with its precision settled."""
    if config.precision == "auto":
        config = replace(config, precision=choose_precision(config))
    begin_run(run, config, cohort, split)
    return config


def _fit(trainer: pl.Trainer, *what: Any, **options: Any) -> None:
    """Let Lightning train. It makes of a signal the end of the process, here :class:`Stopped`."""
    try:
        trainer.fit(*what, **options)
    except SystemExit as error:
        raise Stopped(SIGNALS.received or signal.SIGINT) from error
    finally:
        SIGNALS.after_step = False
    if SIGNALS.received:  # in the last step
        raise Stopped(SIGNALS.received)


def validation_dice(
    config: Config,
    cohort: Cohort,
    sides: np.ndarray,
    *,
    progress: bool = True,
    each_epoch: Callable[[pd.Series], None] | None = None,
) -> pd.Series:
    """Train on the slices labelled ``train`` and return the last epoch's Dice per patient over
    the slices labelled ``validation``; ``each_epoch`` is called with every epoch's. For
    experiments: writes nothing, checks no leakage."""
    check_accelerator(config)
    if config.precision == "auto":
        config = replace(config, precision=choose_precision(config))
    pl.seed_everything(config.seed, verbose=False)
    module = SegmentationModule(config)
    callbacks: list[Callback] = []
    if each_epoch:
        tell = each_epoch
        callbacks += [
            LambdaCallback(on_validation_epoch_end=lambda *_: tell(module.validation_dice()))
        ]
    every = 1 if each_epoch else config.epochs
    bar = f"train {config.network}" if progress else ""
    trainer = _trainer(
        config, callbacks, bar, check_val_every_n_epoch=every, enable_checkpointing=False
    )
    with SIGNALS:
        _fit(trainer, module, CohortDataModule(cohort, sides, config))
    return module.validation_dice()


def crossvalidate(
    config: Config,
    cohort: Cohort,
    split: pd.DataFrame,
    run: Path | str,
    *,
    resume: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Train and score every fold in turn, then train one model on all but the test patients.

    Writes a run folder for each (``fold-0``, …, ``final``) and ``patients.csv``, which is returned:
    each patient scored by the model that had not seen it. The final model's card carries the
    summary of that table as ``cross_validation``, since nobody is left to validate it.
    """
    run = Path(run)
    options: dict[str, Any] = {"resume": resume, "progress": progress}
    find_run(run / "final", replace(config, fold=NO_FOLD), cohort, split, resume)
    table = score_folds(config, cohort, split, run, **options)
    config = replace(Config.load(run / "fold-0" / "config.json"), fold=NO_FOLD)
    final = train(config, cohort, split, run / "final", **options)
    amend_card(final / "model", {"cross_validation": summarise(table.drop(columns="fold"))})
    return table


def score_folds(
    config: Config,
    cohort: Cohort,
    split: pd.DataFrame,
    run: Path,
    *,
    folds: Sequence[int] | None = None,
    resume: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Train and score these folds (default: all) in turn, into the run folders ``fold-0``, …; write
    and return ``patients.csv``: each patient scored by the model that had not seen it."""
    tables = []
    options: dict[str, Any] = {"resume": resume, "progress": progress}
    runs = check_folds(config, cohort, split, run, folds=folds, resume=resume)
    for fold, folder in runs.items():
        train(replace(config, fold=fold), cohort, split, folder, **options)
        tables.append(read_table(folder / "patients.csv", _AGAIN).assign(fold=fold))
        # What the first fold measured holds for all.
        config = replace(config, precision=Config.load(folder / "config.json").precision)
    table = pd.concat(tables, ignore_index=True)
    write_table(table, run / "patients.csv")
    return table


def check_folds(
    config: Config,
    cohort: Cohort,
    split: pd.DataFrame,
    run: Path,
    *,
    folds: Sequence[int] | None = None,
    resume: bool = False,
) -> dict[int, Path]:
    """The run folder of each of these folds (default: all), after a look at whether all of them can
    begin or go on, before any of them trains. Raises as :func:`train` does."""
    runs = {fold: run / f"fold-{fold}" for fold in (folds_of(split) if folds is None else folds)}
    check_start(config, cohort, split, runs)
    for fold, folder in runs.items():
        find_run(folder, replace(config, fold=fold), cohort, split, resume)
    return runs


_AGAIN = "Delete the file and go on with --resume, which writes it again."


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


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place. Lightning does so in the system's temporary folder and
    moves it; where that is another disk, moving is copying, and half a copy looks like a whole
    checkpoint to a run that goes on."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        replace_file(Path(path), lambda part: part.write_bytes(content.getbuffer()))


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


def _trainer(config: Config, callbacks: list[Callback], bar: str, **options: Any) -> pl.Trainer:
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


def _finish(run: Path, config: Config, cohort: Cohort, split: pd.DataFrame, progress: bool) -> None:
    """Export the last epoch's averaged weights and score the validation patients with them."""
    checkpoint = torch.load(
        run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True
    )
    network = build_network(config)
    prefix = "networks.averaged."
    weights = checkpoint["state_dict"].items()
    network.load_state_dict({k.removeprefix(prefix): v for k, v in weights if k.startswith(prefix)})
    card: dict[str, Any] = {
        "epoch": checkpoint["epoch"],
        "data_fingerprint": cohort.fingerprint,
        "split_fingerprint": split_fingerprint(split),
        "simulated": cohort.simulated,
    }
    export_model(network, config, run / "model")
    write_card(config, card, run / "model")
    patients = patients_of(split, "validation", config.fold)
    table = evaluate(Segmenter.load(run / "model"), cohort, patients, progress=progress)
    amend_card(run / "model", {"validation": summarise(table)})
    write_table(table, run / "patients.csv")
