"""One story of all that the project does in an account: its requests are what the policy allows,
and wherever it is cut off, the clean-up finds what is left."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from aws_account import left
from sagemaker_answers import RESULTS, training
from sagemaker_answers import answer as answer_transform

from lggseg.cloud import images, jobs, tuning
from lggseg.cloud.account import Account
from lggseg.cloud.cleanup import delete_everything, find_everything
from lggseg.cloud.cost import Plan
from lggseg.cloud.endpoints import deploy as deploy_model
from lggseg.cloud.model_registry import register_on_aws
from lggseg.cloud.storage import upload
from lggseg.cloud.transform import transform
from lggseg.config import Config
from lggseg.data.cohort import Cohort
from lggseg.data.splits import make_split

if TYPE_CHECKING:
    from aws_shapes import Request
from aws_account import NAMES, POLICY, allowed

MODEL = Path(__file__).resolve().parents[2] / "models" / "lgg-unet"


PLAN = Plan("ml.g5.xlarge", hours=1, jobs=2)


VOLUMES = {"a": np.zeros((1, 256, 256, 3), np.uint8)}


# What follows from requests: a role is handed on, tags are given, Docker pushes layers, and who
# lets an endpoint be scaled must be allowed to do what scaling does.
IMPLIED = {
    "application-autoscaling:TagResource",
    "cloudwatch:DeleteAlarms",
    "cloudwatch:DescribeAlarms",
    "cloudwatch:PutMetricAlarm",
    "iam:CreateServiceLinkedRole",
    "sagemaker:DescribeEndpointConfig",
    "sagemaker:UpdateEndpointWeightsAndCapacities",
    "iam:PassRole",
    "sagemaker:AddTags",
    "ecr:TagResource",
    "ecr:BatchCheckLayerAvailability",
    "ecr:BatchGetImage",
    "ecr:InitiateLayerUpload",
    "ecr:UploadLayerPart",
    "ecr:CompleteLayerUpload",
    "ecr:PutImage",
}


@pytest.fixture
def prepared(account: Account, monkeypatch: pytest.MonkeyPatch) -> Account:
    """The account, with answers where moto has none, and a Docker that does nothing."""
    # Jobs that start within a second would have one name.
    numbers = iter(range(999))
    unique = "sagemaker.train.model_trainer._get_unique_name"
    monkeypatch.setattr(unique, lambda base: f"{base}-{next(numbers)}")
    # The packed cohort has 5.1 MiB.
    monkeypatch.setattr("lggseg.cloud.storage.PART_BYTES", 5 * 2**20)
    for check in ("require_engine", "require_image"):
        monkeypatch.setattr(f"lggseg.cloud.preflight.{check}", lambda *_: None)

    def no_docker(*arguments: str, input: str | None = None) -> None:
        if arguments[0] == "push":
            put_image(account, arguments[1].rpartition(":")[2])

    monkeypatch.setattr(images, "_docker", no_docker)
    events, runtime = account.session.events, "before-call.sagemaker-runtime"
    ok = SimpleNamespace(status_code=200)
    events.register(f"{runtime}.InvokeEndpoint", lambda **_: (ok, {"Body": BytesIO(b"{}")}))
    events.register(f"{runtime}.InvokeEndpointAsync", lambda **asked: (ok, echo(asked)))
    trials = {"TrainingJobSummaries": [training("Completed", 0.5)]}
    operation = "ListTrainingJobsForHyperParameterTuningJob"
    events.register(f"before-call.sagemaker.{operation}", lambda **_: (ok, trials))
    answer_transform(account)
    return account


def echo(asked: dict[str, Any]) -> dict[str, str]:
    """An answer that is the question."""
    return {"OutputLocation": asked["params"]["headers"]["X-Amzn-SageMaker-InputLocation"]}


def put_image(account: Account, tag: str) -> None:
    from moto.ecr.models import ecr_backends

    kind = "application/vnd.docker.distribution.manifest.v2+json"
    # Not by a request, since Docker's own do not pass through boto3.
    ecr_backends[account.number][account.region].put_image(
        "lggseg", json.dumps({"schemaVersion": 2, "mediaType": kind, "tag": tag}), tag, kind
    )


def put_results(account: Account, name: str) -> None:
    """What a training job leaves, not by a request of ours."""
    from moto.s3.models import s3_backends

    backend = s3_backends[account.number]["aws"]
    for file, content in RESULTS.items():
        key = f"runs/{account.run}/jobs/{name}/output/{file}"
        backend.put_object(account.bucket, key, content)


def story(account: Account, cohort: Cohort, folder: Path, aws_image: bool = True) -> None:
    """All that costs or makes something, but for the clean-up. aws_image: train in AWS's image,
    too, which uploads many files."""
    images.push(account)
    split = make_split(cohort)
    channels = upload(cohort, split, account)
    for theirs in (False, True)[: 1 + aws_image]:
        plan = Plan("ml.g5.xlarge", hours=1, spot=theirs)
        job = jobs.start_training(Config(), channels, account, plan, aws_image=theirs)
        jobs.wait(job)
        put_results(account, job.training_job_name)
        jobs.fetch_run(job, account, folder / str(theirs))
    tuning.tune(Config(), cohort, split, PLAN, account=account)
    register_on_aws(MODEL, "unet", account)
    transform(MODEL, VOLUMES, account, PLAN, folder)
    for kind in ("real-time", "serverless", "asynchronous"):
        more = {"instances": 2, "capture": True} if kind == "real-time" else {}
        with deploy_model(MODEL, "sagemaker", account=account, kind=kind, **more) as endpoint:
            endpoint.send(b"", {"Content-Type": "application/x-npy"})


def test_the_policy_allows_exactly_what_is_called(
    aws: list[Request], prepared: Account, cohort: Cohort, tmp_path: Path
) -> None:
    story(prepared, cohort, tmp_path)
    made = [r for r in aws if r.operation.startswith("Create") and "Multi" not in r.operation]
    assert len(made) == CREATIONS
    leave_running(prepared)
    find_everything(prepared)
    delete_everything(prepared)
    half = {"Bucket": prepared.bucket, "Key": "data/half"}
    prepared.session.client("s3").create_multipart_upload(**half)
    delete_everything(prepared, whole_project=True)
    called = {f"{request.service}:{request.operation}" for request in aws}
    needed = {action for call in called for action in NAMES.get(call, [call])}
    assert sorted(needed | IMPLIED) == sorted(allowed())
    assert not [r for r in aws if r.params.get("ACL") or r.operation.endswith("Acl")]


def leave_running(account: Account) -> None:
    """A job of each kind that has to be stopped, and logs that SageMaker made."""
    from moto.logs.models import logs_backends
    from moto.sagemaker.models import sagemaker_backends

    backend = sagemaker_backends[account.number][account.region]
    for kind in ("training_job", "hyper_parameter_tuning_job", "transform_job"):
        for job in getattr(backend, f"{kind}s").values():
            setattr(job, f"{kind}_status", "InProgress")
    logs = logs_backends[account.number][account.region]
    logs.create_log_group("/aws/sagemaker/Endpoints/lggseg-test-x", {})


def test_every_statement_is_of_the_project_or_of_scaling_alone() -> None:
    for statement in POLICY["Statement"]:
        assert statement["Effect"] == "Allow"
        assert not [action for action in statement["Action"] if "*" in action]
        if statement["Resource"] == "*":
            verbs = {action.split(":")[1] for action in statement["Action"]}
            assert all(verb.startswith(("List", "Describe", "Get")) for verb in verbs), verbs
        elif not all("lggseg" in resource for resource in statement["Resource"]):
            # What cannot have a name of ours is at least of SageMaker's.
            [values] = statement["Condition"].values()
            assert all("sagemaker" in value for value in values.values())


class Cut(Exception):
    """The network is gone."""


def cut_after(account: Account, count: int) -> Callable[[], None]:
    """From the creation after so many on, every call fails; returns what repairs the network."""
    made: list[str] = []

    def cut(model: Any, **_: object) -> None:
        if model.name.startswith("Create") and "Multipart" not in model.name:
            made.append(model.name)
        if len(made) > count:
            raise Cut

    account.session.events.register_first("before-call.*.*", cut)
    return lambda: account.session.events.unregister("before-call.*.*", cut)


# Repository, bucket, two trainings, search, group and version of a model, model and batch
# transform, then model, configuration and endpoint of three kinds.
CREATIONS = 18


@pytest.mark.parametrize("count", range(CREATIONS - 1))
def test_wherever_the_story_is_cut_off_the_clean_up_finds_the_rest(
    prepared: Account, cohort: Cohort, tmp_path: Path, count: int
) -> None:
    repair = cut_after(prepared, count)
    with pytest.raises(Cut):
        story(prepared, cohort, tmp_path, aws_image=False)
    repair()
    delete_everything(prepared, whole_project=True)
    assert left(prepared) == set()
    assert prepared.session.client("s3").list_buckets()["Buckets"] == []
