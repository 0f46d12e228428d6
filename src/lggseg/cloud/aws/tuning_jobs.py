"""SageMaker's Bayesian tuner on the search space that Optuna searches here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Any

import pandas as pd

from lggseg.cloud.aws.account import Account, open_account
from lggseg.cloud.aws.storage import upload
from lggseg.cloud.aws.training_jobs import training_definition, wait_until_ended
from lggseg.cloud.cost import Plan
from lggseg.config import Config
from lggseg.data.cohort import Cohort
from lggseg.experiments.search_space import SEARCH_SPACE, Choice
from lggseg.training.loggers import OBJECTIVE

# What lggseg.experiments.search calls the state of a trial; SageMaker stops a training that falls
# behind.
_STATES = {"Completed": "complete", "Stopped": "pruned"}


def tune(
    config: Config,
    cohort: Cohort,
    split: pd.DataFrame,
    plan: Plan,
    *,
    account: Account | None = None,
    parallel: int = 2,
) -> pd.DataFrame:
    """Search on SageMaker, wait for the end, and return the table of its trials.

    account: by default what :func:`lggseg.cloud.aws.account.open_account` opens; the others as in
    :func:`start_tuning`. Raises ``RuntimeError`` when no training finished.
    """
    account = account or open_account()
    channels = upload(cohort, split, account)
    name = start_tuning(config, channels, account, plan, parallel=parallel)
    wait_for_tuning(name, account)
    return trials_table(name, account, config)


def start_tuning(
    config: Config,
    channels: dict[str, str],
    account: Account,
    plan: Plan,
    *,
    parallel: int = 2,
) -> str:
    """Start a search of ``plan.jobs`` trainings over
    :data:`lggseg.experiments.search_space.SEARCH_SPACE`, at most ``parallel`` at a time; returns
    the name of the tuning job without waiting.

    A training that falls behind is stopped early. Each ends after ``plan.hours``, the whole after
    as long as they take one after the other. A spot training that is interrupted begins again,
    since all trainings of a search would share one place for checkpoints.
    """
    # A name has at most 32 characters.
    name = f"{account.prefix}-{datetime.now():%m%d%H%M%S}"
    fixed = {key: text for key, text in config.to_strings().items() if key not in SEARCH_SPACE}
    account.session.client("sagemaker").create_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=name,
        HyperParameterTuningJobConfig={
            "Strategy": "Bayesian",
            "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": OBJECTIVE},
            "ResourceLimits": {
                "MaxNumberOfTrainingJobs": plan.jobs,
                "MaxParallelTrainingJobs": min(parallel, plan.jobs),
                "MaxRuntimeInSeconds": _seconds(plan, parallel),
            },
            "ParameterRanges": _ranges(),
            "TrainingJobEarlyStoppingType": "Auto",
            "RandomSeed": config.seed,
        },
        TrainingJobDefinition={
            "StaticHyperParameters": fixed,
            **training_definition(channels, account, plan),
        },
        Tags=account.tags,
    )
    return name


def _ranges() -> dict[str, list[dict[str, Any]]]:
    """The search space as the request takes it, whose values are strings."""
    continuous, categorical = [], []
    for name, space in SEARCH_SPACE.items():
        if isinstance(space, Choice):
            categorical.append({"Name": name, "Values": [str(value) for value in space.values]})
        else:
            scaling = "Logarithmic" if space.log else "Linear"
            limits = {"MinValue": str(space.low), "MaxValue": str(space.high)}
            continuous.append({"Name": name, **limits, "ScalingType": scaling})
    return {"ContinuousParameterRanges": continuous, "CategoricalParameterRanges": categorical}


def _seconds(plan: Plan, parallel: int) -> int:
    """The time of all trainings if each takes all of its own, in rounds of ``parallel``."""
    rounds = math.ceil(plan.jobs / min(parallel, plan.jobs))
    waiting = 2 if plan.spot else 1
    return int(rounds * plan.hours * 3600 * waiting)


def wait_for_tuning(name: str, account: Account) -> None:
    """Wait until a tuning job has ended, however it ends; print its counts when they change."""
    sagemaker = account.session.client("sagemaker")

    def look() -> tuple[str, str]:
        job = sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
        counts = job["TrainingJobStatusCounters"]
        counted = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
        status = str(job["HyperParameterTuningJobStatus"])
        return status, f"{name}: {status}, {counted}"

    wait_until_ended(look)


def trials_table(name: str, account: Account, config: Config) -> pd.DataFrame:
    """The trainings of a tuning job as :func:`lggseg.experiments.search_results.trials_table` shows
    Optuna's trials: one row per finished one: number, state, dice, epochs (unknown of a pruned
    one), seconds, then the hyperparameters. Raises ``RuntimeError`` with the reason when none has
    finished."""
    rows, failures = [], []
    for job in _trainings(name, account):
        metric = job.get("FinalHyperParameterTuningJobObjectiveMetric", {})
        state = _STATES.get(job["TrainingJobStatus"])
        failures.append(job.get("FailureReason", job["TrainingJobStatus"]))
        if not state or "Value" not in metric:
            continue
        values = asdict(Config.from_strings(job["TunedHyperParameters"], base=config))
        duration = job["TrainingEndTime"] - job["TrainingStartTime"]
        row = {
            "number": len(failures) - 1,
            "state": state,
            "dice": metric["Value"],
            "epochs": config.epochs if state == "complete" else None,
            "seconds": round(duration.total_seconds(), 1),
        }
        rows.append({**row, **{name: values[name] for name in SEARCH_SPACE}})
    if not rows:
        reason = failures[0] if failures else "no training was started"
        raise RuntimeError(
            f"{name}: found no finished training ({reason}); expected at least one. "
            "The logs are in CloudWatch, /aws/sagemaker/TrainingJobs."
        )
    return pd.DataFrame(rows)


def _trainings(name: str, account: Account) -> Iterator[dict[str, Any]]:
    """SageMaker's summaries of the trainings of a tuning job, the first started first."""
    operation = "list_training_jobs_for_hyper_parameter_tuning_job"
    pages = account.session.client("sagemaker").get_paginator(operation)
    for page in pages.paginate(
        HyperParameterTuningJobName=name, SortBy="CreationTime", SortOrder="Ascending"
    ):
        yield from page["TrainingJobSummaries"]
