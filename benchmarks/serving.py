"""The endpoint under load: latency, slices a second, errors, memory, seconds until it is ready.

    python benchmarks/serving.py MODEL DATA [--seconds 60] [--requests 2000] [--out report/results]

A server as a child process answers clients that each send one patient's volume after another (npy
in, JSON out) on a connection that stays open. Then as many requests of 1 to 16 slices, while the
server's resident memory is read. Writes serving.json.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from throughput import machine

from lggseg.data.codecs import JSON, NPY, npy_bytes
from lggseg.data.cohort import load_cohort
from lggseg.utils.files import write_json

HEADERS = {"Content-Type": NPY, "Accept": JSON}
SAMPLES = 20


@contextmanager
def server(model: Path) -> Iterator[tuple[int, psutil.Process, float]]:
    """The port and the process of a server, and the seconds from its start until /ping answered."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "lggseg.cli", "serve", str(model), "--port", str(port)]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            while not is_ready(port):
                if process.poll() is not None:
                    raise RuntimeError("the server has ended: try the command lggseg serve")
                time.sleep(0.01)
            yield port, psutil.Process(process.pid), time.perf_counter() - start
        finally:
            process.terminate()


def is_ready(port: int) -> bool:
    """Whether /ping answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def client(
    port: int, volumes: Iterator[np.ndarray], goes_on: Callable[[], bool]
) -> list[tuple[int, float, int]]:
    """Status, seconds and slices of each of a client's requests."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    answers = []
    while goes_on():
        volume = next(volumes)
        body, start = npy_bytes(volume), time.perf_counter()
        connection.request("POST", "/invocations", body, HEADERS)
        response = connection.getresponse()
        response.read()
        answers.append((response.status, time.perf_counter() - start, len(volume)))
    connection.close()
    return answers


def load(port: int, volumes: list[np.ndarray], clients: int, seconds: float) -> dict[str, Any]:
    """Latency in milliseconds, slices a second and errors of clients at once."""
    end = time.perf_counter() + seconds
    patients = [itertools.cycle(volumes[start::clients]) for start in range(clients)]
    with ThreadPoolExecutor(clients) as pool:
        jobs = [
            pool.submit(client, port, own, lambda: time.perf_counter() < end) for own in patients
        ]
        answers = [answer for job in jobs for answer in job.result()]
    taken = seconds + time.perf_counter() - end
    good = [answer for answer in answers if answer[0] == 200]
    latency = np.percentile([1000 * answer[1] for answer in good], [50, 95, 99]).round(1)
    return {
        "clients": clients,
        "seconds": round(taken, 1),
        "requests": len(answers),
        "errors": len(answers) - len(good),
        "milliseconds": dict(zip(("p50", "p95", "p99"), latency.tolist(), strict=True)),
        "slices_a_second": round(sum(answer[2] for answer in good) / taken, 1),
    }


def memory(
    port: int, process: psutil.Process, volumes: list[np.ndarray], requests: int
) -> dict[str, Any]:
    """Resident MiB of the server, read so often, over requests of different lengths."""
    rng = np.random.default_rng(0)
    parts = (volumes[rng.integers(len(volumes))][: rng.integers(1, 17)] for _ in itertools.count())
    mebibytes = [process.memory_info().rss / 2**20]
    for _ in range(SAMPLES):
        left = iter(range(requests // SAMPLES))
        client(port, parts, lambda left=left: next(left, None) is not None)
        mebibytes.append(process.memory_info().rss / 2**20)
    return {"requests": requests, "rss_mib": [round(value, 1) for value in mebibytes]}


def main() -> None:
    """Measure one server; write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("report/results"))
    options = parser.parse_args()
    cohort = load_cohort(options.data)
    volumes = [cohort.image(patient) for patient in cohort.patients.index]
    with server(options.model) as (port, process, ready):
        results = {
            "machine": machine(),
            "cohort": cohort.label,
            "ready_seconds": round(ready, 2),
            "load": load(port, volumes, options.clients, options.seconds),
            "memory": memory(port, process, volumes, options.requests),
        }
    write_json(results, options.out / "serving.json")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
