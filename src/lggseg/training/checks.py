"""Checks before a run starts and writes anything."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
import torch

from lggseg.config import Config
from lggseg.data.cohort import Cohort
from lggseg.data.splits import MAKE, check_no_leakage, check_patients, patients_of, slice_folds
from lggseg.models import losses, networks
from lggseg.training import loggers
from lggseg.utils.errors import DataError


def check_start(
    config: Config, cohort: Cohort, split: pd.DataFrame, folds: Iterable[int] | None = None
) -> None:
    """Check that trainings of this config can begin, on each of ``folds`` (default: the config's).

    Raises ``DataError`` where split and cohort disagree or nothing can be learned from the training
    patients, ``LeakageError``, ``ValueError`` for a value of the config that does not exist or that
    this machine cannot do, and ``RuntimeError`` for a package that is missing.
    """
    check_accelerator(config)
    networks.network_body(config)
    losses.build_loss(config)
    loggers.check_tracker(config)
    check_patients(split, cohort)
    check_no_leakage(cohort, slice_folds(cohort, split))
    for fold in [config.fold] if folds is None else folds:
        _check_training_patients(cohort, split, fold)


def check_accelerator(config: Config) -> None:
    """Raise ``ValueError`` for an accelerator that this machine lacks."""
    mps, cuda = torch.backends.mps.is_available(), torch.cuda.is_available()
    if not {"gpu": cuda or mps, "mps": mps}.get(config.accelerator, True):
        kind = "GPU" if config.accelerator == "gpu" else "GPU of Apple's"
        raise ValueError(
            f"accelerator={config.accelerator!r}: found no {kind} that torch can use; expected "
            "one. Use --accelerator auto or cpu, or install a torch that fits the GPU's driver."
        )


def _check_training_patients(cohort: Cohort, split: pd.DataFrame, fold: int) -> None:
    patients = patients_of(split, "train", fold)
    if not patients:
        raise DataError("the split", f"nobody to train on in fold {fold}", "other folds", MAKE)
    slices = cohort.slices[cohort.slices["patient"].isin(patients)]
    who = f"the {len(patients)} training patients of fold {fold}"
    if slices["blank"].all():
        action = "Look at the images: they may have been written without their pixels."
        raise DataError(cohort.root, f"blank slices alone in {who}", "heads in them", action)
    if not slices["tumour_pixels"].any():
        action = "Look at the masks …_mask.tif, which should be 255 where a reader saw tumour."
        raise DataError(cohort.root, f"no slice with tumour in {who}", "masks with tumour", action)
