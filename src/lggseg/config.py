"""Every knob of a training run: one typed, frozen dataclass and three profiles of it.

The same names are the command-line options (``--learning-rate``), SageMaker's hyperparameters
(which arrive as strings) and the tracker's config.
"""

from __future__ import annotations

import argparse
import math
import numbers
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from lggseg.utils.errors import DataError
from lggseg.utils.files import read_json, write_json


def _knob(
    default: Any,
    help: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    choices: tuple[Any, ...] = (),
) -> Any:
    limits = {"low": low, "high": high, "choices": choices}
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True)
class Config:
    """What a run trains and how. Raises ``ValueError`` that names the knob when a value is off.

    >>> Config(epochs=12, downsample=4).size
    64
    >>> Config(dropout=1.5)
    Traceback (most recent call last):
    ValueError: dropout=1.5: expected a value from 0 to 1
    """

    network: str = _knob("unet", "network, a name in lggseg.models.NETWORKS")
    width: int = _knob(32, "filters of the first level; each deeper level doubles them", low=2)
    dropout: float = _knob(0.0, "dropout probability inside the network", low=0, high=1)
    neighbours: bool = _knob(True, "add FLAIR of the slice above and below as channels")
    downsample: int = _knob(2, "train at 256 / downsample pixels", choices=(1, 2, 4))
    loss: str = _knob("dice_bce", "loss, a name in lggseg.models.LOSSES")
    optimizer: str = _knob("muon", "muon (with AdamW) or AdamW alone", choices=("muon", "adamw"))
    epochs: int = _knob(40, "passes over the training slices", low=1)
    batch_size: int = _knob(16, "slices a step", low=1)
    learning_rate: float = _knob(3e-3, "peak of the one-cycle schedule", low=0)
    weight_decay: float = _knob(0.3, "decoupled weight decay", low=0)
    healthy_ratio: float = _knob(0.7, "tumour-free slices an epoch, per tumour slice", low=0)
    augmentation: float = _knob(1.5, "strength of the augmentation; 0 switches it off", low=0)
    paste: bool = _knob(True, "copy tumours into other slices, as part of the augmentation")
    sequence_dropout: float = _knob(
        0.2, "probability of FLAIR instead of another sequence", low=0, high=1
    )
    ema_decay: float = _knob(0.99, "decay of the averaged weights", low=0, high=1)
    test_flips: bool = _knob(True, "average the prediction with that of the mirrored slice")
    threshold: float = _knob(0.5, "probability from which a pixel is tumour", low=0, high=1)
    smallest_part: float = _knob(
        0.1, "drop parts smaller than this share of the largest", low=0, high=1
    )
    fold: int = _knob(0, "the fold that validates, the others train; -1: all train", low=-1)
    seed: int = _knob(0, "of the weights, the batches and the augmentation", low=0)
    precision: str = _knob(
        "auto", "auto measures and picks", choices=("auto", "32-true", "bf16-mixed", "16-mixed")
    )
    accelerator: str = _knob("auto", "where to train", choices=("auto", "cpu", "gpu", "mps"))
    deterministic: bool = _knob(False, "only deterministic kernels (slower on a GPU)")
    tracker: str = _knob("csv", "wandb is offline without a key", choices=("csv", "wandb"))

    def __post_init__(self) -> None:
        for knob in fields(self):
            value, choices = getattr(self, knob.name), knob.metadata["choices"]
            low, high = knob.metadata["low"], knob.metadata["high"]
            typed = _typed(value, str(knob.type))
            if typed is None:
                raise ValueError(f"{knob.name}={value!r}: expected a value of type {knob.type}")
            if choices and value not in choices:
                raise ValueError(f"{knob.name}={value!r}: expected one of {choices}")
            finite = not isinstance(typed, float) or math.isfinite(typed)
            if not finite or (not isinstance(value, str) and not low <= value <= high):
                raise ValueError(f"{knob.name}={value!r}: expected a value from {low} to {high}")
            object.__setattr__(self, knob.name, typed)

    @property
    def channels(self) -> int:
        """Channels that the network sees: three sequences, and FLAIR of the two neighbours."""
        return 5 if self.neighbours else 3

    @property
    def size(self) -> int:
        """Height and width that the network sees, in pixels."""
        return 256 // self.downsample

    def to_strings(self) -> dict[str, str]:
        """The knobs as SageMaker wants hyperparameters: every value a string."""
        return {name: str(value) for name, value in asdict(self).items()}

    @classmethod
    def from_strings(cls, values: Mapping[str, str], base: Config | None = None) -> Config:
        """``base`` (default: the defaults) with the given knobs parsed from strings.

        Raises ``ValueError`` on an unknown knob or a value of the wrong type.
        """
        kinds = {knob.name: knob.type for knob in fields(cls)}
        unknown = sorted(set(values) - set(kinds))
        if unknown:
            raise ValueError(f"unknown knob {unknown[0]!r}: expected one of {sorted(kinds)}")
        parsed = {name: _parse(name, kinds[name], text) for name, text in values.items()}
        return replace(base or cls(), **parsed)

    def save(self, path: Path) -> None:
        """Write the knobs as JSON."""
        write_json(asdict(self), path)

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read what :meth:`save` wrote; ``DataError`` when another version did, or nobody."""
        action = "Restore the file, or start a new run."
        values = read_json(path, action)
        odd = sorted(set(values) ^ {knob.name for knob in fields(cls)})
        if odd:
            found = f"the knobs of another version (one differs: {odd[0]!r})"
            raise DataError(path, found, "those of this version", action)
        try:
            return cls(**values)
        except ValueError as error:
            raise DataError(path, f"a wrong knob ({error})", "what was saved", action) from error


def _typed(value: Any, kind: str) -> Any:
    """A value as its knob's type, ``None`` where it is of another: NumPy's numbers are numbers, and
    ``True`` is none."""
    abstract = {"int": numbers.Integral, "float": numbers.Real, "bool": bool, "str": str}[kind]
    if not isinstance(value, abstract) or (kind != "bool" and isinstance(value, bool)):
        return None
    try:
        return {"int": int, "float": float, "bool": bool, "str": str}[kind](value)
    except OverflowError:  # an integer of hundreds of digits
        return None


def _parse(name: str, kind: Any, text: str) -> Any:
    # SageMaker's tuner wraps strings in another pair of quotes.
    text = str(text).strip().strip('"')
    if kind == "bool":
        if text.lower() not in ("true", "false", "1", "0"):
            raise ValueError(f"{name}={text!r}: expected true or false")
        return text.lower() in ("true", "1")
    try:
        return {"int": int, "float": float, "str": str}[kind](text)
    except ValueError:
        raise ValueError(f"{name}={text!r}: expected a value of type {kind}") from None


PROFILES: dict[str, Config] = {
    # Seconds: proves that everything runs.
    "smoke": Config(downsample=4, width=8, epochs=2, ema_decay=0.5),
    # A minute on two cores: the embedded simulated cohort.
    "demo": Config(downsample=4, epochs=12, ema_decay=0.95),
    # The real cohort, on two cores or a GPU.
    "full": Config(),
}


def profile(name: str) -> Config:
    """The config of the profile ``smoke``, ``demo`` or ``full``; ``ValueError`` otherwise."""
    if name not in PROFILES:
        raise ValueError(f"profile {name!r}: expected one of {sorted(PROFILES)}")
    return PROFILES[name]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--profile`` and one option per knob of :class:`Config`."""
    parser.add_argument("--profile", default="full", choices=sorted(PROFILES), help="start from")
    group = parser.add_argument_group("knobs (default: the profile's)")
    for knob in fields(Config):
        flag, kind = "--" + knob.name.replace("_", "-"), str(knob.type).upper()
        group.add_argument(flag, metavar=kind, help=knob.metadata["help"])


def from_options(options: argparse.Namespace) -> Config:
    """The config that the parsed options of :func:`add_options` ask for."""
    given = {knob.name: getattr(options, knob.name) for knob in fields(Config)}
    strings = {name: text for name, text in given.items() if text is not None}
    return Config.from_strings(strings, base=profile(options.profile))


def from_hyperparameters(values: Mapping[str, str]) -> Config:
    """The config that the hyperparameters of a SageMaker job ask for: knobs, and ``profile``
    (default: full), all of them strings. Those that SageMaker adds for itself are left out.

    Raises ``ValueError`` on an unknown knob or a wrong value.

    >>> config = from_hyperparameters({"profile": "smoke", "epochs": "5", "paste": "false"})
    >>> config.epochs, config.paste, config.width
    (5, False, 8)
    """
    own = {name: text for name, text in values.items() if not name.startswith(_SAGEMAKERS)}
    name = _parse("profile", "str", own.pop("profile", "full"))
    return Config.from_strings(own, base=profile(name))


# The SDK's settings, and what the tuner says of its objective.
_SAGEMAKERS = ("sagemaker_", "_tuning_")
