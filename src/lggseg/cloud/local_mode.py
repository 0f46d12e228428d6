"""SageMaker's container in Docker on this machine, by the SDK's local mode: no AWS account.

The SDK leaves stopped containers, a network and files behind; here all of them lie below one
temporary folder, and are removed with it.
"""

from __future__ import annotations

import atexit
import inspect
import logging
import os
import re
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lggseg.cloud import preflight
from lggseg.cloud.account import PROJECT
from lggseg.cloud.hosting import Clients, Hosted, create_endpoint, new_name, pack
from lggseg.cloud.preflight import docker
from lggseg.serving.client import Endpoint

PREFIX, SERVE_IMAGE = "lggseg-local-", "lggseg:serve"
# Docker Compose's own label of the folder that its file lies in, and the network of local mode.
FOLDER_LABEL, NETWORK = "com.docker.compose.project.working_dir", "sagemaker-local"
NO_ROLE = "arn:aws:iam::000000000000:role/none"
REGION = "us-east-1"


def deploy_locally(model: Path, port: int) -> Endpoint:
    """An endpoint in Docker of a model folder; see :func:`lggseg.cloud.deploy`."""
    require_docker(SERVE_IMAGE)
    with ExitStack() as made:
        root = workplace(made, SERVE_IMAGE)
        session = local_session(root, port)
        client = session.sagemaker_client
        # The SDK's telemetry around this call would swallow an interrupt.
        client.create_endpoint = partial(inspect.unwrap(type(client).create_endpoint), client)
        client.delete_endpoint = partial(_delete_endpoint, client.delete_endpoint, root)
        clients = Clients(client, session.sagemaker_runtime_client)
        (root / "model").mkdir()
        model_data = f"file://{pack(model, root / 'model' / 'model.tar.gz')}"
        url = f"http://localhost:{port}/invocations"
        hosted = Hosted(SERVE_IMAGE, model_data, NO_ROLE, "local", url, tags=[])
        log = keep_log()
        try:
            endpoint = create_endpoint(clients, new_name(PROJECT), hosted, made.pop_all())
        except RuntimeError as error:
            raise RuntimeError(f"{SERVE_IMAGE}: {error}. It said:\n{''.join(log)}") from error
    atexit.register(endpoint.delete)
    return endpoint


def _delete_endpoint(delete: Callable[..., object], root: Path, **name: str) -> None:
    # The SDK waits for Docker Compose to end, which may miss the signal to: end it first.
    remove_containers(root)
    delete(**name)


def keep_log() -> deque[str]:
    """What the next endpoint's container says last; the SDK would print all of it, from a thread,
    into whatever a notebook shows at that moment."""
    from sagemaker.core.local import image

    log: deque[str] = deque(maxlen=20)

    def keep(process: subprocess.Popen[bytes]) -> int:
        assert process.stdout
        for line in process.stdout:
            log.append(re.sub(r"\x1b\[[\d;]*m", "", line.decode(errors="replace")))
        return process.wait()

    image._stream_output = keep
    return log


def require_docker(image: str) -> None:
    """What local mode needs; raises ``RuntimeError`` with the next step."""
    preflight.require_package("sagemaker")
    preflight.require_engine()
    preflight.require_image(image)
    preflight.require_space(Path(tempfile.gettempdir()))


def workplace(made: ExitStack, image: str) -> Path:
    """A new temporary folder, which ``made`` removes at its end, with the containers of Docker
    Compose that were started from files in it."""
    root = Path(made.enter_context(TemporaryDirectory(prefix=PREFIX))).resolve()
    made.callback(own_files, root, image)
    made.callback(remove_containers, root)
    return root


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


def remove_containers(root: Path) -> None:
    """Remove the containers that Docker Compose made from files below ``root``, and local mode's
    network where no other container needs it; a Docker Compose that still runs there is ended."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if str(root) in " ".join(child.cmdline()):
                child.kill()
    listed = docker("ps", "--all", "--format", f'{{{{.ID}}}} {{{{.Label "{FOLDER_LABEL}"}}}}')
    lines = (line.partition(" ") for line in listed.stdout.splitlines())
    found = [number for number, _, folder in lines if folder and root in Path(folder, "_").parents]
    if found:
        docker("rm", "--force", "--volumes", *found)
    docker("network", "rm", NETWORK)


def own_files(root: Path, image: str) -> None:
    """Let this user delete what containers, which run as root, have written below ``root``."""
    if os.getuid():
        allow = ["chmod", "-R", "a+rwX", "/root"]
        docker("run", "--rm", "--user", "0", "-v", f"{root}:/root", image, *allow)
