"""Where this runs, and which of the three ways to run are open here.

Needs no package of AWS, and sends no request to it.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from lggseg.cloud.aws.account import ROLE_VARIABLE, configured, known_role, studio
from lggseg.cloud.docker import engine_problem
from lggseg.utils.errors import install_command

if TYPE_CHECKING:
    import pandas as pd

TARGETS = ("here", "sagemaker-local", "sagemaker")


def require_target(where: str) -> None:
    """Raise ``ValueError`` unless ``where`` is one of :data:`TARGETS`."""
    if where not in TARGETS:
        raise ValueError(f"where={where!r}: expected one of {TARGETS}")


@dataclass(frozen=True)
class Platform:
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


def find_platform() -> Platform:
    """Find out where this process runs."""
    metadata, (region, credentials) = studio(), configured()
    kind = "laptop"
    if metadata:
        kind = "Studio" if "DomainId" in metadata else "notebook instance"
    return Platform(
        kind=kind,
        region=region,
        role=known_role(),
        gpu=_gpu(),
        credentials=credentials,
        docker=not engine_problem(),
        sdk=find_spec("sagemaker") is not None,
    )


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


def missing(platform: Platform) -> dict[str, list[str]]:
    """What each way to run lacks here, a next step each; a way without any is open."""
    in_studio = platform.kind == "Studio"
    sdk = [] if platform.sdk else [f"run {install_command('aws')}"]
    docker = (
        "enable Docker access in the Studio domain's settings, install docker"
        if in_studio
        else "install Docker and start it"
    )
    local = sdk + ([] if platform.docker else [docker])
    needs = {
        "run `aws configure` or `aws sso login`": platform.credentials,
        "set AWS_REGION, us-east-1 for example": platform.region,
        f"set {ROLE_VARIABLE} to the ARN of a role that SageMaker may assume": platform.role,
    }
    away = sdk + [step for step, there in needs.items() if not there]
    return dict(zip(TARGETS, ([], local, away), strict=True))


def targets(platform: Platform) -> pd.DataFrame:
    """A row for each way to run: ``WHERE`` (index), open (✓ or –), what it is, next step."""
    import pandas as pd

    what = {
        "here": f"in this process, on {platform.gpu or 'the CPU'}",
        "sagemaker-local": "SageMaker's container on this machine, by Docker",
        "sagemaker": f"AWS SageMaker, region {platform.region or 'not set'}",
    }
    rows = [
        {
            "WHERE": target,
            "open": "–" if steps else "✓",
            "what it is": what[target],
            "next step": "; ".join(steps) or f'set WHERE = "{target}" in a notebook',
        }
        for target, steps in missing(platform).items()
    ]
    return pd.DataFrame(rows).set_index("WHERE")
