"""What SageMaker answers when a job is described, and what a job leaves."""

from __future__ import annotations

import io
import tarfile
from datetime import datetime, timedelta
from typing import Any

from lggseg.cloud.container import TABLES
from lggseg.config import Config
from lggseg.experiments.search_space import SEARCH_SPACE
from lggseg.inference.model_folder import FILES
from lggseg.training.loggers import OBJECTIVE


def archive(**files: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return stream.getvalue()


# As the container writes them; anything else is not fetched.
RESULTS = {
    "model.tar.gz": archive(**{name: f"the {name}" for name in FILES}, other="x"),
    "output.tar.gz": archive(**{f"data/{name}": f"the {name}" for name in TABLES}),
}
CONFIG = Config(epochs=10, fold=1)


def training(status: str, dice: float | None = None, **knobs: str) -> dict[str, Any]:
    """A summary as SageMaker gives it; the tuner wraps categories in quotes."""
    start = datetime(2026, 11, 25)
    tuned = {name: str(getattr(CONFIG, name)) for name in SEARCH_SPACE}
    summary: dict[str, Any] = {
        "TrainingJobName": "lggseg-test-1-001",
        "TrainingJobStatus": status,
        "TunedHyperParameters": {**tuned, "loss": '"dice_focal"', **knobs},
        "TrainingStartTime": start,
        "TrainingEndTime": start + timedelta(seconds=90),
    }
    if dice is not None:
        summary["FinalHyperParameterTuningJobObjectiveMetric"] = {
            "MetricName": OBJECTIVE, "Value": dice,
        }  # fmt: skip
    return summary
