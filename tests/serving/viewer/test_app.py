"""The viewer: what it answers, and what a person sees and does on its page in Chromium."""

from __future__ import annotations

import base64
import gzip
import importlib.util
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import nibabel as nib
import numpy as np
import pytest
import tifffile
from browsers import CUT_OFF, accessibility_faults, focused_by_tab
from fastapi.testclient import TestClient
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion
from tools import need

from lggseg.data.codecs import TIFF
from lggseg.data.kaggle import patient_folders
from lggseg.data.nifti import read_nifti
from lggseg.data.simulation import make_cohort
from lggseg.data.slices import read_volume
from lggseg.evaluation.segmentation import dice_from_counts
from lggseg.inference.segmenter import Prediction, Segmenter
from lggseg.serving.server import Limits
from lggseg.serving.viewer import app as view

MODEL = Path(__file__).resolve().parents[3] / "models" / "lgg-unet"
CHROMIUM = shutil.which("chromium")
SMALLEST = 0.5  # min_component_fraction of the model
THRESHOLD = 0.6


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two simulated patients."""
    return make_cohort(tmp_path_factory.mktemp("view"), patients=2, progress=False)


@pytest.fixture(scope="module")
def expected(cohort: Path) -> dict[str, tuple[np.ndarray, np.ndarray, Prediction]]:
    """Volume, truth and prediction of each patient."""
    segmenter, found = Segmenter.load(MODEL), {}
    for folder in patient_folders(cohort):
        volume, truth = read_volume(folder)
        assert truth is not None
        found[folder.name] = volume, truth, segmenter.predict(volume)
        assert found[folder.name][2].mask.any()
    return found


@pytest.fixture(scope="module")
def client(cohort: Path) -> TestClient:
    limits = Limits(bytes=12_000_000, slices=64, seconds=10, predictions=2)
    app = view.build_app(MODEL, cohort, "127.0.0.1", limits)
    return TestClient(app, base_url="http://127.0.0.1:8081", raise_server_exceptions=False)


def dice(truth: np.ndarray, mask: np.ndarray) -> float:
    overlap = np.count_nonzero(truth & mask)
    alone = np.count_nonzero(mask) - overlap, np.count_nonzero(truth) - overlap
    return float(dice_from_counts(overlap, *alone))


def at(probability: np.ndarray, threshold: float) -> np.ndarray:
    return Prediction.of(probability, threshold, SMALLEST).mask


def unpacked(bits: str, shape: tuple[int, ...]) -> np.ndarray:
    content = np.frombuffer(base64.b64decode(bits), np.uint8)
    return np.unpackbits(content).reshape(shape).astype(bool)


def tiff_bytes(volume: np.ndarray) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, volume, photometric="rgb", compression="zlib")
    return file.getvalue()


def body_of(name: str, content: bytes) -> bytes:
    return json.dumps([{"name": name, "size": len(content)}]).encode() + b"\n" + content


def send(client: TestClient, name: str, content: bytes) -> Any:
    headers = {"Content-Type": view.BODY}
    return client.post("/api/cases", content=body_of(name, content), headers=headers)


def nifti_voxels(content: bytes) -> np.ndarray:
    """The voxels as slices, rows, columns."""
    image = nib.Nifti1Image.from_bytes(gzip.decompress(content))
    return np.swapaxes(np.asarray(image.dataobj), 0, 2)


def test_the_list_names_patients_model_and_what_is_simulated(
    client: TestClient, cohort: Path
) -> None:
    answer = client.get("/api/patients").json()
    assert answer["patients"] == [folder.name for folder in patient_folders(cohort)]
    assert answer["simulated"] is True
    assert answer["model"] == {"name": "lgg-unet", "threshold": THRESHOLD}


def test_numbers_and_mask_at_any_threshold(client: TestClient, expected: dict[str, Any]) -> None:
    name, (_, truth, prediction) = next(iter(expected.items()))
    facts = client.get(f"/api/cases/{name}").json()
    assert np.array_equal(unpacked(facts["truth"]["bits"], truth.shape), truth)
    for threshold in (THRESHOLD, 0.2):
        answer = client.get(f"/api/cases/{name}/prediction?threshold={threshold}").json()
        mask = at(prediction.probability, threshold)
        assert np.array_equal(unpacked(answer["bits"], mask.shape), mask)
        assert answer["dice"] == pytest.approx(dice(truth, mask))
        assert answer["voxels"] == mask.sum() and answer["ml"] is None
        assert answer["areas"] == mask.sum(axis=(1, 2)).tolist()
        estimate = Prediction(mask, prediction.probability, prediction.quality)
        expected_dice = estimate.expected_dice
        assert answer["expected_dice"] == pytest.approx(expected_dice, abs=1e-6)


def test_the_volume_is_nifti_of_three_sequences(
    client: TestClient, expected: dict[str, Any]
) -> None:
    name, (volume, *_) = next(iter(expected.items()))
    image = nib.Nifti1Image.from_bytes(client.get(f"/api/cases/{name}/volume.nii").content)
    assert np.array_equal(np.swapaxes(np.asarray(image.dataobj), 0, 2), volume)
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    assert image.header.get_xyzt_units()[0] == "unknown"


def test_masks_to_save_are_those_of_predict(client: TestClient, expected: dict[str, Any]) -> None:
    for name, (_, _, prediction) in expected.items():
        query = f"/api/cases/{name}/mask.%s?threshold={THRESHOLD}"
        tiff, nifti = client.get(query % "tif"), client.get(query % "nii.gz")
        assert tiff.headers["content-type"] == TIFF
        assert f'filename="{name}_mask.tif"' in tiff.headers["content-disposition"]
        pages = tifffile.imread(BytesIO(tiff.content))
        assert np.array_equal(pages, prediction.mask * np.uint8(255))
        assert np.array_equal(nifti_voxels(nifti.content), prediction.mask)


def test_files_that_are_sent_become_a_case(client: TestClient, expected: dict[str, Any]) -> None:
    volume, _, prediction = next(iter(expected.values()))
    answer = send(client, "my scan.tif", tiff_bytes(volume))
    assert answer.status_code == 201
    case = answer.json()["case"]
    facts = client.get(f"/api/cases/{case}").json()
    assert facts["name"] == "my scan" and facts["truth"] is None and facts["spacing"] is None
    mask = client.get(f"/api/cases/{case}/mask.tif?threshold={THRESHOLD}")
    assert 'filename="my_scan_mask.tif"' in mask.headers["content-disposition"]
    assert np.array_equal(tifffile.imread(BytesIO(mask.content)) > 0, prediction.mask)


def scan_of(volume: np.ndarray) -> nib.Nifti1Image:
    """FLAIR of a volume as a scan with pixels of another size than the model's."""
    affine = np.diag([-0.9, -0.9, 5.0, 1])
    return nib.Nifti1Image(np.swapaxes(volume[..., 1], 0, 2).astype(np.int16), affine)


def test_a_scan_has_its_own_voxels_and_millilitres(
    client: TestClient, expected: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "head.nii.gz"
    nib.save(scan_of(next(iter(expected.values()))[0]), path)
    volume, scan = read_nifti(path)
    prediction = Segmenter.load(MODEL).predict(volume, slice_stride=scan.slice_stride)
    wanted = np.asarray(scan.mask_image(prediction.mask).dataobj)
    case = send(client, path.name, path.read_bytes()).json()["case"]
    content = client.get(f"/api/cases/{case}/mask.nii.gz?threshold={THRESHOLD}").content
    image = nib.Nifti1Image.from_bytes(gzip.decompress(content))
    assert wanted.any() and np.array_equal(image.dataobj, wanted)
    assert np.array_equal(image.affine, nib.load(path).affine)
    answer = client.get(f"/api/cases/{case}/prediction?threshold={THRESHOLD}").json()
    assert answer["voxels"] == wanted.sum()
    assert answer["ml"] == pytest.approx(wanted.sum() * 0.9 * 0.9 * 5 / 1000)
    assert client.get(f"/api/cases/{case}").json()["spacing"] == [5, 240 / 256, 240 / 256]


def test_only_the_last_cases_are_kept(client: TestClient) -> None:
    slice_ = tiff_bytes(np.zeros((1, 256, 256, 3), np.uint8))
    cases = [send(client, "a.tif", slice_).json()["case"] for _ in range(view.KEPT + 1)]
    statuses = [client.get(f"/api/cases/{case}").status_code for case in cases]
    assert statuses == [404] + [200] * view.KEPT


@pytest.mark.parametrize(
    "name",
    ["..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "nobody", "%00", "TCGA_CS_S001_19950202%2f.."],
)
def test_no_name_leads_out_of_the_list(client: TestClient, name: str) -> None:
    for path in (
        f"/api/cases/{name}",
        f"/api/cases/{name}/volume.nii",
        f"/{name}/../../etc/passwd",
    ):
        assert client.get(path).status_code == 404


@pytest.mark.parametrize("threshold", ["", "0", "1", "-1", "nan", "inf", "half", "1e-400"])
def test_a_threshold_that_is_none(client: TestClient, cohort: Path, threshold: str) -> None:
    name = patient_folders(cohort)[0].name
    for what in ("prediction", "mask.tif", "mask.nii.gz"):
        answer = client.get(f"/api/cases/{name}/{what}?threshold={threshold}")
        assert answer.status_code == 422 and "threshold: found" in answer.json()["error"]


def test_what_is_sent_is_refused_in_a_sentence(client: TestClient) -> None:
    assert send(client, "a.tif", b"II*\0hello").status_code == 400
    assert "a.tif: found a broken TIFF" in send(client, "a.tif", b"II*\0hello").json()["error"]
    # What a form of another site could send.
    answer = client.post("/api/cases", content=b"[]\n", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415 and "found another Content-Type" in answer.json()["error"]
    large = send(client, "a.tif", bytes(12_000_001))
    assert large.status_code == 413 and "expected at most 12000000 bytes" in large.json()["error"]
    assert client.get("/api/patients").status_code == 200


def test_a_patient_with_incomplete_masks_is_shown_without_and_a_broken_one_is_named(
    tree: Path,
) -> None:
    first, second, _ = patient_folders(tree)
    (first / f"{first.name}_2_mask.tif").unlink()
    (second / f"{second.name}_2.tif").write_bytes(b"")
    client = TestClient(view.build_app(MODEL, tree, "127.0.0.1"), base_url="http://localhost")
    answer = client.get(f"/api/cases/{first.name}")
    assert answer.status_code == 200 and answer.json()["truth"] is None
    answer = client.get(f"/api/cases/{second.name}")
    assert answer.status_code == 422
    assert f"{second.name}_2.tif: found an empty file" in answer.json()["error"]


def test_only_this_machines_names_are_answered(client: TestClient, cohort: Path) -> None:
    for host, status in {"localhost:8081": 200, "127.0.0.1": 200, "evil.example": 400}.items():
        assert client.get("/api/patients", headers={"Host": host}).status_code == status
    everywhere = TestClient(view.build_app(MODEL, None, "0.0.0.0"), base_url="http://any.example")
    assert everywhere.get("/api/patients").json()["patients"] == []


def test_the_page_forbids_what_comes_from_elsewhere(client: TestClient) -> None:
    for path in ("/", "/viewer.js", "/api/patients"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self';")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_the_bundled_library_is_the_one_whose_licence_is_there() -> None:
    import hashlib

    content = (view.PAGE / "niivue.umd.js").read_bytes()
    licence = (view.PAGE / "niivue.LICENSE.txt").read_text()
    assert hashlib.sha256(content).hexdigest() in licence and "BSD 2-Clause" in licence


def test_the_page_waits_for_neither_torch_nor_pandas() -> None:
    code = "import sys, lggseg.serving.viewer.app; "
    code += "print({'torch', 'pandas', 'matplotlib'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


# In the browser


@contextmanager
def running(data: Path, log: Path) -> Iterator[str]:
    """``lggseg view`` as a child process, ready: its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "lggseg.cli", "view", str(MODEL), str(data), "--port", port]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            address = f"http://127.0.0.1:{port}/"
            for _ in range(600):
                assert process.poll() is None, log.read_text()
                try:
                    urlopen(f"{address}api/patients").close()
                    break
                except HTTPError:
                    raise
                except OSError:
                    time.sleep(0.05)
            yield address
        finally:
            process.terminate()
            assert process.wait(30) == 0


@pytest.fixture(scope="module")
def address(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(cohort, tmp_path_factory.mktemp("log") / "log") as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    present = CHROMIUM is not None and importlib.util.find_spec("playwright") is not None
    need("chromium", present)
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """A function that opens the page; the console stays silent, and no other host is asked."""
    pages, wrong = [], []

    def watch(request: Any) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            wrong.append(f"asked {request.url}")

    def open_page(patient: str = "", script: str = "", **options: Any) -> Any:
        page = browser.new_page(viewport={"width": 1280, "height": 860}, **options)
        pages.append(page)
        page.set_default_timeout(120_000)  # in software, beside other work
        page.on("request", watch)
        page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.add_init_script(script)
        page.goto(f"{address}#{patient}")
        wait(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert [entry for entry in wrong if not re.search("status of 40[04]", entry)] == []


def wait(page: Any) -> None:
    """Until a case is shown."""
    page.locator("#volume", has_text="voxels").wait_for()
    page.locator("#waiting").wait_for(state="hidden")


def number(page: Any, place: str) -> float:
    return float(re.match(r"[\d.,]+", page.locator(place).inner_text())[0].replace(",", ""))  # type: ignore[index]


def picture(page: Any) -> np.ndarray:
    """The canvas without what lies over it: float ``(height, width, 3)``."""
    page.add_style_tag(content=".corner { visibility: hidden }")
    page.wait_for_timeout(300)  # a frame may still be to come
    shot = page.locator("#canvas").screenshot()
    return np.asarray(Image.open(BytesIO(shot)).convert("RGB")).astype(float)


def under(mask: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The colours in the middle of a slice's pixels: float ``(pixels, 3)``."""
    rows, columns = np.nonzero(mask)
    height, width = image.shape[:2]
    places = (rows + 0.5) / 256 * height, (columns + 0.5) / 256 * width
    return image[places[0].astype(int), places[1].astype(int)]


def test_a_patient_is_chosen_with_the_keyboard(
    opened: Callable[..., Any], expected: dict[str, Any]
) -> None:
    page, (_, second) = opened(), list(expected)
    page.locator("#patient").focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_url(f"**#{second}")
    wait(page)
    _, truth, prediction = expected[second]
    assert page.title() == f"{second} · lggseg viewer"
    assert number(page, "#dice") == pytest.approx(dice(truth, prediction.mask), abs=5e-4)
    assert number(page, "#expected") == pytest.approx(prediction.expected_dice, abs=5e-4)
    assert number(page, "#volume") == prediction.mask.sum()
    assert number(page, "#truth-volume") == truth.sum()
    assert page.get_by_text("Not for clinical use").is_visible()
    assert page.locator("#simulated").is_visible()


def test_prediction_and_truth_lie_where_they_are(
    opened: Callable[..., Any], expected: dict[str, Any]
) -> None:
    name, (volume, truth, prediction) = next(iter(expected.items()))
    page = opened(name)
    index = int(truth.sum(axis=(1, 2)).argmax())
    assert f"slice {index + 1} of {len(truth)}" in page.locator("#corner").text_content()
    page.get_by_label("truth, outlined").uncheck()
    image, mask = picture(page), prediction.mask[index]
    blue = image[..., 2] - image[..., 0]
    inside, outside = binary_erosion(mask), ~binary_dilation(mask, iterations=2)
    assert (under(inside, blue[..., None]) > 20).all()
    outside[:12], outside[:, :12] = False, False  # NiiVue's letters for the directions
    assert (np.abs(under(outside, blue[..., None])) < 5).all()
    # The grey levels are those of FLAIR in this very slice.
    grey = under(outside, image).mean(axis=1)
    assert np.corrcoef(grey, volume[index, ..., 1][outside])[0, 1] > 0.99
    page.get_by_label("prediction, filled").uncheck()
    page.get_by_label("truth, outlined").check()
    image, edge = picture(page), truth[index] & ~binary_erosion(truth[index])
    orange = image[..., 0] - image[..., 2]
    assert (under(edge, orange[..., None]) > 100).all()
    assert (np.abs(under(binary_erosion(truth[index]), orange[..., None])) < 5).all()


def test_the_threshold_moves_the_numbers(
    opened: Callable[..., Any], expected: dict[str, Any]
) -> None:
    name, (_, truth, prediction) = next(iter(expected.items()))
    page = opened(name)
    before = number(page, "#dice"), number(page, "#volume")
    page.get_by_label("Threshold", exact=True).focus()
    for _ in range(round(100 * (THRESHOLD - 0.2))):
        page.keyboard.press("ArrowLeft")
    page.locator("#status", has_text="Threshold 0.20").wait_for(state="attached")
    mask = at(prediction.probability, 0.2)
    assert number(page, "#volume") == mask.sum()
    assert number(page, "#dice") == pytest.approx(dice(truth, mask), abs=5e-4)
    assert before != (number(page, "#dice"), number(page, "#volume"))
    page.get_by_role("button", name=f"Back to {THRESHOLD:.2f}").click()
    page.locator("#status", has_text=f"Threshold {THRESHOLD:.2f}").wait_for(state="attached")
    assert before == (number(page, "#dice"), number(page, "#volume"))


def test_keys_on_the_image(opened: Callable[..., Any], expected: dict[str, Any]) -> None:
    page, canvas = opened(), "#canvas"
    slices = len(next(iter(expected.values()))[0])
    page.locator(canvas).focus()
    page.keyboard.press("Home")
    assert page.locator("#corner").text_content() == f"FLAIR · slice 1 of {slices}"
    first = picture(page)
    page.keyboard.press("ArrowDown")  # there is none below
    for _ in range(9):
        page.keyboard.press("ArrowUp")
    assert page.locator("#slice").input_value() == "10"
    assert np.abs(picture(page) - first).mean() > 3
    page.keyboard.press("3")
    assert page.locator("#corner").text_content() == f"Post-contrast · slice 10 of {slices}"
    page.keyboard.press("p")
    assert not page.get_by_label("prediction, filled").is_checked()
    assert "Post-contrast, slice 10" in page.locator(canvas).get_attribute("aria-label")


def test_every_control_is_reached_by_tab_and_shows_it(opened: Callable[..., Any]) -> None:
    seen = focused_by_tab(opened(), 25)
    names = {"sequence", "canvas", "slice", "patient", "next", "threshold", "show-prediction"}
    names |= {"show-truth", "save-tiff", "save-nifti", "files"}
    assert names <= set(seen) and all(seen[name] for name in names)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible(opened: Callable[..., Any], scheme: str) -> None:
    page = opened(color_scheme=scheme)
    assert accessibility_faults(page) == []
    assert re.match(r"Threshold 0.60: .* voxels", page.locator("#status").inner_text())
    page.set_viewport_size({"width": 390, "height": 844})
    drop(page, {"broken.tif": b"II*\0hello"})
    page.get_by_role("alert").wait_for()
    assert accessibility_faults(page) == []


def test_both_masks_are_saved_at_the_threshold_shown(
    opened: Callable[..., Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    name, (_, _, prediction) = next(iter(expected.items()))
    page = opened(name)

    def save(link: str) -> bytes:
        with page.expect_download() as download:
            page.get_by_role("link", name=link).click()
        assert download.value.suggested_filename.startswith(f"{name}_mask.")
        download.value.save_as(tmp_path / link)
        return (tmp_path / link).read_bytes()

    assert np.array_equal(tifffile.imread(BytesIO(save("TIFF"))) > 0, prediction.mask)
    assert np.array_equal(nifti_voxels(save("NIfTI")), prediction.mask)
    page.get_by_label("Threshold", exact=True).fill("0.3")
    page.locator("#status", has_text="Threshold 0.30").wait_for(state="attached")
    mask = at(prediction.probability, 0.3)
    assert not np.array_equal(mask, prediction.mask)
    assert np.array_equal(nifti_voxels(save("NIfTI")), mask)


def drop(page: Any, files: dict[str, bytes]) -> None:
    """Drop files on the page, as from the desktop."""
    content = {name: base64.b64encode(data).decode() for name, data in files.items()}
    transfer = page.evaluate_handle(
        """(files) => {
          const transfer = new DataTransfer();
          for (const [name, data] of Object.entries(files)) {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            transfer.items.add(new File([bytes], name));
          }
          return transfer;
        }""",
        content,
    )
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})


def test_slices_and_masks_are_dropped(
    opened: Callable[..., Any], cohort: Path, expected: dict[str, Any]
) -> None:
    page, folder = opened(), patient_folders(cohort)[1]
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    twins = {f"._{name}": b"\0\5\26\7" for name in files}
    drop(page, {**twins, **files, "notes.txt": b"left out"})
    page.wait_for_url("**#sent-*")
    wait(page)
    _, truth, prediction = expected[folder.name]
    assert number(page, "#dice") == pytest.approx(dice(truth, prediction.mask), abs=5e-4)
    assert page.title().startswith(folder.name)
    assert not page.locator("#simulated").is_visible()


def test_sequences_in_nifti_are_asked_for_and_shown_in_three_planes(
    opened: Callable[..., Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    page, volume = opened(), next(iter(expected.values()))[0]
    paths = [tmp_path / f"{name}.nii.gz" for name in ("x_t1", "x_flair", "x_t1ce")]
    for channel, path in enumerate(paths):
        nib.save(scan_of(np.roll(volume, 1 - channel, axis=-1)), path)
    page.locator("#files").set_input_files(paths)
    roles = page.locator("#role-list select")
    guesses = [roles.nth(place).input_value() for place in range(3)]
    assert guesses == ["pre-contrast", "FLAIR", "post-contrast"]
    page.get_by_role("button", name="Segment").click()
    page.wait_for_url("**#sent-*")
    wait(page)
    seen, scan = read_nifti(paths[1], paths[0], paths[2])
    mask = scan.mask_image(Segmenter.load(MODEL).predict(seen, slice_stride=scan.slice_stride).mask)
    voxels = int(np.count_nonzero(mask.dataobj))
    text = f"{voxels:,} voxels · {voxels * scan.voxel_ml:.1f} ml"
    assert page.locator("#volume").inner_text() == text
    axial = picture(page)
    page.get_by_text("Three planes").click()
    assert np.abs(picture(page) - axial).mean() > 3


GUESSES = {
    "FLAIR": "x_flair.nii BraTS-GLI-00000-000-t2f.nii.gz T2_FLAIR.nii preop_FLAIR.nii "
    "flair_to_t1.nii sub-01_space-T1w_FLAIR.nii.gz t2_tirm_tra_dark-fluid.nii "
    "postcontrast_FLAIR.nii",
    "pre-contrast": "x_t1.nii postop_T1.nii.gz post-op_t1.nii pre.nii T1pre.nii pre_T1.nii t1n.nii "
    "T1_precontrast.nii t1_noncontrast.nii T1_without_contrast.nii T1_native.nii "
    "ax_t1_pre_gad.nii T1_unenhanced.nii sub-gad01_T1w.nii.gz "
    "sub-01_ses-postop_T1w.nii.gz preproc_t1.nii mprage.nii t1_flair.nii "
    "t1_to_flair.nii UCSF-PDGM-0004_T1_bias.nii.gz",
    "post-contrast": "x_t1ce.nii preop_t1ce.nii.gz T1_Mprage_Gd.nii.gz post_T1.nii T1post.nii "
    "t1c.nii sub-01_ce-gadolinium_desc-preproc_T1w.nii.gz "
    "UPENN-GBM-00001_11_T1GD.nii.gz T1wCE.nii T1+C.nii "
    "UCSF-PDGM-0004_T1c_bias.nii.gz T1_KM.nii T1_postcontrast.nii T1_enhanced.nii "
    "ceT1.nii post.nii pre-op_t1ce.nii posttreatment_t1c.nii t1ce_in_flair.nii "
    "TCGA_CS_4941_T1-Gd.nii t1gad.nii",
    "": "T2.nii T2w_preproc.nii mask.nii T2_post.nii SWI.nii ADC.nii t10.nii",
}


def test_sequences_are_guessed_by_their_names(opened: Callable[..., Any]) -> None:
    names = {name: role for role, text in GUESSES.items() for name in text.split()}
    script = """async (names) => {
      const { guessRole } = await import("./roles.js");
      return names.map(guessRole);
    }"""
    guesses = opened().evaluate(script, list(names))
    assert dict(zip(names, guesses, strict=True)) == names


def test_an_address_that_is_broken_opens_the_first_patient(
    opened: Callable[..., Any], expected: dict[str, Any]
) -> None:
    for address in ("%E0%A4%A", "sent-gone"):
        page = opened(address)
        assert page.title() == f"{next(iter(expected))} · lggseg viewer"


def test_files_that_were_sent_outlive_a_reload(
    opened: Callable[..., Any], expected: dict[str, Any]
) -> None:
    page, volume = opened(), next(iter(expected.values()))[0]
    hidden = {"._mine.tif": b"Mac OS X", "mine.tif": tiff_bytes(volume)}
    drop(page, hidden)
    page.wait_for_url("**#sent-*")
    wait(page)
    page.reload()
    wait(page)
    assert page.title() == "mine · lggseg viewer"
    assert page.locator("#patient").input_value().startswith("sent-")


def test_a_broken_file_is_told_in_a_sentence_and_the_patient_stays(
    opened: Callable[..., Any], expected: dict[str, Any]
) -> None:
    page = opened()
    before = page.locator("#volume").inner_text()
    drop(page, {"broken.tif": b"II*\0hello"})
    page.get_by_role("alert").wait_for()
    assert "broken.tif: found a broken TIFF" in page.get_by_role("alert").inner_text()
    assert page.locator("#volume").inner_text() == before
    page.locator("#next").click()
    page.wait_for_url(f"**#{list(expected)[1]}")
    assert not page.get_by_role("alert").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_without_scrolling_sideways(
    opened: Callable[..., Any], scheme: str
) -> None:
    page = opened(color_scheme=scheme, has_touch=True)
    page.set_viewport_size({"width": 375, "height": 740})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    assert page.evaluate(CUT_OFF) == []
    for control in ("#canvas", "#slice", "#patient", "#threshold", "#save-nifti", "#drop"):
        box = page.locator(control).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 375 and box["height"] >= 28
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", ground)[:3])) > 3 * 128
    assert light == (scheme == "light")


def test_without_webgl_the_numbers_are_still_there(
    opened: Callable[..., Any], expected: dict[str, Any]
) -> None:
    name, (*_, prediction) = next(iter(expected.items()))
    page = opened(name, "HTMLCanvasElement.prototype.getContext = () => null")
    assert page.get_by_text("No image: this browser has no WebGL 2").is_visible()
    page.locator("#slice").press("Home")
    assert number(page, "#volume") == prediction.mask.sum()
