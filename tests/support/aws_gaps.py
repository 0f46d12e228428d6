"""Operations that moto lacks, on moto's own state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from moto.core.responses import EmptyResult
from moto.sagemaker.responses import SageMakerResponse

# What SageMaker stops, and what it deletes: the kind, and the parameter that names one.
_JOBS = {
    "training_job": "TrainingJobName",
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
