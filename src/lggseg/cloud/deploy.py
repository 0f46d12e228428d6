"""``deploy(model, where)`` → :class:`Endpoint`: the same server, started where it is wanted."""

from __future__ import annotations

import atexit
import ctypes
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import IO, TYPE_CHECKING

from lggseg.cloud.platform import require_target
from lggseg.inference.segmenter import Segmenter
from lggseg.serving.client import Endpoint, http_sender

if TYPE_CHECKING:
    from lggseg.cloud.aws.account import Account

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
) -> Endpoint:
    """Serve a model folder, in one of three places with the same answers:

    ``here``: a child process that ends with this one at the latest, on a port of the loopback
    interface. ``sagemaker-local``: SageMaker's container in Docker on this machine (the image
    ``lggseg:serve``, which listens on all interfaces). ``sagemaker``: an endpoint on AWS, which
    costs money until it is deleted: one ``instance``.

    port: on this machine; 0: any free one. account: by default what
    :func:`lggseg.cloud.aws.account.open_account` opens.

    Raises ``DataError`` for a folder without a model, ``RuntimeError`` with the next step where
    something is missing or the server does not start; nothing is left behind then.

    >>> import numpy as np
    >>> with deploy("models/lgg-unet") as endpoint:
    ...     prediction = endpoint.predict(np.zeros((3, 256, 256, 3), dtype=np.uint8))
    >>> prediction.mask.any()
    np.False_
    """
    Segmenter.load(model)
    require_target(where)
    if where == "here":
        return _start(Path(model), free_port(port))
    if where == "sagemaker-local":
        from lggseg.cloud.aws.local_mode import deploy_locally

        return deploy_locally(Path(model), free_port(port))
    from lggseg.cloud.aws.account import open_account
    from lggseg.cloud.aws.endpoints import deploy_on_aws

    return deploy_on_aws(Path(model), account or open_account(), instance)


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
            log_end = log.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"the server ended before it was ready. It said:\n{log_end}")
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
