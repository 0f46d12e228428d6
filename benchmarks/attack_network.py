"""Sections A and B of attacks.py: strangers at the endpoint and at the viewer."""

from __future__ import annotations

import http.client
import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import tifffile
from nibabel.nifti1 import Nifti1Extension

from lggseg.data.codecs import ATTRIBUTES_HEADER, JSON, NPY, PNG, TIFF, npy_bytes
from lggseg.data.simulation import make_patient, plan_cohort

if TYPE_CHECKING:
    from attacks import Tally

SECONDS = 10
Headers = dict[str, str]


class Target:
    """A server that is attacked: what it answers is judged."""

    def __init__(self, tally: Tally, section: str, port: int) -> None:
        self.tally, self.section, self.port = tally, section, port
        self.patience = float(SECONDS)

    def ask(
        self, name: str, method: str, path: str, body: bytes = b"", headers: Headers | None = None
    ) -> tuple[int, bytes, Headers]:
        """One request, recorded: its status (0 for none), body and headers."""
        attack, start = f"{self.section} {name}", time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3 * SECONDS)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            found = response.status, response.read(), dict(response.getheaders())
        except (OSError, http.client.HTTPException) as error:
            hung = time.monotonic() - start > SECONDS
            self.tally.record(attack, "hang" if hung else "", repr(error))
            return 0, b"", {}
        finally:
            connection.close()
        self._judge(attack, *found, seconds=time.monotonic() - start)
        return found

    def _judge(
        self, attack: str, status: int, body: bytes, headers: Headers, seconds: float
    ) -> None:
        busy = status == 503 and any(name.lower() == "retry-after" for name in headers)
        fault = "5xx" if status >= 500 and not busy else "hang" if seconds > self.patience else ""
        if not fault and body and headers.get("content-type", "").startswith(JSON):
            try:
                json.loads(body, parse_constant=lambda word: 1 / 0)
            except (ValueError, ZeroDivisionError):
                fault = "silent wrong"  # NaN, or no JSON at all
        self.tally.record(attack, fault, f"{status} after {seconds:.1f} s {body[:120]!r}")

    def raw(self, name: str, request: bytes) -> None:
        """Bytes that may be no HTTP: an answer or a closed connection within the time."""
        start, answer = time.monotonic(), b""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as sent:
            sent.settimeout(3 * SECONDS)
            sent.sendall(request)
            answer = sent.recv(65536)
        seconds = time.monotonic() - start
        fault = "5xx" if answer[9:10] == b"5" else "hang" if seconds > SECONDS + 3 else ""
        self.tally.record(f"{self.section} {name}", fault, f"{seconds:.1f} s {answer[:80]!r}")

    def hold(self, stack: ExitStack, number: int, request: bytes) -> None:
        """Connections that have sent so much and neither read nor send more."""
        for _ in range(number):
            with suppress(OSError):
                sent = socket.socket()
                sent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sent.settimeout(5)
                sent.connect(("127.0.0.1", self.port))
                sent.sendall(request)
                stack.enter_context(sent)


@contextmanager
def serving(
    tally: Tally, section: str, *command: str, log: Any, files: int = 1024
) -> Iterator[tuple[Target, subprocess.Popen[bytes]]]:
    """A command of lggseg that listens, ready; at the end it has to obey SIGTERM."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    line = [sys.executable, "-m", "lggseg.cli", *command, "--port", str(port)]
    shell = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", *line]
    process = subprocess.Popen(shell, stdout=log, stderr=log)
    try:
        for _ in range(1200):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield Target(tally, section, port), process
        process.send_signal(signal.SIGTERM)
        start = time.monotonic()
        try:
            process.wait(29)  # SageMaker and docker stop --time 30 kill then
            tally.record(f"{section} SIGTERM", "" if process.returncode == 0 else "lost", "status")
        except subprocess.TimeoutExpired:
            waited = f"still there after {time.monotonic() - start:.0f} s"
            tally.record(f"{section} SIGTERM", "hang", waited)
    finally:
        process.kill()
        process.wait()


def check_log(tally: Tally, section: str, log: Path) -> None:
    """No traceback in what the server wrote."""
    text = log.read_text(errors="replace")
    number = text.count("Traceback")
    tally.record(f"{section} log", "traceback" if number else "", f"{number} in {len(text)} bytes")


def tiff_bytes(volume: np.ndarray, **options: Any) -> bytes:
    """A volume as a multi-page TIFF."""
    file = BytesIO()
    tifffile.imwrite(file, volume, photometric="rgb", **options)
    return file.getvalue()


def npy_header(text: str) -> bytes:
    """An npy file that is a header alone."""
    content = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(content).to_bytes(2, "little") + content


POST = b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-npy\r\n"
RAW = {
    "HTTP/0.9": b"GET /ping\r\n",
    "HTTP/9.9": b"GET /ping HTTP/9.9\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "negative length": POST + b"Content-Length: -1\r\n\r\n",
    "length of 4300 digits": POST + b"Content-Length: " + b"9" * 4300 + b"\r\n\r\n",
    "no hexadecimal chunk": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "chunk of 16 EB": POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    "gzip transfer": POST + b"Transfer-Encoding: gzip\r\n\r\n",
    "a megabyte of head": b"GET /ping HTTP/1.1\r\nX: " + b"x" * 2**20 + b"\r\n\r\n",
    "100,000 headers": b"GET /ping HTTP/1.1\r\n" + b"x: y\r\n" * 100_000 + b"\r\n",
    "NUL in a header": b"GET /ping HTTP/1.1\r\nX: a\0b\r\n\r\n",
    "upgrade": b"GET /ping HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "100 pipelined": b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n" * 100,
    "half a head": b"GET /ping HTTP/1.1\r\nHost:",
    "half a body": POST + b"Content-Length: 100000\r\n\r\nhalf",
    "half of another body": POST.replace(b"x-npy", b"x-no") + b"Content-Length: 9\r\n\r\n1",
    "nothing": b"",
}
SHAPES = (
    "(True, 256, 256, 3)", "(1, True, 256, 3)", "(-1, 256, 256, 3)", "(10**12, 256, 256, 3)",
    f"({'9' * 4300}, 256, 256, 3)", "(1.0, 256, 256, 3)", "(None, 256, 256, 3)", "()", "(1,)",
    "((1,), 256, 256, 3)", "('1', 256, 256, 3)", "(0, 256, 256, 3)", "(1j, 256, 256, 3)",
    "[1, 256, 256, 3]", "(1, 256, 256, False)", "(1e400, 256, 256, 3)", "(1, 256, 256, 3, 1)",
)  # fmt: skip
ACCEPTS = (
    "image/*", "image/png;q=0, */*", "image/png;q=abc", "*;q=.2", "x" * 9000,
    "application/json;q=nan", ",,,", ";q=1", "*/*;q=0", "text/csv", "\xff",
)  # fmt: skip
ATTRIBUTES = (
    "trace-id=abc", "c000b4f9-df62-4c85-a0bf-7c525f9104a4", "=", ";;;", "slice=-1", "slice=1e9",
    "slice=" + "9" * 4400, "background=nan,1,1;scale=1,1,1", "probability=True", "context=1,1",
    "slice=\xb2", "slice=1_0", "x" * 8000, "scale=1e-400,1,1;background=1,1,1", "slcie=1",
    "\xff=\xfe",
)  # fmt: skip


def attack_endpoint(tally: Tally, model: Path, folder: Path, seed: int) -> None:
    """Section A."""
    volume = make_patient(plan_cohort(patients=1, seed=seed)[0])[0][:6]
    good, log = npy_bytes(volume), folder / "log"
    with log.open("wb") as output:
        running = serving(tally, "A", "serve", str(model), log=output, files=256)
        with running as (target, _):
            start = time.monotonic()
            expected = target.ask("good", "POST", "/invocations", good, {"Content-Type": NPY})[1]
            # In a crowd a request waits for 15 others, which takes longer on a busy machine.
            target.patience = SECONDS + 15 * (time.monotonic() - start)

            def still_good(after: str) -> None:
                found = target.ask(after, "POST", "/invocations", good, {"Content-Type": NPY})[1]
                if found and found != expected and b"error" not in found:
                    tally.record(f"A {after}", "silent wrong", "another answer")

            malformed(target, still_good)
            mutated(target, volume, random.Random(seed))
            still_good("after mutated bodies")
            crowds(target, still_good, good)
            tiny_chunks(target, still_good)
    check_log(tally, "A", log)
    for name in ("full", "closed", "unread"):
        attack_log(tally, model, name, good)


def tiny_chunks(target: Target, still_good: Any) -> None:
    """Bodies that take long to read because each byte is a chunk of its own."""
    body = POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 400_000
    with ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(target.raw, f"tiny chunks {number}", body) for number in range(8)]
        target.ask("ping beside tiny chunks", "GET", "/ping")
        still_good("beside tiny chunks")
        for future in sent:
            future.result()


def malformed(target: Target, still_good: Any) -> None:
    """Requests and headers that are none, and a good one after each kind."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: target.raw(*item), RAW.items()))
    still_good("after malformed requests")
    body = npy_bytes(np.zeros((1, 256, 256, 3), np.uint8))
    for method in ("HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"):
        for path in ("/ping", "/invocations", "/..%2f..%2fetc/passwd"):
            target.ask(f"{method} {path}", method, path)
    for shape in SHAPES:
        text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}"
        content = npy_header(text) + bytes(256 * 256 * 3)
        target.ask(f"npy {shape[:30]}", "POST", "/invocations", content, {"Content-Type": NPY})
    for accept in ACCEPTS:
        headers = {"Content-Type": NPY, "Accept": accept}
        target.ask(f"accept {accept[:20]!r}", "POST", "/invocations", body, headers)
    for text in ATTRIBUTES:
        headers = {"Content-Type": NPY, "Accept": PNG, ATTRIBUTES_HEADER: text}
        target.ask(f"attributes {text[:20]!r}", "POST", "/invocations", body, headers)
    for encoding in ("gzip", "br, gzip", "identity", "x" * 1000):
        headers = {"Content-Type": NPY, "Content-Encoding": encoding}
        target.ask(f"encoding {encoding[:9]}", "POST", "/invocations", body, headers)


def mutated(target: Target, volume: np.ndarray, rng: random.Random) -> None:
    """Bodies with a few bytes changed, cut or made up."""
    bases = [
        (TIFF, tiff_bytes(volume[:2])),
        (TIFF, tiff_bytes(volume[:2], compression="zlib", predictor=True)),
        (TIFF, tiff_bytes(volume[:2], bigtiff=True)),
        (TIFF, tiff_bytes(volume[:2], tile=(64, 64))),
        (NPY, npy_bytes(volume[:1])),
    ]
    for number in range(250):
        kind, base = bases[number % len(bases)]
        body = bytearray(base)
        for _ in range(rng.randint(1, 6)):
            place = rng.randrange(min(300, len(body))) * rng.choice((1, -1))
            body[place] = rng.randrange(256)
        content = bytes(body[: rng.randrange(len(body))]) if number % 9 == 0 else bytes(body)
        headers = {"Content-Type": kind, "Accept": rng.choice((JSON, NPY, TIFF, PNG))}
        target.ask(f"mutated {number}", "POST", "/invocations", content, headers)
    for number in range(50):
        headers = {"Content-Type": rng.choice((NPY, TIFF))}
        content = rng.randbytes(rng.randrange(3000))
        target.ask(f"noise {number}", "POST", "/invocations", content, headers)


def crowds(target: Target, still_good: Any, good: bytes) -> None:
    """Clients that hold connections, stall, do not read; others are answered meanwhile."""
    request = (
        POST + b"Accept: application/x-npy\r\nX-Amzn-SageMaker-Custom-Attributes: probability=1"
    )
    request += f"\r\nContent-Length: {len(good)}\r\n\r\n".encode() + good
    for name, number, content in (
        ("idle connections", 300, b""),
        ("half heads", 300, b"GET /ping HTTP/1.1\r\nX: "),
        ("answers that nobody reads", 12, request),
        ("stalled bodies", 15, POST + b"Content-Length: 100000\r\n\r\nhalf"),
    ):
        with ExitStack() as stack:
            target.hold(stack, number, content)
            for _ in range(3):
                target.ask(f"ping beside {name}", "GET", "/ping")
                still_good(f"beside {name}")
    with ThreadPoolExecutor(16) as pool:
        for _ in range(48):
            pool.submit(still_good, "one of many")


def attack_log(tally: Tally, model: Path, name: str, good: bytes) -> None:
    """A log that cannot be written, or that nobody reads."""
    with ExitStack() as stack:
        full = stack.enter_context(Path("/dev/full").open("wb"))
        log = full if name == "full" else subprocess.PIPE
        running = serving(tally, "A", "serve", str(model), log=log)
        target, process = stack.enter_context(running)
        if name == "closed" and process.stdout:
            process.stdout.close()
        for _ in range(1200 if name == "unread" else 5):
            target.ask(f"log {name}", "POST", "/invocations", b"", {"Content-Type": NPY})
        target.ask(f"log {name}", "GET", "/ping")
        target.ask(f"log {name}, good", "POST", "/invocations", good, {"Content-Type": NPY})


LONG = "9" * 4300
LISTS = (
    b"", b"{}", b"null", b"[1]", b"[" * 100_000, b'[{"name": "\\ud800.tif", "size": 0}]',
    b'[{"name": "a.nii", "size": 0, "role": "\\udfff"}]', b'[{"name": "a.tif", "size": 1e999}]',
    f'[{{"name": "a", "size": {LONG}}}, {{"name": "b", "size": {LONG}}}]'.encode(),
    b'[{"name": "a.tif", "size": -1}]', b"\xff\xfe", b'[{"name": {"a": "\\ud800"}, "size": 0}]',
)  # fmt: skip


def attack_viewer(tally: Tally, model: Path, folder: Path, seed: int) -> None:
    """Section B."""
    from attack_files import copy_patient, tree_of

    data, log = tree_of(folder / "tree", seed), folder / "log"
    source = min(path for path in data.iterdir() if path.is_dir())
    names = ["1.2.3.1", "1.2.3.2", "NA", "<img src=x onerror=alert(1)>", "a%2e#?", "b\udcfc\r"]
    for name in names:
        copy_patient(source, data / name)
    with (
        log.open("wb") as output,
        serving(tally, "B", "view", str(model), str(data), log=output, files=256) as (target, _),
    ):
        listed = json.loads(
            target.ask("patients", "GET", "/api/patients")[1] or b'{"patients": []}'
        )
        said = log.read_bytes().count(b"control characters")  # of the last of the names
        missing = len(names) + 3 - said - len(listed["patients"])
        tally.record("B patients", "lost" if missing else "", f"{missing} neither listed nor named")
        hosts = ("evil.example", "127.0.0.1.evil.example", "", "[::1", "x" * 5000, "localhost:x:y")
        for host in hosts:
            status = target.ask(f"host {host[:20]!r}", "GET", "/", headers={"Host": host})[0]
            tally.record("B host", "silent wrong" if status == 200 else "", host[:50])
        for path in (
            "/..%2f..%2fetc/passwd",
            "/%2e%2e/%2e%2e/etc/passwd",
            "/api/cases/%00",
            "/\\..\\x",
        ):
            for method in ("GET", "POST", "HEAD"):
                body = target.ask(f"{method} {path}", method, path)[1]
                tally.record("B traversal", "lost" if b"root:" in body else "", path)
        for threshold in ("nan", "inf", "-1", "1e-400", "9" * 5000, "%F0%28%8C%28", ""):
            path = f"/api/cases/{source.name}/prediction?threshold={threshold}"
            target.ask(f"threshold {threshold[:9]}", "GET", path)
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
            status = target.ask(
                f"type {kind}", "POST", "/api/cases", b"[]\n", {"Content-Type": kind}
            )[0]
            tally.record("B cross-site", "silent wrong" if status < 400 else "", kind)
        for number, line in enumerate(LISTS):
            headers = {"Content-Type": "application/octet-stream"}
            target.ask(f"list {number}", "POST", "/api/cases", line + b"\n", headers)
        uploads(target, random.Random(seed))
        with ExitStack() as stack:
            head = b"POST /api/cases HTTP/1.1\r\nHost: localhost\r\n"
            head += b"Content-Type: application/octet-stream\r\nContent-Length: 90000\r\n\r\nx"
            target.hold(stack, 3, head)
            target.hold(stack, 100, b"")
            target.ask("patients beside a crowd", "GET", "/api/patients")
            headers = {"Content-Type": "application/octet-stream"}
            target.ask("upload beside a crowd", "POST", "/api/cases", b"[]\n", headers)
    check_log(tally, "B", log)


def uploads(target: Target, rng: random.Random) -> None:
    """NIfTI files with bytes changed, with extensions, and with more inside than outside."""
    voxels = np.random.default_rng(0).integers(0, 200, (64, 64, 4)).astype(np.int16)
    image = nib.Nifti1Image(voxels, np.diag([-3.0, -3.0, 5.0, 1.0]))
    plain = image.to_bytes()
    image.header.extensions.append(Nifti1Extension(4, b"<AFNI_attributes/>" * 20))
    status = send(target, "AFNI", "a.nii", image.to_bytes())
    target.tally.record("B AFNI's extension", "lost" if status != 201 else "", f"status {status}")
    for number in range(60):
        body = bytearray(plain)
        for _ in range(rng.randint(1, 6)):
            body[rng.randrange(352)] = rng.randrange(256)
        send(target, f"mutated NIfTI {number}", "a.nii", bytes(body))
    bomb = bytearray(plain[:352])
    bomb[40:56] = np.array([3, 32767, 32767, 32767, 1, 1, 1, 1], "<i2").tobytes()
    send(target, "header of 35 TB", "a.nii", bytes(bomb))


def send(target: Target, attack: str, name: str, content: bytes) -> int:
    """The status of an upload of one file."""
    line = json.dumps([{"name": name, "size": len(content), "role": ""}]).encode() + b"\n"
    headers = {"Content-Type": "application/octet-stream"}
    return target.ask(attack, "POST", "/api/cases", line + content, headers)[0]
