"""Serverless and asynchronous endpoints: the calls go to moto, the questions to a server here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from aws_account import keys, left

from lggseg.cloud.account import Account
from lggseg.cloud.cleanup import delete_everything
from lggseg.cloud.endpoints import deploy
from lggseg.cloud.storage import put
from lggseg.data.codecs import ATTRIBUTES_HEADER
from lggseg.data.cohort import Cohort
from lggseg.inference.segmenter import Segmenter
from lggseg.serving.client import Endpoint

if TYPE_CHECKING:
    from aws_shapes import Request

MODEL = Path(__file__).resolve().parents[2] / "models" / "lgg-unet"
SERVERLESS_LIMIT = 4 * 10**6
IMAGES = {"lggseg"}  # the repository of the images, which stays


@pytest.fixture(scope="module")
def server() -> Iterator[Endpoint]:
    with deploy(MODEL) as endpoint:
        yield endpoint


@pytest.fixture
def volume(cohort: Cohort) -> np.ndarray:
    """Twenty slices: more than a serverless endpoint takes at a time, and no whole batches."""
    one = cohort.image(cohort.patients.index[0])
    return np.concatenate([one] * 4)[:20]


def headers_of(params: dict[str, Any]) -> dict[str, str]:
    """What the container gets; asynchronous requests name them differently."""
    names = ("Content-Type", "Accept", "Custom-Attributes")
    given = params["headers"]
    kind, accept, attributes = (
        given.get(name) or given.get(f"X-Amzn-SageMaker-{name}", "") for name in names
    )
    return {"Content-Type": kind, "Accept": accept, ATTRIBUTES_HEADER: attributes}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lggseg.cloud.hosting.START_SECONDS", 60)


def created(requests: list[Request], operation: str) -> dict[str, Any]:
    [params] = [request.params for request in requests if request.operation == operation]
    return params


def test_a_serverless_endpoint_answers_the_same_within_its_limits(
    aws: list[Request], pushed: Account, server: Endpoint, volume: np.ndarray
) -> None:
    sizes = []

    def answer(params: dict[str, Any], **_: object) -> Any:
        content = server.send(params["body"], headers_of(params))
        sizes.extend([len(params["body"]), len(content)])
        return SimpleNamespace(status_code=200), {"Body": BytesIO(content)}

    pushed.session.events.register("before-call.sagemaker-runtime.InvokeEndpoint", answer)
    with deploy(MODEL, "sagemaker", account=pushed, kind="serverless") as endpoint:
        found = endpoint.predict(volume)
    expected = Segmenter.load(MODEL).predict(volume)
    assert np.array_equal(found.mask, expected.mask)
    assert len(sizes) == 2 * (1 + 3) and max(sizes) < SERVERLESS_LIMIT
    [variant] = created(aws, "CreateEndpointConfig")["ProductionVariants"]
    assert variant["ServerlessConfig"]["MaxConcurrency"] >= 1 and "InstanceType" not in variant
    assert left(pushed) == IMAGES and keys(pushed) == set()


@pytest.fixture
def serve_through_s3(account: Account, server: Endpoint) -> Callable[[Callable[..., bytes]], None]:
    """The returned function says by what the asynchronous endpoint answers, after a while."""

    def register(send: Callable[..., bytes]) -> None:
        s3 = account.session.client("s3")

        def read(uri: str) -> bytes:
            bucket, key = uri.removeprefix("s3://").split("/", 1)
            return bytes(s3.get_object(Bucket=bucket, Key=key)["Body"].read())

        def answer(params: dict[str, Any], **_: object) -> Any:
            question = params["headers"]["X-Amzn-SageMaker-InputLocation"]
            place = question.replace("/questions/", "/answers/")
            failure = question.replace("/questions/", "/failures/")

            def put() -> None:
                try:
                    key, body = place, send(read(question), headers_of(params))
                except RuntimeError as error:
                    key, body = failure, str(error).encode()
                s3.put_object(Bucket=account.bucket, Key=key.split("/", 3)[3], Body=body)

            threading.Timer(0.2, put).start()
            told = {"OutputLocation": place, "FailureLocation": failure}
            return SimpleNamespace(status_code=200), told

        event = "before-call.sagemaker-runtime.InvokeEndpointAsync"
        account.session.events.register(event, answer)

    return register


def test_an_asynchronous_endpoint_answers_the_same_through_s3(
    aws: list[Request],
    pushed: Account,
    server: Endpoint,
    volume: np.ndarray,
    serve_through_s3: Callable[[Callable[..., bytes]], None],
) -> None:
    serve_through_s3(server.send)
    with deploy(MODEL, "sagemaker", account=pushed, kind="asynchronous") as endpoint:
        found = endpoint.predict(volume)
        assert len(keys(pushed)) == 1 + 2 * 2
    expected = Segmenter.load(MODEL).predict(volume)
    assert np.array_equal(found.probability, expected.probability)
    place = created(aws, "CreateEndpointConfig")["AsyncInferenceConfig"]["OutputConfig"]
    assert place["S3OutputPath"].startswith(f"{pushed.folder}/endpoints/")
    assert left(pushed) == IMAGES and keys(pushed) == set()


def test_a_refusal_of_an_asynchronous_endpoint_is_told(
    pushed: Account,
    server: Endpoint,
    serve_through_s3: Callable[[Callable[..., bytes]], None],
) -> None:
    serve_through_s3(server.send)
    with (
        deploy(MODEL, "sagemaker", account=pushed, kind="asynchronous") as endpoint,
        pytest.raises(RuntimeError, match=r"invocations: .*400 .*error"),
    ):
        endpoint.send(b"no array", {"Content-Type": "application/x-npy"})


def test_a_scaled_endpoint_captures_and_leaves_only_what_it_captured(
    aws: list[Request], pushed: Account
) -> None:
    options = {"instances": 3, "capture": True}
    with deploy(MODEL, "sagemaker", account=pushed, **options):
        capture = created(aws, "CreateEndpointConfig")["DataCaptureConfig"]
        assert capture["EnableCapture"] and capture["InitialSamplingPercentage"] == 100
        assert capture["DestinationS3Uri"] == f"{pushed.folder}/captured"
        [target] = targets(pushed)
        assert (target["MinCapacity"], target["MaxCapacity"]) == (1, 3)
        name = created(aws, "CreateEndpoint")["EndpointName"]
        assert target["ResourceId"] == f"endpoint/{name}/variant/all"
        assert created(aws, "PutScalingPolicy")["PolicyType"] == "TargetTrackingScaling"
        put(Path(__file__), pushed, "runs/test/captured/scan.jsonl")
    assert left(pushed) == IMAGES and targets(pushed) == []
    assert keys(pushed) == {"runs/test/captured/scan.jsonl"}
    delete_everything(pushed)
    assert keys(pushed) == set()


def targets(account: Account) -> list[dict[str, Any]]:
    scaling = account.session.client("application-autoscaling")
    found = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")
    return list(found["ScalableTargets"])


def test_an_endpoint_that_cannot_be_scaled_is_deleted(pushed: Account) -> None:
    """The call is carried out and its answer lost."""

    def lose(**_: object) -> None:
        raise ConnectionError("lost")

    event = "after-call.application-auto-scaling.PutScalingPolicy"
    pushed.session.events.register(event, lose)
    with pytest.raises(ConnectionError, match="lost"):
        deploy(MODEL, "sagemaker", account=pushed, instances=2)
    assert left(pushed) == IMAGES and keys(pushed) == set() and targets(pushed) == []


def test_scaling_that_a_killed_program_left_is_deleted(pushed: Account) -> None:
    deploy(MODEL, "sagemaker", account=pushed, instances=2)
    deploy(MODEL, "sagemaker", account=replace(pushed, run="other"), instances=2)
    delete_everything(pushed)
    [target] = targets(pushed)
    assert target["ResourceId"].startswith("endpoint/lggseg-other-")


def test_only_a_real_time_endpoint_scales_and_captures() -> None:
    for options in ({"instances": 2}, {"capture": True}):
        with pytest.raises(ValueError, match="kind='serverless': expected real-time where"):
            deploy(MODEL, "sagemaker", kind="serverless", **options)


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"kind='cheap': expected one of \('real-time', "):
        deploy(MODEL, "sagemaker", kind="cheap")
