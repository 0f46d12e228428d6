"""Endpoints by SageMaker's calls, on AWS or in the SDK's local mode: both have the same clients."""

from __future__ import annotations

import secrets
import tarfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lggseg.cloud import preflight
from lggseg.cloud.account import Account
from lggseg.cloud.jobs import own_image
from lggseg.cloud.storage import make_bucket, put
from lggseg.data.codecs import ATTRIBUTES_HEADER, JSON
from lggseg.inference.model_folder import model_files
from lggseg.serving.client import Endpoint

POLL_SECONDS, START_SECONDS = 5, 1800
# How often an asynchronous endpoint's answer is looked for.
ASK_SECONDS = 0.5
# Two cores' worth of memory. Its requests and answers have at most 4 MB, half a batch's.
SERVERLESS = {"MemorySizeInMB": 4096, "MaxConcurrency": 2}
SERVERLESS_PART = 8
VARIANT, DIMENSION = "all", "sagemaker:variant:DesiredInstanceCount"
# Half of what two cores do (report/results/serving.json: 190 patients, each in two requests): the
# other half lasts until another instance has started.
REQUESTS_A_MINUTE = 200.0
# How SageMaker and Application Auto Scaling say that something is not there.
_ABSENT = ("Could not find", "No scalable target found")


@dataclass(frozen=True)
class Clients:
    """The clients ``sagemaker`` and ``sagemaker-runtime`` of boto3, or local mode's two."""

    sagemaker: Any
    runtime: Any


@dataclass(frozen=True)
class Hosted:
    """What an endpoint is made of: its image, the URI of the packed model folder, the role that it
    acts in, the kind of its one instance, where it is to be asked, and the tags of all parts;
    serverless: its memory and concurrency instead of an instance; options: further parameters of
    its configuration."""

    image: str
    model_data: str
    role: str
    instance: str
    url: str
    tags: list[dict[str, str]]
    serverless: dict[str, int] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


def deploy_on_aws(
    model: Path,
    account: Account,
    instance: str,
    kind: str = "real-time",
    *,
    instances: int = 1,
    capture: bool = False,
) -> Endpoint:
    """An endpoint on AWS of a model folder; see :func:`lggseg.cloud.deploy`."""
    preflight.require_account(account)
    name, session = new_name(account.prefix), account.session
    clients = Clients(session.client("sagemaker"), session.client("sagemaker-runtime"))
    url = f"{clients.runtime.meta.endpoint_url}/endpoints/{name}/invocations"
    with ExitStack() as made:
        folder = f"runs/{account.run}/endpoints/{name}"
        model_data = _upload(model, account, folder, made)
        hosted = Hosted(
            own_image(account, "serve"),
            model_data,
            account.role,
            instance,
            url,
            account.tags,
            serverless=SERVERLESS if kind == "serverless" else {},
            options=_options(account, folder, kind, capture),
        )
        create = partial(_create_scaled, account, instances) if instances > 1 else create_endpoint
        endpoint = create(clients, name, hosted, made.pop_all())
    if kind == "asynchronous":
        send = partial(_send_by_s3, account, clients.runtime, name, url, folder)
        return replace(endpoint, send=send)
    return replace(endpoint, part=SERVERLESS_PART) if kind == "serverless" else endpoint


def _upload(model: Path, account: Account, folder: str, made: ExitStack) -> str:
    make_bucket(account)
    bucket = account.session.resource("s3").Bucket(account.bucket)
    made.callback(lambda: bucket.objects.filter(Prefix=f"{folder}/").delete())
    with TemporaryDirectory(prefix="lggseg-") as here:
        return put(pack(model, Path(here) / "model.tar.gz"), account, f"{folder}/model.tar.gz")


def _options(account: Account, folder: str, kind: str, capture: bool) -> dict[str, Any]:
    """Further parameters of an endpoint's configuration. What is captured stays when the endpoint
    is deleted, until the run is: lines of JSON, below the endpoint's name."""
    if kind == "asynchronous":
        place = f"s3://{account.bucket}/{folder}"
        output = {"S3OutputPath": f"{place}/answers", "S3FailurePath": f"{place}/failures"}
        return {"AsyncInferenceConfig": {"OutputConfig": output}}
    if not capture:
        return {}
    captured = {
        "EnableCapture": True,
        "InitialSamplingPercentage": 100,
        "DestinationS3Uri": f"{account.folder}/captured",
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
    }
    return {"DataCaptureConfig": captured}


def _create_scaled(
    account: Account, most: int, clients: Clients, name: str, hosted: Hosted, made: ExitStack
) -> Endpoint:
    """As :func:`create_endpoint`; it gets up to ``most`` instances, by the requests of each."""
    scaling = account.session.client("application-autoscaling")
    resource = f"endpoint/{name}/variant/{VARIANT}"
    what = {"ServiceNamespace": "sagemaker", "ResourceId": resource, "ScalableDimension": DIMENSION}
    tags = {tag["Key"]: tag["Value"] for tag in account.tags}
    metric = {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
    target = {"TargetValue": REQUESTS_A_MINUTE, "PredefinedMetricSpecification": metric}
    made.callback(forget, scaling.deregister_scalable_target, **what)
    endpoint = create_endpoint(clients, name, hosted, made)
    with ExitStack() as undo:
        undo.callback(endpoint.delete)
        scaling.register_scalable_target(**what, MinCapacity=1, MaxCapacity=most, Tags=tags)
        scaling.put_scaling_policy(
            **what,
            PolicyName=name,
            PolicyType="TargetTrackingScaling",
            TargetTrackingScalingPolicyConfiguration=target,
        )
        undo.pop_all()
    return endpoint


def create_endpoint(clients: Clients, name: str, hosted: Hosted, made: ExitStack) -> Endpoint:
    """Make a model, a configuration and an endpoint of one name, and wait until it answers.

    ``made`` takes care of what the caller has made for it. Whatever goes wrong, and by
    ``Endpoint.delete`` in the end, everything is deleted, last made first.
    """
    sagemaker = clients.sagemaker
    container = {"Image": hosted.image, "ModelDataUrl": hosted.model_data, "Environment": {}}
    hardware: dict[str, Any] = {"InitialInstanceCount": 1, "InstanceType": hosted.instance}
    if hosted.serverless:
        hardware = {"ServerlessConfig": hosted.serverless}
    variants = [{"VariantName": VARIANT, "ModelName": name, **hardware}]
    tags = hosted.tags
    with made:
        # What undoes a call stands ready before it: an interrupt may come in between.
        made.callback(forget, sagemaker.delete_model, ModelName=name)
        sagemaker.create_model(
            ModelName=name, PrimaryContainer=container, ExecutionRoleArn=hosted.role, Tags=tags
        )
        made.callback(forget, sagemaker.delete_endpoint_config, EndpointConfigName=name)
        sagemaker.create_endpoint_config(
            EndpointConfigName=name, ProductionVariants=variants, Tags=tags, **hosted.options
        )
        made.callback(forget, sagemaker.delete_endpoint, EndpointName=name)
        sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name, Tags=tags)
        _wait_until_settled(sagemaker, name)
        send = partial(_send, clients.runtime, name, hosted.url)
        return Endpoint(hosted.url, send, made.pop_all().close)


def _wait_until_settled(sagemaker: Any, name: str) -> None:
    end = time.monotonic() + START_SECONDS
    while (facts := sagemaker.describe_endpoint(EndpointName=name))["EndpointStatus"] == "Creating":
        if time.monotonic() > end:
            raise RuntimeError(f"{name}: the endpoint is not ready after {START_SECONDS} s.")
        time.sleep(POLL_SECONDS)
    if facts["EndpointStatus"] != "InService":
        reason = facts.get("FailureReason", facts["EndpointStatus"])
        raise RuntimeError(f"{name}: the endpoint did not start ({reason}).")


def forget(delete: Callable[..., object], **name: str) -> None:
    """Delete what may be there. AWS deletes no endpoint that is still being made: wait for it."""
    from botocore.exceptions import ClientError

    end = time.monotonic() + START_SECONDS
    while True:
        try:
            delete(**name)
            return
        except ClientError as error:
            if any(words in str(error) for words in _ABSENT):
                return
            if "in-progress" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(POLL_SECONDS)


def _send(runtime: Any, name: str, url: str, body: bytes, headers: dict[str, str]) -> bytes:
    """A transport (:mod:`lggseg.serving.client`) by the runtime's client, with the same errors."""
    from botocore.exceptions import ClientError

    try:
        answer = runtime.invoke_endpoint(EndpointName=name, Body=body, **_parameters(headers))
    except ClientError as error:
        told = error.response
        status = told.get("OriginalStatusCode", told["Error"]["Code"])
        said = told.get("OriginalMessage", told["Error"]["Message"])
        raise RuntimeError(f"{url}: {status} {said}") from error
    content = bytes(answer["Body"].read())
    # Local mode hands a refusal over as an answer.
    status = getattr(answer["Body"], "status", 200)
    if status >= 400:
        raise RuntimeError(f"{url}: {status} {content.decode()}")
    return content


def _parameters(headers: dict[str, str]) -> dict[str, str]:
    """Headers of a request as the parameters of the runtime's calls."""
    named = {"ContentType": headers["Content-Type"], "Accept": headers.get("Accept", JSON)}
    if headers.get(ATTRIBUTES_HEADER):
        named["CustomAttributes"] = headers[ATTRIBUTES_HEADER]
    return named


def _send_by_s3(
    account: Account,
    runtime: Any,
    name: str,
    url: str,
    folder: str,
    body: bytes,
    headers: dict[str, str],
) -> bytes:
    """A transport to an asynchronous endpoint: question and answer are files in the bucket."""
    s3, key = account.session.client("s3"), f"{folder}/questions/{secrets.token_hex(8)}"
    s3.put_object(Bucket=account.bucket, Key=key, Body=body, ServerSideEncryption="AES256")
    question = f"s3://{account.bucket}/{key}"
    where = runtime.invoke_endpoint_async(
        EndpointName=name, InputLocation=question, **_parameters(headers)
    )
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        for place in ("OutputLocation", "FailureLocation"):
            content = _read_if_there(s3, where.get(place, ""))
            if content is not None and place == "OutputLocation":
                return content
            if content is not None:
                raise RuntimeError(f"{url}: {content.decode(errors='replace')}")
        time.sleep(ASK_SECONDS)
    raise RuntimeError(f"{url}: found no answer after {START_SECONDS} s.")


def _read_if_there(s3: Any, uri: str) -> bytes | None:
    if not uri:
        return None
    bucket, key = uri.removeprefix("s3://").split("/", 1)
    try:
        return bytes(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    except s3.exceptions.NoSuchKey:
        return None


def new_name(prefix: str) -> str:
    """A name that no other endpoint has, such as ``<prefix>-20260131-235959-a1b2c3``."""
    return f"{prefix}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def pack(model: Path, file: Path) -> Path:
    """A model folder as SageMaker wants it: the tar file that it unpacks into /opt/ml/model, with
    files that any user may read."""
    with tarfile.open(file, "w:gz", compresslevel=1) as archive:
        for path in model_files(model):
            archive.add(path, path.name, filter=_readable)
    return file


def _readable(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mode, entry.uid, entry.gid, entry.uname, entry.gname = 0o644, 0, 0, "", ""
    return entry
