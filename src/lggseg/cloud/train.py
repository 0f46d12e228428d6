"""``train(config, cohort, split, run, where)``: one training run, in one of three places."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from lggseg.cloud.cost import Plan
from lggseg.cloud.platform import require_target
from lggseg.config import Config
from lggseg.data.cohort import Cohort
from lggseg.utils.errors import DataError

if TYPE_CHECKING:
    from lggseg.cloud.aws.account import Account


def train(
    config: Config,
    cohort: Cohort,
    split: pd.DataFrame,
    run: Path | str,
    where: str = "here",
    *,
    account: Account | None = None,
    plan: Plan | None = None,
) -> Path:
    """Train as :func:`lggseg.training.train.train` does, and write the same run folder (outside of
    this process without checkpoints), which may not exist yet; returns it.

    where: ``here`` in this process; ``sagemaker-local`` in SageMaker's container in Docker on this
    machine (the image ``lggseg:train``); ``sagemaker`` on AWS, where account is by default what
    :func:`lggseg.cloud.aws.account.open_account` opens. plan: the instance, ``local_cpu`` (default)
    or ``local_gpu`` in Docker; on AWS, which needs it, also how long at most.

    Raises ``DataError`` for a run folder that exists, ``RuntimeError`` with the next step where
    something is missing, or with the container's own words where it failed; nothing but a
    checkpoint is left behind then.
    """
    run = Path(run)
    require_target(where)
    if where == "here":
        from lggseg.training.train import train as train_here

        return train_here(config, cohort, split, run)
    if run.exists():
        raise DataError(run, "an earlier run", "a new folder", "Choose another, or delete it.")
    if where == "sagemaker-local":
        from lggseg.cloud.aws.local_mode import train_locally

        return train_locally(config, cohort, split, run, plan or Plan("local_cpu"))
    if plan is None:
        raise ValueError("plan: found none; expected lggseg.cloud.cost.Plan(instance, hours)")
    return _train_on_aws(config, cohort, split, run, account, plan)


def _train_on_aws(
    config: Config,
    cohort: Cohort,
    split: pd.DataFrame,
    run: Path,
    account: Account | None,
    plan: Plan,
) -> Path:
    from lggseg.cloud.aws import training_jobs
    from lggseg.cloud.aws.account import open_account
    from lggseg.cloud.aws.storage import upload

    account = account or open_account()
    return training_jobs.train(config, upload(cohort, split, account), account, plan, run)
