"""The LightningModule: one step shared by training and validation, Dice exact per patient."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor

from lggseg import distributed, models, transforms
from lggseg.config import Config
from lggseg.datamodule import Batch, CohortDataModule
from lggseg.metrics import dice_from_counts
from lggseg.optim import MuonAdamW

# Looking at the loss makes the host wait for a GPU, so it looks at several steps at once.
STEPS_BETWEEN_CHECKS = 16


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite."""


class SegmentationModule(pl.LightningModule):
    """Trains ``config.network`` with Muon or AdamW and a one-cycle schedule.

    Logs ``train/loss``, ``val/loss``, ``val/dice`` (mean over patients) and ``val/dice_median``.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.network = models.build_network(config)
        self.loss = models.build_loss(config)
        self._unchecked: list[tuple[Tensor, Tensor]] = []
        self._counts = torch.zeros(0)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(slices, 1, size, size)`` of normalised images."""
        return self.network(image)

    def model_step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss and logits. Sums over many pixels overflow 16 bits, so the loss is in 32."""
        logits = self(batch.image).float()
        with torch.autocast(logits.device.type, enabled=False):
            return self.loss(logits, batch.mask), logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, _ = self.model_step(batch)
        self._log_mean("train/loss", loss, batch)
        self._unchecked.append((loss.detach(), batch.rows))
        if len(self._unchecked) == STEPS_BETWEEN_CHECKS:
            self._check_losses()
        return loss

    def _log_mean(self, name: str, loss: Tensor, batch: Batch) -> None:
        """Log the mean over all slices of an epoch."""
        slices = len(batch.rows)
        self.log(name, loss, on_step=False, on_epoch=True, batch_size=slices, sync_dist=True)

    def on_train_epoch_end(self) -> None:
        self._check_losses()

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
        patients = len(self.datamodule.cohort.patients)
        self._counts = torch.zeros(patients, 3, dtype=torch.int64, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        loss, logits = self.model_step(batch)
        self._log_mean("val/loss", loss, batch)
        cohort = self.datamodule.on_device
        assert cohort is not None
        probability = transforms.enlarge(logits, self.config.downsample).sigmoid()
        predicted = probability >= self.config.threshold
        truth = cohort.take(cohort.truth, batch.rows) > 0
        cases = [predicted & truth, predicted & ~truth, ~predicted & truth]
        counts = torch.stack([case.flatten(1).sum(1) for case in cases], dim=1)
        self._counts.index_add_(0, cohort.patient[batch.rows], counts)

    def validation_dice(self) -> pd.Series:
        """Dice per patient over its validation slices, at native pixels, of the patients of all
        processes; index patient. Exact: a patient belongs to one process."""
        cohort, sides = self.datamodule.cohort, self.datamodule.sides
        dice = dice_from_counts(*self._counts.double().cpu().numpy().T)
        seen = cohort.patients.index.isin(cohort.slices["patient"][sides == "validation"])
        own = pd.Series(dice, index=cohort.patients.index, name="dice")[seen]
        return pd.concat(distributed.of_all(own)).sort_index()

    def on_validation_epoch_end(self) -> None:
        dice = self.validation_dice()
        self.log("val/dice", float(dice.mean()), prog_bar=True)
        self.log("val/dice_median", float(dice.median()))

    def optimizer(self) -> torch.optim.Optimizer:
        """The optimiser that the config asks for."""
        rate, decay = self.config.learning_rate, self.config.weight_decay
        if self.config.optimizer == "muon":
            return MuonAdamW(self, rate, decay)
        fused = self.device.type in ("cpu", "cuda")
        return torch.optim.AdamW(self.parameters(), lr=rate, weight_decay=decay, fused=fused)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer()
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.config.learning_rate,
            # The schedule divides by zero in a run of fewer steps.
            total_steps=max(int(self.trainer.estimated_stepping_batches), 10),
            pct_start=0.2,
            cycle_momentum=False,
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]
