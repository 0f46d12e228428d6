"""The committed model works at once, and says what it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lggseg import cli
from lggseg.data import load_cohort
from lggseg.predict import Segmenter

MODEL = Path(__file__).resolve().parents[1] / "models" / "lgg-unet"


def test_its_card_tells_how_good_it_is_and_on_what() -> None:
    card = Segmenter.load(MODEL).card
    assert not card["simulated"] and card["config"]["fold"] == -1
    assert card["cross_validation"]["dice"]["n"] == 70
    assert card["test"]["dice"]["n"] == 17
    assert len(card["data_fingerprint"]) == len(card["split_fingerprint"]) == 32


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 32 * 2**20


def test_it_names_no_folder_of_the_machine_that_made_it() -> None:
    content = (MODEL / "model.onnx").read_bytes()
    assert b"site-packages" not in content and b"src/lggseg" not in content


def test_its_two_engines_agree(shared_tree: Path) -> None:
    cohort = load_cohort(shared_tree, progress=False)
    volume = cohort.image(cohort.patients.index[0])
    onnx, torch_ = (Segmenter.load(MODEL, engine).predict(volume) for engine in ("onnx", "torch"))
    np.testing.assert_allclose(onnx.probability, torch_.probability, atol=1e-4)


def test_it_segments_real_patients(real_tree: Path, tmp_path: Path) -> None:
    """Nearly all of them trained it: this shows that it works here, not how good it is."""
    assert cli.main(["predict", str(MODEL), str(real_tree), str(tmp_path)]) == 0
    assert pd.read_csv(tmp_path / "predictions.csv")["dice"].median() > 0.8


def test_the_readme_leads_to_its_numbers_and_names_its_licence() -> None:
    text = (MODEL / "README.md").read_text()
    assert "(../../MODEL_CARD.md)" in text and "CC BY-NC-SA 4.0" in text


@pytest.mark.parametrize("name", ["model.onnx", "weights.safetensors", "config.json"])
def test_it_is_whole(name: str) -> None:
    assert (MODEL / name).is_file()


def test_onnx_runtime_reports_to_nobody(tmp_path: Path) -> None:
    """Its official builds keep a device's number and a queue of events in the user's cache."""
    code = f"from lggseg.predict import Segmenter; Segmenter.load({str(MODEL)!r})"
    unset = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "LGGSEG_CACHE")
    environment = {name: text for name, text in os.environ.items() if name not in unset}
    environment["HOME"] = str(tmp_path)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert not list(tmp_path.rglob("*onnxruntime*"))
