"""Operations of SageMaker that moto lacks, on moto's own state, for tests of the clean-up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import botocore.handlers
from moto.sagemaker.models import sagemaker_backends

ACCOUNT = "123456789012"
# The operation, where moto keeps the things, the parameter that names one.
_STOP = {
    "StopTrainingJob": ("training_jobs", "TrainingJobName", "training_job_status"),
    "StopTransformJob": ("transform_jobs", "TransformJobName", "transform_job_status"),
    "StopHyperParameterTuningJob": (
        "hyper_parameter_tuning_jobs",
        "HyperParameterTuningJobName",
        "hyper_parameter_tuning_job_status",
    ),
}
_DELETE = {
    "DeleteTrainingJob": ("training_jobs", "TrainingJobName"),
    "DeleteModelPackage": ("model_packages", "ModelPackageName"),
    "DeleteModelPackageGroup": ("model_package_groups", "ModelPackageGroupName"),
}


@contextmanager
def filled() -> Iterator[None]:
    """moto with these operations, in sessions that are made inside."""
    handler = ("before-call.sagemaker.*", _answer)
    botocore.handlers.BUILTIN_HANDLERS.append(handler)
    try:
        yield
    finally:
        botocore.handlers.BUILTIN_HANDLERS.remove(handler)


def _answer(model: Any, params: dict[str, Any], context: dict[str, Any], **_: Any) -> Any:
    if model.name not in _STOP | _DELETE:
        return None
    backend = sagemaker_backends[ACCOUNT][context["client_region"]]
    values = json.loads(params["body"])
    if model.name in _STOP:
        place, key, status = _STOP[model.name]
        setattr(getattr(backend, place)[values[key]], status, "Stopped")
    else:
        place, key = _DELETE[model.name]
        del getattr(backend, place)[values[key]]
    return SimpleNamespace(status_code=200), {"ResponseMetadata": {"HTTPStatusCode": 200}}
