"""The endpoint: ``GET /ping`` and ``POST /invocations``, as SageMaker calls a container.

A request carries a volume as ``image/tiff`` (a page a slice) or ``application/x-npy``; the answer
is the first of ``Accept`` that there is: ``application/json`` (the default), ``image/tiff`` or
``application/x-npy`` for the mask, ``image/png`` for a slice with the tumour's outline. SageMaker's
header of custom attributes may say more, for example ``slice=7`` or
``air=3,5,2; contrast=80,120,85; context=1,1; probability=1`` (see ``_ATTRIBUTES``).

Runs on ONNX Runtime, without torch. A line of the log holds numbers, nothing of the patient.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import socket
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from lggseg.formats import (
    ATTRIBUTES_HEADER,
    JSON,
    MAX_BYTES,
    NPY,
    PNG,
    TIFF,
    Refused,
    mask_tiff,
    npy_bytes,
    read_npy,
    read_tiff,
)
from lggseg.picture import outline_png
from lggseg.predict import Prediction, Segmenter
from lggseg.volume import BLANK, FLAIR, SIZE, channel_statistics

Attributes = dict[str, list[float]]

# Custom attributes: type, how many values, lowest, highest.
_ATTRIBUTES: dict[str, tuple[Callable[[str], float], int, float, float]] = {
    # lggseg.volume.channel_statistics of the whole volume; no two grey levels are closer than 1.
    "air": (float, 3, 0, 255),
    "contrast": (float, 3, 1, 255),
    # So many slices at the start and the end are only neighbours of the others.
    "context": (int, 2, 0, 1),
    # 1: npy of the probability, float32, instead of the mask.
    "probability": (int, 1, 0, 1),
    # The slice of the picture, from 0; without it the one with the most tumour.
    "slice": (int, 1, 0, 10**6),
}
_PARTS = "Send parts of the volume, as lggseg.client.segment does."
_READERS = {TIFF: read_tiff, NPY: read_npy}


@dataclass(frozen=True)
class Limits:
    """What a server accepts: bytes of a body, slices of a volume, seconds until a body has
    arrived, predictions at once, and requests at once, those that wait included."""

    bytes: int = MAX_BYTES
    slices: int = 256
    seconds: float = 30
    predictions: int = 2
    requests: int = 16


@dataclass(frozen=True)
class Question:
    """What the headers of a request say: what the body is, and what is wanted."""

    kind: str
    accept: str
    attributes: Attributes

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Question:
        """Raises ``Refused``."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in _READERS:
            action = "Name the body's type in the header Content-Type."
            raise Refused(415, f"Content-Type {kind!r}", " or ".join(_READERS), action)
        accept = _accepted(headers.get("accept", ""))
        attributes = read_attributes(headers.get(ATTRIBUTES_HEADER, ""))
        if attributes.get("probability") == [1] and accept != NPY:
            raise Refused(400, f"probability=1 and Accept {accept}", f"Accept {NPY}", "Change one.")
        return cls(kind, accept, attributes)


@dataclass(frozen=True)
class Answer:
    """What a response is written from; the volume and the prediction are without context."""

    volume: np.ndarray
    prediction: Prediction
    attributes: Attributes
    model: dict[str, Any]


def serve(model: Path | str, host: str, port: int) -> None:
    """Serve a model folder until SIGTERM or SIGINT, which let running requests finish; then the
    process exits with 0. Raises ``DataError`` for a folder without a model."""
    run(build_app(Path(model), Limits()), host=host, port=port)


def run(app: FastAPI, host: str, port: int, **options: Any) -> None:
    """Run an application with uvicorn's ``options`` until SIGTERM or SIGINT, as :func:`serve`.
    Raises ``RuntimeError`` for an address that cannot be had."""
    check_free(host, port)
    # uvicorn raises the signal again when it has shut down, as if it had not been handled.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    options |= {"host": host, "port": port, "timeout_graceful_shutdown": 25}
    uvicorn.run(app, ws="none", access_log=False, **options)


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


def build_app(model: Path, limits: Limits) -> FastAPI:
    """The application that serves a model folder. Raises ``DataError``."""
    segmenter = Segmenter.load(model)
    work = partial(respond, segmenter, _model_facts(model, segmenter), limits.slices)
    pool, room = ThreadPoolExecutor(limits.predictions), asyncio.Semaphore(limits.requests)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    async def answer(request: Request, log: dict[str, Any]) -> Response:
        if room.locked():
            expected = f"at most {limits.requests}"
            raise Refused(503, "too many requests at once", expected, "Try again in a second.")
        async with room:
            question = Question.of(request.headers)
            body = await read_body(request, limits, _PARTS)
            log["bytes"] = len(body)
            loop = asyncio.get_running_loop()
            content, log["slices"] = await loop.run_in_executor(pool, work, question, body)
            return Response(content, media_type=question.accept)

    @app.get("/ping")
    async def ping() -> Response:
        return Response()

    @app.post("/invocations")
    async def invocations(request: Request) -> Response:
        return await _logged(partial(answer, request), partial(_discard_body, request, limits))

    return app


async def _logged(
    answer: Callable[[dict[str, Any]], Awaitable[Response]], discard: Callable[[], Awaitable[None]]
) -> Response:
    """The response that ``answer`` gives, or the error that it raises; and one line of log."""
    start = time.perf_counter()
    log: dict[str, Any] = {"slices": 0, "bytes": 0}
    try:
        response = await answer(log)
    except Refused as error:
        # A client that still sends would see a closed connection instead of the answer.
        if error.status not in (408, 413):
            await discard()
        # The rest of a body that came too slowly is not waited for.
        headers = {408: {"Connection": "close"}, 503: {"Retry-After": "1"}}.get(error.status)
        response = JSONResponse({"error": str(error)}, error.status, headers)
    except Exception:  # whatever a request brings about, the next one is served
        log["traceback"] = traceback.format_exc()
        response = JSONResponse(
            {"error": "request: found a fault of the server. See its log."}, 500
        )
    log["status"] = response.status_code
    log["milliseconds"] = round(1000 * (time.perf_counter() - start), 1)
    print(json.dumps(log), flush=True)
    return response


async def read_body(request: Request, limits: Limits, action: str) -> bytes:
    """The body of a request; ``action`` tells what to do about one that is too large. Raises
    ``Refused``."""
    expected, body = f"at most {limits.bytes} bytes", bytearray()
    declared = int(request.headers.get("content-length", 0))
    if declared > limits.bytes:
        raise Refused(413, f"{declared} bytes", expected, action)
    try:
        async with asyncio.timeout(limits.seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.bytes:
                    raise Refused(413, "more bytes", expected, action)
    except (TimeoutError, ClientDisconnect):
        found = f"{len(body)} bytes after {limits.seconds} seconds, or a closed connection"
        raise Refused(408, found, "the whole body", "Send it faster.") from None
    return bytes(body)


async def _discard_body(request: Request, limits: Limits) -> None:
    """Read what is left of a body, for as long as a body may take."""
    with suppress(TimeoutError, ClientDisconnect, RuntimeError):  # the last: it was read already
        async with asyncio.timeout(limits.seconds):
            async for _ in request.stream():
                pass


def _accepted(header: str) -> str:
    """The first media type of a header ``Accept`` that there is an answer for."""
    for media in (part.partition(";")[0].strip().lower() for part in header.split(",")):
        if media in ("", "*/*", "application/*"):
            return JSON
        if media in _WRITERS:
            return media
    raise Refused(406, f"Accept {header[:100]!r}", " or ".join(_WRITERS), "Accept one of them.")


def read_attributes(text: str) -> Attributes:
    """Custom attributes like ``air=3,5,2; contrast=80,120,85``. Raises ``Refused``."""
    values: Attributes = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, _, numbers = part.partition("=")
        try:
            values[name] = _numbers(name, numbers)
        except (KeyError, ValueError):
            raise _bad_attribute(repr(part[:100])) from None
    if ("air" in values) != ("contrast" in values):
        raise _bad_attribute("air without contrast or contrast without air")
    return values


def _numbers(name: str, text: str) -> list[float]:
    kind, count, low, high = _ATTRIBUTES[name]
    numbers = [kind(number) for number in text.split(",")]
    if len(numbers) != count or not all(low <= number <= high for number in numbers):
        raise ValueError(text)
    return numbers


def _bad_attribute(found: str) -> Refused:
    known = (f"{name}: {count} from {low} to {high}"
             for name, (_, count, low, high) in _ATTRIBUTES.items())  # fmt: skip
    action = "Write name=number,number and a semicolon between attributes."
    return Refused(400, f"custom attribute {found}", "; ".join(known), action)


def respond(
    segmenter: Segmenter, model: dict[str, Any], most: int, question: Question, body: bytes
) -> tuple[bytes, int]:
    """The content of a response, and how many slices the body has. Raises ``Refused``."""
    volume, attributes = _READERS[question.kind](body, most), question.attributes
    _check_slices(len(volume), attributes)
    before, after = (int(number) for number in attributes.get("context", (0, 0)))
    given = [attributes[name] for name in ("air", "contrast") if name in attributes]
    statistics = np.array(given, np.float32) if given else channel_statistics(volume)
    probability = segmenter.probability(volume, statistics, (before, after))
    if attributes.get("probability") == [1]:
        return npy_bytes(probability), len(volume)
    config = segmenter.config
    prediction = Prediction.of(probability, config.threshold, config.smallest_part)
    inner = volume[before : len(volume) - after]
    return _WRITERS[question.accept](Answer(inner, prediction, attributes, model)), len(volume)


def _check_slices(slices: int, attributes: Attributes) -> None:
    answered = slices - int(sum(attributes.get("context", [])))
    wanted = attributes.get("slice", [0])[0]
    if wanted >= answered:
        found = f"slice={wanted} and {answered} slices to answer for"
        raise Refused(422, found, "a slice that is there, from 0", "Ask for another.")
    most = MAX_BYTES // (SIZE * SIZE * 4)
    if attributes.get("probability") == [1] and answered > most:
        raise Refused(413, f"{answered} slices", f"at most {most} with probability=1", _PARTS)


def _json(answer: Answer) -> bytes:
    mask = answer.prediction.mask
    facts = {
        "slices": len(mask),
        "area_pixels": mask.sum(axis=(1, 2)).tolist(),
        "volume_voxels": int(mask.sum()),
        "expected_dice": round(answer.prediction.expected_dice, 4),
        "flags": quality_flags(answer),
        "model": answer.model,
    }
    return json.dumps(facts).encode()


def quality_flags(answer: Answer) -> list[str]:
    """What should make a reader look twice, by name."""
    volume, mask = answer.volume, answer.prediction.mask
    pre, flair, post = np.moveaxis(volume, -1, 0)
    flags = {
        "no_tumour": not mask.any(),
        "tumour_in_outermost_slice": bool(mask[[0, -1]].any()),
        "blank_slice": bool((volume.max(axis=(1, 2, 3)) <= BLANK).any()),
        "pre_contrast_is_flair": np.array_equal(pre, flair),
        "post_contrast_is_flair": np.array_equal(post, flair),
        "normalised_by_one_slice": len(volume) == 1 and "air" not in answer.attributes,
    }
    return [name for name, raised in flags.items() if raised]


def _png(answer: Answer) -> bytes:
    """FLAIR in grey, its window set by its own brightest percentile, and the tumour's outline."""
    mask = answer.prediction.mask
    index = int(answer.attributes.get("slice", [int(mask.sum(axis=(1, 2)).argmax())])[0])
    return outline_png(answer.volume[index, ..., FLAIR], mask[index])


_WRITERS: dict[str, Callable[[Answer], bytes]] = {
    JSON: _json,
    TIFF: lambda answer: mask_tiff(answer.prediction.mask),
    NPY: lambda answer: npy_bytes(answer.prediction.mask),
    PNG: _png,
}


def _model_facts(folder: Path, segmenter: Segmenter) -> dict[str, Any]:
    """What tells models apart, and what a client needs to make a mask of a probability."""
    graph = (folder / "model.onnx").read_bytes()
    return {
        "lggseg": segmenter.card["versions"]["lggseg"],
        "fingerprint": hashlib.blake2b(graph, digest_size=16).hexdigest(),
        "data_fingerprint": segmenter.card["data_fingerprint"],
        "threshold": segmenter.config.threshold,
        "smallest_part": segmenter.config.smallest_part,
    }
