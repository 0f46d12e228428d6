"""SageMaker's tuner, against moto, which starts no training of a tuning job."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from sagemaker_answers import CONFIG, training

from lggseg.cloud.aws import tuning_jobs as tuning
from lggseg.cloud.aws.account import Account
from lggseg.cloud.cost import Plan
from lggseg.config import Config
from lggseg.data.cohort import Cohort
from lggseg.data.splits import make_split
from lggseg.experiments import search_results
from lggseg.experiments.search_space import SEARCH_SPACE, Choice
from lggseg.training.loggers import OBJECTIVE

if TYPE_CHECKING:
    from aws_shapes import Request

CHANNELS = {"train": "s3://bucket/data/a/", "split": "s3://bucket/splits/b/"}
PLAN = Plan("ml.g5.xlarge", hours=0.5, jobs=20)


def created(requests: list[Request]) -> dict[str, Any]:
    operation = "CreateHyperParameterTuningJob"
    [params] = [request.params for request in requests if request.operation == operation]
    return params


def test_the_search_space_is_the_one_that_optuna_searches(
    aws: list[Request], account: Account
) -> None:
    tuning.start_tuning(CONFIG, CHANNELS, account, PLAN)
    params = created(aws)
    search = params["HyperParameterTuningJobConfig"]
    ranges = search["ParameterRanges"]
    found = {entry["Name"]: entry for entries in ranges.values() for entry in entries}
    assert set(found) == set(SEARCH_SPACE)
    for name, space in SEARCH_SPACE.items():
        if isinstance(space, Choice):
            assert found[name]["Values"] == [str(value) for value in space.values]
        else:
            low, high = float(found[name]["MinValue"]), float(found[name]["MaxValue"])
            assert (low, high) == (space.low, space.high)
            assert found[name]["ScalingType"] == ("Logarithmic" if space.log else "Linear")
    assert search["Strategy"] == "Bayesian"
    objective = {"Type": "Maximize", "MetricName": OBJECTIVE}
    assert search["HyperParameterTuningJobObjective"] == objective
    fixed = params["TrainingJobDefinition"]["StaticHyperParameters"]
    assert not set(fixed) & set(SEARCH_SPACE)
    assert Config.from_strings(fixed) == CONFIG


def test_the_search_is_limited_tagged_and_stops_what_falls_behind(
    aws: list[Request], account: Account
) -> None:
    name = tuning.start_tuning(CONFIG, CHANNELS, account, replace(PLAN, spot=True), parallel=3)
    params = created(aws)
    assert params["HyperParameterTuningJobName"] == name and len(name) <= 32
    search, job = params["HyperParameterTuningJobConfig"], params["TrainingJobDefinition"]
    limits = {"MaxNumberOfTrainingJobs": 20, "MaxParallelTrainingJobs": 3}
    assert search["ResourceLimits"] == {**limits, "MaxRuntimeInSeconds": 7 * 3600}
    assert search["TrainingJobEarlyStoppingType"] == "Auto"
    stop = {"MaxRuntimeInSeconds": 1800, "MaxWaitTimeInSeconds": 3600}
    assert job["StoppingCondition"] == stop and job["EnableManagedSpotTraining"]
    assert job["OutputDataConfig"]["S3OutputPath"].startswith(account.folder)
    names = [d["Name"] for d in job["AlgorithmSpecification"]["MetricDefinitions"]]
    assert OBJECTIVE in names and params["Tags"] == account.tags


def imitate(account: Account, *summaries: dict[str, Any]) -> None:
    """Let SageMaker list these trainings."""
    operation = "ListTrainingJobsForHyperParameterTuningJob"
    answer = SimpleNamespace(status_code=200), {"TrainingJobSummaries": list(summaries)}
    account.session.events.register(f"before-call.sagemaker.{operation}", lambda **_: answer)


def test_the_table_is_that_of_optuna(
    account: Account, cohort: Cohort, capsys: pytest.CaptureFixture[str]
) -> None:
    imitate(
        account,
        training("Completed", 0.7, learning_rate="0.001", width="48"),
        training("Failed"),
        training("Stopped", 0.5, paste="False"),
        training("Stopped"),
        training("Completed", 0.8, learning_rate="0.002"),
    )
    table = tuning.tune(CONFIG, cohort, make_split(cohort), PLAN, account=account)
    assert "lggseg-test-" in capsys.readouterr().out
    assert table["number"].tolist() == [0, 2, 4]
    assert table["state"].tolist() == ["complete", "pruned", "complete"]
    assert table["seconds"].tolist() == [90.0] * 3
    assert table["width"].tolist() == [48, 32, 32] and table["paste"].tolist()[1] is False
    best = search_results.best_config(table, CONFIG)
    assert best == replace(CONFIG, loss="dice_focal", learning_rate=0.002)

    study = optuna.create_study()
    study.add_trial(
        optuna.trial.create_trial(
            params={"learning_rate": 0.1},
            distributions={"learning_rate": optuna.distributions.FloatDistribution(0, 1)},
            value=0.5,
        )
    )
    fixed = list(search_results.trials_table(study))[:-1]
    assert list(table) == [*fixed, *SEARCH_SPACE]


def test_a_search_without_a_finished_training_says_why(account: Account) -> None:
    imitate(account, {**training("Failed"), "FailureReason": "no such image"})
    with pytest.raises(RuntimeError, match=r"found no finished training \(no such image\)"):
        tuning.trials_table("lggseg-test-1", account, CONFIG)
