"""The LightningModule: the training step of :mod:`lggseg.training.step`, and validation with the
exact Dice of each patient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor

from lggseg.config import Config
from lggseg.training import distributed
from lggseg.training.datamodule import CohortDataModule
from lggseg.training.muon import MuonAdamW
from lggseg.training.step import (
    Networks,
    TrainingStep,
    build_optimizer,
    count_voxels,
    patient_dice,
    runner,
)
from lggseg.utils import threads
from lggseg.utils.errors import DataError

# Looking at the loss makes the host wait for a GPU, so it looks at several steps at once.
STEPS_BETWEEN_CHECKS = 16


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite."""


class SegmentationModule(pl.LightningModule):
    """Trains ``config.network`` with Muon or AdamW and a one-cycle schedule, and validates the
    running average of its weights.

    Logs ``train/loss``, ``val/loss``, ``val/dice_raw`` (mean over patients) and
    ``val/dice_raw_median``: Dice without the mirror average and the removal of small components,
    which the ``dice`` of ``patients.csv`` has.
    Lightning's optimisation is manual, so that a CUDA graph can hold a whole step.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config = config
        self.networks = Networks(config)
        self.step: TrainingStep | None = None
        self._restored: dict[str, Any] = {}
        self._run: Callable[[Tensor], Tensor] = torch.Tensor.detach
        self._unchecked: list[tuple[Tensor, Tensor]] = []
        self._slices = 0
        self._counts = torch.zeros(0)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(slices, 1, size, size)`` of normalised images, by the averaged weights."""
        return self.networks.averaged(image)

    @property
    def steps_done(self) -> int:
        """How many steps the run has trained, those of earlier processes included."""
        return self.step.done if self.step else self._restored.get("done", 0)

    def on_train_start(self) -> None:
        optimizer = self.optimizers(use_pl_optimizer=False)
        on_device = self.datamodule.on_device
        assert isinstance(optimizer, MuonAdamW) and on_device is not None
        rank = distributed.rank() << 40
        total = int(self.trainer.estimated_stepping_batches)
        self.step = TrainingStep(
            self.networks, optimizer, on_device, total, self.manual_backward, rank
        )
        if self._restored:
            self.step.done = self._restored["done"]
            self.step.total.fill_(self._restored["total"])
            self._slices = self._restored["slices"]
            if self.step.scaler:
                self.step.scaler.load_state_dict(self._restored["scaler"])
        self._run = runner(self.step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        step = self.step
        assert step is not None
        scaler = step.scaler.state_dict() if step.scaler else {}
        counts = {"done": step.done, "total": float(step.total), "slices": self._slices}
        checkpoint["step"] = {**counts, "scaler": scaler, "threads": torch.get_num_threads()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "step" not in checkpoint:
            found, expected = "a checkpoint of an earlier version", "one of this version"
            raise DataError("checkpoints/last.ckpt", found, expected, "Start a new --run.")
        self._restored = checkpoint["step"]
        threads.go_on_with(self._restored["threads"])

    def training_step(self, rows: Tensor, batch_idx: int) -> None:
        loss = self._run(rows)
        self._slices += len(rows)
        self._unchecked.append((loss.clone(), rows))
        if len(self._unchecked) == STEPS_BETWEEN_CHECKS:
            self._check_losses()

    def on_train_epoch_end(self) -> None:
        self._check_losses()
        assert self.step is not None
        # A run may have nobody to validate on.
        distributed.average_buffers(self.networks)
        self.log("train/loss", self.step.total / max(self._slices, 1), sync_dist=True)
        self.step.total.zero_()
        self._slices = 0

    def _check_losses(self) -> None:
        losses, batches = zip(*self._unchecked, strict=True) if self._unchecked else ((), ())
        self._unchecked = []
        if losses and not torch.stack(losses).isfinite().all():
            bad = next(i for i, loss in enumerate(losses) if not loss.isfinite())
            raise NonFiniteLoss(self._non_finite_message(float(losses[bad]), batches[bad]))

    def _non_finite_message(self, loss: float, rows: Tensor) -> str:
        slices = self.datamodule.cohort.slices.iloc[rows.cpu().numpy()]
        patients = ", ".join(sorted(slices["patient"].unique()))
        return (
            f"the loss became {loss} in epoch {self.current_epoch} on a batch of these patients: "
            f"{patients}. Expected a finite loss. Look at their slices, lower --learning-rate, "
            "or train with --precision 32-true."
        )

    @property
    def datamodule(self) -> CohortDataModule:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def on_validation_epoch_start(self) -> None:
        distributed.average_buffers(self.networks)
        patients = len(self.datamodule.cohort.patients)
        self._counts = torch.zeros(patients, 3, dtype=torch.int64, device=self.device)

    def validation_step(self, rows: Tensor, batch_idx: int) -> None:
        on_device = self.datamodule.on_device
        assert on_device is not None
        loss, counts = count_voxels(self.networks, on_device, rows)
        slices = len(rows)
        self.log("val/loss", loss, on_step=False, on_epoch=True, batch_size=slices, sync_dist=True)
        self._counts.index_add_(0, on_device.patient[rows], counts)

    def validation_dice(self) -> pd.Series:
        """Dice per patient over its validation slices, at native pixels, of the patients of all
        processes; index patient. Exact: a patient belongs to one process."""
        own = patient_dice(self._counts, self.datamodule.cohort, self.datamodule.subsets)
        return pd.concat(distributed.of_all(own)).sort_index()

    def on_validation_epoch_end(self) -> None:
        dice = self.validation_dice()
        self.log("val/dice_raw", float(dice.mean()), prog_bar=True)
        self.log("val/dice_raw_median", float(dice.median()))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return build_optimizer(self.networks)
