"""Training jobs on SageMaker: what they are started with, and the run folder that comes back.

A job reads its channels in File mode: SageMaker copies them to the instance before it starts.
FastFile mode would stream them, which pays off for files that are read in part or again and again;
the packed cohort is read once, from beginning to end.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lggseg.cloud.archives import extract
from lggseg.cloud.aws.account import Account, new_name, pause
from lggseg.cloud.container import TABLES
from lggseg.cloud.cost import Plan
from lggseg.config import Config
from lggseg.inference.model_folder import FILES
from lggseg.training.loggers import metric_definitions
from lggseg.utils.errors import DataError

ENDED = ("Completed", "Failed", "Stopped")


def train(
    config: Config, channels: dict[str, str], account: Account, plan: Plan, run: Path
) -> Path:
    """Train on SageMaker, wait for the end, and fetch the run folder; it may not exist yet.

    Parameters as in :func:`start_training`. Returns ``run``. Raises ``RuntimeError`` with what
    the job said when it fails.
    """
    if run.exists():
        action = "Choose another folder, or delete this one."
        raise DataError(run, "an earlier run", "a new folder", action)
    job = start_training(config, channels, account, plan)
    wait(job, account)
    return fetch_run(job, account, run)


def start_training(config: Config, channels: dict[str, str], account: Account, plan: Plan) -> str:
    """Start a training job of ``config`` on ``channels``, as
    :func:`lggseg.cloud.aws.storage.upload` gives them; returns its name without waiting.

    plan: instance, instance_count, hours (the job is stopped after them), spot, volume_gb. A spot
    job may wait as long again for an instance, and goes on from its checkpoint after an
    interruption; so does a later job with the same config and channels.
    """
    name = new_name(f"{account.prefix}-train")
    location = f"{account.folder}/checkpoints/{_digest(config, channels)}"
    account.session.client("sagemaker").create_training_job(
        TrainingJobName=name,
        HyperParameters=config.to_strings(),
        CheckpointConfig={"S3Uri": location, "LocalPath": "/opt/ml/checkpoints"},
        Tags=account.tags,
        **training_definition(channels, account, plan),
    )
    return name


def training_definition(channels: dict[str, str], account: Account, plan: Plan) -> dict[str, Any]:
    """What a training job and each training of a search have alike: image, metrics, role, data,
    instances and limits, as the parameters of SageMaker's calls."""
    seconds = int(plan.hours * 3600)
    limits = {"MaxRuntimeInSeconds": seconds}
    if plan.spot:
        limits["MaxWaitTimeInSeconds"] = 2 * seconds
    return {
        "AlgorithmSpecification": {
            "TrainingImage": account.image("train"),
            "TrainingInputMode": "File",
            "MetricDefinitions": metric_definitions(),
        },
        "RoleArn": account.role,
        "InputDataConfig": [_channel(name, uri) for name, uri in channels.items()],
        "OutputDataConfig": {"S3OutputPath": f"{account.folder}/jobs"},
        "ResourceConfig": {
            "InstanceType": plan.instance,
            "InstanceCount": plan.instance_count,
            "VolumeSizeInGB": int(plan.volume_gb),
        },
        "StoppingCondition": limits,
        "EnableManagedSpotTraining": plan.spot,
    }


def _channel(name: str, uri: str) -> dict[str, Any]:
    """A folder in S3, all of which each instance gets."""
    source = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}}


def wait(job: str, account: Account) -> None:
    """Wait until a job has ended, however it ends; print its state and metrics when they change."""

    def look() -> tuple[str, str]:
        description = describe(job, account)
        latest = ", ".join(
            f"{metric['MetricName']} {metric['Value']:.3f}"
            for metric in description.get("FinalMetricDataList", [])
        )
        return description[
            "TrainingJobStatus"
        ], f"{job}: {description['SecondaryStatus']} {latest}".rstrip()

    wait_until_ended(look)


def wait_until_ended(look: Callable[[], tuple[str, str]]) -> None:
    """Ask ``look`` for a status and a line about it until the status is one of :data:`ENDED`; print
    the line when it changes."""
    printed = ""
    while True:
        status, line = look()
        if line != printed:
            print(line, flush=True)
        printed = line
        if status in ENDED:
            return
        pause()


def fetch_run(job: str, account: Account, run: Path) -> Path:
    """Download what a finished job left: the run folder, its model in ``run/model``.

    Raises ``RuntimeError`` when the job has not completed.
    """
    description = describe(job, account)
    if description["TrainingJobStatus"] != "Completed":
        raise RuntimeError(
            f"{job}: found it {description['TrainingJobStatus']} "
            f"({description.get('FailureReason') or 'no reason given'}); expected it to be "
            "completed. Its log is in CloudWatch, /aws/sagemaker/TrainingJobs."
        )
    model = str(description["ModelArtifacts"]["S3ModelArtifacts"])
    _fetch(account, model, FILES, run / "model")
    _fetch(account, model.replace("model.tar.gz", "output.tar.gz"), TABLES, run)
    return run


def describe(job: str, account: Account) -> dict[str, Any]:
    """What SageMaker says of a training job."""
    sagemaker = account.session.client("sagemaker")
    return dict(sagemaker.describe_training_job(TrainingJobName=job))


def _fetch(account: Account, uri: str, names: Sequence[str], folder: Path) -> None:
    """Download an archive and :func:`extract` these files of it."""
    bucket, key = uri.removeprefix("s3://").split("/", 1)
    with tempfile.NamedTemporaryFile(suffix=".tar.gz") as file:
        account.session.client("s3").download_file(bucket, key, file.name)
        extract(Path(file.name), names, folder, uri)


def _digest(config: Config, channels: dict[str, str]) -> str:
    terms = json.dumps([config.to_strings(), channels], sort_keys=True)
    return hashlib.blake2b(terms.encode(), digest_size=8).hexdigest()
