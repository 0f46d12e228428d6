"""``train(config, cohort, split, run)``: what the notebook, the command line and SageMaker call."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, LambdaCallback

from lggseg.config import Config
from lggseg.data.cohort import Cohort
from lggseg.data.splits import NO_FOLD, patients_of, slice_subsets, split_fingerprint
from lggseg.evaluation.statistics import summarise
from lggseg.inference.evaluate import evaluate
from lggseg.inference.model_folder import amend_card, write_card
from lggseg.inference.onnx_export import export_model
from lggseg.inference.segmenter import Segmenter
from lggseg.models.networks import build_network
from lggseg.training import distributed, loggers
from lggseg.training.callbacks import RunFolder
from lggseg.training.checks import check_accelerator, check_start
from lggseg.training.datamodule import CohortDataModule
from lggseg.training.module import NonFiniteLoss, SegmentationModule
from lggseg.training.precision import choose_precision
from lggseg.training.run_folder import (
    alone_in,
    begin_run,
    find_run,
    has_begun,
    is_finished,
    last_checkpoint,
)
from lggseg.training.trainer import make_trainer
from lggseg.utils.files import write_table
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
    datamodule = CohortDataModule(cohort, slice_subsets(cohort, split, config.fold), config)
    logger = loggers.tracker(config, run) if distributed.rank() == 0 else None
    fold = "all patients" if config.fold == NO_FOLD else f"fold {config.fold}"
    bar = f"train {config.network}, {fold}" if progress else ""
    try:
        trainer = make_trainer(
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
    subsets: np.ndarray,
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
    trainer = make_trainer(
        config, callbacks, bar, check_val_every_n_epoch=every, enable_checkpointing=False
    )
    with SIGNALS:
        _fit(trainer, module, CohortDataModule(cohort, subsets, config))
    return module.validation_dice()


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
