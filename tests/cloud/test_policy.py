"""One story of all that the project does in an account: its requests are what the policy allows,
and wherever it is cut off, the clean-up finds what is left."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aws_account import NAMES, POLICY, allowed, left
from sagemaker_answers import RESULTS, training

from lggseg.cloud.aws import images, training_jobs, tuning_jobs
from lggseg.cloud.aws.account import Account
from lggseg.cloud.aws.cleanup import delete_everything, find_everything
from lggseg.cloud.aws.model_registry import register_on_aws
from lggseg.cloud.aws.storage import upload
from lggseg.cloud.cost import Plan
from lggseg.cloud.deploy import deploy as deploy_model
from lggseg.config import Config
from lggseg.data.cohort import Cohort
from lggseg.data.splits import make_split

if TYPE_CHECKING:
    from aws_shapes import Request

MODEL = Path(__file__).resolve().parents[2] / "models" / "lgg-unet"
PLAN = Plan("ml.g5.xlarge", hours=1, jobs=2)
# What follows from requests: a role is handed on, tags are given, and Docker pushes layers.
IMPLIED = {
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
    for check in ("require_engine", "require_image"):
        monkeypatch.setattr(f"lggseg.cloud.docker.{check}", lambda *_: None)

    def no_docker(*arguments: str, input: str | None = None) -> None:
        if arguments[0] == "push":
            put_image(account, arguments[1].rpartition(":")[2])

    monkeypatch.setattr(images, "_docker", no_docker)
    events, runtime = account.session.events, "before-call.sagemaker-runtime"
    ok = SimpleNamespace(status_code=200)
    events.register(f"{runtime}.InvokeEndpoint", lambda **_: (ok, {"Body": BytesIO(b"{}")}))
    trials = {"TrainingJobSummaries": [training("Completed", 0.5)]}
    operation = "ListTrainingJobsForHyperParameterTuningJob"
    events.register(f"before-call.sagemaker.{operation}", lambda **_: (ok, trials))
    return account


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


def story(account: Account, cohort: Cohort, folder: Path) -> None:
    """All that costs or makes something, but for the clean-up."""
    images.push(account)
    split = make_split(cohort)
    channels = upload(cohort, split, account)
    for spot in (False, True):
        plan = Plan("ml.g5.xlarge", hours=1, spot=spot)
        job = training_jobs.start_training(Config(), channels, account, plan)
        training_jobs.wait(job, account)
        put_results(account, job)
        training_jobs.fetch_run(job, account, folder / str(spot))
    tuning_jobs.tune(Config(), cohort, split, PLAN, account=account)
    register_on_aws(MODEL, "unet", account)
    with deploy_model(MODEL, "sagemaker", account=account) as endpoint:
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
    for kind in ("training_job", "hyper_parameter_tuning_job"):
        for job in getattr(backend, f"{kind}s").values():
            setattr(job, f"{kind}_status", "InProgress")
    logs = logs_backends[account.number][account.region]
    logs.create_log_group("/aws/sagemaker/Endpoints/lggseg-test-x", {})


def test_every_statement_is_of_the_project_alone() -> None:
    for statement in POLICY["Statement"]:
        assert statement["Effect"] == "Allow"
        assert not [action for action in statement["Action"] if "*" in action]
        if statement["Resource"] == "*":
            verbs = {action.split(":")[1] for action in statement["Action"]}
            assert all(verb.startswith(("List", "Describe", "Get")) for verb in verbs), verbs
        else:
            assert all("lggseg" in resource for resource in statement["Resource"])


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


# Repository, bucket, two trainings, search, group and version of a model, then model, configuration
# and endpoint.
CREATIONS = 10


@pytest.mark.parametrize("count", range(CREATIONS))
def test_wherever_the_story_is_cut_off_the_clean_up_finds_the_rest(
    prepared: Account, cohort: Cohort, tmp_path: Path, count: int
) -> None:
    repair = cut_after(prepared, count)
    with pytest.raises(Cut):
        story(prepared, cohort, tmp_path)
    repair()
    delete_everything(prepared, whole_project=True)
    assert left(prepared) == set()
    assert prepared.session.client("s3").list_buckets()["Buckets"] == []
