"""``tune(config, cohort, split, folder, where)``: one search, by Optuna here or by SageMaker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from lggseg.cloud.cost import Plan
from lggseg.config import Config
from lggseg.data.cohort import Cohort

if TYPE_CHECKING:
    from lggseg.cloud.aws.account import Account


def tune(
    config: Config,
    cohort: Cohort,
    split: pd.DataFrame,
    folder: Path | str,
    where: str = "here",
    *,
    trials: int = 40,
    account: Account | None = None,
    plan: Plan | None = None,
) -> pd.DataFrame:
    """Search :data:`lggseg.experiments.search_space.SEARCH_SPACE` on the patients of
    ``config.fold``; returns the table of the trials, the same in both places (see
    :func:`lggseg.experiments.search_results.trials_table`).

    where: ``here``, where Optuna goes on in ``folder`` until it holds ``trials`` finished trials;
    ``sagemaker``, where AWS's Bayesian tuner starts ``plan.jobs`` trainings, and account is by
    default what :func:`lggseg.cloud.aws.account.open_account` opens.

    Raises ``ValueError`` for another place, ``RuntimeError`` when no training finished.
    """
    if where == "here":
        from lggseg.experiments import search

        return search.tune(config, cohort, split, Path(folder), trials=trials, folds=[config.fold])
    if where != "sagemaker":
        raise ValueError(f"where={where!r}: expected here or sagemaker")
    if plan is None:
        raise ValueError("plan: found none; expected lggseg.cloud.cost.Plan(instance, hours, jobs)")
    from lggseg.cloud.aws import tuning_jobs

    return tuning_jobs.tune(config, cohort, split, plan, account=account)
