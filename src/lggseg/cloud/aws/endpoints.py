"""Endpoints by SageMaker's calls, on AWS or in the SDK's local mode: both have the same clients."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lggseg.cloud.archives import pack_model
from lggseg.cloud.aws.account import Account, new_name, pause, require_account
from lggseg.cloud.aws.storage import make_bucket, put
from lggseg.data.codecs import ATTRIBUTES_HEADER, JSON
from lggseg.serving.client import Endpoint

START_SECONDS = 1800


@dataclass(frozen=True)
class Clients:
    """The clients ``sagemaker`` and ``sagemaker-runtime`` of boto3, or local mode's two."""

    sagemaker: Any
    runtime: Any


@dataclass(frozen=True)
class Hosted:
    """What an endpoint is made of: its image, the URI of the packed model folder, the role that it
    acts in, the kind of its one instance, where it is to be asked, and the tags of all that is
    made."""

    image: str
    model_data: str
    role: str
    instance: str
    url: str
    tags: list[dict[str, str]]


def deploy_on_aws(model: Path, account: Account, instance: str) -> Endpoint:
    """An endpoint on AWS of a model folder; see :func:`lggseg.cloud.deploy.deploy`."""
    require_account(account)
    name, session = new_name(account.prefix), account.session
    clients = Clients(session.client("sagemaker"), session.client("sagemaker-runtime"))
    url = f"{clients.runtime.meta.endpoint_url}/endpoints/{name}/invocations"
    with ExitStack() as stack:
        model_data = _upload(model, account, f"runs/{account.run}/endpoints/{name}", stack)
        image, tags = account.image("serve"), account.tags
        hosted = Hosted(image, model_data, account.role, instance, url, tags)
        return create_endpoint(clients, name, hosted, stack.pop_all())


def _upload(model: Path, account: Account, folder: str, stack: ExitStack) -> str:
    make_bucket(account)
    bucket = account.session.resource("s3").Bucket(account.bucket)
    stack.callback(lambda: bucket.objects.filter(Prefix=f"{folder}/").delete())
    with TemporaryDirectory(prefix="lggseg-") as here:
        return put(
            pack_model(model, Path(here) / "model.tar.gz"), account, f"{folder}/model.tar.gz"
        )


def create_endpoint(clients: Clients, name: str, hosted: Hosted, stack: ExitStack) -> Endpoint:
    """Make a model, a configuration and an endpoint of one name, and wait until it answers.

    ``made`` takes care of what the caller has made for it. Whatever goes wrong, and by
    ``Endpoint.delete`` in the end, everything is deleted, last made first.
    """
    sagemaker = clients.sagemaker
    container = {"Image": hosted.image, "ModelDataUrl": hosted.model_data, "Environment": {}}
    hardware = {"InitialInstanceCount": 1, "InstanceType": hosted.instance}
    variants = [{"VariantName": "all", "ModelName": name, **hardware}]
    tags = hosted.tags
    with stack:
        # Register each deletion before its call, so that an interrupt in between leaves nothing.
        stack.callback(forget, sagemaker.delete_model, ModelName=name)
        sagemaker.create_model(
            ModelName=name, PrimaryContainer=container, ExecutionRoleArn=hosted.role, Tags=tags
        )
        stack.callback(forget, sagemaker.delete_endpoint_config, EndpointConfigName=name)
        sagemaker.create_endpoint_config(
            EndpointConfigName=name, ProductionVariants=variants, Tags=tags
        )
        stack.callback(forget, sagemaker.delete_endpoint, EndpointName=name)
        sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name, Tags=tags)
        _wait_until_settled(sagemaker, name)
        send = partial(_send, clients.runtime, name, hosted.url)
        return Endpoint(hosted.url, send, stack.pop_all().close)


def _wait_until_settled(sagemaker: Any, name: str) -> None:
    end = time.monotonic() + START_SECONDS
    while (facts := sagemaker.describe_endpoint(EndpointName=name))["EndpointStatus"] == "Creating":
        if time.monotonic() > end:
            raise RuntimeError(f"{name}: the endpoint is not ready after {START_SECONDS} s.")
        pause()
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
            if "Could not find" in str(error):
                return
            if "in-progress" not in str(error) or time.monotonic() > end:
                raise
            pause()


def _send(runtime: Any, name: str, url: str, body: bytes, headers: dict[str, str]) -> bytes:
    """A transport (:mod:`lggseg.serving.client`) by the runtime's client, with the same errors."""
    from botocore.exceptions import ClientError

    try:
        answer = runtime.invoke_endpoint(EndpointName=name, Body=body, **_parameters(headers))
    except ClientError as error:
        told = error.response
        status = told.get("OriginalStatusCode", told["Error"]["Code"])
        message = told.get("OriginalMessage", told["Error"]["Message"])
        raise RuntimeError(f"{url}: {status} {message}") from error
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
