"""SageMaker's part where moto makes nothing: jobs that train, and endpoints that answer.

Each runs the project's own code on what the requests name: a training is
:func:`lggseg.cloud.container.main` on its channels in S3, a search draws its trainings from the
ranges at random, an endpoint is the application of ``lggseg serve`` on its model in S3.
"""

from __future__ import annotations

import copy
import io
import json
import random
import re
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout, suppress
from functools import cache, partial
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from fastapi.testclient import TestClient
from moto.core.common_types import TYPE_RESPONSE
from moto.core.responses import ActionResult
from moto.core.utils import camelcase_to_underscores, utcnow
from moto.s3.models import s3_backends
from moto.sagemaker.models import FakeTrainingJob, SageMakerModelBackend, sagemaker_backends
from moto.sagemaker.responses import SageMakerResponse
from moto.sagemakerruntime.responses import SageMakerRuntimeResponse

from lggseg.cloud import container
from lggseg.data.archive import extract_files
from lggseg.data.codecs import ATTRIBUTES_HEADER
from lggseg.serving.endpoint import build_app
from lggseg.serving.server import Limits

ACCOUNT, REGION = "123456789012", "us-east-1"
LIST_TRAININGS = "list_training_jobs_for_hyper_parameter_tuning_job"
Given = dict[str, Any]


@contextmanager
def working() -> Iterator[None]:
    """moto with jobs that train and endpoints that answer, in this process and in its server."""
    backend, response, runtime = SageMakerModelBackend, SageMakerResponse, SageMakerRuntimeResponse
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        for kind, do in {"training_job": _train, "hyper_parameter_tuning_job": _search}.items():
            created = _started(getattr(backend, f"create_{kind}"), kind, partial(pool.submit, do))
            patch.setattr(backend, f"create_{kind}", created)
            described = _awaited(getattr(backend, f"describe_{kind}"))
            patch.setattr(backend, f"describe_{kind}", described)
        patch.setattr(response, LIST_TRAININGS, _list_trainings, raising=False)
        patch.setattr(runtime, "use_raw_body", True)
        patch.setattr(runtime, "invoke_endpoint", _invoke)
        yield
    _server.cache_clear()
    _WORK.clear()


# The work of each job, by its name.
_WORK: dict[str, Future[None]] = {}


def _started(create: Any, kind: str, begin: Callable[..., Future[None]]) -> Callable[..., Any]:
    """moto's own creation of a job, whose work then begins."""

    def created(self: SageMakerModelBackend, **given: Any) -> Any:
        asked = copy.deepcopy(given)  # moto writes into what it is given
        made = create(self, **given)
        name = asked[f"{kind}_name"]
        setattr(getattr(self, f"{kind}s")[name], f"{kind}_status", "InProgress")
        _WORK[name] = begin(self, asked)
        return made

    return created


def _awaited(describe: Any) -> Callable[..., Any]:
    """moto's own description of a job, after its end if that is near: nobody sleeps meanwhile."""

    def described(self: SageMakerModelBackend, *names: str, **named: str) -> Any:
        with suppress(TimeoutError):
            _WORK[(*names, *named.values())[0]].result(timeout=30)
        return describe(self, *names, **named)

    return described


def _train(self: SageMakerModelBackend, asked: Given) -> None:
    """Run a training in a folder that stands for ``/opt/ml``, and keep what SageMaker keeps."""
    job: FakeTrainingJob = self.training_jobs[asked["training_job_name"]]
    log = io.StringIO()
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        root = _prepare(Path(folder), asked)
        patch.setenv("TRAINING_JOB_NAME", job.training_job_name)
        # Where there are several GPUs, torchrun would take the place of this process.
        patch.setattr(container, "start_processes", lambda *_: None)
        with redirect_stdout(log):
            failed = container.main(root)
        if failed:
            job.failure_reason = (root / "output" / "failure").read_text()
        place = job.model_artifacts["S3ModelArtifacts"].removesuffix("/model.tar.gz")
        _upload(root / "model", f"{place}/model.tar.gz")
        _upload(root / "output", f"{place}/output.tar.gz")
    job.training_end_time = utcnow()
    job.final_metric_data_list = [
        {"MetricName": metric["Name"], "Value": float(found[-1]), "Timestamp": utcnow()}
        for metric in asked["algorithm_specification"]["MetricDefinitions"]
        if (found := re.findall(metric["Regex"], log.getvalue()))
    ]
    job.training_job_status = job.secondary_status = "Failed" if failed else "Completed"


def _prepare(root: Path, asked: Given) -> Path:
    config = root / "input" / "config" / "hyperparameters.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps(asked["hyper_parameters"]))
    for channel in asked["input_data_config"]:
        folder = root / "input" / "data" / channel["ChannelName"]
        folder.mkdir(parents=True)
        bucket, prefix = _bucket_and_key(channel["DataSource"]["S3DataSource"]["S3Uri"])
        for key, content in s3_backends[ACCOUNT]["aws"].buckets[bucket].keys.items():
            if key.startswith(prefix):
                (folder / Path(key).name).write_bytes(content.value)
    return root


def _upload(folder: Path, uri: str) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for path in sorted(folder.glob("*")):
            tar.add(path, path.name)
    s3_backends[ACCOUNT]["aws"].put_object(*_bucket_and_key(uri), packed.getvalue())


def _bucket_and_key(uri: str) -> list[str]:
    """Bucket and key of a URI."""
    return uri.removeprefix("s3://").split("/", 1)


def _search(self: SageMakerModelBackend, asked: Given) -> None:
    """All trainings that a search may take, in turn, with its tags."""
    search, job = asked["hyper_parameter_tuning_job_config"], asked["training_job_definition"]
    given = dict.fromkeys(_TRAINING) | {camelcase_to_underscores(name): job[name] for name in job}
    objective = {"_tuning_objective_metric": _objective(search)}
    chance = random.Random(0)
    for number in range(search["ResourceLimits"]["MaxNumberOfTrainingJobs"]):
        given["training_job_name"] = f"{asked['hyper_parameter_tuning_job_name']}-{number:03d}"
        drawn = _draw(search["ParameterRanges"], chance)
        given["hyper_parameters"] = job["StaticHyperParameters"] | drawn | objective
        given["tags"] = asked["tags"]
        self.create_training_job(**copy.deepcopy({name: given[name] for name in _TRAINING}))
        _WORK[given["training_job_name"]].result()
    made = self.hyper_parameter_tuning_jobs[asked["hyper_parameter_tuning_job_name"]]
    made.hyper_parameter_tuning_job_status = "Completed"


_TRAINING = set(signature(SageMakerModelBackend.create_training_job).parameters) - {"self"}


def _objective(search: Given) -> str:
    return str(search["HyperParameterTuningJobObjective"]["MetricName"])


def _draw(ranges: Given, chance: random.Random) -> dict[str, str]:
    """A setting as the tuner hands it over, which wraps categories in quotes."""
    limits = {
        entry["Name"]: (float(entry["MinValue"]), float(entry["MaxValue"]))
        for entry in ranges.get("ContinuousParameterRanges", [])
    }
    choices = {entry["Name"]: entry["Values"] for entry in ranges["CategoricalParameterRanges"]}
    drawn = {name: str(chance.uniform(*ends)) for name, ends in limits.items()}
    return drawn | {name: f'"{chance.choice(values)}"' for name, values in choices.items()}


def _list_trainings(self: SageMakerResponse) -> ActionResult:
    """The trainings of a search as SageMaker sums them up."""
    name, backend = self._get_param("HyperParameterTuningJobName"), self.sagemaker_backend
    search = backend.hyper_parameter_tuning_jobs[name]
    fixed = search.training_job_definition["StaticHyperParameters"]
    summaries = []
    for job in backend.training_jobs.values():
        if not job.training_job_name.startswith(f"{name}-"):
            continue
        metrics = {metric["MetricName"]: metric for metric in job.final_metric_data_list}
        tuned = {key: text for key, text in job.hyper_parameters.items() if key not in fixed}
        tuned.pop("_tuning_objective_metric")
        summary = {
            "TrainingJobName": job.training_job_name,
            "TrainingJobArn": job.arn,
            "CreationTime": job.creation_time,
            "TrainingStartTime": job.training_start_time,
            "TrainingEndTime": job.training_end_time,
            "TrainingJobStatus": job.training_job_status,
            "TunedHyperParameters": tuned,
        }
        if metric := metrics.get(_objective(search.hyper_parameter_tuning_job_config)):
            summary["FinalHyperParameterTuningJobObjectiveMetric"] = metric
        summaries.append(summary)
    return ActionResult({"TrainingJobSummaries": summaries})


def _invoke(self: SageMakerRuntimeResponse) -> TYPE_RESPONSE:
    """What the endpoint's server answers; a refusal of its comes as SageMaker passes it on."""
    name = self.path.split("/")[2]
    passed = ("Content-Type", "Accept", ATTRIBUTES_HEADER)
    headers = {header: self.headers[header] for header in passed if header in self.headers}
    answer = _server(name).post("/invocations", content=self.raw_body, headers=headers)
    if answer.is_success:
        return 200, {"Content-Type": answer.headers["Content-Type"]}, answer.content
    told = {
        "Message": f"Received client error ({answer.status_code}) from primary",
        "OriginalStatusCode": answer.status_code,
        "OriginalMessage": answer.text,
    }
    return 424, {"status": 424, "X-Amzn-ErrorType": "ModelError"}, json.dumps(told)


@cache
def _server(endpoint: str) -> TestClient:
    """`lggseg serve` of the model that an endpoint was made of."""
    backend = sagemaker_backends[ACCOUNT][REGION]
    config = backend.endpoint_configs[backend.endpoints[endpoint].endpoint_config_name]
    model = backend._models[config.production_variants[0]["ModelName"]]
    bucket, key = _bucket_and_key(model.primary_container["ModelDataUrl"])
    packed = s3_backends[ACCOUNT]["aws"].get_object(bucket, key)
    assert packed
    with TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(packed.value)) as tar:
            extract_files(tar, Path(folder).resolve())
        return TestClient(build_app(Path(folder), Limits()))
