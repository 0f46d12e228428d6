"""``deploy(model, where)`` → :class:`Endpoint`: the same server, started where it is wanted.

kind, on AWS: ``real-time`` and ``asynchronous`` are one ``instance``; the latter takes requests
and gives answers through S3, and queues them. ``serverless`` costs by the request instead, but
wakes up for seconds, and is asked for 8 slices at a time, since it takes little.

instances, capture: of a real-time endpoint. Under load it gets up to so many instances, each of
which costs. With ``capture`` every scan that is sent, and its answer, are kept in the run's
encrypted folder until :func:`lggseg.cloud.clean_up`: only for scans that may be kept.
"""

from __future__ import annotations

import atexit
import ctypes
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import IO, TYPE_CHECKING

from lggseg.cloud.preflight import free_port
from lggseg.inference.segmenter import Segmenter
from lggseg.serving.client import Endpoint, http_sender

if TYPE_CHECKING:
    from lggseg.cloud.account import Account

PLACES = ("here", "sagemaker-local", "sagemaker")
KINDS = ("real-time", "serverless", "asynchronous")
# Two cores: a request at a time.
INSTANCE = "ml.m5.large"
START_SECONDS, STOP_SECONDS = 60, 30


def deploy(
    model: Path | str,
    where: str = "here",
    *,
    port: int = 0,
    account: Account | None = None,
    instance: str = INSTANCE,
    kind: str = "real-time",
    instances: int = 1,
    capture: bool = False,
) -> Endpoint:
    """Serve a model folder, in one of three places with the same answers:

    ``here``: a child process that ends with this one at the latest, on a port of the loopback
    interface. ``sagemaker-local``: SageMaker's container in Docker on this machine (the image
    ``lggseg:serve``, which listens on all interfaces). ``sagemaker``: an endpoint on AWS, which
    costs money until it is deleted.

    port: on this machine; 0: any free one. account: by default what
    :func:`lggseg.cloud.account.open_account` opens. The others are for AWS: see this module.

    Raises ``DataError`` for a folder without a model, ``RuntimeError`` with the next step where
    something is missing (see :mod:`lggseg.cloud.preflight`) or the server does not start; nothing
    is left behind then.

    >>> import numpy as np
    >>> with deploy("models/lgg-unet") as endpoint:
    ...     prediction = endpoint.predict(np.zeros((3, 256, 256, 3), dtype=np.uint8))
    >>> prediction.mask.any()
    np.False_
    """
    Segmenter.load(model)
    _check_kind(kind, instances > 1 or capture)
    if where == "here":
        return _start(Path(model), free_port(port))
    if where == "sagemaker-local":
        return _start_in_docker(Path(model), free_port(port))
    if where == "sagemaker":
        return _start_on_aws(Path(model), account, instance, kind, instances, capture)
    raise ValueError(f"where={where!r}: expected one of {PLACES}")


def _start_in_docker(model: Path, port: int) -> Endpoint:
    from lggseg.cloud.local_mode import deploy_locally

    return deploy_locally(model, port)


def _start_on_aws(
    model: Path, account: Account | None, instance: str, kind: str, instances: int, capture: bool
) -> Endpoint:
    from lggseg.cloud.account import open_account
    from lggseg.cloud.hosting import deploy_on_aws

    account = account or open_account()
    return deploy_on_aws(model, account, instance, kind, instances=instances, capture=capture)


def _check_kind(kind: str, real_time: bool) -> None:
    """Whether there is such an endpoint; ``real_time``: asked for what only that kind does."""
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: expected one of {KINDS}")
    if real_time and kind != "real-time":
        raise ValueError(f"kind={kind!r}: expected real-time where it scales or captures")


def _start(model: Path, port: int) -> Endpoint:
    command = [sys.executable, "-m", "lggseg.cli", "serve", str(model), "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=log, preexec_fn=_end_with_parent
        )
        atexit.register(_stop, process)
        try:
            _wait_until_ready(process, f"http://127.0.0.1:{port}/ping", log)
        except BaseException:
            _stop(process)
            raise
    url = f"http://127.0.0.1:{port}/invocations"
    return Endpoint(url, http_sender(url), lambda: _stop(process))


def _end_with_parent() -> None:
    """Ask Linux for SIGTERM when the parent ends, even by SIGKILL (prctl, PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: IO[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            log.seek(0)
            said = log.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"the server ended before it was ready. It said:\n{said}")
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"the server was not ready after {START_SECONDS} s; is the machine busy?")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM lets it finish what it has begun."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
