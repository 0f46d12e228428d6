"""Ask an endpoint for a volume of any length, by any transport.

SageMaker lets 25 MB through to an endpoint and back, about 95 slices. A longer volume is sent in
parts that are answered with probabilities; the mask is made here, by the server's own functions.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Self

import numpy as np

from lggseg.formats import ATTRIBUTES_HEADER, JSON, MAX_BYTES, NPY, npy_bytes
from lggseg.predict import BATCH, Prediction
from lggseg.volume import SIZE, channel_statistics

# Takes a body and headers, gives the body of the answer.
Send = Callable[[bytes, dict[str, str]], bytes]
# Whole batches, whose probability (float32) fits into an answer.
PART = MAX_BYTES // (SIZE * SIZE * 4) // BATCH * BATCH


def http_sender(url: str, timeout: float = 60) -> Send:
    """A transport by HTTP to ``url``, such as ``http://127.0.0.1:8080/invocations``.

    It raises ``RuntimeError`` with the server's message for a refused request, ``OSError`` where
    there is no answer within so many seconds.
    """

    def send(body: bytes, headers: dict[str, str]) -> bytes:
        if len(body) > MAX_BYTES:
            # The server would close the connection while the body is still being sent.
            raise RuntimeError(f"{url}: 413 found {len(body)} bytes; expected up to {MAX_BYTES}")
        request = urllib.request.Request(url, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return bytes(response.read())
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{url}: {error.code} {error.read().decode()}") from error

    return send


def segment(volume: np.ndarray, send: Send, part: int = PART) -> Prediction:
    """What ``Segmenter.predict(volume)`` gives, to the pixel, asked for ``part`` slices at a time.

    volume: uint8 ``(slices, 256, 256, 3)``. The floats are the same too where ``part`` is whole
    batches, which the network then sees as in one piece. Raises what ``send`` raises, and
    ``ValueError`` for a part that is no multiple or divisor of a batch.
    """
    if not 0 < part <= PART or (part % BATCH and BATCH % part):
        raise ValueError(f"part={part}: expected a multiple or divisor of {BATCH} up to {PART}")
    statistics = channel_statistics(volume)
    model = json.loads(_ask(send, volume[:1], statistics, JSON, ""))["model"]
    parts = []
    for start in range(0, len(volume), part):
        before, after = int(start > 0), int(start + part < len(volume))
        pixels = volume[start - before : start + part + after]
        more = f"context={before},{after}; probability=1"
        answer = _ask(send, pixels, statistics, NPY, more)
        parts.append(np.load(BytesIO(answer), allow_pickle=False))
    return Prediction.of(np.concatenate(parts), model["threshold"], model["smallest_part"])


def _ask(send: Send, pixels: np.ndarray, statistics: np.ndarray, accept: str, more: str) -> bytes:
    air, contrast = (",".join(map(str, row)) for row in statistics.tolist())
    attributes = f"air={air}; contrast={contrast}; {more}"
    headers = {"Content-Type": NPY, "Accept": accept, ATTRIBUTES_HEADER: attributes}
    return send(npy_bytes(pixels), headers)


@dataclass(frozen=True)
class Endpoint:
    """A model that answers. As a context manager it is deleted at the end.

    url: of ``/invocations``; send: the transport to it; delete: stops it, and may be called twice;
    part: slices a request.
    """

    url: str
    send: Send
    delete: Callable[[], None]
    part: int = PART

    def predict(self, volume: np.ndarray) -> Prediction:
        """The mask and probability of a volume, uint8 ``(slices, 256, 256, 3)``: the same as
        ``Segmenter.predict`` gives, sent in parts where it is large."""
        return segment(volume, self.send, self.part)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.delete()
