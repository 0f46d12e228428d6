"""The HTML file of `lggseg export --html` in Chromium: size, times, the same masks, no request.

    python benchmarks/html_file.py MODEL [--patients 5] [--out report/results]

Simulated patients as NIfTI, of other voxel sizes and directions each, are given to the file,
which is opened from disk without a network; the masks that it saves are compared with those of
`lggseg predict`. The first has 40 slices. Writes html_file.json, and beside it the pages that
Chromium showed where --pictures names a folder. Needs Chromium, playwright and psutil.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
from throughput import machine

from lggseg.data.nifti import read_nifti
from lggseg.data.simulation import make_patient, plan_cohort
from lggseg.inference.segmenter import Segmenter
from lggseg.serving.standalone.export import export_html
from lggseg.utils.files import write_json

SLICES = 40
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
# Of each patient: its orientation, and the millimetres of its pixels.
KINDS = [("LPS", 0.9375), ("RAS", 0.9), ("PIR", 1.0), ("LAS", 0.8), ("RPI", 0.86)]


def write_patients(folder: Path, number: int) -> list[Path]:
    """FLAIR of simulated patients as NIfTI; the first has 40 slices."""
    paths = []
    for plan, (codes, pixel) in zip(plan_cohort(number, 7), KINDS, strict=False):
        flair = make_patient(plan)[0][..., 1]
        flair = np.resize(flair, (SLICES, 256, 256)) if not paths else flair
        affine = np.diag([-pixel, -pixel, 4.5, 1])
        image = nib.Nifti1Image(np.swapaxes(flair, 0, 2).astype(np.int16), affine)
        turn = nib.orientations.ornt_transform(
            nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(tuple(codes))
        )
        paths.append(folder / f"patient{len(paths)}.nii.gz")
        nib.save(image.as_reoriented(turn), paths[-1])
    return paths


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[Any]:
    """The file in Chromium without a network, and what it asked for beyond itself."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=ARGUMENTS
        )
        page = browser.new_context(offline=True, accept_downloads=True, **options).new_page()
        page.set_default_timeout(600_000)
        asked: list[str] = []
        own = (path.as_uri(), "blob:", "data:")
        page.on("request", lambda ask: ask.url.startswith(own) or asked.append(ask.url))
        start = time.perf_counter()
        page.goto(path.as_uri())
        yield page, time.perf_counter() - start, asked
        browser.close()


def cpu_seconds() -> float:
    """The processor time of all processes below this one."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            used = process.cpu_times()
        except psutil.Error:
            continue
        total += used.user + used.system
    return total


def segment(page: Any, path: Path) -> tuple[np.ndarray, dict[str, float]]:
    """The mask that the page saves, and what it took until it was shown."""
    start, used = time.perf_counter(), cpu_seconds()
    page.locator("#files").set_input_files(str(path))
    page.locator("#waiting[hidden]").wait_for(state="attached")
    took = {"seconds": time.perf_counter() - start, "cpu_seconds": cpu_seconds() - used}
    if page.locator("#error").is_visible():
        raise RuntimeError(page.locator("#error").inner_text())
    with page.expect_download() as download:
        page.locator("#save-nifti").click()
    content = Path(download.value.path()).read_bytes()
    mask = np.asarray(nib.Nifti1Image.from_bytes(content).dataobj)
    return mask, {name: round(value, 2) for name, value in took.items()}


def compare(page: Any, segmenter: Segmenter, path: Path) -> dict[str, Any]:
    """A patient by both ways."""
    mask, took = segment(page, path)
    volume, scan = read_nifti(path)
    start = time.perf_counter()
    prediction = segmenter.predict(volume, slice_stride=scan.slice_stride)
    wanted = np.asarray(scan.mask_image(prediction.mask).dataobj)
    return {
        "slices": len(volume),
        "voxels": int(mask.size),
        "tumour_voxels": int(wanted.sum()),
        "different_voxels": int(np.count_nonzero(mask != wanted)),
        "different_share": float(np.mean(mask != wanted)),
        **took,
        "python_seconds": round(time.perf_counter() - start, 2),
    }


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--patients", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("report/results"))
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    segmenter = Segmenter.load(options.model)
    with tempfile.TemporaryDirectory() as folder:
        path = export_html(options.model, Path(folder) / "lgg.html")
        paths = write_patients(Path(folder), options.patients)
        load = os.getloadavg()[0]
        with opened(path, viewport={"width": 1280, "height": 860}) as (page, start, asked):
            patients = [compare(page, segmenter, one) for one in paths]
            engine = page.evaluate("document.documentElement.dataset.engine")
            if options.pictures:
                options.pictures.mkdir(parents=True, exist_ok=True)
                page.screenshot(path=options.pictures / "desktop.png")
                page.set_viewport_size({"width": 390, "height": 844})
                page.wait_for_timeout(2000)
                page.screenshot(path=options.pictures / "phone.png", full_page=True)
        results = {
            "machine": machine(),
            "model": segmenter.fingerprint,
            "load_before": round(load, 1),
            "megabytes": round(path.stat().st_size / 1e6, 1),
            "start_seconds": round(start, 2),
            "engine": engine,
            "requests_beyond_the_file": asked,
            "patients": patients,
        }
    write_json(results, options.out / "html_file.json")
    print(results)


if __name__ == "__main__":
    main()
