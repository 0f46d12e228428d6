"""The check of AWS requests finds what moto lets pass."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

boto3 = pytest.importorskip("boto3", reason="aws is missing")
moto = pytest.importorskip("moto", reason="aws is missing")

from aws_shapes import problems, recorded  # noqa: E402
from botocore.session import Session  # noqa: E402

GOOD: dict[str, Any] = {
    "TrainingJobName": "lggseg-unet-1",
    "RoleArn": "arn:aws:iam::123456789012:role/lggseg",
    "AlgorithmSpecification": {"TrainingImage": "image", "TrainingInputMode": "File"},
    "OutputDataConfig": {"S3OutputPath": "s3://lggseg-123456789012/runs"},
    "ResourceConfig": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
    "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
    "Tags": [{"Key": "project", "Value": "größe 1"}],
}


def found(change: Callable[[dict[str, Any]], object]) -> list[str]:
    params = deepcopy(GOOD)
    change(params)
    return problems(Session().get_service_model("sagemaker").operation_model(OPERATION), params)


OPERATION = "CreateTrainingJob"


def test_a_good_request_has_no_problem() -> None:
    assert found(lambda params: None) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.update(TrainingJobName="lggseg_unet"), "TrainingJobName='lggseg_unet' does"),
        (lambda p: p.update(TrainingJobName="a" * 64), "TrainingJobName is 64, more than 63"),
        (lambda p: p.update(RoleArn="arn:aws:iam::12:role/lggseg"), r"RoleArn=.* does not match"),
        (lambda p: p.pop("RoleArn"), 'Missing required parameter in input: "RoleArn"'),
        (lambda p: p.update(Role="x"), 'Unknown parameter in input: "Role"'),
        (lambda p: p["ResourceConfig"].update(InstanceType="ml.m5.huge"), "'ml.m5.huge' is none"),
        (lambda p: p["ResourceConfig"].update(VolumeSizeInGB=-1), "VolumeSizeInGB is -1, less"),
        (lambda p: p["ResourceConfig"].update(VolumeSizeInGB="30"), "Invalid type for parameter"),
        (lambda p: p["Tags"].append({"Key": "a#", "Value": ""}), r"Tags\[1\].Key='a#' does not"),
        (lambda p: p.update(HyperParameters={"a" * 257: "1"}), "HyperParameters key is 257, more"),
    ],
)
def test_a_bad_request_is_named(change: Callable[[dict[str, Any]], object], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        assert not found(change)


def test_requests_of_any_session_are_recorded_with_their_problems() -> None:
    with moto.mock_aws(), recorded() as requests:
        client = boto3.Session().client("sagemaker", region_name="us-east-1")
        client.list_models(NameContains="lggseg")
        client.create_training_job(**{**GOOD, "TrainingJobName": "under_score"})
    names = [(request.service, request.operation) for request in requests]
    assert names == [("sagemaker", "ListModels"), ("sagemaker", "CreateTrainingJob")]
    assert not requests[0].problems
    assert "TrainingJobName='under_score'" in requests[1].problems[0]
    with moto.mock_aws():
        boto3.Session().client("sts", region_name="us-east-1").get_caller_identity()
    assert len(requests) == 2
