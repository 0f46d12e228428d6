"""What a search varies, and within which limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """Values of a knob from ``low`` to ``high``; ``log``: as many between 1 and 2 as 10 and 20."""

    low: float
    high: float
    log: bool = False

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}{', logarithmic' if self.log else ''}"

    def __contains__(self, value: Any) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Choice:
    """Values of a knob to choose from."""

    values: tuple[Any, ...]

    def __str__(self) -> str:
        return ", ".join(str(value) for value in self.values)

    def __contains__(self, value: Any) -> bool:
        return value in self.values


# What a search varies: Optuna here (lggseg.experiments.search), SageMaker's tuner there
# (sagemaker_ranges).
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


def sagemaker_ranges() -> dict[str, list[dict[str, Any]]]:
    """The search space as ``ParameterRanges`` of SageMaker's CreateHyperParameterTuningJob, whose
    values are strings."""
    continuous, categorical = [], []
    for name, space in SEARCH_SPACE.items():
        if isinstance(space, Choice):
            categorical.append({"Name": name, "Values": [str(value) for value in space.values]})
        else:
            scaling = "Logarithmic" if space.log else "Linear"
            limits = {"MinValue": str(space.low), "MaxValue": str(space.high)}
            continuous.append({"Name": name, **limits, "ScalingType": scaling})
    return {"ContinuousParameterRanges": continuous, "CategoricalParameterRanges": categorical}
