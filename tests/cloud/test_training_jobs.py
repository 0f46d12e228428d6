"""Training jobs on SageMaker, against moto: it "completes" them at once and makes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sagemaker_answers import RESULTS, archive

from lggseg.cloud.aws import training_jobs as jobs
from lggseg.cloud.aws.account import Account
from lggseg.cloud.aws.storage import make_bucket
from lggseg.cloud.container import TABLES
from lggseg.cloud.cost import Plan
from lggseg.config import Config
from lggseg.inference.model_folder import FILES
from lggseg.utils.errors import DataError

if TYPE_CHECKING:
    from aws_shapes import Request

CHANNELS = {"train": "s3://bucket/data/a/", "split": "s3://bucket/splits/b/"}
PLAN = Plan("ml.g5.xlarge", hours=1.5)


def created(requests: list[Request], operation: str = "CreateTrainingJob") -> dict[str, Any]:
    [params] = [request.params for request in requests if request.operation == operation]
    return params


def test_a_job_is_limited_tagged_and_named(aws: list[Request], account: Account) -> None:
    config = Config(width=24, neighbours=False)
    jobs.start_training(config, CHANNELS, account, PLAN)
    params = created(aws)
    assert params["TrainingJobName"].startswith("lggseg-test-train-")
    assert params["StoppingCondition"] == {"MaxRuntimeInSeconds": 5400}
    assert not params.get("EnableManagedSpotTraining")
    assert params["Tags"] == account.tags
    assert params["RoleArn"] == account.role
    image = params["AlgorithmSpecification"]["TrainingImage"]
    assert image == "123456789012.dkr.ecr.us-east-1.amazonaws.com/lggseg:train"
    assert params["OutputDataConfig"]["S3OutputPath"].startswith(account.folder)
    assert Config.from_strings(params["HyperParameters"]) == config
    places = {
        channel["ChannelName"]: channel["DataSource"]["S3DataSource"]["S3Uri"]
        for channel in params["InputDataConfig"]
    }
    assert places == CHANNELS


def test_a_spot_job_waits_no_longer_than_it_runs_and_has_checkpoints(
    aws: list[Request], account: Account
) -> None:
    jobs.start_training(Config(), CHANNELS, account, replace(PLAN, spot=True))
    params = created(aws)
    assert params["EnableManagedSpotTraining"] is True
    limits = {"MaxRuntimeInSeconds": 5400, "MaxWaitTimeInSeconds": 10800}
    assert params["StoppingCondition"] == limits
    assert params["CheckpointConfig"]["LocalPath"] == "/opt/ml/checkpoints"


def test_several_instances_train_together(aws: list[Request], account: Account) -> None:
    jobs.start_training(Config(), CHANNELS, account, replace(PLAN, instance_count=2))
    resources = created(aws)["ResourceConfig"]
    assert (resources["InstanceType"], resources["InstanceCount"]) == ("ml.g5.xlarge", 2)


def test_only_the_same_training_goes_on_from_a_checkpoint(
    aws: list[Request], account: Account
) -> None:
    def place(config: Config, channels: dict[str, str]) -> str:
        aws.clear()
        jobs.start_training(config, channels, account, PLAN)
        return str(created(aws)["CheckpointConfig"]["S3Uri"])

    first = place(Config(), CHANNELS)
    assert first.startswith(account.folder)
    assert place(Config(), CHANNELS) == first
    assert place(Config(seed=1), CHANNELS) != first
    assert place(Config(), {**CHANNELS, "train": "s3://bucket/data/c/"}) != first


def leave_results(account: Account) -> None:
    """Put there what the container leaves, as soon as the job's name is known."""

    def put(params: dict[str, Any], **_: object) -> None:
        s3 = account.session.client("s3")
        folder = f"runs/test/jobs/{params['TrainingJobName']}/output"
        for name, content in RESULTS.items():
            s3.put_object(Bucket=account.bucket, Key=f"{folder}/{name}", Body=content)

    account.session.events.register("before-parameter-build.sagemaker.CreateTrainingJob", put)


def test_a_run_folder_comes_back(
    account: Account, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_bucket(account)
    leave_results(account)
    run = jobs.train(Config(), CHANNELS, account, PLAN, tmp_path / "run")
    files = [run / name for name in TABLES] + [run / "model" / name for name in FILES]
    assert sorted(path for path in run.rglob("*") if path.is_file()) == sorted(files)
    assert all(file.read_text() == f"the {file.name}" for file in files)
    assert "lggseg-test-train-" in capsys.readouterr().out
    with pytest.raises(DataError, match="found an earlier run"):
        jobs.train(Config(), CHANNELS, account, PLAN, run)


def test_a_job_that_left_no_model_is_named(
    account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bucket(account)
    monkeypatch.setitem(RESULTS, "model.tar.gz", archive(**{"model_card.json": "{}"}))
    leave_results(account)
    with pytest.raises(DataError, match=r"model.tar.gz: found no model.onnx; expected the files"):
        jobs.train(Config(), CHANNELS, account, PLAN, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_failed_job_says_why(account: Account, tmp_path: Path) -> None:
    from moto.sagemaker.models import FakeTrainingJob

    job = jobs.start_training(Config(), CHANNELS, account, PLAN)
    [[made]] = [backend_jobs(account).values()]
    assert isinstance(made, FakeTrainingJob)
    made.training_job_status, made.failure_reason = "Failed", "epochs='many': expected"
    jobs.wait(job, account)
    with pytest.raises(RuntimeError, match=r"found it Failed \(epochs='many': expected\)"):
        jobs.fetch_run(job, account, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def backend_jobs(account: Account) -> dict[str, Any]:
    from moto.sagemaker.models import sagemaker_backends

    return dict(sagemaker_backends[account.number][account.region].training_jobs)
