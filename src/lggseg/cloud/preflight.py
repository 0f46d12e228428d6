"""What a way of deploying or training needs, looked for before anything is made.

Each check passes silently, or raises ``RuntimeError``: what was found, and the next step.
"""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
from contextlib import closing
from pathlib import Path

from lggseg.cloud.account import PROJECT, Account

SPACE_GIB = 2


def require_package(name: str) -> None:
    """``sagemaker`` or ``boto3``; looks for it without importing it, which takes long."""
    if importlib.util.find_spec(name) is None:
        raise RuntimeError(f"{name}: found no such package; run `pip install -e .[aws]`.")


def require_engine() -> None:
    """A Docker engine that answers, and Docker Compose."""
    if not shutil.which("docker"):
        raise RuntimeError('docker: found no such command; install Docker, or use where="here".')
    answer = docker("version", "--format", "{{.Server.Version}}")
    if answer.returncode:
        said = answer.stderr.strip().partition("\n")[0]
        raise RuntimeError(f'docker: found no engine ({said}); start it, or use where="here".')
    if docker("compose", "version").returncode and not shutil.which("docker-compose"):
        raise RuntimeError("docker: found no Docker Compose; install docker-compose.")


def require_image(image: str) -> None:
    """An image that the Docker engine here has."""
    if docker("image", "inspect", image).returncode:
        raise RuntimeError(f"{image}: found no such Docker image; run `make image`.")


def require_space(folder: Path, gib: float = SPACE_GIB) -> None:
    """So many GiB that are free where ``folder`` lies."""
    free = shutil.disk_usage(folder).free / 2**30
    if free < gib:
        raise RuntimeError(
            f"{folder}: found {free:.1f} GiB free; expected {gib} GiB. Delete what is not needed, "
            "for example by notebook 99 or `docker system prune`."
        )


def free_port(port: int) -> int:
    """``port`` where nothing listens on this machine; for 0, any such port."""
    with closing(socket.socket()) as probe:
        # A port whose last server has just ended counts as free, as uvicorn sees it.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            message = f"port {port}: found it taken ({error.strerror}); choose another, or 0."
            raise RuntimeError(message) from error
        return int(probe.getsockname()[1])


def require_account(account: Account) -> None:
    """Credentials that AWS takes, a role, and the image ``lggseg:serve`` in the registry."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        assert account.number
    except (BotoCoreError, ClientError) as error:
        raise RuntimeError(
            f"AWS: found credentials that it does not take ({error}); run `aws sso login`, or "
            "correct them by `aws configure`."
        ) from error
    assert account.role
    image = {"repositoryName": PROJECT, "imageIds": [{"imageTag": "serve"}]}
    try:
        account.session.client("ecr").describe_images(**image)
    except ClientError as error:
        raise RuntimeError(
            f"ECR: found no image {PROJECT}:serve ({error}); run `make image`, then `make push`."
        ) from error


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What ``docker`` says and returns; a command that is not there returns 127."""
    try:
        return subprocess.run(["docker", *arguments], capture_output=True, text=True)
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(["docker", *arguments], 127, "", str(error))
