from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from lggseg.cloud.deploy import deploy
from lggseg.data.cohort import Cohort, load_cohort
from lggseg.inference.segmenter import Segmenter
from lggseg.serving.client import Endpoint
from lggseg.utils.errors import DataError

MODEL = Path(__file__).resolve().parents[2] / "models" / "lgg-unet"


@pytest.fixture(scope="module")
def volume(shared_tree: Path) -> np.ndarray:
    cohort: Cohort = load_cohort(shared_tree, progress=False)
    return cohort.image(cohort.patients.index[0])


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with deploy(MODEL) as endpoint:
        yield endpoint


def answers(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def port_of(endpoint: Endpoint) -> int:
    return int(endpoint.url.split(":")[2].split("/")[0])


def test_an_endpoint_answers_as_the_segmenter(endpoint: Endpoint, volume: np.ndarray) -> None:
    expected, found = Segmenter.load(MODEL).predict(volume), endpoint.predict(volume)
    assert np.array_equal(found.mask, expected.mask)
    assert np.array_equal(found.probability, expected.probability)


def test_a_deleted_endpoint_is_gone_and_can_be_deleted_again() -> None:
    endpoint = deploy(MODEL)
    assert answers(port_of(endpoint))
    endpoint.delete()
    assert not answers(port_of(endpoint))
    endpoint.delete()


def test_a_taken_port_and_a_folder_without_a_model_are_named(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    port = port_of(endpoint)
    with pytest.raises(RuntimeError, match=f"port {port}: found it taken"):
        deploy(MODEL, port=port)
    with pytest.raises(DataError, match="found no such file"):
        deploy(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_an_endpoint_ends_when_its_process_is_killed() -> None:
    code = (
        "from lggseg.cloud.deploy import deploy; "
        f"print(deploy({str(MODEL)!r}).url, flush=True); input()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        port = int(process.stdout.readline().decode().split(":")[2].split("/")[0])
        assert answers(port)
        process.kill()
    end = time.monotonic() + 30
    while answers(port) and time.monotonic() < end:
        time.sleep(0.1)
    assert not answers(port)
