"""Nothing is left in the account, against moto; what moto lacks is in aws_gaps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from aws_account import keys, left

from lggseg.cloud.aws import cleanup
from lggseg.cloud.aws.account import Account
from lggseg.cloud.aws.cleanup import delete_everything
from lggseg.cloud.aws.storage import make_bucket

if TYPE_CHECKING:
    from aws_shapes import Request

JOB = {
    "OutputDataConfig": {"S3OutputPath": "s3://bucket/"},
    "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
    "StoppingCondition": {"MaxRuntimeInSeconds": 60},
}
ALGORITHM = {"TrainingImage": "image", "TrainingInputMode": "File"}


def fill(account: Account, tags: list[dict[str, str]]) -> None:
    """One resource of each kind, with these tags."""
    sagemaker, name = account.session.client("sagemaker"), f"{account.prefix}-x"
    named: dict[str, Any] = {"Tags": tags}
    sagemaker.create_model(ModelName=name, ExecutionRoleArn=account.role, **named)
    variant = {"VariantName": "v", "ModelName": name, "InitialInstanceCount": 1}
    variants = [{**variant, "InstanceType": "ml.m5.large"}]
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=variants, **named)
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name, **named)
    sagemaker.create_training_job(
        TrainingJobName=name, RoleArn=account.role, AlgorithmSpecification=ALGORITHM, **JOB, **named
    )
    sagemaker.create_model_package_group(ModelPackageGroupName=name, **named)
    sagemaker.create_model_package(ModelPackageGroupName=name)
    logs = account.session.client("logs")
    logs.create_log_group(logGroupName=f"/aws/sagemaker/Endpoints/{name}")


def test_a_run_is_deleted_and_another_stays(account: Account) -> None:
    other = replace(account, run="other")
    make_bucket(account)
    for one in (account, other):
        fill(one, one.tags)
        for key in (f"runs/{one.run}/jobs/model.tar.gz", "data/cohort.tar.gz"):
            account.session.client("s3").put_object(Bucket=account.bucket, Key=key, Body=b"")
    deleted = delete_everything(account)
    assert len(deleted) == 8
    assert keys(account) == {"runs/other/jobs/model.tar.gz", "data/cohort.tar.gz"}
    assert left(account) and not [name for name in left(account) if "lggseg-test" in name]
    assert delete_everything(account) == []
    delete_everything(other)
    assert left(account) == set()


def test_the_whole_project_is_deleted_and_a_second_call_finds_nothing(account: Account) -> None:
    make_bucket(account)
    account.session.client("ecr").create_repository(repositoryName="lggseg")
    for one in (account, replace(account, run="other")):
        fill(one, one.tags)
    s3 = account.session.client("s3")
    s3.put_object(Bucket=account.bucket, Key="data/cohort.tar.gz", Body=b"")
    s3.create_multipart_upload(Bucket=account.bucket, Key="data/half.tar.gz")
    delete_everything(account, whole_project=True)
    assert left(account) == set()
    assert s3.list_buckets()["Buckets"] == []
    assert delete_everything(account, whole_project=True) == []


def test_what_is_not_ours_stays(account: Account) -> None:
    fill(account, [{"Key": "project", "Value": "lggseg-of-others"}])
    account.session.client("logs").delete_log_group(
        logGroupName="/aws/sagemaker/Endpoints/lggseg-test-x"
    )
    before = left(account)
    assert delete_everything(account, whole_project=True) == []
    assert left(account) == before


def running(account: Account) -> Any:
    from moto.sagemaker.models import sagemaker_backends

    fill(account, account.tags)
    backend = sagemaker_backends[account.number][account.region]
    [job] = backend.training_jobs.values()
    job.training_job_status = "InProgress"
    return job


def test_a_running_job_is_stopped_before_anything_is_waited_for(
    aws: list[Request], account: Account
) -> None:
    running(account)
    delete_everything(account)
    order = [r.operation for r in aws if r.operation.startswith(("Delete", "Stop"))]
    assert order[:2] == ["StopTrainingJob", "DeleteEndpoint"]
    assert "DeleteTrainingJob" in order[2:] and left(account) == set()


def test_an_endpoint_that_is_being_made_is_waited_for(
    aws: list[Request], account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.exceptions import ClientError

    fill(account, account.tags)
    monkeypatch.setattr("lggseg.cloud.aws.account.POLL_SECONDS", 0)
    told = {"Code": "ValidationException", "Message": "Cannot update in-progress endpoint"}
    refusals = iter([ClientError({"Error": told}, "DeleteEndpoint")] * 2)

    def refuse(**_: object) -> None:
        if error := next(refusals, None):
            raise error

    account.session.events.register("before-call.sagemaker.DeleteEndpoint", refuse)
    delete_everything(account)
    assert [r.operation for r in aws].count("DeleteEndpoint") == 3
    assert left(account) == set()


def test_a_job_that_does_not_stop_is_named_and_the_rest_is_gone(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = running(account)
    job.training_job_status = "Stopping"
    monkeypatch.setattr(cleanup, "STOP_SECONDS", 0)
    monkeypatch.setattr("lggseg.cloud.aws.account.POLL_SECONDS", 0)
    with pytest.raises(RuntimeError, match="lggseg-test-x: found it still stopping"):
        delete_everything(account)
    assert left(account) == {"training_jobs/lggseg-test-x"}
    job.training_job_status = "Stopped"
    delete_everything(account)
    assert left(account) == set()
