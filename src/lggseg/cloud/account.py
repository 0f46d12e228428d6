"""An AWS account: where resources are made, as whom, and how all of them are named and tagged."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lggseg.cloud.where import ROLE_VARIABLE, known_region, known_role

PROJECT = "lggseg"
# A tuning job's name has 32 characters: lggseg-, the run, -, and the time in ten digits. Without
# hyphens no run's name is the beginning of another's resource.
_RUN = re.compile(r"[a-z0-9]{1,14}")


@dataclass(frozen=True)
class Account:
    """session: boto3's, with region; run: what the resources belong to, the value of their tag
    ``run``; given_role: ARN of the role that SageMaker's jobs assume, if one is known."""

    session: Any
    run: str
    given_role: str = ""

    @property
    def role(self) -> str:
        """The role of SageMaker's jobs; ``RuntimeError`` with the next step where none is known."""
        if not self.given_role:
            raise RuntimeError(
                f"AWS: found no role for SageMaker's jobs; set {ROLE_VARIABLE} to the ARN of one "
                "that sagemaker.amazonaws.com may assume."
            )
        return self.given_role

    @property
    def region(self) -> str:
        """Where its resources are made, ``us-east-1`` for example."""
        return str(self.session.region_name)

    @cached_property
    def number(self) -> str:
        """The account's twelve digits."""
        return str(self.session.client("sts").get_caller_identity()["Account"])

    @property
    def bucket(self) -> str:
        """The project's only bucket, shared by its runs. AWS's ready-made roles for SageMaker may
        use those with ``sagemaker`` in their name."""
        return f"{PROJECT}-sagemaker-{self.number}-{self.region}"

    @property
    def folder(self) -> str:
        """Where the run's files lie, an S3 URI."""
        return f"s3://{self.bucket}/runs/{self.run}"

    @property
    def prefix(self) -> str:
        """What the names of the run's resources begin with."""
        return f"{PROJECT}-{self.run}"

    @property
    def tags(self) -> list[dict[str, str]]:
        """The tags of every resource of the run."""
        return [{"Key": "project", "Value": PROJECT}, {"Key": "run", "Value": self.run}]


def open_account(run: str = "demo", *, role: str = "", region: str = "") -> Account:
    """The account that boto3's credentials belong to. Sends no request.

    run: up to 14 small letters and digits; role: by default ``$LGGSEG_ROLE``, in Studio the role
    that it runs as; region: by default the configured one. Raises ``RuntimeError`` that says what
    is missing and the next step, ``ValueError`` for a name of a run that would not do.
    """
    if not _RUN.fullmatch(run):
        raise ValueError(f"run={run!r}: expected 1 to 14 small letters and digits")
    session = _boto3().Session(region_name=region or known_region() or None)
    if session.region_name is None:
        raise RuntimeError("AWS: found no region; set AWS_REGION, us-east-1 for example.")
    if session.get_credentials() is None:
        raise RuntimeError("AWS: found no credentials; run `aws configure` or `aws sso login`.")
    return Account(session, run, role or known_role())


def _boto3() -> Any:
    try:
        import boto3
    except ModuleNotFoundError as error:
        raise RuntimeError("boto3 is not installed: pip install -e '.[aws]'") from error
    return boto3
