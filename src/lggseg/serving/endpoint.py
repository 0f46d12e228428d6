"""The endpoint: ``GET /ping`` and ``POST /invocations``, as SageMaker calls a container.

A request carries a volume as ``image/tiff`` (a page per slice) or ``application/x-npy``; the answer
is what ``Accept`` wants most: ``application/json`` (the default), ``image/tiff`` or
``application/x-npy`` for the mask, ``image/png`` for a slice with the tumour's outline. SageMaker's
header of custom attributes may say more, for example ``slice=7`` or
``background=3,5,2; scale=80,120,85; context=1,1; probability=1`` (:mod:`lggseg.serving.protocol`).

Runs on ONNX Runtime, without torch. A line of the log holds numbers, nothing of the patient.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from lggseg.data.codecs import (
    ATTRIBUTES_HEADER,
    JSON,
    MAX_BYTES,
    NPY,
    PNG,
    TIFF,
    mask_tiff,
    npy_bytes,
    read_npy,
    read_tiff,
)
from lggseg.inference.flags import quality_flags
from lggseg.inference.picture import outline_png
from lggseg.inference.segmenter import Prediction, Segmenter
from lggseg.preprocessing.volume import FLAIR, SIZE, channel_statistics
from lggseg.serving.protocol import Attributes, Question, opaque_attributes
from lggseg.serving.server import (
    ERROR_HEADERS,
    IDLE_SECONDS,
    BoundedAnswers,
    Limits,
    Room,
    name_unknown_routes,
    read_body,
    run,
)
from lggseg.utils.errors import DataError, Refused

_SEND_CHUNKS = "Send chunks of the volume, as lggseg.serving.client.segment does."
_READERS = {TIFF: read_tiff, NPY: read_npy}


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


def build_app(model: Path, limits: Limits) -> FastAPI:
    """The application that serves a model folder. Raises ``DataError``."""
    segmenter = Segmenter.load(model)
    work = partial(respond, segmenter, _model_facts(model, segmenter), limits.slices)
    pool, room = ThreadPoolExecutor(limits.predictions), Room(limits.requests)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(BoundedAnswers, room=room, seconds=limits.seconds)
    name_unknown_routes(app)

    async def answer(request: Request, log: dict[str, Any]) -> Response:
        room.require()
        with room:
            question = Question.of(request.headers)
            body = await read_body(request, limits, _SEND_CHUNKS)
            log["bytes"] = len(body)
            loop = asyncio.get_running_loop()
            content, log["slices"] = await loop.run_in_executor(pool, work, question, body)
            return Response(content, media_type=question.accept)

    @app.api_route("/ping", methods=["GET", "HEAD"])
    async def ping() -> Response:
        return Response()

    @app.post("/invocations")
    async def invocations(request: Request) -> Response:
        discard = partial(_discard_body, request, limits)
        response = await _logged(partial(answer, request), discard)
        if opaque := opaque_attributes(request.headers):
            response.headers[ATTRIBUTES_HEADER] = opaque
        return response

    return app


def probabilities(
    segmenter: Segmenter, volume: np.ndarray, statistics: np.ndarray, **options: Any
) -> np.ndarray:
    """What :meth:`Segmenter.probability` gives. Raises ``Refused`` where that is no probability,
    such as NaN."""
    try:
        return segmenter.probability(volume, statistics, **options)
    except DataError as error:
        expected = "a probability for each pixel"
        action = "Check the volume's grey levels; if they are right, check the model."
        found = "a volume for which the model gives none"
        raise Refused(422, found, expected, action) from error


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
        headers = ERROR_HEADERS.get(error.status)
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


async def _discard_body(request: Request, limits: Limits) -> None:
    """Read what is left of a body, for as long as a body may take, while there comes some."""
    idle = min(IDLE_SECONDS / 2, limits.seconds)
    loop = asyncio.get_running_loop()
    end = loop.time() + limits.seconds
    with suppress(TimeoutError, ClientDisconnect, RuntimeError):  # the last: it was read already
        async with asyncio.timeout(idle) as deadline:
            async for _ in request.stream():
                deadline.reschedule(min(end, loop.time() + idle))


def respond(
    segmenter: Segmenter, model: dict[str, Any], max_slices: int, question: Question, body: bytes
) -> tuple[bytes, int]:
    """The content of a response, and how many slices the body has. Raises ``Refused``."""
    volume, attributes = _READERS[question.kind](body, max_slices), question.attributes
    _check_slices(len(volume), attributes)
    before, after = (int(number) for number in attributes.get("context", (0, 0)))
    given = [attributes[name] for name in ("background", "scale") if name in attributes]
    statistics = np.array(given, np.float32) if given else channel_statistics(volume)
    probability = probabilities(segmenter, volume, statistics, context=(before, after))
    if attributes.get("probability") == [1]:
        return npy_bytes(probability), len(volume)
    prediction = segmenter.prediction(probability)
    inner = volume[before : len(volume) - after]
    return _WRITERS[question.accept](Answer(inner, prediction, attributes, model)), len(volume)


def _check_slices(slices: int, attributes: Attributes) -> None:
    answered = slices - int(sum(attributes.get("context", [])))
    wanted = attributes.get("slice", [0])[0]
    if wanted >= answered:
        found = f"slice={wanted} and {answered} slices to answer for"
        raise Refused(422, found, "a slice that is there, from 0", "Ask for another.")
    max_slices = MAX_BYTES // (SIZE * SIZE * 4)
    if attributes.get("probability") == [1] and answered > max_slices:
        expected = f"at most {max_slices} with probability=1"
        raise Refused(413, f"{answered} slices", expected, _SEND_CHUNKS)


def _json(answer: Answer) -> bytes:
    mask = answer.prediction.mask
    facts = {
        "slices": len(mask),
        "area_pixels": mask.sum(axis=(1, 2)).tolist(),
        "volume_voxels": int(mask.sum()),
        "expected_dice": round(answer.prediction.expected_dice, 4),
        "flags": quality_flags(
            answer.volume, answer.prediction, alone="background" not in answer.attributes
        ),
        "model": answer.model,
    }
    return json.dumps(facts).encode()


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
        "min_component_fraction": segmenter.config.min_component_fraction,
        "quality": asdict(segmenter.quality),
    }
