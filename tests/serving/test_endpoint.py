"""A server as a child process: the same masks as in process, and no request that it minds."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile
from PIL import Image

from lggseg.data.codecs import (
    ATTRIBUTES_HEADER,
    JSON,
    MAX_BYTES,
    NPY,
    PNG,
    TIFF,
    npy_bytes,
    read_tiff,
)
from lggseg.data.kaggle import patient_folders
from lggseg.data.slices import read_volume
from lggseg.inference.segmenter import Prediction, Segmenter
from lggseg.preprocessing.volume import channel_statistics
from lggseg.serving.client import CHUNK, http_sender, segment
from lggseg.serving.server import check_free

MODEL = Path(__file__).resolve().parents[2] / "models" / "lgg-unet"
REQUESTS, SECONDS = 4, 2.0
SERVER = f"""
from pathlib import Path
from lggseg.serving.endpoint import build_app
from lggseg.serving.server import Limits, run
limits = Limits(seconds={SECONDS}, requests={REQUESTS})
run(build_app(Path({str(MODEL)!r}), limits), "127.0.0.1", %d)
"""


@contextmanager
def running(log: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A server on a free port, ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-c", SERVER % port], stdout=output)
        try:
            wait_until_ready(port, process)
            yield port, process
        finally:
            process.kill()
            process.wait()


def wait_until_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, "the server has ended"
        try:
            if ask(port, method="GET", path="/ping")[0] == 200:
                return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("the server is not ready after 30 seconds")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serve") / "log"


@pytest.fixture(scope="module")
def server(log: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    with running(log) as found:
        yield found


@pytest.fixture(scope="module")
def port(server: tuple[int, subprocess.Popen[bytes]]) -> int:
    return server[0]


@pytest.fixture
def at_once(server: tuple[int, subprocess.Popen[bytes]]) -> Iterator[None]:
    """The test costs the server less than a second, of its own time: others may be busy too."""
    process = psutil.Process(server[1].pid)
    before = sum(process.cpu_times()[:2])
    yield
    assert sum(process.cpu_times()[:2]) - before < 1


def ask(
    port: int, body: bytes = b"", method: str = "POST", path: str = "/invocations", **headers: str
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body, named)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def predict(port: int, body: bytes, kind: str = NPY, accept: str = JSON, more: str = "") -> bytes:
    headers = {"Content_Type": kind, "Accept": accept, ATTRIBUTES_HEADER: more}
    status, content = ask(port, body, **headers)
    assert status == 200, content
    return content


def tiff_bytes(volume: np.ndarray, **options: object) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, volume, photometric="rgb", **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def volume(shared_tree: Path) -> np.ndarray:
    return read_volume(patient_folders(shared_tree)[0])[0]


@pytest.fixture(scope="module")
def expected(volume: np.ndarray) -> Prediction:
    prediction = Segmenter.load(MODEL).predict(volume)
    assert prediction.mask.any()
    return prediction


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_ping(port: int, method: str) -> None:
    assert ask(port, method=method, path="/ping") == (200, b"")


WRITERS: dict[str, tuple[str, Callable[[np.ndarray], bytes]]] = {
    "npy": (NPY, npy_bytes),
    "npy in Fortran's order": (NPY, lambda volume: npy_bytes(np.asfortranarray(volume))),
    "tiff": (TIFF, tiff_bytes),
    "tiff, deflated": (TIFF, lambda volume: tiff_bytes(volume, compression="zlib")),
    "tiff, deflated with predictor": (
        TIFF,
        lambda volume: tiff_bytes(volume, compression="zlib", predictor=2, rowsperstrip=10),
    ),
    "tiff, planes apart": (
        TIFF,
        lambda volume: tiff_bytes(np.moveaxis(volume, -1, 1), planarconfig="separate"),
    ),
    "tiff, tiles": (TIFF, lambda volume: tiff_bytes(volume, tile=(64, 64))),
    "tiff, BigTIFF": (TIFF, lambda volume: tiff_bytes(volume, bigtiff=True)),
    "tiff, big-endian strips": (
        TIFF,
        lambda volume: tiff_bytes(volume, byteorder=">", rowsperstrip=7),
    ),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_input_format_gives_the_mask_of_the_process_itself(
    port: int, volume: np.ndarray, expected: Prediction, writer: str
) -> None:
    kind, write = WRITERS[writer]
    mask = np.load(BytesIO(predict(port, write(volume), kind, NPY)))
    assert mask.dtype == bool and np.array_equal(mask, expected.mask)


def test_every_output_format(port: int, volume: np.ndarray, expected: Prediction) -> None:
    body = npy_bytes(volume)
    pages = tifffile.imread(BytesIO(predict(port, body, accept=TIFF)))
    assert np.array_equal(pages, expected.mask * np.uint8(255))
    probability = np.load(BytesIO(predict(port, body, accept=NPY, more="probability=1")))
    assert np.array_equal(probability, expected.probability)
    picture = np.asarray(Image.open(BytesIO(predict(port, body, accept=f"{PNG};q=1, */*"))))
    largest = expected.mask.sum(axis=(1, 2)).argmax()
    coloured = (picture != picture[..., :1]).any(axis=-1)
    assert coloured.any() and not (coloured & ~expected.mask[largest]).any()
    first = np.asarray(Image.open(BytesIO(predict(port, body, accept=PNG, more="slice=0"))))
    assert first.shape == (256, 256, 3) and not np.array_equal(first, picture)


@pytest.mark.parametrize("accept", [None, "*/*", JSON, "text/html, application/*;q=0.9"])
def test_numbers(port: int, volume: np.ndarray, expected: Prediction, accept: str | None) -> None:
    headers = {"Accept": accept} if accept else {}
    status, content = ask(port, npy_bytes(volume), Content_Type=NPY, **headers)
    answer = json.loads(content)
    assert status == 200 and answer["slices"] == 6
    assert answer["area_pixels"] == expected.mask.sum(axis=(1, 2)).tolist()
    assert answer["volume_voxels"] == expected.mask.sum()
    assert answer["expected_dice"] == pytest.approx(expected.expected_dice, abs=1e-4)
    card = json.loads((MODEL / "model_card.json").read_text())
    assert answer["model"]["data_fingerprint"] == card["data_fingerprint"]
    assert len(answer["model"]["fingerprint"]) == 32


def test_flags(port: int, volume: np.ndarray) -> None:
    def flags(volume: np.ndarray) -> set[str]:
        return set(json.loads(predict(port, npy_bytes(volume)))["flags"])

    # The disks of this cohort are cylinders, so the model finds a tumour up to the ends.
    assert flags(volume) == {"tumour_in_outermost_slice"}
    copies = {"pre_contrast_is_flair", "post_contrast_is_flair"}
    assert copies <= flags(np.repeat(volume[..., 1:2], 3, axis=-1))
    alone = {"no_tumour", "blank_slice", "normalised_by_one_slice"}
    assert alone <= flags(np.zeros_like(volume[:1]))


def test_one_slice_with_the_statistics_of_its_volume(port: int, volume: np.ndarray) -> None:
    segmenter, statistics = Segmenter.load(MODEL), channel_statistics(volume)
    background, scale = (",".join(map(str, row)) for row in statistics.tolist())
    given = f"background={background}; scale={scale}"
    mask = np.load(BytesIO(predict(port, tiff_bytes(volume[2:3]), TIFF, NPY, given)))
    probability = segmenter.probability(volume[2:3], statistics)
    assert np.array_equal(mask, probability >= segmenter.config.threshold)
    given = given.replace("background", "air").replace("scale", "contrast")  # of version 0.1
    mask = np.load(BytesIO(predict(port, npy_bytes(volume[1:4]), NPY, NPY, given + ";context=1,1")))
    assert np.array_equal(mask, segmenter.predict(volume).mask[2:3])


def test_a_volume_in_chunks_is_the_volume_to_the_pixel(port: int, volume: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 40, (34, 256, 256, 3), dtype=np.uint8)
    long = np.resize(volume, noise.shape) + noise
    whole = Segmenter.load(MODEL).predict(long)
    send = http_sender(f"http://127.0.0.1:{port}/invocations")
    parts = segment(long, send, chunk=16)
    assert whole.mask.any()
    assert np.array_equal(parts.probability, whole.probability)
    assert np.array_equal(parts.mask, whole.mask)
    with pytest.raises(RuntimeError, match=r"422 .*found uint8"):
        segment(volume[:, :128], send)
    with pytest.raises(ValueError, match="chunk=20"):
        segment(volume, send, chunk=20)


def test_a_chunk_and_its_answer_fit_into_sagemakers_limit() -> None:
    assert (CHUNK + 2) * 256 * 256 * 3 + 128 <= MAX_BYTES
    assert CHUNK * 256 * 256 * 4 + 128 <= MAX_BYTES


# Requests that must be refused. Each is made of a good body: headers, then a change of the body.

IFD = struct.Struct("<HHII")


def tiff_of(*entries: tuple[int, int, int, int], following: int = 0, rest: bytes = b"") -> bytes:
    """A TIFF of one page with these tags: code, type, count, value."""
    table = b"".join(IFD.pack(*entry) for entry in entries)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + table
    return head + struct.pack("<I", following) + rest


def page_of(rest: bytes, **changes: tuple[int, int, int]) -> bytes:
    """A deflated page of 256 × 256 whose pixels are ``rest``, with some tags changed."""
    bits = 10 + 12 * 8 + 4
    tags = {
        "256": (3, 1, 256), "257": (3, 1, 256), "258": (3, 3, bits), "259": (3, 1, 8),
        "262": (3, 1, 2), "273": (4, 1, bits + 6), "277": (3, 1, 3), "279": (4, 1, len(rest)),
    }  # fmt: skip
    tags.update({name[1:]: value for name, value in changes.items()})
    entries = [(int(code), *value) for code, value in tags.items()]
    return tiff_of(*entries, rest=struct.pack("<HHH", 8, 8, 8) + rest)


def npy_header(text: str, length: int | None = None) -> bytes:
    content = text.encode() + b"\n"
    size = struct.pack("<H", len(content) if length is None else length)
    return b"\x93NUMPY\x01\x00" + size + content


def claims(shape: str, descr: str = "'|u1'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('unpickled')",)


def pickled() -> bytes:
    file = BytesIO()
    np.save(file, np.array([Evil()], dtype=object), allow_pickle=True)
    return file.getvalue()


PIXELS = zlib.compress(bytes(256 * 256 * 3))
BOMB = zlib.compress(bytes(300 * 2**20), 9)
BAD_BODIES: dict[str, tuple[str, Callable[[np.ndarray], bytes]]] = {
    "empty npy": (NPY, lambda v: b""),
    "empty tiff": (TIFF, lambda v: b""),
    "text": (NPY, lambda v: b"hello"),
    "a tiff called npy": (NPY, tiff_bytes),
    "an npy called tiff": (TIFF, npy_bytes),
    "a png": (TIFF, lambda v: b"\x89PNG\r\n\x1a\n" + bytes(100)),
    "floats": (NPY, lambda v: npy_bytes(v[:1].astype(np.float32))),
    "NaN": (NPY, lambda v: npy_bytes(np.full(v[:1].shape, np.nan))),
    "signed": (NPY, lambda v: npy_bytes(v.astype(np.int8))),
    "bool": (NPY, lambda v: npy_bytes(v > 9)),
    "records": (NPY, lambda v: npy_bytes(np.zeros(3, dtype=[("name", "S8"), ("x", "f4")]))),
    "text array": (NPY, lambda v: npy_bytes(np.array(["a", "b"]))),
    "a single image": (NPY, lambda v: npy_bytes(v[0])),
    "one channel": (NPY, lambda v: npy_bytes(v[..., 0])),
    "channels first": (NPY, lambda v: npy_bytes(np.moveaxis(v, -1, 1))),
    "half the height": (NPY, lambda v: npy_bytes(v[:, :128])),
    "no slice": (NPY, lambda v: npy_bytes(v[:0])),
    "a number": (NPY, lambda v: npy_bytes(np.uint8(7))),
    "pickle": (NPY, lambda v: pickled()),
    "a long header": (NPY, lambda v: npy_header(claims("(" + "1," * 20000 + ")"), 65535)),
    "a nested header": (NPY, lambda v: npy_header("(" * 900)),
    "a header that runs code": (NPY, lambda v: npy_header("__import__('os').abort()")),
    "a header without an end": (NPY, lambda v: npy_header("{'descr'", 60000)),
    "version 3": (NPY, lambda v: b"\x93NUMPY\x03\x00" + npy_bytes(v)[8:]),
    "a claim of 10**12 slices": (NPY, lambda v: npy_header(claims("(10**12, 256, 256, 3)"))),
    "a claim of many slices": (NPY, lambda v: npy_header(claims("(999999999999, 256, 256, 3)"))),
    "negative slices": (NPY, lambda v: npy_header(claims("(-1, 256, 256, 3)"))),
    "a bool for a shape": (NPY, lambda v: npy_header(claims("(True, 256, 256, 3)"))),
    "too many slices": (NPY, lambda v: npy_header(claims("(257, 256, 256, 3)"))),
    "an object dtype": (NPY, lambda v: npy_header(claims("(1, 256, 256, 3)", "'|O'"))),
    "bytes too many": (NPY, lambda v: npy_bytes(v) + b"\0"),
    **{
        f"npy cut at {share}": (NPY, lambda v, s=share: npy_bytes(v)[: int(s * v.nbytes)])
        for share in (0.00001, 0.0001, 0.5, 0.99)
    },
    **{
        f"tiff cut at {share}": (TIFF, lambda v, s=share: tiff_bytes(v)[: int(s * v.nbytes)])
        for share in (0.00001, 0.0001, 0.5, 0.99)
    },
    "grey pages": (TIFF, lambda v: tiff_like(v[..., 0])),
    "16 bits": (TIFF, lambda v: tiff_bytes(v.astype(np.uint16))),
    "float pages": (TIFF, lambda v: tiff_bytes(v[:1].astype(np.float32) * np.nan)),
    "small pages": (TIFF, lambda v: tiff_bytes(v[:, :64, :64])),
    "lzma": (TIFF, lambda v: tiff_bytes(v, compression="lzma")),
    "no page": (TIFF, lambda v: b"II*\0" + bytes(4)),
    "a page beyond the end": (TIFF, lambda v: b"II*\0" + struct.pack("<I", 2**32 - 2)),
    "no tag": (TIFF, lambda v: tiff_of()),
    "65535 tags": (TIFF, lambda v: b"II*\0" + struct.pack("<IH", 8, 65535) + bytes(800000)),
    "a page that follows itself": (TIFF, lambda v: tiff_of((256, 3, 1, 256), following=8)),
    "a bomb of pixels": (TIFF, lambda v: page_of(BOMB)),
    "a bomb of width": (TIFF, lambda v: page_of(PIXELS, _256=(4, 1, 2**31))),
    "a bomb of samples": (TIFF, lambda v: page_of(PIXELS, _277=(3, 1, 65535))),
    "a bomb of strips": (TIFF, lambda v: page_of(PIXELS, _273=(4, 2**30, 8), _279=(4, 2**30, 8))),
    "a bomb of 300 pages": (TIFF, lambda v: tiff_bytes(np.repeat(v[:1] * 0, 300, 0),
                                                       compression="zlib")),
    "strips without sizes": (TIFF, lambda v: page_of(PIXELS, _273=(4, 2, 8))),
    "a strip beyond the end": (TIFF, lambda v: page_of(PIXELS, _273=(4, 1, 2**31))),
    "a strip of 4 GB": (TIFF, lambda v: page_of(PIXELS, _279=(4, 1, 2**32 - 1))),
    "a strip cut off": (TIFF, lambda v: page_of(PIXELS, _279=(4, 1, 20))),
    "no deflate": (TIFF, lambda v: page_of(b"x" * 100)),
    "a width of text": (TIFF, lambda v: page_of(PIXELS, _256=(2, 1, 256))),
    "predictor 3": (TIFF, lambda v: page_of(PIXELS, _259=(3, 1, 8), _317=(3, 1, 3))),
}  # fmt: skip


def tiff_like(volume: np.ndarray) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, volume, photometric="minisblack")
    return file.getvalue()


def refuse(call: Callable[[], tuple[int, bytes]], *statuses: int) -> str:
    """The message of a request that is refused with one of these."""
    status, content = call()
    assert status in statuses, (status, content[:300])
    error = str(json.loads(content)["error"])
    assert error.startswith("request: found ") and "; expected " in error
    return error


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_bad_body_is_refused(port: int, volume: np.ndarray, name: str) -> None:
    kind, make = BAD_BODIES[name]
    body = make(volume)
    refuse(lambda: ask(port, body, Content_Type=kind), 400, 413, 422)
    assert ask(port, npy_bytes(volume[:1]), Content_Type=NPY)[0] == 200


BAD_HEADERS: dict[str, tuple[int, dict[str, str]]] = {
    "no type": (415, {}),
    "another type": (415, {"Content_Type": "application/json"}),
    "a type of pickle": (415, {"Content_Type": "application/python-pickle"}),
    "a packed body": (415, {"Content_Type": NPY, "Content_Encoding": "gzip"}),
    "another answer": (406, {"Accept": "text/html"}),
    "no answer at all": (406, {"Accept": "*/*;q=0"}),
    "an answer of 10 kB": (406, {"Accept": "x" * 10000}),
    **{
        f"attributes {text[:40]!r}": (status, {"Accept": accept, ATTRIBUTES_HEADER: text})
        for status, accept, text in (
            (400, JSON, "slcie=3"),
            (400, JSON, "trace-id=7; contxt=1,1"),
            (400, JSON, "background=1,2,3"),
            (400, JSON, "scale=1,2,3"),
            (400, JSON, "background=1,2;scale=9,9,9"),
            (400, JSON, "background=nan,0,0;scale=9,9,9"),
            (400, JSON, "background=0,0,0;scale=inf,9,9"),
            (400, JSON, "background=0,0,0;scale=0,9,9"),
            (400, JSON, "background=0,0,0;scale=-9,9,9"),
            (400, JSON, "background=1e999,0,0;scale=9,9,9"),
            (400, JSON, "context=2,2"),
            (400, JSON, "context=1"),
            (400, JSON, "probability=1"),
            (400, NPY, "probability=2"),
            (400, PNG, "slice=-1"),
            (400, PNG, "slice=one"),
            (400, PNG, "slice=" + "9" * 5000),
            (422, PNG, "slice=6"),
            (422, JSON, "slice=4;context=1,1"),
        )
    },
}


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("name", BAD_HEADERS)
def test_bad_headers_are_refused(port: int, volume: np.ndarray, name: str) -> None:
    status, headers = BAD_HEADERS[name]
    kind = {} if status == 415 else {"Content_Type": NPY}  # or what the headers say
    refuse(lambda: ask(port, npy_bytes(volume), **{**kind, **headers}), status)


@pytest.mark.parametrize("kind", [NPY, "application/json"])
def test_an_id_comes_back_in_the_answer_or_the_refusal(
    port: int, volume: np.ndarray, kind: str
) -> None:
    url = f"http://127.0.0.1:{port}/invocations"
    headers = {"Content-Type": kind, ATTRIBUTES_HEADER: "trace-id=7f; slice=1"}
    request = urllib.request.Request(url, npy_bytes(volume), headers)
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        assert answer.status == (200 if kind == NPY else 415)
        assert answer.headers[ATTRIBUTES_HEADER] == "trace-id=7f"


def test_a_client_that_still_sends_gets_the_answer(port: int) -> None:
    assert ask(port, bytes(20_000_000), Content_Type="image/jpeg")[0] == 415


def test_a_client_refuses_what_is_too_large_itself() -> None:
    with pytest.raises(RuntimeError, match="413 found 25000001 bytes"):
        http_sender("http://127.0.0.1:1/invocations")(bytes(MAX_BYTES + 1), {})


def test_context_alone_is_refused(port: int, volume: np.ndarray) -> None:
    headers = {"Content_Type": NPY, ATTRIBUTES_HEADER: "context=1,1"}
    refuse(lambda: ask(port, npy_bytes(volume[:2]), **headers), 422)


def test_an_answer_too_large_for_sagemaker_is_refused(port: int) -> None:
    body = npy_bytes(np.zeros((96, 256, 256, 3), np.uint8))
    headers = {"Content_Type": NPY, "Accept": NPY, ATTRIBUTES_HEADER: "probability=1"}
    assert "at most 95 with" in refuse(lambda: ask(port, body, **headers), 413)


def raw(port: int, request: bytes, seconds: float = 30) -> bytes:
    """What the server answers to these bytes, on a connection that stays open."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(request)
        return connection.recv(65536)


HEAD = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-npy\r\n"


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (HEAD + b"Content-Length: 99999999999999999\r\n\r\nabc", 413),
        (HEAD + b"Content-Length: 25000001\r\n\r\n", 413),
        (HEAD + b"Content-Length: -1\r\n\r\n", 400),
        (HEAD + b"Content-Length: 1e9\r\n\r\n", 400),
        (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
        (HEAD + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: gzip\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZZ\r\n", 400),
        (b"GET /invocations HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"GET /etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"\x16\x03\x01 no HTTP\r\n\r\n", 400),
        (HEAD + b"X: " + b"x" * 100_000 + b"\r\n\r\n", 400),
    ],
)
def test_bad_http_is_refused(port: int, request_: bytes, status: int) -> None:
    answer = raw(port, request_)
    assert int(answer.split()[1]) == status, answer


def test_an_unknown_path_or_method_is_named_as_any_other_error(port: int) -> None:
    for path, status in (("/invocations", 405), ("/etc/passwd", 404)):
        answered, body = ask(port, method="GET", path=path)
        error = json.loads(body)["error"]
        assert answered == status and error.startswith(f"GET {path}: ")
        assert error.endswith("expected one of ['/invocations', '/ping']")


def test_a_body_that_outgrows_the_limit_is_refused_before_it_ends(port: int) -> None:
    chunk = b"100000\r\n" + bytes(2**20) + b"\r\n"
    answer = raw(port, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 24)
    assert answer.startswith(b"HTTP/1.1 413")


def test_a_slow_client_is_cut_off(port: int, volume: np.ndarray) -> None:
    start = time.perf_counter()
    answer = raw(port, HEAD + b"Content-Length: 1000\r\n\r\nabc")
    assert SECONDS <= time.perf_counter() - start < SECONDS + 3
    assert answer.startswith(b"HTTP/1.1 408") and b"connection: close" in answer.lower()
    assert predict(port, npy_bytes(volume))


def begun(port: int, bytes_to_come: int) -> socket.socket:
    """A connection whose request the server has begun to read."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    expect = f"Expect: 100-continue\r\nContent-Length: {bytes_to_come}\r\n\r\n"
    connection.sendall(HEAD + expect.encode())
    assert connection.recv(1000).startswith(b"HTTP/1.1 100")
    return connection


def test_too_many_requests_are_sent_away(port: int, volume: np.ndarray) -> None:
    with ExitStack() as slow:
        for _ in range(REQUESTS):
            slow.enter_context(begun(port, 1000))
        answer = raw(port, HEAD + b"Content-Length: 0\r\n\r\n")
        assert ask(port, method="GET", path="/ping")[0] == 200
    assert answer.startswith(b"HTTP/1.1 503") and b"retry-after: 1" in answer.lower()
    time.sleep(0.2)
    assert predict(port, npy_bytes(volume))


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("seed", range(40))
def test_a_mutated_body_is_refused_or_gives_a_mask(
    port: int, volume: np.ndarray, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    kind, write = ((NPY, npy_bytes), (TIFF, tiff_bytes))[seed % 2]
    body = bytearray(write(volume[:2], **({"compression": "zlib"} if seed % 4 == 3 else {})))
    # Most of the bytes are pixels, which may be anything: a TIFF's tags stand at both ends.
    for place in rng.integers(1, 300, 6) * rng.choice([1, -1], 6):
        body[place] = rng.integers(256)
    status, content = ask(port, bytes(body), Content_Type=kind, Accept=NPY)
    if status == 200:
        mask = np.load(BytesIO(content))
        assert mask.dtype == bool and mask.shape[1:] == (256, 256)
    else:
        assert 400 <= status < 500 and json.loads(content)["error"]


def test_the_log_tells_of_every_request_and_nothing_of_the_patient(
    port: int, log: Path, volume: np.ndarray
) -> None:
    time.sleep(0.2)  # the log is written by a thread of its own
    before = len(log.read_text().splitlines())
    body = npy_bytes(volume)
    predict(port, body, more="patient=TCGA_CS_4941")
    ask(port, body, Content_Type=NPY, **{ATTRIBUTES_HEADER: "patient=TCGA_CS_4941; background=1"})
    time.sleep(0.2)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    good, bad = lines[before:]
    assert set(good) == set(bad) == {"status", "milliseconds", "slices", "bytes"}
    assert good["status"] == 200 and good["slices"] == 6 and good["bytes"] == len(body)
    assert bad["status"] == 400 and "TCGA" not in log.read_text()
    assert not any(line["status"] == 500 for line in lines)


def test_sigterm_lets_a_running_request_finish(volume: np.ndarray, tmp_path: Path) -> None:
    body = npy_bytes(volume)
    with running(tmp_path / "log") as (port, process), begun(port, len(body)) as connection:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        connection.sendall(body)
        assert b"volume_voxels" in connection.makefile("rb").read()
        assert process.wait(10) == 0


def test_serving_needs_neither_torch_nor_pandas(tmp_path: Path) -> None:
    code = f"""
import sys
absent = ["torch", "monai", "pytorch_lightning", "matplotlib", "pandas"]
sys.modules.update(dict.fromkeys(absent))
import numpy as np
import lggseg.serving.client, lggseg.serving.endpoint
from lggseg.inference.segmenter import Segmenter
volume = np.zeros((2, 256, 256, 3), np.uint8)
assert Segmenter.load({str(MODEL)!r}).predict(volume).mask.shape == (2, 256, 256)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tiffs_are_read_as_tifffile_reads_them(volume: np.ndarray) -> None:
    for options in ({}, {"compression": "zlib", "predictor": 2}, {"rowsperstrip": 100}):
        body = tiff_bytes(volume, **options)
        assert np.array_equal(read_tiff(body, 6), tifffile.imread(BytesIO(body)))


def test_a_port_in_use_is_named_with_what_to_do(port: int) -> None:
    with pytest.raises(RuntimeError, match=rf"port {port}: found .*in use.*give another --port"):
        check_free("127.0.0.1", port)
