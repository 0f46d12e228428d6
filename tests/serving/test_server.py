"""A server among clients that stall, do not read or hold on, and logs that nobody reads."""

from __future__ import annotations

import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from lggseg.serving.server import Log

# An application that is bounded like the real ones: sizes of bodies, a large answer, a long job.
SERVER = """
import asyncio, sys, time
from concurrent.futures import ThreadPoolExecutor
from fastapi import FastAPI, Request, Response
from lggseg.utils.errors import Refused
import lggseg.serving.server as server
from lggseg.serving.server import BoundedAnswers, Limits, Room, read_body, run
server.IDLE_SECONDS, server.GRACE_SECONDS = {idle}, {grace}
limits, app = Limits(seconds=4, requests=4), FastAPI()
room, pool = Room(limits.requests), ThreadPoolExecutor(1)
app.add_middleware(BoundedAnswers, room=room, seconds=limits.seconds)

@app.get("/ping")
async def ping():
    print("x" * 1000)
    return Response()

@app.exception_handler(Refused)
async def refuse(_, error):
    return Response(str(error), error.status)

@app.get("/large")
async def large():
    room.require()
    return Response(bytes(30_000_000))

@app.post("/size")
async def size(request: Request):
    with room:
        return Response(str(len(await read_body(request, limits, ""))))

@app.get("/long")
async def long():
    await asyncio.get_running_loop().run_in_executor(pool, time.sleep, 60)
    return Response()

run(app, "127.0.0.1", {port})
"""
FILES = 256


def small_files_limit() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))


@contextmanager
def running(
    stdout: Any, stderr: Any = None, idle: float = 2, grace: int = 3
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The application above on a free port, ready, with few files allowed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    code = SERVER.format(idle=idle, grace=grace, port=port)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=stdout,
        stderr=stderr or stdout,
        preexec_fn=small_files_limit,
    )
    try:
        for _ in range(600):
            assert process.poll() is None, "the server has ended"
            with suppress(OSError):
                if get(port, "/ping")[0] == 200:
                    break
            time.sleep(0.05)
        yield port, process
    finally:
        process.kill()
        process.wait()


def get(port: int, path: str, seconds: float = 10) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server") / "log"


@pytest.fixture(scope="module")
def server(log: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    with log.open("wb") as output, running(output) as found:
        yield found


def hold(stack: ExitStack, port: int, request: bytes, small: bool = False) -> socket.socket:
    """A connection that has sent so much and does no more."""
    connection = socket.socket()
    if small:  # what the client's own system takes in must not hide that nobody reads
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.sendall(request)
    return stack.enter_context(connection)


def wait_for_end(connection: socket.socket, seconds: float) -> float:
    """How long until the other end closes."""
    start = time.monotonic()
    connection.settimeout(seconds)
    with suppress(ConnectionError):
        while connection.recv(2**20):
            pass
    return time.monotonic() - start


HALF_HEAD = b"GET /ping HTTP/1.1\r\nHost: x\r\nX-Half: "
PING = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("begun", [b"", HALF_HEAD, PING + HALF_HEAD, PING])
def test_a_connection_without_a_request_is_closed(
    server: tuple[int, subprocess.Popen[bytes]], begun: bytes
) -> None:
    with ExitStack() as stack:
        connection = hold(stack, server[0], begun)
        assert wait_for_end(connection, 8) < 7


def test_a_head_that_trickles_is_closed(server: tuple[int, subprocess.Popen[bytes]]) -> None:
    with ExitStack() as stack:
        connection = hold(stack, server[0], HALF_HEAD)
        with pytest.raises(ConnectionError):
            for _ in range(60):
                connection.sendall(b"x")
                time.sleep(0.1)


@pytest.mark.slow
def test_idle_connections_lock_nobody_out(
    server: tuple[int, subprocess.Popen[bytes]], log: Path
) -> None:
    port, process = server
    with ExitStack() as stack:
        for number in range(2 * FILES):
            with suppress(ConnectionError):  # one that was given up for a newer
                hold(stack, port, HALF_HEAD if number % 2 else b"")
            if number % 64 == 63:
                start = time.monotonic()
                assert get(port, "/ping")[0] == 200
                assert time.monotonic() - start < 2
        assert psutil.Process(process.pid).num_fds() < FILES
    assert b"Traceback" not in log.read_bytes()


@pytest.mark.slow
def test_answers_that_nobody_reads_are_given_up(
    server: tuple[int, subprocess.Popen[bytes]], log: Path
) -> None:
    port, process = server
    memory = psutil.Process(process.pid).memory_info().rss
    request = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(12):
            hold(stack, port, request, small=True)
        time.sleep(1)
        # Four are on their way; the others and this one are told that there is no room.
        assert get(port, "/large")[0] == 503
        assert get(port, "/ping")[0] == 200
        held = psutil.Process(process.pid).memory_info().rss - memory
        assert held < 4 * 35_000_000
        time.sleep(5)
        assert len(get(port, "/large")[1]) == 30_000_000
        time.sleep(3)
        assert len(psutil.Process(process.pid).net_connections()) <= 2


def test_a_client_that_reads_slowly_gets_all_of_it(
    server: tuple[int, subprocess.Popen[bytes]],
) -> None:
    with ExitStack() as stack:
        request = b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        connection, found = hold(stack, server[0], request, small=True), 0
        end = time.monotonic() + 1.5
        while chunk := connection.recv(2**20):
            found += len(chunk)
            time.sleep(0.002 if time.monotonic() < end else 0)
        assert found > 30_000_000


HEAD = b"POST /size HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"


@pytest.mark.parametrize("trickle", [False, True])
def test_a_body_that_stalls_or_trickles_frees_its_connection(
    server: tuple[int, subprocess.Popen[bytes]], trickle: bool
) -> None:
    with ExitStack() as stack:
        connection = hold(stack, server[0], HEAD)
        connection.settimeout(0.1)
        start, answer = time.monotonic(), b""
        while not answer and time.monotonic() < start + 8:
            with suppress(TimeoutError, ConnectionError):
                if trickle:
                    connection.sendall(b"x")
                answer = connection.recv(1000)
        assert answer.startswith(b"HTTP/1.1 408") and time.monotonic() - start < 3.5


def test_a_body_in_tiny_chunks_keeps_nobody_waiting(
    server: tuple[int, subprocess.Popen[bytes]],
) -> None:
    port, process = server
    head = b"POST /size HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"

    def busy_seconds() -> float:
        times = psutil.Process(process.pid).cpu_times()
        return float(times.user + times.system)

    before = busy_seconds()
    with ExitStack() as stack:
        for _ in range(6):
            connection = hold(stack, port, head)
            with suppress(OSError):  # it is closed meanwhile
                connection.sendall(b"1\r\nx\r\n" * 500_000)
            assert wait_for_end(connection, 5) < 5
        assert get(port, "/ping")[0] == 200
    assert busy_seconds() - before < 3  # 35 without the limit
    for size, number in ((64, 5000), (1, 1000)):
        with ExitStack() as stack:
            chunk = b"%x\r\n%s\r\n" % (size, bytes(size))
            connection = hold(stack, port, head + chunk * number + b"0\r\n\r\n")
            connection.settimeout(10)
            answer = connection.makefile("rb").read()
            assert answer.endswith(b"\r\n\r\n%d" % (size * number))


def test_an_unread_pipe_and_sigterm(tmp_path: Path) -> None:
    with running(subprocess.PIPE) as (port, process):
        for _ in range(150):  # 150 kB of log, more than a pipe takes
            assert get(port, "/ping")[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(6) == 0


def test_a_log_without_a_reader(tmp_path: Path) -> None:
    with running(subprocess.PIPE) as (port, process):
        assert process.stdout
        process.stdout.close()
        assert [get(port, "/ping")[0] for _ in range(5)] == [200] * 5
        process.send_signal(signal.SIGTERM)
        assert process.wait(6) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device without space")
def test_a_full_disk() -> None:
    with open("/dev/full", "wb") as full, running(full) as (port, process):
        assert [get(port, "/ping")[0] for _ in range(5)] == [200] * 5
        process.send_signal(signal.SIGTERM)
        assert process.wait(6) == 0


def test_sigterm_ends_it_whatever_it_does(tmp_path: Path) -> None:
    with ExitStack() as stack:
        output = stack.enter_context((tmp_path / "log").open("wb"))
        port, process = stack.enter_context(running(output, idle=30))
        hold(stack, port, HEAD + b"half")
        hold(stack, port, HALF_HEAD)
        hold(stack, port, b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
        hold(stack, port, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n", small=True)
        time.sleep(0.5)
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(8) == 0
        assert time.monotonic() - start < 6
    assert b"Traceback" not in (tmp_path / "log").read_bytes()


def test_a_log_says_what_is_written_and_drops_what_is_too_much(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        log = Log(file.fileno())
        print(json.dumps({"a": 1}), "\udcff", file=log)
        log.drain(5)
    assert path.read_bytes() == b'{"a": 1} \\udcff\n'
    reader, writer = os.pipe()
    log = Log(writer)
    for _ in range(5000):
        print("x" * 1000, file=log)
    start = time.monotonic()
    log.drain(0.2)
    assert time.monotonic() - start < 2
    os.close(reader)
