"""Every hyperparameter of a training run: one typed, frozen config and three profiles of it.

The same names are the command-line options (``--learning-rate``), SageMaker's hyperparameters
(which arrive as strings) and the tracker's config.
"""

from __future__ import annotations

import argparse
import functools
import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, field_validator
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo
from pydantic_core import PydanticKnownError

from lggseg.utils.errors import DataError
from lggseg.utils.files import read_json, write_json

# A probability, or a fraction of a whole.
Share = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
_Class = TypeVar("_Class", bound=type)


def _errors_as_sentences(cls: _Class) -> _Class:
    """Let a pydantic dataclass take NumPy's numbers, and raise a ``ValueError`` of one sentence."""
    validate: Callable[..., None] = cls.__init__  # type: ignore[misc]

    @functools.wraps(validate)
    def init(self: Any, *values: Any, **named: Any) -> None:
        try:
            validate(self, *map(_plain, values), **{k: _plain(v) for k, v in named.items()})
        except ValidationError as error:
            raise ValueError(_sentence(error)) from None

    cls.__init__ = init  # type: ignore[misc]
    return cls


@_errors_as_sentences
@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class Config:
    """What a run trains and how.

    Raises:
        ValueError: The value of a hyperparameter has another type or lies outside its limits.

    >>> Config(epochs=12, downsample=4).size
    64
    >>> Config(dropout=1.5)
    Traceback (most recent call last):
    ValueError: dropout=1.5: expected a value from 0 to 1
    >>> Config(epochs="5")
    Traceback (most recent call last):
    ValueError: epochs='5': expected a value of type int
    """

    network: str = Field(default="unet", description="network, a name in lggseg.models.NETWORKS")
    width: int = Field(
        default=32, description="filters of the first level; each deeper level doubles them", ge=2
    )
    dropout: Share = Field(default=0.0, description="dropout probability inside the network")
    neighbours: bool = Field(
        default=True, description="add FLAIR of the slice above and below as channels"
    )
    downsample: int = Field(default=2, description="train at 256 / downsample pixels: 1, 2 or 4")
    loss: str = Field(default="dice_bce", description="loss, a name in lggseg.models.LOSSES")
    optimizer: Literal["muon", "adamw"] = Field(
        default="muon", description="muon (with AdamW) or AdamW alone"
    )
    epochs: int = Field(default=40, description="passes over the training slices", ge=1)
    batch_size: int = Field(default=16, description="slices per step", ge=1)
    learning_rate: float = Field(default=3e-3, description="peak of the one-cycle schedule", ge=0)
    weight_decay: float = Field(default=0.3, description="decoupled weight decay", ge=0)
    healthy_ratio: float = Field(
        default=0.7, description="tumour-free slices per tumour slice, in each epoch", ge=0
    )
    augmentation: float = Field(
        default=1.5, description="strength of the augmentation; 0 switches it off", ge=0
    )
    paste: bool = Field(
        default=True, description="copy tumours into other slices, as part of the augmentation"
    )
    sequence_dropout: Share = Field(
        default=0.2, description="probability of FLAIR instead of another sequence"
    )
    ema_decay: Share = Field(default=0.99, description="decay of the averaged weights")
    test_flips: bool = Field(
        default=True, description="average the prediction with that of the mirrored slice"
    )
    threshold: Share = Field(default=0.6, description="probability from which a pixel is tumour")
    min_component_fraction: Share = Field(
        default=0.5, description="drop connected components smaller than this share of the largest"
    )
    fold: int = Field(
        default=0, description="the fold that validates, the others train; -1: all train", ge=-1
    )
    seed: int = Field(
        default=0, description="of the weights, the batches and the augmentation", ge=0
    )
    precision: Precision = Field(default="auto", description="auto measures and picks")
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = Field(
        default="auto", description="where to train"
    )
    deterministic: bool = Field(
        default=False, description="only deterministic kernels (slower on a GPU)"
    )
    tracker: Literal["csv", "wandb"] = Field(
        default="csv", description="wandb is offline without a key"
    )

    @field_validator("downsample")
    @classmethod
    def _halves(cls, value: int) -> int:
        # Literal[1, 2, 4] would take True and 2.0 as well.
        if value not in (1, 2, 4):
            raise PydanticKnownError("literal_error", {"expected": "1, 2 or 4"})
        return value

    @property
    def channels(self) -> int:
        """Channels that the network sees: three sequences, and FLAIR of the two neighbours."""
        return 5 if self.neighbours else 3

    @property
    def size(self) -> int:
        """Height and width that the network sees, in pixels."""
        return 256 // self.downsample

    def to_strings(self) -> dict[str, str]:
        """The hyperparameters as SageMaker wants them: every value a string."""
        return {name: str(value) for name, value in asdict(self).items()}

    @classmethod
    def from_strings(cls, values: Mapping[str, str], base: Config | None = None) -> Config:
        """Parse hyperparameters from strings.

        Args:
            values: Names and values, also in quotes.
            base: What the other hyperparameters are taken from (default: the defaults).

        Raises:
            ValueError: A name is unknown, or a value has the wrong type or lies outside its limits.
        """
        given = {name: _unquoted(text) for name, text in values.items()}
        try:
            return TypeAdapter(cls).validate_strings({**(base or cls()).to_strings(), **given})
        except ValidationError as error:
            raise ValueError(_sentence(error)) from None

    @classmethod
    def from_saved(cls, values: Mapping[str, Any]) -> Config:
        """The config of values that this version or an earlier one saved; raises ``ValueError``."""
        return cls(**_renamed(values))

    def save(self, path: Path) -> None:
        """Write the hyperparameters as JSON."""
        write_json(asdict(self), path)

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read what :meth:`save` wrote; ``DataError`` when another version did, or nobody."""
        action = "Restore the file, or start a new run."
        values = _renamed(read_json(path, action))
        differing = sorted(set(values) ^ {field.name for field in fields(cls)})
        if differing:
            found = f"the hyperparameters of another version (one differs: {differing[0]!r})"
            raise DataError(path, found, "those of this version", action)
        try:
            return cls(**values)
        except ValueError as error:
            found = f"a wrong hyperparameter ({error})"
            raise DataError(path, found, "what was saved", action) from error


# What version 0.1 called them.
_OLD_NAMES = {"smallest_part": "min_component_fraction"}


def _renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {_OLD_NAMES.get(name, name): value for name, value in values.items()}


def _plain(value: Any) -> Any:
    """A number of NumPy as one of Python, all else as it is."""
    if isinstance(value, bool | int | float) and type(value).__module__ == "builtins":
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


def _unquoted(text: object) -> str:
    """A string as it is meant: SageMaker's tuner wraps a value in another pair of quotes."""
    return str(text).strip().strip('"')


def _sentence(error: ValidationError) -> str:
    """The first mistake, such as ``dropout=1.5: expected a value from 0 to 1``."""
    mistake = error.errors(include_url=False)[0]
    name, kind = mistake["loc"][0], mistake["type"]
    known = _fields()
    if name not in known:
        return f"unknown hyperparameter {name!r}: expected one of {sorted(known)}"
    field = known[str(name)]
    if kind == "literal_error":
        expected = mistake["ctx"]["expected"]
    elif kind in ("greater_than_equal", "less_than_equal", "finite_number"):
        low = next((limit.ge for limit in field.metadata if hasattr(limit, "ge")), -math.inf)
        high = next((limit.le for limit in field.metadata if hasattr(limit, "le")), math.inf)
        expected = f"a value from {low} to {high}"
    elif kind == "bool_parsing":
        expected = "true or false"
    else:
        expected = f"a value of type {_type_name(field.annotation)}"
    return f"{name}={mistake['input']!r}: expected {expected}"


def _fields() -> dict[str, FieldInfo]:
    return dict(vars(Config)["__pydantic_fields__"])


def _type_name(annotation: Any) -> str:
    return str(getattr(annotation, "__name__", annotation))


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
    """Add ``--profile`` and one option per hyperparameter of :class:`Config`."""
    parser.add_argument("--profile", default="full", choices=sorted(PROFILES), help="start from")
    group = parser.add_argument_group("hyperparameters (default: the profile's)")
    for name, field in _fields().items():
        choices = ",".join(get_args(field.annotation))
        kind = f"{{{choices}}}" if choices else _type_name(field.annotation).upper()
        flag = "--" + name.replace("_", "-")
        group.add_argument(flag, metavar=kind, help=field.description)


def from_options(options: argparse.Namespace) -> Config:
    """The config that the parsed options of :func:`add_options` ask for."""
    given = {field.name: getattr(options, field.name) for field in fields(Config)}
    strings = {name: text for name, text in given.items() if text is not None}
    return Config.from_strings(strings, base=profile(options.profile))


def from_hyperparameters(values: Mapping[str, str]) -> Config:
    """The config that the hyperparameters of a SageMaker job ask for, and ``profile`` (default:
    full), all of them strings. Those that SageMaker adds for itself are left out.

    Raises:
        ValueError: As :meth:`Config.from_strings`; also for an unknown profile.

    >>> config = from_hyperparameters({"profile": "smoke", "epochs": "5", "paste": "false"})
    >>> config.epochs, config.paste, config.width
    (5, False, 8)
    """
    own = {name: text for name, text in values.items() if not name.startswith(_SAGEMAKERS)}
    name = _unquoted(own.pop("profile", "full"))
    return Config.from_strings(own, base=profile(name))


# The SDK's settings, and what the tuner says of its objective.
_SAGEMAKERS = ("sagemaker_", "_tuning_")
