"""What a user would pick instead: MONAI's pipeline as its documentation shows it.

``monai``: CacheDataset, a chain of dictionary transforms, a DataLoader with workers; MONAI's UNet
with 32 filters, DiceFocal loss, AdamW at 1e-3, batch 16, 224 × 224 pixels, 32 bits, every slice.
``monai-device``: the same with everything cached on the device and transformed there
(``ThreadDataLoader``), without the bookkeeping of MetaTensors, in bfloat16 on a GPU.

Both are spared the reading of files, since their slices come from the memory-mapped cohort, which
only makes them faster. Both are scored as ours is: Dice per patient over whole volumes of
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

from lggseg.data.cohort import Cohort
from lggseg.evaluation.segmentation import dice_from_counts

SIZE, BATCH = 224, 16
PEERS = ("monai", "monai-device")
_KEYS = ("image", "mask")


def _fixed(device: torch.device | None) -> list[Any]:
    return [
        mt.EnsureChannelFirstd(_KEYS, channel_dim=-1),
        mt.CenterSpatialCropd(_KEYS, roi_size=(SIZE, SIZE)),
        mt.NormalizeIntensityd("image", nonzero=True, channel_wise=True),
        mt.ScaleIntensityd("mask", minv=0.0, maxv=1.0),
        mt.EnsureTyped(_KEYS, dtype=torch.float32, device=device),
    ]


def _random() -> list[Any]:
    return [
        mt.RandFlipd(_KEYS, prob=0.5, spatial_axis=1),
        mt.RandAffined(
            _KEYS,
            prob=0.5,
            rotate_range=0.35,
            scale_range=(0.15, 0.15),
            shear_range=(0.1, 0.1),
            translate_range=(13, 13),
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
    resident = peer == "monai-device"
    set_track_meta(not resident)
    chain = mt.Compose(_fixed(device if resident else None) + (_random() if training else []))
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
    """A plain loop, in fp32 or with automatic mixed precision."""

    def __init__(self, device: torch.device, half: bool = False) -> None:
        self.device, self.network, self.half = device, network().to(device), half
        self.loss = DiceFocalLoss(sigmoid=True)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3)

    def step(self, batch: dict[str, Tensor]) -> Tensor:
        """One optimiser step; returns the loss."""
        image, mask = (batch[key].to(self.device) for key in _KEYS)
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            logits = self.network(image)
        loss: Tensor = self.loss(logits.float(), mask)
        loss.backward()
        self.optimizer.step()
        return loss

    @torch.inference_mode()
    def patient_dice(self, cohort: Cohort, batches: Any) -> np.ndarray:
        """Dice of every patient in the batches, over whole volumes at native pixels."""
        self.network.eval()
        counts = np.zeros((len(cohort.patients), 3))
        patient = cohort.patients.index.get_indexer(cohort.slices["patient"])
        for batch in batches:
            logits = self.network(batch["image"].to(self.device))
            edge = (256 - SIZE) // 2
            found = torch.nn.functional.pad(logits > 0, [edge] * 4)[:, 0].cpu().numpy()
            rows = batch["row"].numpy()
            truth = cohort.masks[rows] > 0
            cases = (found & truth, found & ~truth, ~found & truth)
            for column, case in enumerate(cases):
                np.add.at(counts[:, column], patient[rows], case.sum(axis=(1, 2)))
        self.network.train()
        seen = np.unique(patient[np.concatenate([batch["row"].numpy() for batch in batches])])
        dice: np.ndarray = dice_from_counts(*counts.T)[seen]
        return dice


def scores(
    peer: str,
    cohort: Cohort,
    subsets: np.ndarray,
    workers: int,
    device: torch.device,
    slices_between: int,
) -> Iterator[tuple[float, float]]:
    """Train for ever; every so many slices, the validation patients' mean Dice and the seconds
    that all scoring has taken so far."""
    train, validation = (np.flatnonzero(subsets == name) for name in ("train", "validation"))
    batches = loader(peer, cohort, train, workers, device, True)
    # Validation slices do not change: kept as batches, so that scoring costs the network alone.
    fixed = list(loader(peer, cohort, validation, 0, device, False))
    half = peer == "monai-device" and device.type == "cuda"
    trainer, seen, scoring = Trainer(device, half), 0, 0.0
    for batch in itertools.chain.from_iterable(itertools.repeat(batches)):
        trainer.step(batch)
        seen += len(batch["row"])
        if seen >= slices_between:
            start, seen = time.perf_counter(), 0
            dice = float(trainer.patient_dice(cohort, fixed).mean())
            scoring += time.perf_counter() - start
            yield dice, scoring
