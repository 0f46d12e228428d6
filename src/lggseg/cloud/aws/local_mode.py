"""SageMaker's containers in Docker on this machine, by the SDK's local mode: no AWS account.

The SDK leaves stopped containers, a network and files behind; here all of them lie below one
temporary folder, and are removed with it.
"""

from __future__ import annotations

import atexit
import inspect
import logging
import re
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from lggseg.cloud import docker
from lggseg.cloud.archives import extract, pack_model
from lggseg.cloud.aws.account import PROJECT, new_name, require_package
from lggseg.cloud.aws.endpoints import Clients, Hosted, create_endpoint
from lggseg.cloud.container import TABLES
from lggseg.cloud.cost import Plan
from lggseg.cloud.docker import SERVE_IMAGE, TRAIN_IMAGE
from lggseg.config import Config
from lggseg.data.cohort import Cohort
from lggseg.data.splits import write_split
from lggseg.inference.model_folder import FILES
from lggseg.serving.client import Endpoint

NO_ROLE = "arn:aws:iam::000000000000:role/none"
REGION = "us-east-1"


def require_docker(image: str) -> None:
    """What local mode needs; raises ``RuntimeError`` with the next step."""
    require_package("sagemaker")
    docker.require_engine()
    docker.require_image(image)
    docker.require_space(Path(tempfile.gettempdir()))


def train_locally(
    config: Config, cohort: Cohort, split: pd.DataFrame, run: Path, plan: Plan
) -> Path:
    """Train in a container; see :func:`lggseg.cloud.train.train`."""
    require_docker(TRAIN_IMAGE)
    with ExitStack() as stack:
        root = docker.workplace(stack, TRAIN_IMAGE)
        write_split(split, root / "split" / "split.csv")
        channels = {"train": str(cohort.root.resolve()), "split": str(root / "split")}
        _run_container(config, channels, root, plan)
        tables, model = (root / f"compressed_artifacts/{n}.tar.gz" for n in ("output", "model"))
        extract(tables, TABLES, run, tables)
        extract(model, FILES, run / "model", model)
    return run


def _run_container(config: Config, channels: dict[str, str], root: Path, plan: Plan) -> None:
    session = local_session(root)
    from sagemaker.train.configs import Compute, InputData
    from sagemaker.train.model_trainer import Mode, ModelTrainer

    trainer = ModelTrainer(
        training_mode=Mode.LOCAL_CONTAINER,
        training_image=TRAIN_IMAGE,
        compute=Compute(instance_type=plan.instance, instance_count=plan.instance_count),
        hyperparameters=config.to_strings(),
        local_container_root=str(root),
        sagemaker_session=session,
        base_job_name=PROJECT,
    )
    message = "nothing, and left no model: it was interrupted, or ran out of memory"
    try:
        trainer.train([InputData(channel_name=n, data_source=uri) for n, uri in channels.items()])
    except RuntimeError as error:
        message = str(error)
    # Its exit status alone would not do: docker-compose may lose that of a container that ends
    # at once.
    failure, model = root / "artifacts/output/failure", root / "artifacts/model/model.onnx"
    if failure.exists() or not model.exists():
        message = failure.read_text() if failure.exists() else message
        raise RuntimeError(f"{TRAIN_IMAGE}: the training failed. It said:\n{message}")


def deploy_locally(model: Path, port: int) -> Endpoint:
    """An endpoint in Docker of a model folder; see :func:`lggseg.cloud.deploy.deploy`."""
    require_docker(SERVE_IMAGE)
    with ExitStack() as stack:
        root = docker.workplace(stack, SERVE_IMAGE)
        session = local_session(root, port)
        client = session.sagemaker_client
        client.create_endpoint = undecorated(client, "create_endpoint")
        client.delete_endpoint = partial(_delete_endpoint, client.delete_endpoint, root)
        clients = Clients(client, session.sagemaker_runtime_client)
        (root / "model").mkdir()
        model_data = f"file://{pack_model(model, root / 'model' / 'model.tar.gz')}"
        url = f"http://localhost:{port}/invocations"
        hosted = Hosted(SERVE_IMAGE, model_data, NO_ROLE, "local", url, tags=[])
        log = keep_log()
        try:
            endpoint = create_endpoint(clients, new_name(PROJECT), hosted, stack.pop_all())
        except RuntimeError as error:
            raise RuntimeError(f"{SERVE_IMAGE}: {error}. It said:\n{''.join(log)}") from error
    atexit.register(endpoint.delete)
    return endpoint


def _delete_endpoint(delete: Callable[..., object], root: Path, **name: str) -> None:
    # The SDK waits for Docker Compose to end, which may miss the signal to: end it first.
    docker.remove_containers(root)
    delete(**name)


def undecorated(client: Any, method: str) -> Callable[..., Any]:
    """A method of the SDK's client without its telemetry, which catches every exception, an
    interrupt too, and goes on without a word. No setting removes it: opting out only stops the
    sending. A test fails when the SDK decorates it in another way."""
    return partial(inspect.unwrap(getattr(type(client), method)), client)


def keep_log() -> deque[str]:
    """What the next endpoint's container says last; the SDK would print all of it, from a thread,
    into whatever a notebook shows at that moment.

    The function that prints is private to the SDK, which has no setting for it; a test fails when
    the SDK prints by another one.
    """
    from sagemaker.core.local import image

    log: deque[str] = deque(maxlen=20)

    def keep(process: subprocess.Popen[bytes]) -> int:
        assert process.stdout
        for line in process.stdout:
            log.append(re.sub(r"\x1b\[[\d;]*m", "", line.decode(errors="replace")))
        return process.wait()

    image._stream_output = keep
    return log


def local_session(root: Path, port: int = 8080) -> Any:
    """The SDK's session of local mode, which works in ``root``, serves on ``port``, tells Amazon
    nothing, and gives the container no AWS credentials."""
    logging.getLogger("sagemaker").setLevel(logging.ERROR)
    import boto3
    import botocore.session
    from botocore.credentials import CredentialResolver
    from sagemaker.core.local import LocalSession

    nobody = botocore.session.Session()
    nobody.register_component("credential_provider", CredentialResolver([]))
    silent = {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}}
    session = LocalSession(
        boto3.Session(botocore_session=nobody, region_name=REGION),
        sagemaker_config={"SchemaVersion": "1.0", "SageMaker": silent},
    )
    session.config = {"local": {"serving_port": port, "container_root": str(root)}}
    return session
