"""The cohort lives on the device as uint8; a batch is an index.

No worker processes and no per-slice loop: a loader yields row numbers, and the gather, the warp
and the normalisation of a batch are a handful of operations on the device.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lggseg.config import Config
from lggseg.data.cohort import Cohort, select_patients
from lggseg.preprocessing import transforms
from lggseg.preprocessing.volume import channel_statistics
from lggseg.training import augmentation, distributed

# Slices that a GPU validates at once; a CPU is faster with fewer.
VALIDATION_BATCH = 128


@dataclass(frozen=True)
class Batch:
    """A batch on the device.

    image: float ``(slices, channels, size, size)``, normalised. mask: float in [0, 1]
    ``(slices, 1, size, size)``. rows: int64 ``(slices,)``, rows of the cohort.
    """

    image: Tensor
    mask: Tensor
    rows: Tensor


class DeviceCohort:
    """A cohort as uint8 tensors where they are used.

    pixels: ``(rows, 4, size, size)``, the three sequences and the mask, shrunk; truth:
    ``(rows, 1, 256, 256)``, 0 or 255; patient: int64 ``(rows,)``; background and scale: float32
    ``(patients, 3)``.

    Where the device's memory cannot hold the cohort, pixels and truth stay in the host's and each
    batch is copied, which is slower; ``resident`` says which of the two happened.
    """

    def __init__(
        self, cohort: Cohort, config: Config, device: torch.device, budget: int | None = None
    ) -> None:
        self.config, self.device = config, device
        pixels, truth = _shrunk(cohort, config.downsample), _masks(cohort)
        budget = memory_budget(device) if budget is None else budget
        needed = pixels.nbytes + truth.nbytes
        self.resident = needed <= budget
        if not self.resident:
            print(
                f"The cohort needs {needed / 2**20:.0f} MiB but {device} has "
                f"{budget / 2**20:.0f} MiB to spare: it stays in host memory (slower). "
                "A larger --downsample needs less."
            )
        if self.resident:
            pixels, truth = pixels.to(device), truth.to(device)
        self.pixels, self.truth = pixels, truth
        codes = pd.factorize(cohort.slices["patient"])[0]
        self.patient = torch.as_tensor(codes, device=device)
        bounds = [cohort.rows(patient) for patient in cohort.patients.index]
        self.first = torch.tensor([rows.start for rows in bounds], device=device)
        self.last = torch.tensor([rows.stop - 1 for rows in bounds], device=device)
        statistics = np.stack([channel_statistics(cohort.images[rows]) for rows in bounds])
        self.background, self.scale = torch.as_tensor(statistics, device=device).unbind(1)

    def for_config(self, config: Config) -> DeviceCohort:
        """The same tensors for another run, which differs in how it augments. Raises
        ``ValueError`` where it needs other pixels."""
        if config.downsample != self.config.downsample:
            raise ValueError(
                f"found downsample={config.downsample}, expected {self.config.downsample}"
            )
        other = copy.copy(self)
        other.config = config
        return other

    def take(self, tensor: Tensor, rows: Tensor) -> Tensor:
        """These rows of ``pixels`` or ``truth``, on the device of ``rows``."""
        if self.resident:
            return tensor[rows]
        # From pinned memory, so that the host need not wait for the copy.
        pinned = rows.is_cuda
        size = (len(rows), *tensor.shape[1:])
        picked = torch.empty(size, dtype=tensor.dtype, pin_memory=pinned)
        torch.index_select(tensor, 0, rows.cpu(), out=picked)
        return picked.to(rows.device, non_blocking=True)

    def gather(self, rows: Tensor) -> Tensor:
        """The network's raw channels and the mask: float, 0–255, ``(slices, channels + 1, size,
        size)``."""
        stack = self.take(self.pixels, rows)
        if self.config.neighbours:
            patient = self.patient[rows]
            near = transforms.neighbour_rows(rows, self.first[patient], self.last[patient])
            flair = self.pixels[:, transforms.FLAIR : transforms.FLAIR + 1]
            around = [self.take(flair, row) for row in near]
            stack = torch.cat([stack[:, :3], *around, stack[:, 3:]], dim=1)
        return stack.float()

    def batch(
        self, rows: Tensor, *, training: bool, generator: torch.Generator | None = None
    ) -> Batch:
        """The batch of these rows: normalised, and augmented when training, by random numbers of
        ``generator`` (default: torch's own)."""
        strength = self.config.augmentation if training else 0.0
        stack = self.gather(rows)
        if strength:
            # Before normalising, so that what comes in from outside is background.
            matrix = augmentation.random_affine(len(rows), strength, rows.device, generator)
            stack = augmentation.warp(stack, matrix)
        image, mask = stack[:, :-1], stack[:, -1:] / 255
        patient = self.patient[rows]
        background, scale = (
            transforms.with_neighbours(values[patient], self.config.neighbours)
            for values in (self.background, self.scale)
        )
        image = transforms.normalise(image, background, scale)
        if training and self.config.sequence_dropout:
            image = augmentation.drop_sequences(image, self.config.sequence_dropout, generator)
        if strength and self.config.paste:
            augmentation.paste_tumours(image, mask)
        if strength:
            image = augmentation.vary_intensity(image, strength, generator)
        return Batch(image.contiguous(memory_format=torch.channels_last), mask, rows)


def memory_budget(device: torch.device) -> int:
    """Bytes of the device that the cohort may take: 60 % of what a GPU has free."""
    if device.type == "cuda":
        return int(0.6 * torch.cuda.mem_get_info(device)[0])
    return 2**62


def _shrunk(cohort: Cohort, factor: int, chunk: int = 64) -> Tensor:
    rows, height, width = cohort.masks.shape
    shrunk = torch.empty((rows, 4, height // factor, width // factor), dtype=torch.uint8)
    for start in range(0, rows, chunk):
        batch = slice(start, start + chunk)
        for pixels, channels in (
            (cohort.images[batch], slice(0, 3)),
            (cohort.masks[batch, ..., None], slice(3, 4)),
        ):
            means = _means(torch.from_numpy(pixels), factor)
            shrunk[batch, channels] = means.permute(0, 3, 1, 2)
    return shrunk


def _means(pixels: Tensor, factor: int) -> Tensor:
    """What :func:`.transforms.shrink` gives of uint8 ``(slices, height, width, channels)``, in
    whole numbers: on two cores in a fourth of the time. factor: 1, 2 or 4."""
    if factor == 1:
        return pixels
    pixels = pixels.short()
    rows = functools.reduce(torch.add, [pixels[:, i::factor] for i in range(factor)])
    sums = functools.reduce(torch.add, [rows[:, :, i::factor] for i in range(factor)])
    count = factor**2
    bits = count.bit_length() - 1
    # Half to even, as torch rounds.
    return (sums + count // 2 - 1 + ((sums >> bits) & 1)) >> bits


def _masks(cohort: Cohort) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(cohort.masks))[:, None]


class TrainingRows:
    """Yields the row numbers of one batch after another: all tumour slices and a fresh draw of
    tumour-free ones each epoch.

    The order depends on the seed and the epoch alone. ``steps`` tells how many batches the run
    has trained on, so that an interrupted run goes on with the very next one. Of several processes
    each draws from its own rows, as many batches as the others, which together have
    ``config.batch_size`` rows; raises ``ValueError`` where a process has fewer rows than batches.
    """

    def __init__(
        self, tumour: np.ndarray, healthy: np.ndarray, config: Config, steps: Callable[[], int]
    ) -> None:
        self.tumour, self.healthy, self.config, self.steps = tumour, healthy, config, steps
        wanted = round(config.healthy_ratio * len(tumour))
        self.healthy_per_epoch = min(wanted, len(healthy)) if len(tumour) else len(healthy)
        rows = distributed.of_all(len(tumour) + self.healthy_per_epoch)
        per_process = max(1, config.batch_size // len(rows))
        self.batches = max(math.ceil(own / per_process) for own in rows)
        if len(rows) > 1 and min(rows) < self.batches:
            raise ValueError(
                f"{len(rows)} processes: found one with {min(rows)} slices to train on, expected "
                f"at least {self.batches}, one for each batch. Start fewer processes."
            )

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Tensor]:
        epoch, done = divmod(self.steps(), len(self))
        rng = np.random.default_rng([self.config.seed, epoch, distributed.rank()])
        healthy = rng.choice(self.healthy, self.healthy_per_epoch, replace=False)
        rows = torch.from_numpy(rng.permutation(np.concatenate([self.tumour, healthy])))
        # Batches of nearly the same size: batch normalisation dislikes a last batch of one.
        yield from rows.tensor_split(len(self))[done:]


class CohortDataModule(pl.LightningDataModule):
    """Serves batches of a cohort from the device that trains.

    subsets: one label per slice of the cohort, ``train``, ``validation`` or anything else (unused).
    Of several processes each serves, and keeps on its device, its own patients.
    """

    def __init__(self, cohort: Cohort, subsets: np.ndarray, config: Config) -> None:
        super().__init__()
        self.cohort, self.subsets = own_share(cohort, subsets)
        self.config = config
        self.on_device: DeviceCohort | None = None

    def setup(self, stage: str) -> None:
        assert self.trainer is not None
        if self.on_device is None:
            device = self.trainer.strategy.root_device
            self.on_device = DeviceCohort(self.cohort, self.config, device)

    def train_dataloader(self) -> TrainingRows:
        return training_rows(self.cohort, self.subsets, self.config, self._steps_done)

    def _steps_done(self) -> int:
        assert self.trainer is not None
        return self.trainer.lightning_module.steps_done  # type: ignore[return-value]

    def val_dataloader(self) -> DataLoader[Tensor]:
        rows = torch.from_numpy(np.flatnonzero(self.subsets == "validation"))
        assert self.trainer is not None
        on_cpu = self.trainer.strategy.root_device.type == "cpu"
        size = 2 * self.config.batch_size if on_cpu else VALIDATION_BATCH
        batches = rows.split(size) if len(rows) else ()
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def training_rows(
    cohort: Cohort, subsets: np.ndarray, config: Config, steps: Callable[[], int]
) -> TrainingRows:
    """The batches of the slices labelled ``train`` that are not blank."""
    rows = np.flatnonzero(subsets == "train")
    slices = cohort.slices.iloc[rows]
    tumour = slices["tumour_pixels"].to_numpy() > 0
    healthy = ~tumour & ~slices["blank"].to_numpy()
    return TrainingRows(rows[tumour], rows[healthy], config, steps)


def own_share(cohort: Cohort, subsets: np.ndarray) -> tuple[Cohort, np.ndarray]:
    """The patients that this process trains and validates on.

    Each process gets its share of both subsets, balanced by tumour slices and by slices.

    Args:
        cohort: All patients.
        subsets: One label per slice of the cohort.

    Returns:
        The cohort of these patients, and the labels of their slices.

    Raises:
        ValueError: There are more processes than patients of a subset.
    """
    count = distributed.processes()
    if count == 1:
        return cohort, subsets
    names = cohort.slices["patient"]
    own: set[str] = set()
    for subset, weight in (("train", "tumour_slices"), ("validation", "slices")):
        patients = cohort.patients.loc[names[subsets == subset].unique(), weight]
        if 0 < len(patients) < count:
            raise ValueError(
                f"{count} processes: found {len(patients)} patients for {subset}, expected one for "
                "each process. Start fewer processes."
            )
        owner = distributed.shares(patients + 1, count)
        own.update(owner.index[owner == distributed.rank()])
    return select_patients(cohort, own), subsets[names.isin(own).to_numpy()]
