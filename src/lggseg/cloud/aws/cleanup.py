"""``delete_everything``: what a run, or the whole project, left in an AWS account.

Found by listing each kind and reading the tags, which shows a resource the moment it exists. AWS's
own index of tags lags behind, and an endpoint that it does not know yet would go on costing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lggseg.cloud.aws.account import PROJECT, Account, pause
from lggseg.cloud.aws.endpoints import forget
from lggseg.cloud.aws.storage import has_bucket

# How long a job may take to stop.
STOP_SECONDS = 600
_LOGS = "/aws/sagemaker/Endpoints/"


@dataclass(frozen=True)
class Resource:
    """Something of SageMaker's that exists: its kind as in ``Delete<kind>``, name, ARN, status."""

    kind: str
    name: str
    arn: str
    status: str


# In the order of deletion, each with the key under which its list comes.
_SERVING = {"Endpoint": "Endpoints", "EndpointConfig": "EndpointConfigs", "Model": "Models"}
# A tuning job first: it would start further trainings.
_JOBS = {
    "HyperParameterTuningJob": "HyperParameterTuningJobSummaries",
    "TrainingJob": "TrainingJobSummaries",
}
_GROUPS = {"ModelPackageGroup": "ModelPackageGroupSummaryList"}


def delete_everything(account: Account, *, whole_project: bool = False) -> list[str]:
    """Delete what is tagged with the account's run: endpoints, their configurations, logs and
    models, jobs (running ones are stopped), registered models, files. With ``whole_project``
    that of all runs, the bucket with the cohorts, and the images.

    Returns the ARNs or URIs of what was deleted; a second call finds nothing.
    Raises ``RuntimeError`` when a job does not stop within ten minutes; nothing else is left by
    then, so call it again.
    """
    sagemaker = account.session.client("sagemaker")
    run = "" if whole_project else account.run
    # First of all, since an endpoint that is still being made has to be waited for.
    running = [job for job in _find(sagemaker, _JOBS, run) if job.status == "InProgress"]
    for job in running:
        getattr(sagemaker, f"stop{_snake(job.kind)}")(**{f"{job.kind}Name": job.name})
    deleted = [_delete(sagemaker, found) for found in _find(sagemaker, _SERVING, run)]
    deleted += _delete_packages(sagemaker, run)
    deleted += _delete_logs(account, whole_project)
    _wait_for_stops(sagemaker, run)
    deleted += [_delete(sagemaker, job) for job in _find(sagemaker, _JOBS, run)]
    # Last, since a job that stops still writes.
    return deleted + _delete_files(account, whole_project) + _delete_images(account, whole_project)


def find_everything(account: Account) -> list[str]:
    """The ARNs of what :func:`delete_everything` would delete of SageMaker's."""
    sagemaker = account.session.client("sagemaker")
    return [found.arn for found in _find(sagemaker, {**_SERVING, **_JOBS, **_GROUPS}, account.run)]


def _find(sagemaker: Any, kinds: dict[str, str], run: str) -> Iterator[Resource]:
    """The resources of these kinds that carry the project's tag, and the run's if one is given."""
    wanted = {"project": PROJECT, **({"run": run} if run else {})}
    for kind, key in kinds.items():
        pages = sagemaker.get_paginator(f"list{_snake(kind)}s").paginate(NameContains=PROJECT)
        for entry in [entry for page in pages for entry in page[key]]:
            found = Resource(
                kind, entry[f"{kind}Name"], entry[f"{kind}Arn"], entry.get(f"{kind}Status", "")
            )
            if found.status != "Deleting" and wanted.items() <= _tags(sagemaker, found.arn).items():
                yield found


def _tags(sagemaker: Any, arn: str) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in sagemaker.list_tags(ResourceArn=arn)["Tags"]}


def _snake(kind: str) -> str:
    """``_training_job`` for ``TrainingJob``."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in kind)


def _delete(sagemaker: Any, found: Resource) -> str:
    forget(getattr(sagemaker, f"delete{_snake(found.kind)}"), **{f"{found.kind}Name": found.name})
    return found.arn


def _wait_for_stops(sagemaker: Any, run: str) -> None:
    end = time.monotonic() + STOP_SECONDS
    while True:
        states = [(job.status, job.name) for job in _find(sagemaker, _JOBS, run)]
        names = [name for status, name in states if status in ("InProgress", "Stopping")]
        if not names:
            return
        if time.monotonic() > end:
            raise RuntimeError(
                f"{names[0]}: found it still stopping after {STOP_SECONDS} s; expected it to end. "
                "Call delete_everything again in some minutes."
            )
        pause()


def _delete_packages(sagemaker: Any, run: str) -> list[str]:
    deleted = []
    for group in _find(sagemaker, _GROUPS, run):
        listed = sagemaker.list_model_packages(ModelPackageGroupName=group.name)
        for package in listed["ModelPackageSummaryList"]:
            sagemaker.delete_model_package(ModelPackageName=package["ModelPackageArn"])
            deleted.append(package["ModelPackageArn"])
        deleted.append(_delete(sagemaker, group))
    return deleted


def _delete_logs(account: Account, whole_project: bool) -> list[str]:
    """SageMaker makes an endpoint's logs itself, without tags, under the endpoint's name."""
    logs = account.session.client("logs")
    prefix = _LOGS + (f"{PROJECT}-" if whole_project else f"{account.prefix}-")
    found = logs.describe_log_groups(logGroupNamePrefix=prefix)["logGroups"]
    for group in found:
        logs.delete_log_group(logGroupName=group["logGroupName"])
    return [group["arn"] for group in found]


def _delete_files(account: Account, whole_project: bool) -> list[str]:
    if not has_bucket(account):
        return []
    bucket = account.session.resource("s3").Bucket(account.bucket)
    prefix = "" if whole_project else f"runs/{account.run}/"
    found = [f"s3://{bucket.name}/{entry.key}" for entry in bucket.objects.filter(Prefix=prefix)]
    bucket.objects.filter(Prefix=prefix).delete()
    if not whole_project:
        return found
    for upload in bucket.multipart_uploads.all():
        upload.abort()
    bucket.delete()
    return [*found, f"s3://{bucket.name}"]


def _delete_images(account: Account, whole_project: bool) -> list[str]:
    ecr = account.session.client("ecr")
    if not whole_project:
        return []
    try:
        deleted = ecr.delete_repository(repositoryName=PROJECT, force=True)
    except ecr.exceptions.RepositoryNotFoundException:
        return []
    return [deleted["repository"]["repositoryArn"]]
