"""SageMaker's Bayesian tuner on the search space that Optuna searches here."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import pandas as pd

from lggseg.cloud.account import Account, open_account
from lggseg.cloud.cost import Plan
from lggseg.cloud.jobs import ENDED, input_data, model_trainer
from lggseg.cloud.storage import upload
from lggseg.config import SEARCH_SPACE, Choice, Config
from lggseg.data.cohort import Cohort
from lggseg.training.loggers import OBJECTIVE, metric_definitions

POLL_SECONDS = 30
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
    parents: Sequence[str] = (),
) -> pd.DataFrame:
    """Search on SageMaker, wait for the end, and return the table of its trials.

    account: by default what :func:`lggseg.cloud.account.open_account` opens; the others as in
    :func:`start_tuning`. Raises ``RuntimeError`` when no training finished.
    """
    account = account or open_account()
    channels = upload(cohort, split, account)
    name = start_tuning(config, channels, account, plan, parallel=parallel, parents=parents)
    wait_for_tuning(name, account)
    return trials_table(name, account, config)


def start_tuning(
    config: Config,
    channels: dict[str, str],
    account: Account,
    plan: Plan,
    *,
    parallel: int = 2,
    parents: Sequence[str] = (),
) -> str:
    """Start a search of ``plan.jobs`` trainings over :data:`lggseg.config.SEARCH_SPACE`, at most
    ``parallel`` at a time; returns the name of the tuning job without waiting.

    A training that falls behind is stopped early. Each ends after ``plan.hours``, the whole after
    as long as they take one after the other. parents: names of earlier tuning jobs on the same
    data to learn from. A spot training that is interrupted begins again, since all trainings of a
    search would share one place for checkpoints.
    """
    trainer = model_trainer(config, account, plan)
    from sagemaker.train.tuner import HyperparameterTuner

    tuner = HyperparameterTuner(
        model_trainer=trainer,
        objective_metric_name=OBJECTIVE,
        objective_type="Maximize",
        hyperparameter_ranges=_ranges(),
        metric_definitions=metric_definitions(),
        strategy="Bayesian",
        max_jobs=plan.jobs,
        max_parallel_jobs=min(parallel, plan.jobs),
        max_runtime_in_seconds=_seconds(plan, parallel),
        early_stopping_type="Auto",
        random_seed=config.seed,
        warm_start_config=_warm_start(parents),
    )
    # The SDK's own names are the same for two searches that start in the same minute.
    name = f"{account.prefix}-{datetime.now():%m%d%H%M%S}"
    tuner.tune(input_data(channels), job_name=name, wait=False)
    return name


def _ranges() -> dict[str, Any]:
    """The search space as the SDK's classes."""
    from sagemaker.core.parameter import CategoricalParameter, ContinuousParameter

    ranges: dict[str, Any] = {}
    for name, space in SEARCH_SPACE.items():
        if isinstance(space, Choice):
            ranges[name] = CategoricalParameter([str(value) for value in space.values])
        else:
            scaling = "Logarithmic" if space.log else "Linear"
            ranges[name] = ContinuousParameter(space.low, space.high, scaling)
    return ranges


def _seconds(plan: Plan, parallel: int) -> int:
    """The time of all trainings if each takes all of its own, in rounds of ``parallel``."""
    rounds = math.ceil(plan.jobs / min(parallel, plan.jobs))
    waiting = 2 if plan.spot else 1
    return int(rounds * plan.hours * 3600 * waiting)


def _warm_start(parents: Sequence[str]) -> Any:
    if not parents:
        return None
    from sagemaker.core.shapes import (
        HyperParameterTuningJobWarmStartConfig,
        ParentHyperParameterTuningJob,
    )

    jobs = [ParentHyperParameterTuningJob(hyper_parameter_tuning_job_name=name) for name in parents]
    return HyperParameterTuningJobWarmStartConfig(
        parent_hyper_parameter_tuning_jobs=jobs, warm_start_type="IdenticalDataAndAlgorithm"
    )


def wait_for_tuning(name: str, account: Account) -> None:
    """Wait until a tuning job has ended, however it ends; print its counts when they change."""
    sagemaker, said = account.session.client("sagemaker"), ""
    while True:
        job = sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
        counts = job["TrainingJobStatusCounters"]
        state = f"{name}: {job['HyperParameterTuningJobStatus']}, " + ", ".join(
            f"{count} {word}" for word, count in counts.items() if count
        )
        if state != said:
            print(state, flush=True)
        said = state
        if job["HyperParameterTuningJobStatus"] in ENDED:
            return
        time.sleep(POLL_SECONDS)


def trials_table(name: str, account: Account, config: Config) -> pd.DataFrame:
    """The trainings of a tuning job as :func:`lggseg.experiments.search.trials_table` shows
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
