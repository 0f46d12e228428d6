"""Training jobs on SageMaker: what they are started with, and the run folder that comes back.

A job reads its channels in File mode: SageMaker copies them to the instance before it starts.
FastFile mode would stream them, which pays off for files that are read in part or again and again;
the packed cohort is read once, from beginning to end.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tarfile
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lggseg.cloud.account import PROJECT, Account
from lggseg.cloud.container import TABLES
from lggseg.cloud.cost import Plan
from lggseg.config import Config
from lggseg.inference.model_folder import FILES
from lggseg.training.loggers import metric_definitions
from lggseg.utils.errors import DataError
from lggseg.utils.files import replace_file
from lggseg.utils.paths import project_root

if TYPE_CHECKING:
    from sagemaker.core.resources import TrainingJob
    from sagemaker.train import ModelTrainer

ENDED = ("Completed", "Failed", "Stopped")
# The image of AWS's own to train in, without building one: its PyTorch, and what
# src/requirements.txt adds.
AWS_IMAGE = {"framework": "pytorch", "version": "2.10.0", "py_version": "py313"}


def train(
    config: Config,
    channels: dict[str, str],
    account: Account,
    plan: Plan,
    run: Path,
    *,
    aws_image: bool = False,
) -> Path:
    """Train on SageMaker, wait for the end, and fetch the run folder; it may not exist yet.

    Parameters as in :func:`start_training`. Returns ``run``. Raises ``RuntimeError`` with what
    the job said when it fails.
    """
    if run.exists():
        action = "Choose another folder, or delete this one."
        raise DataError(run, "an earlier run", "a new folder", action)
    job = start_training(config, channels, account, plan, aws_image=aws_image)
    wait(job)
    return fetch_run(job, account, run)


def start_training(
    config: Config,
    channels: dict[str, str],
    account: Account,
    plan: Plan,
    *,
    aws_image: bool = False,
) -> TrainingJob:
    """Start a training job of ``config`` on ``channels``, as :func:`lggseg.cloud.upload` gives
    them; returns it without waiting.

    plan: instance, instance_count, hours (the job is stopped after them), spot, volume_gb. A spot
    job may wait as long again for an instance, and goes on from its checkpoint after an
    interruption; so does a later job with the same config and channels. aws_image: train in AWS's
    image of PyTorch with this project's source instead of the project's own image.
    """
    from sagemaker.train.configs import CheckpointConfig

    trainer = model_trainer(config, account, plan, aws_image=aws_image)
    place = f"{account.folder}/checkpoints/{_digest(config, channels)}"
    trainer.checkpoint_config = CheckpointConfig(s3_uri=place)
    trainer.train(input_data(channels), wait=False, logs=False)
    return trainer._latest_training_job


def model_trainer(
    config: Config, account: Account, plan: Plan, *, aws_image: bool = False
) -> ModelTrainer:
    """The SDK's ``ModelTrainer`` with the limits, tags and metrics of every job of ours."""
    session = sdk_session(account)
    from sagemaker.core.shapes import MetricDefinition, Tag
    from sagemaker.train import ModelTrainer
    from sagemaker.train.configs import Compute, OutputDataConfig, StoppingCondition

    seconds = int(plan.hours * 3600)
    trainer = ModelTrainer(
        sagemaker_session=session,
        role=account.role,
        base_job_name=f"{account.prefix}-train",
        input_s3_key_prefix=f"runs/{account.run}/source",
        compute=Compute(
            instance_type=plan.instance,
            instance_count=plan.instance_count,
            volume_size_in_gb=int(plan.volume_gb),
            enable_managed_spot_training=plan.spot,
        ),
        stopping_condition=StoppingCondition(
            max_runtime_in_seconds=seconds,
            max_wait_time_in_seconds=2 * seconds if plan.spot else None,
        ),
        output_data_config=OutputDataConfig(s3_output_path=f"{account.folder}/jobs"),
        hyperparameters=config.to_strings(),
        tags=[Tag(key=tag["Key"], value=tag["Value"]) for tag in account.tags],
        **_image(account, plan, aws_image),
    )
    definitions = [MetricDefinition(name=d["Name"], regex=d["Regex"]) for d in metric_definitions()]
    return trainer.with_metric_definitions(definitions)


def own_image(account: Account, tag: str) -> str:
    """The URI of the project's image ``train`` or ``serve`` in the account's registry."""
    return f"{account.number}.dkr.ecr.{account.region}.amazonaws.com/{PROJECT}:{tag}"


def _image(account: Account, plan: Plan, aws_image: bool) -> dict[str, Any]:
    if not aws_image:
        return {"training_image": own_image(account, "train")}
    from sagemaker.core import image_uris
    from sagemaker.train.configs import SourceCode

    where = {"region": account.region, "instance_type": plan.instance}
    uri = image_uris.retrieve(**AWS_IMAGE, **where, image_scope="training")
    source = SourceCode(
        source_dir=str(project_root() / "src"),
        requirements="requirements.txt",
        command="python -m lggseg.cloud.container",
    )
    return {"training_image": uri, "source_code": source}


def input_data(channels: dict[str, str]) -> list[Any]:
    """The channels as the SDK wants them."""
    from sagemaker.train.configs import InputData

    return [InputData(channel_name=name, data_source=uri) for name, uri in channels.items()]


def wait(job: Any, poll: float = 15) -> None:
    """Wait until a job has ended, however it ends; print its state and metrics when they change."""
    said = ""
    while True:
        job.refresh()
        metrics = getattr(job, "final_metric_data_list", None) or []
        latest = ", ".join(f"{metric.metric_name} {metric.value:.3f}" for metric in metrics)
        state = f"{job.training_job_name}: {job.secondary_status} {latest}".rstrip()
        if state != said:
            print(state, flush=True)
        said = state
        if job.training_job_status in ENDED:
            return
        time.sleep(poll)


def fetch_run(job: TrainingJob, account: Account, run: Path) -> Path:
    """Download what a finished job left: the run folder, its model in ``run/model``.

    Raises ``RuntimeError`` when the job has not completed.
    """
    job.refresh()
    if job.training_job_status != "Completed":
        raise RuntimeError(
            f"{job.training_job_name}: found it {job.training_job_status} "
            f"({getattr(job, 'failure_reason', None) or 'no reason given'}); expected it to be "
            "completed. Its log is in CloudWatch, /aws/sagemaker/TrainingJobs."
        )
    model = str(job.model_artifacts.s3_model_artifacts)
    _fetch(account, model, FILES, run / "model")
    _fetch(account, model.replace("model.tar.gz", "output.tar.gz"), TABLES, run)
    return run


def _fetch(account: Account, uri: str, names: Sequence[str], folder: Path) -> None:
    """Download an archive and :func:`extract` these files of it."""
    bucket, key = uri.removeprefix("s3://").split("/", 1)
    with tempfile.NamedTemporaryFile(suffix=".tar.gz") as file:
        account.session.client("s3").download_file(bucket, key, file.name)
        extract(Path(file.name), names, folder, uri)


def extract(archive: Path, names: Sequence[str], folder: Path, source: Path | str) -> None:
    """Write these files of what a job left into ``folder``, wherever they lie in the archive;
    ``DataError`` that names its ``source`` when one is missing."""
    with tarfile.open(archive) as tar:
        members = {Path(member.name).name: member for member in tar if member.isfile()}
        missing = sorted(set(names) - set(members))
        if missing:
            action = "Train again; the job's log says what it wrote."
            raise DataError(source, f"no {missing[0]}", f"the files {', '.join(names)}", action)
        for name in names:
            content = tar.extractfile(members[name])
            assert content
            replace_file(folder / name, partial(Path.write_bytes, data=content.read()))


def _digest(config: Config, channels: dict[str, str]) -> str:
    terms = json.dumps([config.to_strings(), channels], sort_keys=True)
    return hashlib.blake2b(terms.encode(), digest_size=8).hexdigest()


def sdk_session(account: Account) -> Any:
    """The SDK's session on our bucket. It reports nothing to AWS, does not ask IAM about a role
    that SageMaker checks itself, and does not log every default."""
    os.environ.setdefault("SAGEMAKER_VALIDATE_ROLE", "false")
    logging.getLogger("sagemaker").setLevel(logging.WARNING)
    from sagemaker.core.helper.session_helper import Session

    session = Session(boto_session=account.session, default_bucket=account.bucket)
    session.sagemaker_config = session.sagemaker_config or {"SchemaVersion": "1.0"}
    sdk = session.sagemaker_config.setdefault("SageMaker", {}).setdefault("PythonSDK", {})
    sdk.setdefault("Modules", {})["TelemetryOptOut"] = True
    return session
