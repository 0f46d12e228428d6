"""What a user would pick instead: MONAI's pipeline as its documentation shows it, and tuned.

``monai``: CacheDataset, a chain of dictionary transforms, a DataLoader with workers; MONAI's UNet
with 32 filters, DiceFocal loss, AdamW at 1e-3, batch 16, 224 × 224 pixels, 32 bits, every slice.
``monai-device``: the same with everything cached on the device and transformed there
(``ThreadDataLoader``), without the bookkeeping of MetaTensors.
``monai-tuned``: the latter with what makes ours fast and MONAI offers too: 128 × 128 pixels,
bfloat16 where the processor computes in it, and one cycle of the learning rate over a fixed number
of epochs, with the better of two peaks on the fold that it is scored on.

All are spared the reading of files, since their slices come from the memory-mapped cohort, which
only makes them faster. All are scored as ours is: Dice per patient over whole volumes of
256 × 256.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from monai import transforms as mt
from monai.data import CacheDataset, DataLoader, ThreadDataLoader, set_track_meta
from monai.losses import DiceFocalLoss
from monai.networks.nets import UNet
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR

from lggseg.config import Config
from lggseg.data.cohort import Cohort
from lggseg.evaluation.segmentation import dice_from_counts
from lggseg.preprocessing.transforms import enlarge
from lggseg.training.precision import choose_precision

BATCH = 16
# Pixels along an edge of what each peer trains at.
SIZES = {"monai": 224, "monai-device": 224, "monai-tuned": 128}
PEAK_RATE = 1e-3  # of the tuned peer's cycle; 3e-3 was worse
_KEYS = ("image", "mask")


def _fixed(size: int, device: torch.device | None) -> list[Any]:
    fitted: Any = mt.CenterSpatialCropd(_KEYS, roi_size=(size, size))
    if size <= 128:
        fitted = mt.Resized(_KEYS, spatial_size=(size, size), mode=("area", "nearest"))
    return [
        mt.EnsureChannelFirstd(_KEYS, channel_dim=-1),
        fitted,
        mt.NormalizeIntensityd("image", nonzero=True, channel_wise=True),
        mt.ScaleIntensityd("mask", minv=0.0, maxv=1.0),
        mt.EnsureTyped(_KEYS, dtype=torch.float32, device=device),
    ]


def _random(size: int) -> list[Any]:
    shift = 13 * size / 224
    return [
        mt.RandFlipd(_KEYS, prob=0.5, spatial_axis=1),
        mt.RandAffined(
            _KEYS,
            prob=0.5,
            rotate_range=0.35,
            scale_range=(0.15, 0.15),
            shear_range=(0.1, 0.1),
            translate_range=(shift, shift),
            mode=("bilinear", "nearest"),
            padding_mode="border",
        ),
        mt.RandScaleIntensityd("image", factors=0.2, prob=0.5),
        mt.RandShiftIntensityd("image", offsets=0.2, prob=0.5),
        mt.RandGaussianSmoothd("image", prob=0.2),
        mt.RandGaussianNoised("image", prob=0.2, std=0.1),
    ]


def _items(cohort: Cohort, rows: np.ndarray) -> list[dict[str, Any]]:
    return [
        {"image": cohort.images[row], "mask": cohort.masks[row][..., None], "row": int(row)}
        for row in rows
    ]


def loader(
    peer: str, cohort: Cohort, rows: np.ndarray, workers: int, device: torch.device, training: bool
) -> Any:
    """Batches of these rows as a peer's documentation loads them; dicts of image, mask and row."""
    resident, size = peer != "monai", SIZES[peer]
    set_track_meta(not resident)
    fixed = _fixed(size, device if resident else None)
    chain = mt.Compose(fixed + (_random(size) if training else []))
    data = CacheDataset(_items(cohort, rows), chain, num_workers=2, progress=False)
    if resident:
        return ThreadDataLoader(data, num_workers=0, batch_size=BATCH, shuffle=training)
    return DataLoader(
        data,
        num_workers=workers,
        batch_size=BATCH,
        shuffle=training,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def network() -> torch.nn.Module:
    """MONAI's UNet with 32 filters and residual units."""
    return UNet(
        spatial_dims=2,
        in_channels=3,
        out_channels=1,
        channels=(32, 64, 128, 256, 512),
        strides=(2, 2, 2, 2),
        num_res_units=2,
    )


class Trainer:
    """A plain loop, in fp32 or with automatic mixed precision; with ``steps``, one cycle of the
    learning rate."""

    def __init__(self, device: torch.device, half: bool = False, steps: int = 0) -> None:
        self.device, self.network, self.half = device, network().to(device), half
        self.loss = DiceFocalLoss(sigmoid=True)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3)
        self.schedule = OneCycleLR(self.optimizer, PEAK_RATE, total_steps=steps) if steps else None

    def step(self, batch: dict[str, Tensor]) -> Tensor:
        """One optimiser step; returns the loss."""
        image, mask = (batch[key].to(self.device) for key in _KEYS)
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            logits = self.network(image)
        loss: Tensor = self.loss(logits.float(), mask)
        loss.backward()
        self.optimizer.step()
        if self.schedule:
            self.schedule.step()
        return loss

    @torch.inference_mode()
    def patient_dice(self, cohort: Cohort, batches: Any) -> np.ndarray:
        """Dice of every patient in the batches, over whole volumes at native pixels."""
        self.network.eval()
        counts = np.zeros((len(cohort.patients), 3))
        patient = cohort.patients.index.get_indexer(cohort.slices["patient"])
        for batch in batches:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                logits = self.network(batch["image"].to(self.device)).float()
            found = (_at_native_pixels(logits) > 0)[:, 0].cpu().numpy()
            rows = batch["row"].numpy()
            truth = cohort.masks[rows] > 0
            cases = (found & truth, found & ~truth, ~found & truth)
            for column, case in enumerate(cases):
                np.add.at(counts[:, column], patient[rows], case.sum(axis=(1, 2)))
        self.network.train()
        seen = np.unique(patient[np.concatenate([batch["row"].numpy() for batch in batches])])
        dice: np.ndarray = dice_from_counts(*counts.T)[seen]
        return dice


def _at_native_pixels(logits: Tensor) -> Tensor:
    """Logits of whole slices (slices, 1, 256, 256): of a crop padded, of 128 pixels enlarged."""
    size = logits.shape[-1]
    if size <= 128:
        return enlarge(logits, 256 // size)
    return torch.nn.functional.pad(logits, [(256 - size) // 2] * 4, value=-1.0)


def in_half(peer: str, device: torch.device) -> bool:
    """Whether a peer computes in bfloat16 on a device. ``monai-device`` did so on an H100 and
    collapsed (report/results/gpu.json)."""
    on_cuda = device.type == "cuda"
    return peer == "monai-tuned" and (on_cuda or choose_precision(Config()) == "bf16-mixed")


def scores(
    peer: str,
    cohort: Cohort,
    subsets: np.ndarray,
    workers: int,
    device: torch.device,
    slices_between: int,
    epochs: int = 0,
) -> Iterator[tuple[float, float]]:
    """Train for ever, or for so many ``epochs`` of ``slices_between`` slices; after each, the
    validation patients' mean Dice and the seconds that all scoring has taken so far."""
    train, validation = (np.flatnonzero(subsets == name) for name in ("train", "validation"))
    batches = loader(peer, cohort, train, workers, device, True)
    # Validation slices do not change: kept as batches, so that scoring costs the network alone.
    fixed = list(loader(peer, cohort, validation, 0, device, False))
    steps = epochs * -(-slices_between // BATCH)
    trainer, seen, scoring = Trainer(device, in_half(peer, device), steps), 0, 0.0
    endless = itertools.chain.from_iterable(itertools.repeat(batches))
    for step, batch in enumerate(itertools.islice(endless, steps or None), 1):
        trainer.step(batch)
        seen += len(batch["row"])
        if seen >= slices_between or step == steps:
            if device.type == "cuda":
                torch.cuda.synchronize()  # what is still to be trained is no scoring
            start, seen = time.perf_counter(), 0
            dice = float(trainer.patient_dice(cohort, fixed).mean())
            scoring += time.perf_counter() - start
            yield dice, scoring
