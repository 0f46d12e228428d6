"""Pictures of slices: of the simulated cohort, or of real patients on this machine alone.

What is drawn of real patients (``make report DATA=…``) stays in build/ and is never committed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke

from lggseg.data.cohort import Cohort, load_cohort
from lggseg.data.simulation import make_cohort
from lggseg.evaluation.segmentation import dice
from lggseg.evaluation.statistics import examples
from lggseg.inference.segmenter import Segmenter
from lggseg.preprocessing.volume import CHANNELS, FLAIR
from lggseg.utils.errors import DataError
from report.values import FAINT, PATIENTS

HERE = Path(__file__).resolve().parent
MODEL = HERE.parent / "models" / "lgg-unet"
MARGIN = 24  # pixels around a tumour
# Orange-red and light blue. They are not those of the palette, which the page replaces in the dark:
# the slice under an outline is the same there.
TRUTH, PREDICTION = "#d55f00", "#57b4e9"
HALO = [Stroke(linewidth=3.6, foreground="#000000b0"), Normal()]


@dataclass(frozen=True)
class Case:
    """A patient with the model's mask."""

    patient: str
    image: np.ndarray  # uint8 (slices, 256, 256, 3)
    truth: np.ndarray  # bool (slices, 256, 256)
    mask: np.ndarray

    @property
    def dice(self) -> float:
        """Dice over the whole volume."""
        return dice(self.truth, self.mask)


@cache
def simulated(out: Path) -> Cohort:
    """The simulated cohort of the report's pictures, made in ``out`` where it is not there yet."""
    tree = make_cohort(out / "simulated", patients=PATIENTS, seed=4, progress=False)
    return load_cohort(tree, progress=False)


@cache
def cases(out: Path) -> tuple[Case, ...]:
    """The best, the middle and the worst of the simulated patients by the committed model."""
    cohort, segmenter = simulated(out), Segmenter.load(MODEL)
    return ranked([case(cohort, segmenter, str(name)) for name in cohort.patients.index])


def case(cohort: Cohort, segmenter: Segmenter, patient: str) -> Case:
    """A patient as a model outlines it."""
    image = cohort.image(patient)
    return Case(patient, image, cohort.mask(patient), segmenter.predict(image).mask)


def ranked(found: list[Case]) -> tuple[Case, ...]:
    """The best, the middle and the worst."""
    order = sorted(found, key=lambda each: -each.dice)
    return order[0], order[len(order) // 2], order[-1]


def box(mask: np.ndarray, size: int = 256) -> tuple[slice, slice]:
    """Rows and columns of a square around a mask, ``MARGIN`` pixels wider at each side."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return slice(0, size), slice(0, size)
    half = max(np.ptp(rows), np.ptp(columns)) // 2 + MARGIN
    middles = [int(np.clip((p[0] + p[-1]) // 2, half, size - half)) for p in (rows, columns)]
    return tuple(slice(max(m - half, 0), min(m + half, size)) for m in middles)  # type: ignore[return-value]


def outline(axis: Axes, mask: np.ndarray, colour: str, style: str = "solid") -> None:
    """The outline of a mask, with a dark halo."""
    if mask.any():
        drawn = axis.contour(mask, levels=[0.5], colors=colour, linewidths=2, linestyles=style)
        drawn.set_path_effects(HALO)


def grey(axis: Axes, image: np.ndarray) -> None:
    """A slice in grey, as large as its axes."""
    axis.imshow(image, cmap="gray", vmin=0, vmax=max(float(np.percentile(image, 99.7)), 1))
    axis.set_axis_off()


def three(width: float, found: tuple[Case, ...], titles: tuple[str, ...] = ("",) * 3) -> Figure:
    """FLAIR around the tumour with the true outline and the predicted one, a panel per patient."""
    count = len(found)
    narrow = width < 5
    size = (width, width * count * 1.02) if narrow else (width, width / count + 0.25)
    shape = (count, 1) if narrow else (1, count)
    figure, axes = plt.subplots(*shape, figsize=size, squeeze=False, layout="constrained")
    for axis, shown, title in zip(axes.flat, found, titles, strict=True):
        place = int((shown.truth | shown.mask).sum(axis=(1, 2)).argmax())
        area = box(shown.truth[place] | shown.mask[place])
        grey(axis, shown.image[place, ..., FLAIR][area])
        outline(axis, shown.truth[place][area], TRUTH)
        outline(axis, shown.mask[place][area], PREDICTION, "dashed")
        axis.set_title(f"{title}Dice {shown.dice:.2f}", loc="center")
    return figure


def simulated_cases(width: float, out: Path) -> Figure:
    """The committed model on simulated patients: the best, the middle one and the worst."""
    return three(width, cases(out))


@cache
def provoked(out: Path) -> tuple[Case, ...]:
    """The best simulated patient as it is, with shading, and with a faint tumour.

    Shading multiplies grey levels by exp(-0.9) at one side of the image to exp(0.9) at the other;
    the faint tumour keeps ``FAINT`` of its difference from the median of the tissue around.
    """
    plain, segmenter = cases(out)[0], Segmenter.load(MODEL)
    levels = plain.image.astype(np.float32)
    shaded = levels * np.exp(np.linspace(-0.9, 0.9, levels.shape[2]))[:, None]
    tissue = levels[~plain.truth & (levels[..., FLAIR] > 30)]
    faint, typical = levels.copy(), np.median(tissue, axis=0)
    faint[plain.truth] = typical + FAINT * (levels[plain.truth] - typical)
    images = [np.clip(image, 0, 255).astype(np.uint8) for image in (shaded, faint)]
    found = [replace(plain, image=each, mask=segmenter.predict(each).mask) for each in images]
    return plain, *found


def provoked_failures(width: float, out: Path) -> Figure:
    """The committed model on one simulated patient, and on two changes of it that mislead it."""
    titles = ("unchanged\n", "one side brighter\n", "faint tumour\n")
    return three(width, provoked(out), titles)


def hero(width: float, out: Path) -> Figure:
    """What the README shows: a slice of a simulated patient, the mask, and both outlines."""
    shown = cases(out)[0]
    place = int(shown.truth.sum(axis=(1, 2)).argmax())
    figure, axes = plt.subplots(1, 3, figsize=(width, width / 3), layout="constrained")
    flair = shown.image[place, ..., FLAIR]
    area = box(shown.truth[place] | shown.mask[place])
    for axis in axes:
        grey(axis, flair[area] if axis is axes[2] else flair)
    axes[1].contourf(shown.mask[place], levels=[0.5, 1.5], colors=[PREDICTION], alpha=0.75)
    outline(axes[2], shown.truth[place][area], TRUTH)
    outline(axes[2], shown.mask[place][area], PREDICTION, "dashed")
    return figure


def simulated_channels(width: float, out: Path) -> Figure:
    """The three sequences of a simulated patient."""
    shown = cases(out)[0]
    place = int(shown.truth.sum(axis=(1, 2)).argmax())
    figure, axes = plt.subplots(1, 3, figsize=(width, width / 3 + 0.25), layout="constrained")
    for channel, (axis, name) in enumerate(zip(axes, CHANNELS, strict=True)):
        grey(axis, shown.image[place, ..., channel])
        axis.set_title(name, loc="center")
    return figure


def augmentation(width: float, out: Path) -> Figure:
    """One simulated slice as training sees it: as it is, and five draws of the augmentation."""
    import torch

    from lggseg.config import Config
    from lggseg.training.datamodule import DeviceCohort

    torch.manual_seed(0)
    cohort = simulated(out)
    on_device = DeviceCohort(cohort, Config(sequence_dropout=0.0), torch.device("cpu"))
    row = int(cohort.slices["tumour_pixels"].idxmax())
    batches = [on_device.batch(torch.tensor([row]), training=False)]
    batches.append(on_device.batch(torch.full((5,), row), training=True))
    images = torch.cat([batch.image for batch in batches])[:, FLAIR].numpy()
    masks = torch.cat([batch.mask for batch in batches])[:, 0].numpy()
    shape = (2, 3) if width < 5 else (1, 6)
    size = (width, shape[0] * width / shape[1])
    figure, axes = plt.subplots(*shape, figsize=size, layout="constrained")
    for axis, image, mask in zip(axes.flat, images, masks, strict=True):
        axis.imshow(image, cmap="gray", vmin=-0.2, vmax=float(np.percentile(images[0], 99.7)))
        axis.set_axis_off()
        outline(axis, mask > 0.5, TRUTH)
    return figure


@cache
def real(data: Path) -> tuple[Case, ...]:
    """The best, the middle and the worst test patient of test.csv, outlined by the committed model.

    Their scores in test.csv are of a model of the same recipe that did not train on them; the
    committed one may have. Raises ``DataError`` where the tree lacks them.
    """
    names = examples(pd.read_csv(HERE / "results" / "test.csv"))["patient"]
    cohort, segmenter = load_cohort(data), Segmenter.load(MODEL)
    if missing := sorted(set(names) - set(cohort.patients.index)):
        raise DataError(data, f"no patient {missing[0]}", "the real cohort", "Give kaggle_3m.")
    return tuple(case(cohort, segmenter, str(name)) for name in names)


def real_cases(width: float, data: Path) -> Figure:
    """The committed model on real patients: the best, the middle one and the worst of the test."""
    return three(width, real(data))
