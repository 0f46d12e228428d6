"""Operations that moto lacks, and what its answers lack, on moto's own state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from moto.core.common_types import TYPE_RESPONSE
from moto.core.responses import ActionResult, EmptyResult
from moto.s3.responses import S3Response
from moto.s3.utils import compute_checksum
from moto.sagemaker.responses import SageMakerResponse

# What SageMaker stops, and what it deletes: the kind, and the parameter that names one.
_JOBS = {
    "training_job": "TrainingJobName",
    "transform_job": "TransformJobName",
    "hyper_parameter_tuning_job": "HyperParameterTuningJobName",
}
_DELETED = {
    "training_job": "TrainingJobName",
    "model_package": "ModelPackageName",
    "model_package_group": "ModelPackageGroupName",
}


@contextmanager
def filled() -> Iterator[None]:
    """moto with these operations, in this process and in its server."""
    with pytest.MonkeyPatch.context() as patch:
        for kind, parameter in _JOBS.items():
            patch.setattr(SageMakerResponse, f"stop_{kind}", _stop(kind, parameter), raising=False)
        for kind, parameter in _DELETED.items():
            delete = _delete(kind, parameter)
            patch.setattr(SageMakerResponse, f"delete_{kind}", delete, raising=False)
        patch.setattr(S3Response, "list_parts", _list_parts)
        yield


def _stop(kind: str, parameter: str) -> Callable[[SageMakerResponse], EmptyResult]:
    def stop(self: SageMakerResponse) -> EmptyResult:
        job = getattr(self.sagemaker_backend, f"{kind}s")[self._get_param(parameter)]
        setattr(job, f"{kind}_status", "Stopped")
        return EmptyResult()

    return stop


def _delete(kind: str, parameter: str) -> Callable[[SageMakerResponse], EmptyResult]:
    def delete(self: SageMakerResponse) -> EmptyResult:
        del getattr(self.sagemaker_backend, f"{kind}s")[self._get_param(parameter)]
        return EmptyResult()

    return delete


def _list_parts(self: S3Response) -> TYPE_RESPONSE:
    """The parts of an upload with their checksums, which moto leaves out."""
    upload = self._get_param("uploadId")
    parts = [
        {
            "PartNumber": part.name,
            "ETag": part.etag,
            "ChecksumSHA256": compute_checksum(part.value, "SHA256").decode(),
        }
        for part in self.backend.list_parts(self.bucket_name, upload, 0, 1000)
    ]
    self.data["Action"] = "ListParts"
    return self.serialized(ActionResult({"Parts": parts, "IsTruncated": False}))
