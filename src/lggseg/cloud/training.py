"""``train(config, cohort, split, run, where)``: one training, in one of three places."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from lggseg.cloud.container import TABLES
from lggseg.cloud.cost import Plan
from lggseg.cloud.endpoints import PLACES
from lggseg.config import Config
from lggseg.data.cohort import Cohort
from lggseg.data.splits import write_split
from lggseg.inference.model_folder import FILES
from lggseg.utils.errors import DataError

if TYPE_CHECKING:
    from lggseg.cloud.account import Account

TRAIN_IMAGE = "lggseg:train"


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
    :func:`lggseg.cloud.account.open_account` opens. plan: the instance, ``local_cpu`` (default) or
    ``local_gpu`` in Docker; on AWS, which needs it, also how long at most.

    Raises ``DataError`` for a run folder that exists, ``RuntimeError`` with the next step where
    something is missing (see :mod:`lggseg.cloud.preflight`), or with the container's own words
    where it failed; nothing but a checkpoint is left behind then.
    """
    run = Path(run)
    if where not in PLACES:
        raise ValueError(f"where={where!r}: expected one of {PLACES}")
    if where == "here":
        from lggseg.training.train import train as train_here

        return train_here(config, cohort, split, run)
    if run.exists():
        raise DataError(run, "an earlier run", "a new folder", "Choose another, or delete it.")
    if where == "sagemaker-local":
        return _train_locally(config, cohort, split, run, plan or Plan("local_cpu"))
    return _train_on_aws(config, cohort, split, run, account, plan)


def _train_on_aws(
    config: Config,
    cohort: Cohort,
    split: pd.DataFrame,
    run: Path,
    account: Account | None,
    plan: Plan | None,
) -> Path:
    from lggseg.cloud import jobs
    from lggseg.cloud.account import open_account
    from lggseg.cloud.storage import upload

    if plan is None:
        raise ValueError("plan: found none; expected lggseg.cloud.cost.Plan(instance, hours)")
    account = account or open_account()
    return jobs.train(config, upload(cohort, split, account), account, plan, run)


def _train_locally(
    config: Config, cohort: Cohort, split: pd.DataFrame, run: Path, plan: Plan
) -> Path:
    from lggseg.cloud.jobs import extract
    from lggseg.cloud.local_mode import require_docker, workplace

    require_docker(TRAIN_IMAGE)
    with ExitStack() as made:
        root = workplace(made, TRAIN_IMAGE)
        write_split(split, root / "split" / "split.csv")
        channels = {"train": str(cohort.root.resolve()), "split": str(root / "split")}
        _run_container(config, channels, root, plan)
        tables, model = (root / f"compressed_artifacts/{n}.tar.gz" for n in ("output", "model"))
        extract(tables, TABLES, run, tables)
        extract(model, FILES, run / "model", model)
    return run


def _run_container(config: Config, channels: dict[str, str], root: Path, plan: Plan) -> None:
    from lggseg.cloud.jobs import input_data
    from lggseg.cloud.local_mode import local_session

    session = local_session(root)
    from sagemaker.train.configs import Compute
    from sagemaker.train.model_trainer import Mode, ModelTrainer

    trainer = ModelTrainer(
        training_mode=Mode.LOCAL_CONTAINER,
        training_image=TRAIN_IMAGE,
        compute=Compute(instance_type=plan.instance, instance_count=plan.instance_count),
        hyperparameters=config.to_strings(),
        local_container_root=str(root),
        sagemaker_session=session,
        base_job_name="lggseg",
    )
    said = "nothing, and left no model: it was interrupted, or ran out of memory"
    try:
        trainer.train(input_data(channels))
    except RuntimeError as error:
        said = str(error)
    # Its exit status alone would not do: docker-compose may lose that of a container that ends
    # at once.
    failure, model = root / "artifacts/output/failure", root / "artifacts/model/model.onnx"
    if failure.exists() or not model.exists():
        said = failure.read_text() if failure.exists() else said
        raise RuntimeError(f"{TRAIN_IMAGE}: the training failed. It said:\n{said}")
