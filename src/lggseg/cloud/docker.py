"""Docker on this machine: what has to be there, and how what was started there is removed.

Each check passes silently, or raises ``RuntimeError``: what was found, and the next step.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

TRAIN_IMAGE, SERVE_IMAGE = "lggseg:train", "lggseg:serve"
PREFIX = "lggseg-local-"
SPACE_GIB = 2
# A remote engine may be out of reach.
ANSWER_SECONDS = 10
# Docker Compose's own label of the folder that its file lies in, and the network of local mode.
FOLDER_LABEL, NETWORK = "com.docker.compose.project.working_dir", "sagemaker-local"


def docker(*arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """What ``docker`` says and returns; a command that is not there returns 127, one that takes
    longer than ``timeout`` seconds 124."""
    command = ["docker", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no answer in {timeout} s")


def engine_problem() -> str:
    """What keeps containers from being started here, as a sentence with the next step; empty where
    an engine answers and Docker Compose is there."""
    if not shutil.which("docker"):
        return 'docker: found no such command; install Docker, or use where="here".'
    answer = docker("version", "--format", "{{.Server.Version}}", timeout=ANSWER_SECONDS)
    if answer.returncode:
        message = answer.stderr.strip().partition("\n")[0]
        return f'docker: found no engine ({message}); start it, or use where="here".'
    if docker("compose", "version").returncode and not shutil.which("docker-compose"):
        return "docker: found no Docker Compose; install docker-compose."
    return ""


def require_engine() -> None:
    """A Docker engine that answers, and Docker Compose."""
    if problem := engine_problem():
        raise RuntimeError(problem)


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


def workplace(stack: ExitStack, image: str) -> Path:
    """A new temporary folder, which ``made`` removes at its end, with the containers of Docker
    Compose that were started from files in it."""
    root = Path(stack.enter_context(TemporaryDirectory(prefix=PREFIX))).resolve()
    stack.callback(own_files, root, image)
    stack.callback(remove_containers, root)
    return root


def workplaces() -> list[Path]:
    """The folders of :func:`workplace` that are there, those of other processes included."""
    return sorted(Path(tempfile.gettempdir()).resolve().glob(f"{PREFIX}*"))


def remove_workplace(root: Path) -> None:
    """Delete a folder of :func:`workplace` with its containers."""
    remove_containers(root)
    own_files(root, TRAIN_IMAGE)
    shutil.rmtree(root)


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
