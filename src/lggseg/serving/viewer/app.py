"""The viewer: a local page that shows patients, the model's mask and the truth.

The page's files lie in ``viewer/``; it asks for patients of a tree by name, or sends files of its
own (:mod:`lggseg.serving.viewer.uploads`), which stay in memory. The threshold is applied here, by
the same code as everywhere, so that what the page shows and what it saves is what
``Segmenter.predict`` gives.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import ipaddress
import json
import re
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.trustedhost import TrustedHostMiddleware

from lggseg.data.codecs import TIFF, mask_tiff
from lggseg.data.kaggle import volume_name
from lggseg.data.nifti import Scan, slices_image
from lggseg.evaluation.segmentation import dice
from lggseg.inference.flags import quality_flags
from lggseg.inference.predict import volume_paths
from lggseg.inference.segmenter import Prediction, Segmenter
from lggseg.preprocessing.volume import channel_statistics
from lggseg.serving.endpoint import probabilities
from lggseg.serving.protocol import refuse_encoding
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
from lggseg.serving.viewer.uploads import Study, read_study
from lggseg.utils.errors import DataError, Refused, printable

PAGE = Path(__file__).with_name("static")
LIMITS = Limits(bytes=200_000_000, slices=320, seconds=60, predictions=2, requests=32)
KEPT = 4  # cases in memory, of patients and of sent files each
BODY = "application/octet-stream"
_HEADERS = {
    # NiiVue decodes its font from a data URL and works in a blob; nothing comes from elsewhere.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:; style-src 'self' 'unsafe-inline'; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Threshold = Annotated[float, Query(gt=0, lt=1)]
T = TypeVar("T")


class AsciiJSON(JSONResponse):
    """JSON that any text can be written in: names of files may be no Unicode."""

    def render(self, content: Any) -> bytes:
        """The content as bytes."""
        return json.dumps(content, allow_nan=False).encode("ascii")


@dataclass(frozen=True)
class Case:
    """A study with the model's tumour probability, float32 ``(slices, 256, 256)``."""

    study: Study
    probability: np.ndarray


class Cases:
    """The patients of a tree and the studies that were sent, each segmented when it is first
    wanted. The last few of both stay in memory."""

    def __init__(self, segmenter: Segmenter, patients: Mapping[str, Path], limits: Limits) -> None:
        self._segmenter, self._limits, self.patients = segmenter, limits, patients
        self._pool = ThreadPoolExecutor(limits.predictions)
        self._sent: OrderedDict[str, Case] = OrderedDict()
        self._patient = lru_cache(KEPT)(self._read_patient)

    async def work(self, function: Callable[..., T], *arguments: Any) -> T:
        """The result of a call in one of a few threads."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def find(self, name: str) -> Case:
        """A case by the name of its patient, or by what :meth:`add` returned. Raises
        ``DataError``."""
        if name in self.patients:
            return await self.work(self._patient, name)
        if name in self._sent:
            return self._sent[name]
        action = "Choose a patient of the list, or drop your files again."
        raise Refused(404, "an unknown patient", "one that is listed or was sent", action)

    async def add(self, body: bytes) -> str:
        """Segment files that were sent; returns the name to ask for. Raises ``DataError``."""
        case = await self.work(self._read_body, body)
        name = f"sent-{secrets.token_urlsafe(9)}"
        self._sent[name] = case
        if len(self._sent) > KEPT:
            self._sent.popitem(last=False)
        return name

    def _read_patient(self, name: str) -> Case:
        from lggseg.data.slices import read_volume

        path = self.patients[name]
        volume, truth = read_volume(path)
        if len(volume) > self._limits.slices:
            action = "Use lggseg predict, which has no such limit."
            expected = f"at most {self._limits.slices}"
            raise DataError(path, f"{len(volume)} slices", expected, action)
        return segment(self._segmenter, Study(printable(volume_name(path)), volume, truth))

    def _read_body(self, body: bytes) -> Case:
        return segment(self._segmenter, read_study(body, self._limits.slices))


def view(model: Path | str, data: Path | str | None, host: str, port: int) -> None:
    """Serve the viewer until SIGTERM or SIGINT. Raises ``DataError`` for a folder without a model
    or data without a patient."""
    app = build_app(Path(model), Path(data) if data else None, host)
    run(app, host=host, port=port)


def build_app(model: Path, data: Path | None, host: str, limits: Limits = LIMITS) -> FastAPI:
    """The application that shows the patients of ``data``, if any. Raises ``DataError``."""
    patients = name_patients(volume_paths(data) if data else [])
    cases = Cases(segmenter := Segmenter.load(model), patients, limits)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _guard(app, host, limits)

    @app.get("/api/patients")
    async def list_patients() -> Response:
        simulated = any((path.parent / "simulated.json").is_file() for path in patients.values())
        facts = {"name": printable(model.resolve().name), "threshold": segmenter.config.threshold}
        return AsciiJSON({"patients": list(patients), "simulated": simulated, "model": facts})

    _add_cases(app, cases, limits)
    _add_answers(app, cases, segmenter)
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return app


def name_patients(paths: Iterable[Path]) -> dict[str, Path]:
    """Patients by a name that each has alone: its own, or with its folder's where that is taken."""
    patients: dict[str, Path] = {}
    for path in paths:
        name = printable(path.name)
        while name in patients:
            name += f" ({printable(path.parent.name)})"
        patients[name] = path
    return patients


def _add_cases(app: FastAPI, cases: Cases, limits: Limits) -> None:
    """What the page shows of a case at any threshold, and the way for files to become one."""
    receiving = asyncio.Semaphore(limits.predictions)

    @app.post("/api/cases")
    async def add(request: Request) -> Response:
        # A page of another site may not send this type without asking, which is not answered.
        if request.headers.get("content-type") != BODY:
            raise Refused(415, "another Content-Type", BODY, "Send the files from the viewer.")
        refuse_encoding(request.headers)
        async with turn(receiving):
            body = await read_body(request, limits, "Use lggseg predict for larger files.")
            return AsciiJSON({"case": await cases.add(body)}, 201)

    @app.get("/api/cases/{name}")
    async def facts(name: str) -> Response:
        return AsciiJSON(await cases.work(describe, await cases.find(name)))

    @app.get("/api/cases/{name}/volume.nii")
    async def volume(name: str) -> Response:
        study = (await cases.find(name)).study
        image = slices_image(study.volume, study.scan.spacing if study.scan else None)
        return Response(await cases.work(image.to_bytes), media_type=BODY)


@asynccontextmanager
async def turn(receiving: asyncio.Semaphore) -> AsyncIterator[None]:
    """A turn to send files. Raises ``Refused`` where none comes soon."""
    try:
        async with asyncio.timeout(IDLE_SECONDS / 2):
            await receiving.acquire()
    except TimeoutError:
        expected = "a free place to receive files"
        raise Refused(503, "other files on their way", expected, "Try again soon.") from None
    try:
        yield
    finally:
        receiving.release()


def _add_answers(app: FastAPI, cases: Cases, segmenter: Segmenter) -> None:
    """What depends on the threshold: numbers, and the mask to save."""

    async def predicted(name: str, threshold: float) -> tuple[Case, Prediction]:
        case = await cases.find(name)
        return case, await cases.work(segmenter.prediction, case.probability, threshold)

    @app.get("/api/cases/{name}/prediction")
    async def prediction(name: str, threshold: Threshold) -> Response:
        return AsciiJSON(await cases.work(judge, *await predicted(name, threshold)))

    @app.get("/api/cases/{name}/mask.tif")
    async def tiff(name: str, threshold: Threshold) -> Response:
        case, prediction = await predicted(name, threshold)
        return _attachment(case, "tif", TIFF, await cases.work(mask_tiff, prediction.mask))

    @app.get("/api/cases/{name}/mask.nii.gz")
    async def nifti(name: str, threshold: Threshold) -> Response:
        case, prediction = await predicted(name, threshold)
        content = await cases.work(mask_nifti, case.study.scan, prediction.mask)
        return _attachment(case, "nii.gz", "application/gzip", content)


def _attachment(case: Case, ending: str, kind: str, content: bytes) -> Response:
    name = f"{case.study.name}_mask.{ending}"
    plain = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)  # where the other is not understood
    exact = quote(name, safe="", errors="replace")
    disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{exact}"
    return Response(content, media_type=kind, headers={"Content-Disposition": disposition})


def _guard(app: FastAPI, host: str, limits: Limits) -> None:
    """Only names of this machine, no content of elsewhere, every error as a sentence in JSON."""
    room = Room(limits.requests)

    @app.middleware("http")
    async def add_headers(request: Request, call: Callable[[Request], Any]) -> Response:
        try:
            room.require()
            with room:
                response: Response = await call(request)
        except Refused as error:
            response = _sentence(error)
        response.headers.update(_HEADERS)
        return response

    # A page of another site whose name is made to point to this machine sends its own name.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=names_of(host), www_redirect=False)
    app.add_middleware(BoundedAnswers, room=room, seconds=limits.seconds)
    name_unknown_routes(app)

    @app.exception_handler(DataError)
    async def refuse(_: Request, error: DataError) -> JSONResponse:
        return _sentence(error)

    @app.exception_handler(RequestValidationError)
    async def refuse_query(_: Request, error: RequestValidationError) -> JSONResponse:
        found = (
            f"threshold: found {error.errors()[0].get('input')!s:.50}; expected above 0, below 1."
        )
        return AsciiJSON({"error": found}, 422)

    @app.exception_handler(Exception)
    async def own_fault(_: Request, error: Exception) -> JSONResponse:
        text = "The viewer has failed at this. What happened is in the terminal it runs in."
        return AsciiJSON({"error": text}, 500)


def _sentence(error: DataError) -> JSONResponse:
    status = getattr(error, "status", 422)
    return AsciiJSON({"error": str(error)}, status, ERROR_HEADERS.get(status))


def names_of(host: str) -> list[str]:
    """The names by which a browser may ask for what listens on ``host``; ``*`` for any name.

    >>> names_of("0:0:0:0:0:0:0:1")[-1]
    '[::1]'
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ["localhost", "127.0.0.1", "[::1]", host]
    own = f"[{address}]" if address.version == 6 else str(address)
    return ["*"] if address.is_unspecified else ["localhost", "127.0.0.1", own]


def segment(segmenter: Segmenter, study: Study) -> Case:
    """A study with its tumour probability."""
    stride = study.scan.slice_stride if study.scan else 1
    volume, statistics = study.volume, channel_statistics(study.volume)
    return Case(study, probabilities(segmenter, volume, statistics, slice_stride=stride))


def describe(case: Case) -> dict[str, Any]:
    """What does not depend on the threshold; spacing in millimetres, or ``None`` where unknown."""
    volume, truth, scan = case.study.volume, case.study.truth, case.study.scan
    # Every other pixel is enough to know which grey level should be white.
    bright = np.percentile(volume[:, ::2, ::2], 99.8, axis=(0, 1, 2))
    return {
        "name": case.study.name,
        "slices": len(volume),
        "spacing": scan.spacing if scan else None,
        "missing": scan.missing if scan else [],
        "notes": scan.notes if scan else [],
        "bright": np.maximum(bright, 1).tolist(),
        "truth": None if truth is None else _shape(truth),
    }


def judge(case: Case, prediction: Prediction) -> dict[str, Any]:
    """A mask's size in voxels of the patient's files, and ml and Dice where they are known."""
    mask, truth, scan = prediction.mask, case.study.truth, case.study.scan
    voxels = int(np.count_nonzero(scan.mask_image(mask).dataobj if scan else mask))
    return {
        **_shape(mask),
        "voxels": voxels,
        "ml": voxels * scan.voxel_ml if scan else None,
        "expected_dice": prediction.expected_dice,
        "dice": None if truth is None else dice(truth, mask),
        "flags": quality_flags(case.study.volume, prediction),
    }


def _shape(mask: np.ndarray) -> dict[str, Any]:
    """A mask's pixels in each slice, and its bits, row by row from the first slice's first."""
    bits = base64.b64encode(np.packbits(mask).tobytes()).decode()
    return {"areas": mask.sum(axis=(1, 2)).tolist(), "bits": bits}


def mask_nifti(scan: Scan | None, mask: np.ndarray) -> bytes:
    """A mask as a file .nii.gz on the voxels of the scan, or on the model's own without one."""
    image = scan.mask_image(mask) if scan else slices_image(mask.astype(np.uint8))
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)
