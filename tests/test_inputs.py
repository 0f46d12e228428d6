"""What people have × how they give it: a mask or a sentence, the same mask by every way.

The table is ``tests/support/inputs.py``. The HTML file is opened from disk in Chromium.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile

pytest.importorskip("highdicom", reason="highdicom is missing: pip install -e '.[dicom]'")

from browsers import (
    CHROMIUM,
    CUT_OFF,
    NO_ADAPTER,
    WEBGPU,
    accessibility_faults,
    focused_by_tab,
    launched,
)
from fastapi.testclient import TestClient
from inputs import INPUTS, MASK

from lggseg import cli
from lggseg.data.sequences import guess_sequence
from lggseg.data.simulation import make_patient, plan_cohort
from lggseg.inference.model_folder import read_card
from lggseg.inference.segmenter import Segmenter
from lggseg.serving.standalone.export import export_html
from lggseg.serving.standalone.runtime import runtime_files
from lggseg.serving.viewer import app
from lggseg.utils.errors import DataError

MODEL = Path(__file__).resolve().parents[1] / "models" / "lgg-unet"
THRESHOLD = read_card(MODEL)[0].threshold
DIFFERENT = 1e-4  # of the voxels of two masks at most


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.load(MODEL)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an input, written once."""

    @lru_cache(None)
    def make(name: str) -> Path:
        folder = tmp_path_factory.mktemp("input") / "data"
        folder.mkdir()
        INPUTS[name].make(folder)
        return folder

    return make


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def by_command(
    folder: Path, whole: bool, segmenter: Segmenter, capsys: pytest.CaptureFixture[str]
) -> np.ndarray | str:
    """The mask's voxels, or the sentence."""
    out = folder.with_name("out")
    shutil.rmtree(out, ignore_errors=True)
    data, more = folder, []
    if not whole:
        files = files_of(folder)
        named = {guess_sequence(path.name): path for path in files}
        data = named.get("FLAIR", files[0])
        options = {"pre": named.get("pre-contrast"), "post": named.get("post-contrast")}
        more = [part for name, path in options.items() if path for part in (f"--{name}", str(path))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Segmenter, "load", lambda *_: segmenter)
        status = cli.main(["predict", "model", str(data), str(out), *more])
    said = capsys.readouterr().err
    if status:
        assert "Traceback" not in said and not list(out.glob("*_mask*"))
        return said
    (mask,) = out.glob("*_mask.*")
    return tifffile.imread(mask) > 0 if mask.suffix == ".tif" else voxels(mask.read_bytes())


def voxels(content: bytes) -> np.ndarray:
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    kind = nib.Nifti2Image if content[:2] in (b"\x1c\x02", b"\x02\x1c") else nib.Nifti1Image
    if content[:4] == b"\0\0\x02\x1c":
        kind = nib.Nifti2Image
    return np.asarray(kind.from_bytes(content).dataobj)


@pytest.fixture(scope="module")
def client(segmenter: Segmenter) -> TestClient:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Segmenter, "load", lambda *_: segmenter)
        return TestClient(app.build_app(MODEL, None, "127.0.0.1"), "http://127.0.0.1")


def by_viewer(folder: Path, client: TestClient) -> np.ndarray | str:
    files = files_of(folder)
    alone = len(files) == 1
    entries = [
        {
            "name": path.name,
            "size": path.stat().st_size,
            "role": "" if alone else guess_sequence(path.name),
        }
        for path in files
    ]
    body = json.dumps(entries).encode() + b"\n" + b"".join(path.read_bytes() for path in files)
    answer = client.post("/api/cases", content=body, headers={"Content-Type": app.BODY})
    if answer.status_code != 201:
        assert 400 <= answer.status_code < 500
        return str(answer.json()["error"])
    case = answer.json()["case"]
    mask = client.get(f"/api/cases/{case}/mask.nii.gz?threshold={THRESHOLD}")
    return voxels(mask.content)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two masks differ in hardly any voxel; TIFF has slices first."""
    if one.shape != other.shape:
        one = np.swapaxes(one, 0, 2)
    return one.shape == other.shape and np.mean((one > 0) != (other > 0)) <= DIFFERENT


def judge(answer: np.ndarray | str, expected: str) -> None:
    if expected == MASK:
        assert isinstance(answer, np.ndarray), answer
        assert answer.ndim == 3 and set(np.unique(answer)) <= {0, 1}
    else:
        assert isinstance(answer, str), "a mask"
        assert re.search(r"found .*; expected .*\. [A-Z`]", answer.replace("\n", " "))
        assert expected in answer and not answer.startswith("request")


@pytest.mark.parametrize("name", INPUTS)
def test_command_line_and_viewer(
    name: str,
    made: Callable[[str], Path],
    segmenter: Segmenter,
    client: TestClient,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one, folder = INPUTS[name], made(name)
    command = by_command(folder, one.folder, segmenter, capsys)
    judge(command, one.expected["command"])
    viewer = by_viewer(folder, client)
    judge(viewer, one.expected["viewer"])
    if isinstance(command, np.ndarray) and isinstance(viewer, np.ndarray):
        assert same(command, viewer)


# In the browser


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        runtime_files()
    except DataError as error:
        pytest.skip(str(error))
    return export_html(MODEL, tmp_path_factory.mktemp("html") / "lgg.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def page(browser: Any, page_file: Path) -> Iterator[Any]:
    with opened(browser, page_file) as found:
        yield found


@contextmanager
def opened(browser: Any, page_file: Path, script: str = "") -> Iterator[Any]:
    """The file opened from disk; it logs nothing, and asks for nothing."""
    context, wrong = browser.new_context(offline=True, accept_downloads=True), []
    found = context.new_page()
    found.add_init_script(script)
    found.set_default_timeout(300_000)
    found.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
    found.on("pageerror", lambda error: wrong.append(str(error)))
    allowed = (page_file.as_uri(), "blob:", "data:")
    found.on("request", lambda ask: ask.url.startswith(allowed) or wrong.append(ask.url))
    found.goto(page_file.as_uri())
    yield found
    context.close()
    assert [text for text in wrong if text != NO_ADAPTER] == []


def by_page(folder: Path, page: Any) -> np.ndarray | str:
    """Choose the files, send them by the roles that the page guesses, and save the mask."""
    files = files_of(folder)
    page.locator("#files").set_input_files([str(path) for path in files])
    if len(files) > 1 and all(".nii" in path.name for path in files):
        page.locator("#roles button[value=send]").click()
        page.locator("#roles[open]").wait_for(state="detached")
        page.wait_for_timeout(200)
    # The page says so from the moment that it takes files until it has an answer.
    page.locator("#waiting[hidden]").wait_for(state="attached")
    error = page.locator("#error")
    if error.is_visible():
        return str(error.inner_text())
    with page.expect_download() as download:
        page.locator("#save-nifti").click()
    return voxels(Path(download.value.path()).read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("name", INPUTS)
def test_html_file(name: str, page: Any, made: Callable[[str], Path], client: TestClient) -> None:
    answer = by_page(made(name), page)
    judge(answer, INPUTS[name].expected["page"])
    if isinstance(answer, np.ndarray):
        viewer = by_viewer(made(name), client)
        assert isinstance(viewer, np.ndarray) and same(answer, viewer)


@pytest.mark.slow
def test_the_page_is_accessible_and_fits(page: Any, made: Callable[[str], Path]) -> None:
    page.evaluate(
        """() => {
          window.said = [];
          const status = document.getElementById("status");
          const hear = new MutationObserver(() => said.push(status.textContent));
          hear.observe(status, { childList: true });
        }"""
    )
    assert isinstance(by_page(made("T1 on FLAIR's voxels"), page), np.ndarray)
    said = page.evaluate("said")
    assert any(re.match(r"Segmented (\d+) of \1 slices", text) for text in said)
    assert re.match(r"Threshold 0.60: [\d,]+ voxels · [\d.]+ ml", said[-1])
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 860})
            page.wait_for_timeout(300)
            assert accessibility_faults(page) == []
            assert page.evaluate("document.documentElement.scrollWidth") == width
            assert page.evaluate(CUT_OFF) == []
    seen = focused_by_tab(page, 20)
    names = {"sequence", "view", "canvas", "slice", "threshold", "show-prediction", "save-nifti"}
    assert names | {"files"} <= set(seen) and all(seen[name] for name in names)
    assert not page.get_by_text("TIFF: on the slices").is_visible()
    page.locator("#files").set_input_files([str(path) for path in files_of(made("two FLAIRs"))])
    page.locator("#roles[open]").wait_for()
    assert accessibility_faults(page) == []
    page.keyboard.press("Escape")
    page.locator("#roles[open]").wait_for(state="detached")
    assert isinstance(by_page(made("a picture"), page), str)
    assert accessibility_faults(page) == []


# On a graphics card

CARD = "Object.defineProperty(GPUAdapterInfo.prototype, 'isFallbackAdapter', { get: () => false });"
CHANGED = """
const post = Worker.prototype.postMessage;
Worker.prototype.postMessage = function (message, transfer) {
  if (message.run?.by === "webgpu") (%s)(message.run);
  return post.call(this, message, transfer);
};"""
CARDS = {
    "as it is": ("webgpu", CARD),
    "a wrong answer": ("wasm", CARD + CHANGED % "(run) => (run.scale = run.scale.map(() => 1))"),
    "a failure": ("wasm", CARD + CHANGED % "(run) => run.dims[1] = 2"),
    "only played by the processor": ("wasm", ""),
}


@pytest.fixture(scope="module")
def with_card(browser: Any) -> Iterator[Any]:
    found = browser.browser_type.launch(executable_path=CHROMIUM, args=WEBGPU)
    yield found
    found.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", CARDS)
def test_a_graphics_card_is_used_where_it_gives_the_same(
    kind: str,
    with_card: Any,
    page_file: Path,
    sided: dict[str, Path],
    client: TestClient,
    tmp_path: Path,
) -> None:
    engine, script = CARDS[kind]
    nib.save(nib.load(sided["left"] / "flair.nii").slicer[..., 3:5], tmp_path / "flair.nii")
    with opened(with_card, page_file, script) as page:
        answer = by_page(tmp_path, page)
        assert page.evaluate("document.documentElement.dataset.engine") == engine
    viewer = by_viewer(tmp_path, client)
    assert isinstance(answer, np.ndarray) and isinstance(viewer, np.ndarray)
    assert np.count_nonzero(viewer) > 100 and same(answer, viewer)


# Left and right


@pytest.fixture(scope="module")
def sided(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A simulated patient's few slices with tumour, by itself and mirrored: folders of FLAIR whose
    tumour is on the patient's left or right."""
    from scipy import ndimage

    images, truth = make_patient(plan_cohort(1, 3)[0])
    middle = int(truth.sum(axis=(1, 2)).argmax())
    chosen = slice(max(middle - 3, 0), middle + 4)
    x = ndimage.center_of_mass(truth[middle])[1]
    assert abs(x - 127.5) > 15, "a tumour on one side"
    folders = {}
    for side in ("left", "right"):
        # The columns of a slice go to the patient's left.
        flipped = (x > 127.5) != (side == "left")
        flair = images[chosen, :, ::-1, 1] if flipped else images[chosen, ..., 1]
        affine = np.diag([-0.9375, -0.9375, 4.5, 1])
        affine[:3, 3] = 120, 120, 0  # the middle of the slices is at 0
        image = nib.Nifti1Image(np.swapaxes(flair, 0, 2).astype(np.int16), affine)
        folders[side] = tmp_path_factory.mktemp(side) / "data"
        folders[side].mkdir()
        # Stored from left to right in one, from right to left in the other.
        nib.save(
            nib.as_closest_canonical(image) if side == "left" else image,
            folders[side] / "flair.nii",
        )
    return folders


def side_of(mask: np.ndarray, folder: Path) -> str:
    affine = nib.load(folder / "flair.nii").affine
    x = (np.argwhere(mask > 0) @ affine[:3, :3].T + affine[:3, 3])[:, 0].mean()
    assert np.count_nonzero(mask) > 100 and abs(x) > 10
    return "left" if x < 0 else "right"  # NIfTI's x goes to the patient's right


@pytest.mark.parametrize("side", ["left", "right"])
def test_sides_on_command_line_and_viewer(
    side: str,
    sided: dict[str, Path],
    segmenter: Segmenter,
    client: TestClient,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    from dicom_files import write_series

    command = by_command(sided[side], False, segmenter, capsys)
    viewer = by_viewer(sided[side], client)
    assert isinstance(command, np.ndarray) and isinstance(viewer, np.ndarray)
    assert side_of(command, sided[side]) == side_of(viewer, sided[side]) == side
    write_series(nib.load(sided[side] / "flair.nii"), tmp_path / "data" / "A")
    for answer in (
        by_command(tmp_path / "data", True, segmenter, capsys),
        by_viewer(tmp_path / "data", client),
    ):
        assert isinstance(answer, np.ndarray) and same(answer, command)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["left", "right"])
def test_sides_on_the_page(side: str, sided: dict[str, Path], page: Any) -> None:
    answer = by_page(sided[side], page)
    assert isinstance(answer, np.ndarray) and side_of(answer, sided[side]) == side
