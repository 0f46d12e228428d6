"""The HTML file without a browser: its arithmetic against Python's, and what is inside.

What Chromium shows of it is in ``tests/test_inputs.py``.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scan_files import head, saved
from scipy import ndimage
from tools import need

from lggseg.config import Config
from lggseg.data.grids import resampled
from lggseg.data.nifti import read_nifti
from lggseg.evaluation.quality import Quality
from lggseg.inference.flags import quality_flags
from lggseg.inference.segmenter import Prediction, Segmenter
from lggseg.preprocessing.postprocessing import drop_small_components
from lggseg.preprocessing.volume import channel_statistics, stack_channels
from lggseg.serving.standalone import export, runtime
from lggseg.utils.errors import DataError

RUN = Path(__file__).resolve().parents[1] / "support" / "pipeline_run.mjs"
# Voxels in mm, their order, and whether they are integers with a scale.
SCANS = {
    "as it is": ((4, 3.5, 6), "RAS", False),
    "finer pixels": ((0.5, 0.6, 6), "LPS", False),
    "sagittal": ((2, 1.5, 3), "PIR", False),
    "coronal, scaled": ((3, 2, 4), "RSA", True),
}


def textured(spacing: tuple[float, float, float], codes: str, scaled: bool) -> nib.Nifti1Image:
    image = head(spacing)
    noise = np.random.default_rng(1).normal(0, 4, image.shape)
    values = image.get_fdata() + noise * (image.get_fdata() > 0)
    if scaled:
        made = nib.Nifti1Image(np.round(values * 7).astype(np.int16), image.affine)
        made.header.set_slope_inter(1 / 7, 3)
    else:
        made = nib.Nifti1Image(values.astype(np.float32), image.affine)
    start, end = io_orientation(image.affine), axcodes2ornt(tuple(codes))
    return made.as_reoriented(ornt_transform(start, end))


@pytest.mark.parametrize("kind", SCANS)
def test_the_page_computes_what_python_does(kind: str, tmp_path: Path) -> None:
    need("node", shutil.which("node") is not None)
    image = textured(*SCANS[kind])
    flair, t1 = saved(image, tmp_path / "flair.nii"), saved(head((2.2, 2, 3)), tmp_path / "t1.nii")
    volume, scan = read_nifti(flair)
    pixels = volume[..., 1]
    noise = np.random.default_rng(2).normal(size=pixels.shape)
    mask = ndimage.gaussian_filter(noise, (1, 6, 6)) > 0.02
    (tmp_path / "mask").write_bytes(mask.astype(np.uint8).tobytes())
    files = map(str, (export.HERE, flair, tmp_path / "mask", t1, tmp_path))
    subprocess.run(["node", str(RUN), *files], check=True)

    def result(name: str, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
        return np.frombuffer((tmp_path / name).read_bytes(), dtype).reshape(shape)

    found = result("pixels", np.uint8, pixels.shape).astype(int)
    assert np.abs(found - pixels).max() <= 1 and np.mean(found != pixels) < 1e-4
    statistics = channel_statistics(pixels[..., None])[:, 0]
    np.testing.assert_allclose(result("statistics", np.float32, (2,)), statistics, rtol=1e-4)
    assert np.array_equal(result("kept", np.uint8, mask.shape), drop_small_components(mask, 0.1))
    expected = scan.mask_image(mask)
    on_scan = result("on_scan", np.uint8, image.shape[::-1]).T
    assert on_scan.any() and np.array_equal(on_scan, expected.dataobj)
    on_grid = result("on_grid", np.float32, image.shape[::-1]).T
    wanted = np.asarray(resampled(nib.load(t1), nib.load(flair)).dataobj)
    np.testing.assert_allclose(on_grid, wanted, atol=0.02)
    channels = np.stack([mask.astype(np.uint8), found.astype(np.uint8), mask.astype(np.uint8)], -1)
    stacked = stack_channels(channels, True, scan.slice_stride)
    assert np.array_equal(result("channels", np.uint8, stacked.shape), stacked)
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["overlap"] > 0.95 and facts["same"] is True
    probability = found.astype(np.float32) / np.float32(255)
    assert facts["flags"] == quality_flags(channels, Prediction(mask, probability))
    assert facts["expected"] == pytest.approx(Quality(0.1, 0.8).estimate(probability), abs=1e-6)
    saved_mask = nib.load(tmp_path / "mask.nii")
    assert np.array_equal(saved_mask.dataobj, expected.dataobj)
    np.testing.assert_allclose(saved_mask.affine, expected.affine)


FAKE = dict.fromkeys(runtime.CHECKSUMS, b"// nothing\n//# sourceMappingURL=x.map")


def page_of(model: Path) -> str:
    return export.build_page(Segmenter(Config(), {}, lambda *_: np.zeros(0)), model, FAKE)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "my <model>"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"graph")
    return folder


def test_everything_is_inside(model: Path) -> None:
    page = page_of(model)
    for tag in re.findall(
        r"<(?:script|link|img|iframe)\b[^>]*>", page[page.rindex("<style>") - 600 :]
    ):
        assert not re.search(r'\b(src|href)="(?!data:)', tag), tag
    assert f'content="{export.POLICY}"' in page and "http" not in export.POLICY
    assert "connect-src blob: data:" in export.POLICY
    assert "sourceMappingURL=x.map" not in page
    assert "Licensed under the MIT" in page or "MIT License" in page
    assert "BSD 2-Clause" in page and "Microsoft" in page
    assert "my \\u003cmodel>" in page and "my <model>" not in page


def test_the_script_is_one_that_node_reads(tmp_path: Path) -> None:
    need("node", shutil.which("node") is not None)
    script = tmp_path / "bundle.mjs"
    script.write_text(export.bundle())
    subprocess.run(["node", "--check", str(script)], check=True)
    assert not re.search(r"^(import|export) ", export.bundle(), re.M)


def test_another_file_is_not_replaced(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = Segmenter(Config(), {}, lambda *_: np.zeros(0))
    monkeypatch.setattr(Segmenter, "load", lambda *_: segmenter)
    monkeypatch.setattr(export, "runtime_files", lambda: FAKE)
    path = tmp_path / "lgg.html"
    path.write_text("<html>my own page")
    with pytest.raises(DataError, match="a file that lggseg did not write"):
        export.export_html(model, path)
    path.unlink()
    assert export.export_html(model, path) == export.export_html(model, path) == path
    with pytest.raises(DataError, match=r"expected a file \.html"):
        export.export_html(model, tmp_path / "lgg")


def test_without_npm_the_message_says_where_to_put_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LGGSEG_CACHE", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(DataError, match=f"found no npm.*{runtime.PACKAGE}.*{tmp_path}"):
        runtime.runtime_files()


@pytest.mark.parametrize("kind", ["another version", "no package"])
def test_a_package_of_other_content_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LGGSEG_CACHE", str(tmp_path))
    place = tmp_path / runtime.PACKAGE
    place.write_bytes(b"hello")
    if kind == "another version":
        with tarfile.open(place, "w:gz") as archive:
            for name in runtime.CHECKSUMS:
                (tmp_path / name).write_bytes(b"other")
                archive.add(tmp_path / name, f"package/dist/{name}")
    found = "another ort.webgpu.min.js" if kind == "another version" else "no readable package"
    with pytest.raises(DataError, match=found):
        runtime.runtime_files()


class Controls(HTMLParser):
    """The elements of a page with their attributes, and which text a label holds each."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.labelled: set[str] = set()
        self.within: list[str] = []
        self.headings: list[int] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "label" and found.get("for"):
            self.labelled.add(str(found["for"]))
        if "label" in self.within and found.get("id"):
            self.labelled.add(str(found["id"]))
        if tag in ("h1", "h2", "h3"):
            self.headings.append(int(tag[1]))
        found["within"] = "label" if "label" in self.within else None
        self.elements.append((tag, found))
        self.within.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.within:
            del self.within[len(self.within) - 1 - self.within[::-1].index(tag) :]


def test_every_control_has_a_name_and_the_page_a_language(model: Path) -> None:
    page = page_of(model)
    parser = Controls()
    # Without the scripts, whose text is no markup.
    parser.feed(re.sub(r"(<script\b[^>]*>).*?</script>", r"\1</script>", page, flags=re.S))
    tags = dict(reversed(parser.elements))
    assert tags["html"]["lang"] == "en" and parser.headings[0] == 1
    assert parser.headings.count(1) == 1
    ids = [found["id"] for _, found in parser.elements if found.get("id")]
    assert len(ids) == len(set(ids))
    controls = [e for e in parser.elements if e[0] in ("input", "select", "canvas", "dialog")]
    assert len(controls) > 10
    for tag, found in controls:
        named = found.get("aria-label") or found.get("aria-labelledby") or found["within"]
        assert named or found.get("id") in parser.labelled, (tag, found)
    live = [found.get("role") for _, found in parser.elements]
    assert "alert" in live and "status" in live  # errors and answers are read aloud
