"""Where metrics go besides the run folder: to Weights & Biases when asked for (online with a key
in the environment, otherwise offline), and in a SageMaker job to the log, which AWS reads."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lggseg.config import Config
from lggseg.data.cohort import Cohort
from lggseg.evaluation.statistics import examples
from lggseg.inference.model_folder import card_path
from lggseg.inference.segmenter import Segmenter
from lggseg.preprocessing.volume import FLAIR
from lggseg.utils.errors import missing_extra
from lggseg.utils.files import private_folder, read_table
from lggseg.utils.paths import runs_root

if TYPE_CHECKING:
    from pytorch_lightning.loggers import WandbLogger

PROJECT = "lggseg"
_LABELS = {1: "tumour"}
# Metrics of an epoch that SageMaker draws, and the one that its tuner maximises. `val/dice_raw` is
# the Dice of the network's own mask; `dice` of patients.csv is that of the mask that users get,
# after the mirror average and without small connected components.
METRICS = ("train/loss", "val/loss", "val/dice_raw")
OBJECTIVE = "val/dice_raw"


def metric_line(metrics: Mapping[str, float]) -> str:
    """The line of a log that :func:`metric_definitions` find the metrics in."""
    return " ".join(f"{name}={metrics[name]:.6g};" for name in METRICS if name in metrics)


def metric_definitions() -> list[dict[str, str]]:
    """``MetricDefinitions`` of a SageMaker job: the name of each metric and its regex."""
    return [{"Name": name, "Regex": rf"\b{re.escape(name)}=([^;\s]+);"} for name in METRICS]


def in_sagemaker_job() -> bool:
    """Whether this process is a training job of SageMaker's."""
    return "TRAINING_JOB_NAME" in os.environ


def check_tracker(config: Config) -> None:
    """Raise ``RuntimeError`` where the package that the config asks for is missing."""
    if config.tracker == "wandb":
        _wandb()


def tracker(config: Config, run: Path) -> WandbLogger | None:
    """The logger of a run, with its config, or ``None`` where W&B is not asked for.

    Raises ``RuntimeError`` when the package is missing or cannot start a run.
    """
    if config.tracker != "wandb":
        return None
    logger = _logger(run, name=run.name)
    try:
        logger.experiment.config.update(asdict(config))
    except Exception as error:  # a wrong key, no network: W&B has classes of its own
        advice = "Unset WANDB_API_KEY to log offline, or use --tracker csv."
        raise RuntimeError(f"Weights & Biases started no run ({error}). {advice}") from error
    return logger


def log_results(experiment: Any, run: Path, cohort: Cohort) -> None:
    """Log a finished run folder: the table of its validation patients, overlays of the best, the
    median and the worst, and the model folder as an artifact with the alias ``fold-0``."""
    table = read_table(run / "patients.csv")
    model = run / "model"
    if len(table):
        segmenter = Segmenter.load(model)
        chosen = examples(table)[["patient", "dice"]].itertuples(index=False)
        overlays = [_overlay(cohort, segmenter, patient, dice) for patient, dice in chosen]
        experiment.log({"patients": _wandb().Table(dataframe=table), "overlays": overlays})
    log_model(experiment, model, PROJECT, [f"fold-{Config.load(run / 'config.json').fold}"])


def log_model(experiment: Any, model: Path, name: str, aliases: Sequence[str]) -> None:
    """Log a model folder as an artifact of type ``model``, its card as metadata."""
    card = json.loads(card_path(model).read_text())
    artifact = _wandb().Artifact(name, type="model", metadata=card)
    artifact.add_dir(str(model))
    experiment.log_artifact(artifact, aliases=["latest", *aliases])


def register(model: Path, name: str, aliases: Sequence[str]) -> str:
    """Log a model folder in a run of its own; returns the name to ask W&B for."""
    private_folder(runs_root())
    with _logger(runs_root(), job_type="register").experiment as experiment:
        log_model(experiment, model, name, aliases)
    return f"{PROJECT}/{name}:latest"


def _overlay(cohort: Cohort, segmenter: Segmenter, patient: str, dice: float) -> Any:
    """FLAIR of the slice with most tumour, with the predicted and the true mask."""
    volume, truth = cohort.image(patient), cohort.mask(patient)
    mask = segmenter.predict(volume).mask
    largest = int((truth | mask).sum(axis=(1, 2)).argmax())
    layers = {"prediction": mask[largest], "truth": truth[largest]}
    masks = {
        name: {"mask_data": layer.astype(np.uint8), "class_labels": _LABELS}
        for name, layer in layers.items()
    }
    caption = f"{patient}, slice {largest + 1}, Dice {dice:.3f}"
    return _wandb().Image(volume[largest, ..., FLAIR], masks=masks, caption=caption)


def _logger(folder: Path, **options: str) -> WandbLogger:
    _wandb()
    from pytorch_lightning.loggers import WandbLogger

    mode = "online" if os.environ.get("WANDB_API_KEY") else "offline"
    return WandbLogger(project=PROJECT, save_dir=folder, mode=mode, **options)  # type: ignore[arg-type]


def _wandb() -> Any:
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise RuntimeError(f"{missing_extra(error)} Or use --tracker csv.") from error
    return wandb
