"""Answers that are cut off or none of this package's are said, whatever the transport."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from lggseg.data.codecs import npy_bytes
from lggseg.serving.client import http_sender, segment

VOLUME = np.zeros((3, 256, 256, 3), np.uint8)
FACTS = json.dumps({"model": {"threshold": 0.5, "min_component_fraction": 0}}).encode()
WHOLE = npy_bytes(np.zeros((3, 256, 256), np.float32))


@pytest.mark.parametrize(
    ("facts", "chunk"),
    [
        (b"", WHOLE),
        (b"<html>", WHOLE),
        (b"{}", WHOLE),
        (b'{"model": {"threshold": "x"}}', WHOLE),
        (FACTS[:-5], WHOLE),
        (FACTS, b""),
        (FACTS, WHOLE[:-1]),
        (FACTS, WHOLE[:50]),
        (FACTS, b"<html>" * 99),
        (FACTS, npy_bytes(np.zeros((2, 256, 256), np.float32))),
        (FACTS, npy_bytes(np.zeros((3, 256, 256), bool))),
    ],
)
def test_another_answer_is_reported(facts: bytes, chunk: bytes) -> None:
    answers = iter([facts, chunk])
    with pytest.raises(
        RuntimeError, match=r"answer: found .*expected the answer of `lggseg serve`"
    ):
        segment(VOLUME, lambda body, headers: next(answers))


def test_a_whole_answer_is_taken() -> None:
    answers = iter([FACTS, WHOLE])
    assert not segment(VOLUME, lambda body, headers: next(answers)).mask.any()


@contextmanager
def server(answer: bytes) -> Iterator[str]:
    """Something that listens, and gives each request this answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=talk)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join()


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\ncut", b"SSH-2.0-OpenSSH_9\r\n", b""]
)
def test_a_connection_that_ends_is_an_oserror(answer: bytes) -> None:
    with server(answer) as url, pytest.raises(OSError):
        http_sender(url)(b"x", {})


def test_a_message_of_an_error_is_read_to_a_limit() -> None:
    body = b"\xff" * 100_000
    answer = b"HTTP/1.1 500 no\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with server(answer) as url, pytest.raises(RuntimeError, match="500") as caught:
        http_sender(url)(b"x", {})
    assert len(str(caught.value)) < 20_000
