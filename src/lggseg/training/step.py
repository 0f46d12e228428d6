"""One training step: batch, forward, loss, backward, update, average; on a GPU one CUDA graph."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lggseg.config import Config
from lggseg.data.cohort import Cohort
from lggseg.evaluation.segmentation import dice_from_counts
from lggseg.models.losses import build_loss
from lggseg.models.networks import build_network
from lggseg.preprocessing import transforms
from lggseg.training import cuda_graph, distributed
from lggseg.training.datamodule import Batch, DeviceCohort
from lggseg.training.muon import MuonAdamW

_HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
# Of the loss in 16-mixed, whose gradients would vanish in 16 bits otherwise (Micikevicius 2018).
LOSS_SCALE = 2.0**16


def precision_of(config: Config, device: torch.device) -> Any:
    """The context in which the network runs in ``config.precision``."""
    half = _HALF.get(config.precision)
    if half is None:
        return nullcontext()
    # A cache of cast weights would outlive the CUDA graph that filled it.
    return torch.autocast(device.type, dtype=half, cache_enabled=False)


class Networks(nn.Module):
    """A network that trains, and the running average of its weights, which is what is kept.

    The average is exponential with ``config.ema_decay`` (Polyak 1992), over the statistics of
    batch normalisation, too.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.trained = build_network(config)
        self.averaged = copy.deepcopy(self.trained).requires_grad_(False).eval()
        self._loss = build_loss(config)

    def train(self, mode: bool = True) -> Networks:
        """As of any module; the average always predicts as in evaluation."""
        super().train(mode)
        self.averaged.eval()
        return self

    def loss(self, network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss, float32, and logits, ``(slices, 1, size, size)``, of a batch. Sums over many pixels
        overflow 16 bits, so only the network runs in them."""
        with precision_of(self.config, batch.image.device):
            logits = network(batch.image)
        logits = logits.float()
        return self._loss(logits, batch.mask), logits

    @torch.no_grad()
    def average(self, decay: float) -> None:
        """Move the average towards the trained weights; with a ``decay`` of 0, onto them."""
        averaged, trained = (list(_floats(net)) for net in (self.averaged, self.trained))
        # What torch's own optimisers call; it has no public name.
        torch._foreach_lerp_(averaged, trained, 1 - decay)


def _floats(network: nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from (buffer for buffer in network.buffers() if buffer.is_floating_point())


def build_optimizer(networks: Networks) -> MuonAdamW:
    """The optimiser that the config asks for."""
    config, muon = networks.config, networks.config.optimizer == "muon"
    return MuonAdamW(networks.trained, config.learning_rate, config.weight_decay, muon)


def one_cycle(peak: float, done: int, total: int) -> float:
    """The learning rate after ``done`` of ``total`` steps (Smith 2018, as torch's OneCycleLR): by
    cosines from ``peak`` / 25 to ``peak`` over a fifth of them, then to ``peak`` / 250,000."""
    total = max(total, 10)  # the rise needs more than one step
    top, last = 0.2 * total - 1, total - 1
    if done <= top:
        return _cosine(peak / 25, peak, done / top)
    return _cosine(peak, peak / 25e4, (done - top) / (last - top))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


class TrainingStep:
    """Trains ``networks`` on a batch of rows of a cohort that lies on the device.

    ``step(rows)`` returns the loss, valid until the next call. ``done`` counts the steps: the
    augmentation is seeded by it, so that a run that is resumed draws what an uninterrupted one
    draws. ``total`` is the sum over the slices of an epoch of their batch's loss.

    total_steps: of the run, over which the rate rises and falls. backward: how gradients are
    computed of a loss. seed: mixed into that of the augmentation.
    """

    def __init__(
        self,
        networks: Networks,
        optimizer: MuonAdamW,
        on_device: DeviceCohort,
        total_steps: int,
        backward: Callable[[Tensor], Any] = Tensor.backward,
        seed: int = 0,
    ) -> None:
        self.networks, self.optimizer, self.on_device = networks, optimizer, on_device
        self.total_steps = total_steps
        self.config, self.backward, self.done = networks.config, backward, 0
        device = on_device.device
        self._seed = self.config.seed * 1_000_003 + seed
        self.generator = torch.Generator(device) if device.type != "meta" else None
        self.total = torch.zeros((), device=device)
        half = self.config.precision == "16-mixed"
        self.scaler = torch.amp.GradScaler(device.type, LOSS_SCALE) if half else None

    @property
    def capturable(self) -> bool:
        """Whether a CUDA graph can hold the step: not with a loss scale, which is read in each, and
        not where processes exchange their gradients within it."""
        alone = distributed.processes() == 1 and self.scaler is None
        return alone and self.on_device.resident and cuda_graph.available(self.on_device.device)

    def prepare(self) -> None:
        """Seed the augmentation and the dropout of the next step; tell the device its rate."""
        torch.manual_seed(self._seed + self.done)  # dropout draws from torch's own generator
        if self.generator is not None:
            self.generator.manual_seed(self._seed + self.done)
        rate = one_cycle(self.config.learning_rate, self.done, self.total_steps)
        self.optimizer.set_rate(rate)

    def __call__(self, rows: Tensor) -> Tensor:
        """The step itself, as :func:`runner` calls it."""
        self.optimizer.zero_grad(set_to_none=True)
        batch = self.on_device.batch(rows, training=True, generator=self.generator)
        loss, _ = self.networks.loss(self.networks.trained, batch)
        if self.scaler is None:
            self.backward(loss)
            self.optimizer.update()
        else:
            self.backward(self.scaler.scale(loss))
            self.scaler.step(self.optimizer)
            self.scaler.update()
        # The average begins with the weights of the first step.
        self.networks.average(self.config.ema_decay if self.done else 0.0)
        loss = loss.detach()
        self.total.add_(loss, alpha=len(rows))
        return loss


def runner(step: TrainingStep) -> Callable[[Tensor], Tensor]:
    """A function that trains ``step`` on rows and returns the loss, valid until its next call: one
    CUDA graph where that works, and the same calculation launch by launch elsewhere."""
    run: Callable[[Tensor], Tensor] = step
    if step.capturable:
        assert step.generator is not None
        run = cuda_graph.Captured(step, [step.generator])

    def train(rows: Tensor) -> Tensor:
        step.prepare()
        loss = run(rows.to(step.on_device.device, non_blocking=True))
        step.done += 1
        return loss

    return train


def patient_dice(counts: Tensor, cohort: Cohort, subsets: np.ndarray) -> pd.Series:
    """Dice of each patient of the slices labelled ``validation``, index patient.

    counts: what :func:`count_voxels` gives, summed by patient: int64 ``(patients, 3)``.
    """
    dice = dice_from_counts(*counts.double().cpu().numpy().T)
    names = cohort.patients.index
    seen = names.isin(cohort.slices["patient"][subsets == "validation"])
    return pd.Series(dice, index=names, name="dice")[seen]


@torch.no_grad()
def count_voxels(
    networks: Networks, on_device: DeviceCohort, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Loss of the averaged network on these rows, and the true positive, false positive and false
    negative voxels of each, at native pixels: int64 ``(slices, 3)``."""
    config = networks.config
    loss, logits = networks.loss(networks.averaged, on_device.batch(rows, training=False))
    probability = transforms.enlarge(logits, config.downsample).sigmoid()
    predicted = probability >= config.threshold
    truth = on_device.take(on_device.truth, rows) > 0
    cases = [predicted & truth, predicted & ~truth, ~predicted & truth]
    return loss, torch.stack([case.flatten(1).sum(1) for case in cases], dim=1)
