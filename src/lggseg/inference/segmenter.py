"""Volume in, mask out: :class:`Segmenter`, a loaded model folder.

The model folder holds ``model.onnx``, ``weights.safetensors`` and ``model_card.json``; nothing
in it is a pickle. The exported graph holds all pixel arithmetic (shrink, normalise, network, mirror
average, enlarge, sigmoid), so both engines run the very operations that training ran. A server
does without torch and pandas, so they are imported where they are used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from lggseg.config import Config
from lggseg.evaluation.quality import UNCALIBRATED, Quality
from lggseg.inference.engines import onnx_engine, torch_engine
from lggseg.inference.model_folder import CARD, OLD_CARD, Engine, read_card
from lggseg.preprocessing.postprocessing import drop_small_components
from lggseg.preprocessing.volume import FLAIR, SIZE, channel_statistics, stack_channels

# Slices that the network sees at once.
BATCH = 16


@dataclass(frozen=True)
class Prediction:
    """mask: bool ``(slices, 256, 256)``, where the probability reaches the threshold, without small
    components; probability: float32 of the same shape; quality: what estimates its Dice."""

    mask: np.ndarray
    probability: np.ndarray
    quality: Quality = UNCALIBRATED

    @classmethod
    def of(
        cls,
        probability: np.ndarray,
        threshold: float,
        min_component_fraction: float,
        quality: Quality = UNCALIBRATED,
    ) -> Prediction:
        """The prediction that the probability of a whole volume gives."""
        mask = drop_small_components(probability >= threshold, min_component_fraction)
        return cls(mask, probability, quality)

    @cached_property
    def expected_dice(self) -> float:
        """An estimate of the mask's Dice (:class:`lggseg.evaluation.quality.Quality`)."""
        return self.quality.estimate(self.probability)

    @property
    def needs_review(self) -> bool:
        """Whether the estimate is as low as that of the fifth of the patients with the lowest."""
        return self.expected_dice < self.quality.review_below


@dataclass(frozen=True)
class Segmenter:
    """A loaded model folder. ``card`` is its whole model card."""

    config: Config
    card: dict[str, Any]
    run: Engine

    @property
    def quality(self) -> Quality:
        """What estimates the Dice of this model's masks."""
        return Quality.of(self.card.get("quality", {}))

    @property
    def fingerprint(self) -> str:
        """The same for the same model card but for what was measured with it since training."""
        measured = ("train", "validation", "test", "evaluation", "checksums")
        facts = {name: value for name, value in self.card.items() if name not in measured}
        # Without that of the card, which holds what was measured.
        kept = self.card.get("checksums", {})
        files = {name: checksum for name, checksum in kept.items() if name != CARD}
        # Under the old name, so that a renamed card changes no fingerprint.
        facts["files"] = {**files, OLD_CARD: ""}
        text = json.dumps([asdict(self.config), facts], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    @classmethod
    def load(cls, folder: Path | str, engine: str = "onnx") -> Segmenter:
        """Load a model folder with the engine ``onnx`` (default) or ``torch``.

        Raises ``DataError`` that names the file which is missing, was changed or cannot run: two
        slices are tried.

        >>> Segmenter.load("models/lgg-unet").config.network
        'unet'
        """
        folder = Path(folder)
        config, card = read_card(folder)
        open_engine = {"onnx": onnx_engine, "torch": torch_engine}[engine]
        return cls(config, card, open_engine(folder, config))

    @classmethod
    def ensemble(cls, folders: Sequence[Path | str]) -> Segmenter:
        """The mean probability of several models that take the same channels, such as those of all
        folds; threshold and the rest are the first's. Raises ``ValueError`` for other channels."""
        members = [cls.load(folder) for folder in folders]
        channels = [member.config.channels for member in members]
        if len(set(channels)) != 1:
            raise ValueError(f"found models of {channels} channels, expected the same for all")

        def run(*inputs: np.ndarray) -> np.ndarray:
            return cast(np.ndarray, sum(member.run(*inputs) for member in members) / len(members))

        return cls(members[0].config, members[0].card, run)

    def predict(self, volume: np.ndarray, slice_stride: int = 1) -> Prediction:
        """Segment a volume: uint8 ``(slices, 256, 256, 3)``, pre-contrast, FLAIR, post-contrast.

        Normalisation is per volume: give all slices of a patient at once, in order.

        Args:
            volume: What to segment.
            slice_stride: How many slices away the neighbours are that the network sees. For thin
                slices they should be as far as in training
                (:attr:`lggseg.data.nifti.Scan.slice_stride`).

        Raises:
            ValueError: The volume has another shape or dtype.

        >>> from lggseg.data.simulation import make_patient, plan_cohort
        >>> from lggseg.evaluation import dice
        >>> volume, truth = make_patient(plan_cohort(patients=1, seed=0)[0])
        >>> prediction = Segmenter.load("models/lgg-unet").predict(volume)
        >>> prediction.mask.shape == prediction.probability.shape == truth.shape
        True
        >>> dice(truth, prediction.mask) > 0.7
        True
        """
        if volume.dtype != np.uint8 or volume.ndim != 4 or volume.shape[1:] != (SIZE, SIZE, 3):
            raise ValueError(
                f"volume: found {volume.dtype} {volume.shape}, "
                f"expected uint8 (slices, {SIZE}, {SIZE}, 3)"
            )
        probability = self.probability(
            volume, channel_statistics(volume), slice_stride=slice_stride
        )
        return self.prediction(probability)

    def prediction(self, probability: np.ndarray, threshold: float | None = None) -> Prediction:
        """The prediction that the tumour probability of a whole volume gives, at the model's
        threshold or another."""
        threshold = self.config.threshold if threshold is None else threshold
        smallest = self.config.min_component_fraction
        return Prediction.of(probability, threshold, smallest, self.quality)

    def probability(
        self,
        chunk: np.ndarray,
        statistics: np.ndarray,
        context: tuple[int, int] = (0, 0),
        slice_stride: int = 1,
    ) -> np.ndarray:
        """The tumour probability of consecutive slices of a volume: float32 ``(slices, 256, 256)``.

        statistics: :func:`lggseg.preprocessing.volume.channel_statistics` of the whole volume.
        context: so many slices at the start and the end of ``chunk`` are only neighbours of the
        others and are left out of the answer. slice_stride: see :meth:`predict`.
        """
        if self.config.neighbours:
            statistics = np.concatenate([statistics, statistics[:, [FLAIR, FLAIR]]], axis=1)
        image = stack_channels(chunk, self.config.neighbours, slice_stride)
        image = image[context[0] : len(chunk) - context[1]]
        background, scale = statistics[:1], statistics[1:]
        batches = [
            self.run(image[start : start + BATCH], background, scale)
            for start in range(0, len(image), BATCH)
        ]
        return np.concatenate(batches)
