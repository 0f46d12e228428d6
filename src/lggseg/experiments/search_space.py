"""What a search varies, and within which limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """Values of a hyperparameter from ``low`` to ``high``; ``log``: sampled uniformly on a
    logarithmic scale."""

    low: float
    high: float
    log: bool = False

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}{', logarithmic' if self.log else ''}"

    def __contains__(self, value: Any) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Choice:
    """Values of a hyperparameter to choose from."""

    values: tuple[Any, ...]

    def __str__(self) -> str:
        return ", ".join(str(value) for value in self.values)

    def __contains__(self, value: Any) -> bool:
        return value in self.values


# What a search varies: Optuna here (lggseg.experiments.search), SageMaker's tuner there
# (lggseg.cloud.aws.tuning_jobs).
SEARCH_SPACE: dict[str, Range | Choice] = {
    "learning_rate": Range(5e-4, 2e-2, log=True),
    "weight_decay": Range(1e-3, 1.0, log=True),
    "dropout": Range(0.0, 0.3),
    "width": Choice((16, 24, 32, 48)),
    "batch_size": Choice((8, 16, 32)),
    "loss": Choice(("dice_bce", "dice_focal", "tversky")),
    "augmentation": Range(0.5, 2.5),
    "sequence_dropout": Range(0.0, 0.4),
    "healthy_ratio": Range(0.3, 1.5),
    "paste": Choice((True, False)),
}
