"""A model folder: its files, its model card, and what is verified when it is loaded.

The card is ``model_card.json``; earlier versions called it ``config.json``. It holds the
SHA-256 checksums of the other files and of itself. Cards that the first version wrote have none,
and are taken as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lggseg.config import Config
from lggseg.preprocessing.volume import SIZE
from lggseg.utils.checksums import compare, file_checksum, values_checksum
from lggseg.utils.errors import DataError
from lggseg.utils.files import write_json

# Takes image, background and scale, gives the probability (see
# lggseg.inference.onnx_export.inference_graph).
Engine = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

CARD, OLD_CARD = "model_card.json", "config.json"
FILES = ("model.onnx", "weights.safetensors", CARD)
# What a card tells beside the config, and as what.
_FACTS = {"versions": dict, "data_fingerprint": str, "split_fingerprint": str, "simulated": bool}
_MODEL = "what `lggseg train` writes"
_AGAIN = "Copy the model folder again, or train with this version."
_CHANGED = (
    "Copy the model folder again; after a change that is meant, delete `checksums` in its card."
)


def card_path(folder: Path) -> Path:
    """Where the model card of a folder is, or is to be written."""
    old = folder / OLD_CARD
    return old if old.is_file() and not (folder / CARD).is_file() else folder / CARD


def model_files(folder: Path) -> list[Path]:
    """The files of a model folder, whether they are there or not."""
    return [*(folder / name for name in FILES[:2]), card_path(folder)]


def read_card(folder: Path) -> tuple[Config, dict[str, Any]]:
    """The config and the whole card of a model folder whose files are those that the card was
    written for. Raises ``DataError`` that names the file which is missing or was changed."""
    for file in model_files(folder):
        if not file.is_file():
            expected = f"a model folder with {', '.join(FILES)}"
            action = "Give the folder `model` of a run (notebook 03, `lggseg train`)."
            raise DataError(file, "no such file", expected, action)
    path = card_path(folder)
    try:
        card = json.loads(path.read_text())
        config = Config.from_saved(card["config"])
        _check_facts(card)
    except Exception as error:  # whatever a damaged card may hold
        why = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(path, f"no readable model card ({why[:300]})", _MODEL, _AGAIN) from error
    _compare(folder, card)
    return config, card


def has_checksums(card: Mapping[str, Any]) -> bool:
    """Whether a card holds checksums, be it by a damaged name."""
    return "checksums" in card or any(
        isinstance(value, dict) and FILES[0] in value for value in card.values()
    )


def _check_facts(card: Mapping[str, Any]) -> None:
    for name, kind in _FACTS.items():
        if not isinstance(card[name], kind):
            raise ValueError(f"{name}={card[name]!r:.50}: expected {kind.__name__}")
    if not isinstance(card["versions"]["lggseg"], str):
        raise ValueError("the version of lggseg is no text")


def _compare(folder: Path, card: Mapping[str, Any]) -> None:
    if not has_checksums(card):
        return
    kept = card.get("checksums")
    kept = kept if isinstance(kept, dict) else {}
    for name, checksum in _checksums(folder, card).items():
        compare(folder / name, checksum, kept.get(name), _CHANGED)


def _checksums(folder: Path, card: Mapping[str, Any]) -> dict[str, str]:
    facts = {name: value for name, value in card.items() if name != "checksums"}
    *files, path = model_files(folder)
    checksums = {file.name: file_checksum(file) for file in files}
    return {**checksums, path.name: values_checksum(facts)}


def write_card(config: Config, card: dict[str, Any], folder: Path) -> None:
    """Write a model folder's card: the config, ``card``, the versions, and the checksums
    of the files, which are there."""
    _write({"config": asdict(config), **card, "versions": _versions()}, folder)


def amend_card(folder: Path, facts: dict[str, Any]) -> None:
    """Add facts to a model folder's card. Raises what :func:`read_card` raises."""
    _, card = read_card(folder)
    _write({**card, **facts}, folder)


def _write(card: dict[str, Any], folder: Path) -> None:
    write_json({**card, "checksums": _checksums(folder, card)}, card_path(folder))


def checked(path: Path, run: Engine, config: Config) -> Engine:
    """``run``, an engine made of ``path``, which from then on raises ``DataError`` where it fails
    or gives what is no probability. It is tried at once, on two slices and on one."""

    def call(image: np.ndarray, background: np.ndarray, scale: np.ndarray) -> np.ndarray:
        try:
            probability = run(image, background, scale)
        except MemoryError:
            raise
        except Exception as error:  # onnxruntime and torch share no base class
            why = " ".join(str(error).split())[:300]
            raise DataError(path, f"a model that cannot run ({why})", _MODEL, _AGAIN) from error
        if problem := _problem(probability, len(image)):
            raise DataError(path, f"a model that gives {problem}", "a probability", _AGAIN)
        return probability

    draw = np.random.default_rng(0)
    for slices in (2, 1):
        image = draw.integers(0, 256, (slices, config.channels, SIZE, SIZE), np.uint8)
        background = np.zeros((1, config.channels), np.float32)
        call(image, background, background + 100)
    return call


def _problem(probability: np.ndarray, slices: int) -> str:
    if probability.shape != (slices, SIZE, SIZE) or probability.dtype != np.float32:
        return f"{probability.dtype} {probability.shape} for {slices} slices"
    low, high = float(probability.min()), float(probability.max())
    # NaN is neither.
    return "" if low >= 0 and high <= 1 else f"numbers from {low} to {high}"


def _versions() -> dict[str, str]:
    import monai
    import pytorch_lightning
    import torch

    import lggseg

    modules = (lggseg, torch, monai, pytorch_lightning, np)
    return {module.__name__: module.__version__ for module in modules}
