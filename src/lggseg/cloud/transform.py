"""Batch transform: masks of many patients from an instance that is there only for them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from lggseg.cloud.account import Account
from lggseg.cloud.cost import Plan
from lggseg.cloud.hosting import new_name, pack
from lggseg.cloud.jobs import own_image
from lggseg.cloud.storage import make_bucket, put
from lggseg.data.codecs import MAX_BYTES, NPY, TIFF, npy_bytes
from lggseg.inference.segmenter import Segmenter
from lggseg.utils.files import replace_file

POLL_SECONDS = 15


def transform(
    model: Path, volumes: Mapping[str, np.ndarray], account: Account, plan: Plan, out: Path
) -> list[Path]:
    """Segment volumes, uint8 ``(slices, 256, 256, 3)`` by patient, on an instance of AWS; write
    ``<patient>_mask.tif`` into ``out`` as ``lggseg predict`` does, and return these files.

    plan: ``instance``, and ``hours``, after which the job is stopped. Raises ``DataError`` for a
    folder without a model, ``ValueError`` for a volume that is too large for a request,
    ``RuntimeError`` with SageMaker's reason when the job fails. Nothing is left on AWS but the
    record of the job, which costs nothing.
    """
    Segmenter.load(model)
    for patient, volume in volumes.items():
        if volume.nbytes > MAX_BYTES:
            message = f"{patient}: found {volume.nbytes} bytes; expected up to {MAX_BYTES} a volume"
            raise ValueError(f"{message}. Segment it by lggseg.serving.client.segment, in parts.")
    make_bucket(account)
    name = new_name(account.prefix)
    folder = f"runs/{account.run}/transform/{name}"
    bucket = account.session.resource("s3").Bucket(account.bucket)
    with ExitStack() as made:
        made.callback(lambda: bucket.objects.filter(Prefix=f"{folder}/").delete())
        _upload(model, volumes, account, folder)
        sagemaker = account.session.client("sagemaker")
        _create_model(sagemaker, name, account, folder)
        made.callback(sagemaker.delete_model, ModelName=name)
        _start(sagemaker, name, account, plan, folder)
        made.callback(_stop, sagemaker, name)
        _wait(sagemaker, name, plan.hours)
        return [_fetch(bucket, f"{folder}/out/{p}.npy.out", out / f"{p}_mask.tif") for p in volumes]


def _upload(model: Path, volumes: Mapping[str, np.ndarray], account: Account, folder: str) -> None:
    with tempfile.TemporaryDirectory() as here:
        put(pack(model, Path(here) / "model.tar.gz"), account, f"{folder}/model.tar.gz")
        for patient, volume in volumes.items():  # one at a time: all would fill the memory
            file = Path(here) / "volume.npy"
            file.write_bytes(npy_bytes(volume))
            put(file, account, f"{folder}/in/{patient}.npy")


def _create_model(sagemaker: Any, name: str, account: Account, folder: str) -> None:
    data = f"s3://{account.bucket}/{folder}/model.tar.gz"
    container = {"Image": own_image(account, "serve"), "ModelDataUrl": data}
    sagemaker.create_model(
        ModelName=name,
        PrimaryContainer=container,
        ExecutionRoleArn=account.role,
        Tags=account.tags,
    )


def _start(sagemaker: Any, name: str, account: Account, plan: Plan, folder: str) -> None:
    place = f"s3://{account.bucket}/{folder}"
    source = {"S3DataType": "S3Prefix", "S3Uri": f"{place}/in/"}
    sagemaker.create_transform_job(
        TransformJobName=name,
        ModelName=name,
        MaxPayloadInMB=MAX_BYTES // 10**6,
        BatchStrategy="SingleRecord",
        TransformInput={"DataSource": {"S3DataSource": source}, "ContentType": NPY},
        TransformOutput={"S3OutputPath": f"{place}/out", "Accept": TIFF},
        TransformResources={"InstanceType": plan.instance, "InstanceCount": plan.instance_count},
        Tags=account.tags,
    )


def _wait(sagemaker: Any, name: str, hours: float) -> None:
    end = time.monotonic() + hours * 3600
    while True:
        job = sagemaker.describe_transform_job(TransformJobName=name)
        status = job["TransformJobStatus"]
        if status == "Completed":
            return
        if status != "InProgress":
            raise RuntimeError(f"{name}: the job ended {status} ({job.get('FailureReason')}).")
        if time.monotonic() > end:
            raise RuntimeError(f"{name}: the job is not done after {hours} hours; it is stopped.")
        time.sleep(POLL_SECONDS)


def _stop(sagemaker: Any, name: str) -> None:
    """SageMaker has no time limit for these jobs: one that nobody waits for must not go on."""
    job = sagemaker.describe_transform_job(TransformJobName=name)
    if job["TransformJobStatus"] == "InProgress":
        sagemaker.stop_transform_job(TransformJobName=name)


def _fetch(bucket: Any, key: str, path: Path) -> Path:
    replace_file(path, lambda part: bucket.download_file(key, str(part)))
    return path
