"""Several models trained side by side on one device: folds, seeds and candidates of an experiment.

A small network leaves most of a GPU idle. Here each model has its own CUDA graph on its own stream,
over one copy of the cohort, and gets exactly the result that it gets alone; on a GPU not where it
has dropout, which draws from one generator that all graphs share. On a CPU they take turns.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lggseg.config import Config
from lggseg.data.cohort import Cohort
from lggseg.training.datamodule import VALIDATION_BATCH, DeviceCohort, training_rows
from lggseg.training.step import (
    Networks,
    TrainingStep,
    build_optimizer,
    count_voxels,
    patient_dice,
    runner,
)


@dataclass
class Trained:
    """What became of one model.

    dice: per patient over its validation slices, index patient; networks: trained and averaged, on
    the device; loss: the last epoch's mean; seconds: since the start, shared by all.
    """

    config: Config
    networks: Networks
    dice: pd.Series
    loss: float
    seconds: float


class Model:
    """One of the models, which :func:`train_together` advances step by step."""

    def __init__(
        self, config: Config, cohort: Cohort, subsets: np.ndarray, on_device: DeviceCohort
    ) -> None:
        self.config, self.cohort, self.subsets = config, cohort, subsets
        self.on_device, device = on_device.for_config(config), on_device.device
        torch.manual_seed(config.seed)
        self.networks = Networks(config).to(device).train()
        optimizer = build_optimizer(self.networks)
        step = TrainingStep(self.networks, optimizer, self.on_device, total_steps=0)
        self.rows = training_rows(cohort, subsets, config, lambda: step.done)
        step.total_steps = config.epochs * len(self.rows)
        self.step = step
        self.stream = torch.cuda.Stream() if device.type == "cuda" else None
        self.run = runner(self.step)

    def on_stream(self) -> AbstractContextManager[object]:
        """The context in which the device works on this model alone."""
        return torch.cuda.stream(self.stream) if self.stream else nullcontext()

    def steps(self) -> Iterator[Tensor]:
        """The loss of each step, epoch after epoch. The stream is left after each of them, because
        another model's step comes next."""
        for _ in range(self.config.epochs):
            for number, rows in enumerate(self.rows):
                with self.on_stream():
                    if number == 0:
                        self.step.total.zero_()
                    loss = self.run(rows)
                yield loss

    def dice(self) -> pd.Series:
        """Dice per validation patient of the averaged weights."""
        rows = np.flatnonzero(self.subsets == "validation")
        patient = self.on_device.patient
        counts = torch.zeros(len(self.cohort.patients), 3, dtype=torch.int64, device=patient.device)
        for some in torch.from_numpy(rows).to(patient.device).split(VALIDATION_BATCH):
            _, voxels = count_voxels(self.networks, self.on_device, some)
            counts.index_add_(0, patient[some], voxels)
        return patient_dice(counts, self.cohort, self.subsets)


def train_together(
    configs: Sequence[Config],
    cohort: Cohort,
    subsets: Sequence[np.ndarray],
    device: torch.device,
    on_device: DeviceCohort | None = None,
) -> list[Trained]:
    """Train ``configs[i]`` on the slices that ``subsets[i]`` labels ``train``, side by side, and
    score each on those labelled ``validation``. For experiments: writes nothing, checks no leakage.

    on_device: the cohort, where it lies on the device already. Raises ``ValueError`` when two
    configurations need other pixels.
    """
    on_device = on_device or DeviceCohort(cohort, configs[0], device)
    pairs = zip(configs, subsets, strict=True)
    return train_models([Model(config, cohort, labels, on_device) for config, labels in pairs])


def train_models(models: Sequence[Model]) -> list[Trained]:
    """Train these models side by side, and score each on its validation slices."""
    start, device = time.perf_counter(), models[0].on_device.device
    _wait(device)  # the streams of the models do not wait for what has made them
    running = [model.steps() for model in models]
    while running:
        running = [steps for steps in running if next(steps, None) is not None]
    _wait(device)
    seconds = time.perf_counter() - start
    slices = [sum(map(len, model.rows)) for model in models]
    return [
        Trained(m.config, m.networks, m.dice(), float(m.step.total) / n, seconds)
        for m, n in zip(models, slices, strict=True)
    ]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
