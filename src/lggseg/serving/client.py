"""Send a volume of any length to an endpoint, by any transport.

SageMaker lets 25 MB through to an endpoint and back, about 95 slices. A longer volume is sent in
chunks that are answered with probabilities; the mask is made here, by the server's own functions.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from io import BytesIO
from typing import Self

import numpy as np

from lggseg.data.codecs import ATTRIBUTES_HEADER, JSON, MAX_BYTES, NPY, npy_bytes
from lggseg.evaluation.quality import Quality
from lggseg.inference.segmenter import BATCH, Prediction
from lggseg.preprocessing.volume import SIZE, channel_statistics

# Takes a body and headers, gives the body of the answer.
Send = Callable[[bytes, dict[str, str]], bytes]
# Whole batches, whose probability (float32) fits into an answer.
CHUNK = MAX_BYTES // (SIZE * SIZE * 4) // BATCH * BATCH
_LONGEST_MESSAGE = 10_000


def http_sender(url: str, timeout: float = 60) -> Send:
    """A transport by HTTP to ``url``, such as ``http://127.0.0.1:8080/invocations``.

    It raises ``RuntimeError`` with the server's message for a refused request, ``OSError`` where
    there is no whole answer within so many seconds.
    """

    def send(body: bytes, headers: dict[str, str]) -> bytes:
        if len(body) > MAX_BYTES:
            # The server would close the connection while the body is still being sent.
            raise RuntimeError(f"{url}: 413 found {len(body)} bytes; expected up to {MAX_BYTES}")
        request = urllib.request.Request(url, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                answer = bytes(response.read(MAX_BYTES + 1))
                promised = int(response.headers.get("Content-Length", len(answer)))
        except urllib.error.HTTPError as error:
            message = error.read(_LONGEST_MESSAGE).decode(errors="replace")
            raise RuntimeError(f"{url}: {error.code} {message}") from error
        except HTTPException as error:  # an answer that was cut off, or none of HTTP's
            raise OSError(f"{url}: found no whole answer ({error!r})") from error
        if len(answer) > MAX_BYTES:
            raise RuntimeError(f"{url}: found an answer of more than {MAX_BYTES} bytes")
        if len(answer) < promised:
            raise OSError(f"{url}: found {len(answer)} bytes of {promised}: it was cut off")
        return answer

    return send


def segment(volume: np.ndarray, send: Send, chunk: int = CHUNK) -> Prediction:
    """What ``Segmenter.predict(volume)`` gives, to the pixel, from an endpoint.

    Args:
        volume: uint8 ``(slices, 256, 256, 3)``.
        send: The transport; what it raises is raised.
        chunk: How many slices to ask for at a time. The floats are the same, too, where these are
            whole batches, which the network then sees as in one piece.

    Raises:
        ValueError: ``chunk`` is no multiple or divisor of a batch.
        RuntimeError: The answer is none of this package's endpoint.
    """
    if not 0 < chunk <= CHUNK or (chunk % BATCH and BATCH % chunk):
        raise ValueError(f"chunk={chunk}: expected a multiple or divisor of {BATCH} up to {CHUNK}")
    statistics = channel_statistics(volume)
    threshold, smallest, quality = _model(_ask(send, volume[:1], statistics, JSON, ""))
    chunks = []
    for start in range(0, len(volume), chunk):
        before, after = int(start > 0), int(start + chunk < len(volume))
        pixels = volume[start - before : start + chunk + after]
        more = f"context={before},{after}; probability=1"
        answer = _ask(send, pixels, statistics, NPY, more)
        chunks.append(_probability(answer, len(pixels) - before - after))
    return Prediction.of(np.concatenate(chunks), threshold, smallest, quality)


def _model(answer: bytes) -> tuple[float, float, Quality]:
    """Threshold, smallest component and quality estimate of the model that answers."""
    try:
        model = json.loads(answer)["model"]
        smallest = float(model["min_component_fraction"])
        return float(model["threshold"]), smallest, Quality.of(model.get("quality", {}))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_answer(f"no facts of a model ({error!r})") from error


def _probability(answer: bytes, slices: int) -> np.ndarray:
    try:
        probability: np.ndarray = np.load(BytesIO(answer), allow_pickle=False)
        form = probability.dtype, probability.shape
    except (ValueError, EOFError, OSError) as error:
        raise _no_answer(f"no whole npy file ({error})") from error
    if form != (np.float32, (slices, SIZE, SIZE)):
        raise _no_answer(f"{form[0]} {form[1]}")
    return probability


def _no_answer(found: str) -> RuntimeError:
    expected = "the answer of `lggseg serve`; is it the endpoint of this version?"
    return RuntimeError(f"answer: found {found}; expected {expected}")


def _ask(send: Send, pixels: np.ndarray, statistics: np.ndarray, accept: str, more: str) -> bytes:
    background, scale = (",".join(map(str, row)) for row in statistics.tolist())
    attributes = f"background={background}; scale={scale}; {more}"
    headers = {"Content-Type": NPY, "Accept": accept, ATTRIBUTES_HEADER: attributes}
    return send(npy_bytes(pixels), headers)


@dataclass(frozen=True)
class Endpoint:
    """A model that answers. As a context manager it is deleted at the end.

    url: of ``/invocations``; send: the transport to it; delete: stops it, and may be called twice.
    """

    url: str
    send: Send
    delete: Callable[[], None]

    def predict(self, volume: np.ndarray) -> Prediction:
        """The mask and probability of a volume, uint8 ``(slices, 256, 256, 3)``: the same as
        ``Segmenter.predict`` gives, sent in chunks where it is large."""
        return segment(volume, self.send)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.delete()
