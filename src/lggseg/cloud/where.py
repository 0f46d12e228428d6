"""Where this runs, and which of the three ways to run are open here.

Reads files and the environment alone, so it is instant, needs no package of AWS and asks nobody.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from configparser import ConfigParser
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# Written by SageMaker in Studio and in notebook instances.
METADATA = Path("/opt/ml/metadata/resource-metadata.json")
DOCKER_SOCKET = "unix:///var/run/docker.sock"
ROLE_VARIABLE = "LGGSEG_ROLE"


@dataclass(frozen=True)
class Place:
    """kind: ``laptop``, ``Studio`` or ``notebook instance``; region, role (of SageMaker's jobs) and
    gpu: empty where none is known; credentials, docker (an engine answers), sdk (``sagemaker`` is
    installed): whether they are there."""

    kind: str
    region: str
    role: str
    gpu: str
    credentials: bool
    docker: bool
    sdk: bool


def find_place() -> Place:
    """Find out where this process runs."""
    metadata = _metadata()
    kind = "laptop"
    if metadata:
        kind = "Studio" if "DomainId" in metadata else "notebook instance"
    return Place(
        kind=kind,
        region=known_region(),
        role=known_role(),
        gpu=_gpu(),
        credentials=bool(metadata) or _has_credentials(),
        docker=_docker_answers(),
        sdk=find_spec("sagemaker") is not None,
    )


def known_region() -> str:
    """The region of the environment, of SageMaker around us, or of the profile; else empty."""
    given = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    own = str(_metadata().get("ResourceArn", ":::")).split(":")[3]
    return given or own or _profile("AWS_CONFIG_FILE", "config").get("region", "")


def known_role() -> str:
    """ARN of the role for SageMaker's jobs: the environment's, or Studio's own; else empty."""
    return os.environ.get(ROLE_VARIABLE) or str(_metadata().get("ExecutionRoleArn", ""))


def _metadata() -> dict[str, Any]:
    try:
        return dict(json.loads(METADATA.read_text()))
    except (OSError, ValueError):
        return {}


def _has_credentials() -> bool:
    """Whether boto3 would find some: in the environment, a role's, or in a profile."""
    names = ["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"]
    names += ["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"]
    if any(os.environ.get(name) for name in names):
        return True
    keys = {"aws_access_key_id", "sso_session", "sso_start_url", "role_arn", "credential_process"}
    files = {"AWS_SHARED_CREDENTIALS_FILE": "credentials", "AWS_CONFIG_FILE": "config"}
    return any(keys & set(_profile(variable, name)) for variable, name in files.items())


def _profile(variable: str, name: str) -> dict[str, str]:
    """The entries of the chosen profile in ``~/.aws/<name>``, or where the variable says."""
    path = Path(os.environ.get(variable) or Path.home() / ".aws" / name)
    profile = os.environ.get("AWS_PROFILE") or "default"
    parser = ConfigParser(interpolation=None, strict=False)
    parser.read(path)
    sections = [section for section in (profile, f"profile {profile}") if section in parser]
    return dict(parser[sections[0]]) if sections else {}


def _gpu() -> str:
    """The names of NVIDIA's GPUs."""
    if not shutil.which("nvidia-smi"):
        return ""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        names = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return ", ".join(names.stdout.splitlines())


def _docker_answers() -> bool:
    """Whether there is a client and the engine takes a connection."""
    kind, _, address = os.environ.get("DOCKER_HOST", DOCKER_SOCKET).partition("://")
    if not shutil.which("docker"):
        return False
    try:
        if kind == "unix":
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(1)
                probe.connect(address)
            return True
        host, _, port = address.partition(":")
        with socket.create_connection((host, int(port or 2375)), timeout=1):
            return True
    except (OSError, ValueError):
        return False


def missing(place: Place) -> dict[str, list[str]]:
    """What each way to run lacks here, a next step each; a way without any is open."""
    in_studio = place.kind == "Studio"
    sdk = [] if place.sdk else ["pip install -e '.[aws]'"]
    docker = (
        "enable Docker access in the Studio domain's settings, install docker"
        if in_studio
        else "install Docker and start it"
    )
    local = sdk + ([] if place.docker else [docker])
    needs = {
        "run `aws configure` or `aws sso login`": place.credentials,
        "set AWS_REGION, us-east-1 for example": place.region,
        f"set {ROLE_VARIABLE} to the ARN of a role that SageMaker may assume": place.role,
    }
    away = sdk + [step for step, there in needs.items() if not there]
    return {"here": [], "sagemaker-local": local, "sagemaker": away}


def ways(place: Place) -> pd.DataFrame:
    """A row for each way to run: ``WHERE`` (index), open (✓ or –), what it is, next step."""
    import pandas as pd

    what = {
        "here": f"in this process, on {place.gpu or 'the CPU'}",
        "sagemaker-local": "SageMaker's container on this machine, by Docker",
        "sagemaker": f"AWS SageMaker, region {place.region or 'not set'}",
    }
    rows = [
        {
            "WHERE": way,
            "open": "–" if steps else "✓",
            "what it is": what[way],
            "next step": "; ".join(steps) or f'set WHERE = "{way}" in a notebook',
        }
        for way, steps in missing(place).items()
    ]
    return pd.DataFrame(rows).set_index("WHERE")
