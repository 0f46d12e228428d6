"""How the endpoint and the viewer are served: limits on connections, request bodies, responses,
logging and shutdown.

uvicorn answers requests but leaves some things unbounded: how long a connection may stay without a
request, how slowly an answer may be taken, how many connections there are, and what happens where
nobody reads the log. ``docs/limits.md`` lists every limit with its value and its test.
"""

from __future__ import annotations

import asyncio
import io
import os
import queue
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread, Timer
from types import FrameType
from typing import Any, cast

import h11
import uvicorn
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from lggseg.data.codecs import MAX_BYTES
from lggseg.utils.errors import Refused

IDLE_SECONDS = 10  # of a connection without a whole request head, and of a body without a byte
LEAST_RATE = 16_000  # bytes per second of a body, after IDLE_SECONDS
LEAST_CHUNK = 64  # bytes of a chunk of a body on average, after _FREE_CHUNKS of any size
_FREE_CHUNKS = 1000
GRACE_SECONDS = 25  # from SIGTERM to the end; SageMaker kills after 30
MAX_CONNECTIONS = 512
_BACKLOG = 32  # connections that are accepted at a time
_OTHER_FILES = 128  # descriptors for all else, connections that are being closed among them
_CHUNK = 2**16  # bytes of an answer that are written at a time
LOG_LINES = 1000
# Of an answer by its status. The rest of a body that came too slowly is not waited for.
ERROR_HEADERS = {408: {"Connection": "close"}, 503: {"Retry-After": "1"}}


@dataclass(frozen=True)
class Limits:
    """What a server accepts: bytes of a body, slices of a volume, seconds until a body has
    arrived and until an answer was taken, predictions at once, and requests at once, those that
    wait and answers on their way included."""

    bytes: int = MAX_BYTES
    slices: int = 256
    seconds: float = 30
    predictions: int = 2
    requests: int = 16


class Room:
    """How many requests are worked on or have a large answer on its way, and how many may be."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.taken = capacity, 0

    def __enter__(self) -> None:
        self.taken += 1

    def __exit__(self, *_: object) -> None:
        self.taken -= 1

    def require(self) -> None:
        """Raise ``Refused`` where there is no room for another request."""
        if self.taken >= self.capacity:
            expected = f"at most {self.capacity}"
            raise Refused(503, "too many requests at once", expected, "Try again in a second.")


class BoundedAnswers:
    """ASGI middleware: an answer is written in chunks and given up where it is taken too slowly, so
    that clients which do not read cannot fill the memory; a large one takes room until then."""

    def __init__(self, app: ASGIApp, room: Room, seconds: float) -> None:
        self._app, self._room, self._seconds = app, room, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        answer = _Answer(send, self._room, self._seconds)
        try:
            await self._app(scope, receive, answer.send)
        except asyncio.CancelledError:  # the time to finish after SIGTERM is over
            if not answer.started:
                text = "request: found a server that is stopping; expected a running one."
                await JSONResponse({"error": text}, 503)(scope, receive, send)


class _Answer:
    def __init__(self, send: Send, room: Room, seconds: float) -> None:
        self._send, self._room, self._seconds = send, room, seconds
        self._end = 0.0
        self.started, self._given_up = False, False

    async def send(self, message: Message) -> None:
        """Send a message of ASGI; nothing more once the time is over."""
        loop = asyncio.get_running_loop()
        if message["type"] == "http.response.start":
            self._end, self.started = loop.time() + self._seconds, True
        if self._given_up:
            return  # uvicorn closes the connection of an answer that was not completed
        try:
            async with asyncio.timeout_at(self._end if self.started else None):
                await self._write(message)
        except TimeoutError:
            self._given_up = True

    async def _write(self, message: Message) -> None:
        body = message.get("body", b"")
        if len(body) <= _CHUNK:
            return await self._send(message)
        with self._room:
            for start in range(0, len(body), _CHUNK):
                last = start + _CHUNK >= len(body)
                more = not last or message.get("more_body", False)
                chunk = bytes(body[start : start + _CHUNK])
                await self._send({**message, "body": chunk, "more_body": more})


async def read_body(request: Request, limits: Limits, action: str) -> bytes:
    """The body of a request; ``action`` tells what to do about one that is too large. Raises
    ``Refused``."""
    expected, body = f"at most {limits.bytes} bytes", bytearray()
    declared = int(request.headers.get("content-length", 0))
    if declared > limits.bytes:
        raise Refused(413, f"{declared} bytes", expected, action)
    loop = asyncio.get_running_loop()
    start = loop.time()
    idle = min(IDLE_SECONDS, limits.seconds)
    try:
        async with asyncio.timeout(idle) as deadline:
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.bytes:
                    raise Refused(413, "more bytes", expected, action)
                slowest = start + min(limits.seconds, idle + len(body) / LEAST_RATE)
                deadline.reschedule(min(slowest, loop.time() + idle))
    except (TimeoutError, ClientDisconnect):
        found = f"{len(body)} bytes after {loop.time() - start:.0f} seconds, or a closed connection"
        raise Refused(408, found, "the whole body", "Send it faster.") from None
    return bytes(body)


class TinyChunks(Exception):
    """A body comes in chunks so small that reading them would keep everyone else waiting."""


class Requests(h11.Connection):
    """What a client sends, parsed. Raises ``TinyChunks``."""

    _chunks = _bytes = 0  # of this request's body

    def next_event(self) -> Any:
        """The next part of a request."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._bytes += len(event.data)
            if self._chunks > _FREE_CHUNKS + self._bytes // LEAST_CHUNK:
                raise TinyChunks
        return event


class Connection(H11Protocol):
    """A connection that is closed where it neither answers a request nor gets one for some time,
    where a body comes in tiny chunks, and earlier where there are too many."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = Requests(h11.SERVER)

    def handle_events(self) -> None:
        """Go through what has come."""
        try:
            super().handle_events()
        except TinyChunks:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give up the connection that has waited longest where this is one too many."""
        super().connection_made(cast(asyncio.Transport, transport))
        self._since = self.loop.time()
        if len(self.connections) > max_connections():
            others = [c for c in cast("set[Connection]", self.connections) if not c.is_busy()]
            waiting = [c for c in others if not c.transport.is_closing()]
            min(waiting, key=Connection.waiting_since, default=self).transport.abort()
        self._watch()

    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        closing = self.transport.is_closing()
        return self.cycle is not None and not self.cycle.response_complete and not closing

    def waiting_since(self) -> float:
        """When the last request was answered, or the connection made; in the loop's seconds."""
        return self._since

    def _watch(self) -> None:
        if self not in self.connections:
            return
        if self.is_busy():
            self._since = self.loop.time()
        if self.loop.time() - self._since > IDLE_SECONDS:
            self.transport.abort()
        else:
            self.loop.call_later(1, self._watch)


def max_connections() -> int:
    """How many connections are kept: fewer where the system allows few open files."""
    with suppress(ImportError):  # not on Windows
        import resource

        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return max(_BACKLOG, min(MAX_CONNECTIONS, allowed - _OTHER_FILES))
    return MAX_CONNECTIONS


class Log(io.TextIOBase):
    """A text stream that neither fails nor blocks: a thread writes to the descriptor, and what it
    cannot write or does not come to is left out."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._lines: queue.Queue[bytes] = queue.Queue(LOG_LINES)
        Thread(target=self._write_lines, daemon=True).start()

    def write(self, text: str) -> int:
        """Take a text to be written."""
        with suppress(queue.Full):
            self._lines.put_nowait(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def drain(self, seconds: float) -> None:
        """Wait until all is written, but no longer than this."""
        end = time.monotonic() + seconds
        while self._lines.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.01)

    def _write_lines(self) -> None:
        while True:
            line = self._lines.get()
            with suppress(OSError):  # a full disk, or a reader that has gone
                while line and self._descriptor is not None:
                    line = line[os.write(self._descriptor, line) :]
            self._lines.task_done()

    @classmethod
    def instead_of(cls, stream: Any) -> Log:
        """A log that writes where ``stream`` does: nowhere, if that is closed."""
        with suppress(AttributeError, OSError, ValueError):
            stream.flush()
        try:
            return cls(stream.fileno())
        except (AttributeError, OSError, ValueError):
            return cls(None)


class Server(uvicorn.Server):
    """uvicorn's server, whose process ends some time after SIGTERM or SIGINT whatever it does."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop."""
        if not self.should_exit:
            end = Timer(GRACE_SECONDS + 2, os._exit, [0])
            end.daemon = True
            end.start()
        super().handle_exit(sig, frame)


def run(app: ASGIApp, host: str, port: int) -> None:
    """Serve an application until SIGTERM or SIGINT, which let running requests finish for
    ``GRACE_SECONDS``; then the process ends with 0, whatever threads still do.

    Raises ``RuntimeError`` for an address that cannot be had.
    """
    check_free(host, port)
    sys.stdout, sys.stderr = logs = Log.instead_of(sys.stdout), Log.instead_of(sys.stderr)
    # uvicorn raises the signal again when it has shut down, as if it had not been handled.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    options = {"http": Connection, "backlog": _BACKLOG, "ws": "none", "access_log": False}
    options["timeout_graceful_shutdown"] = GRACE_SECONDS
    server = Server(uvicorn.Config(app, host, port, **options))  # type: ignore[arg-type]
    try:
        server.run()
    finally:
        for log in logs:
            log.drain(seconds=1)
    os._exit(0 if server.started else 1)


def check_free(host: str, port: int) -> None:
    """Raise ``RuntimeError`` where no server can listen, such as beside another on this port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except (OSError, OverflowError) as error:
        raise RuntimeError(
            f"{host}, port {port}: found no way to listen ({error}); expected a free port. "
            "Is it running already? Else give another --port."
        ) from error
