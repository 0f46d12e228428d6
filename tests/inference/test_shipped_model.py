"""The committed model works at once, and says what it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from lggseg import cli
from lggseg.data.cohort import load_cohort
from lggseg.inference.segmenter import Segmenter
from lggseg.utils.errors import DataError

MODELS = Path(__file__).resolve().parents[2] / "models"
MODEL = MODELS / "lgg-unet"
each = pytest.mark.parametrize("model", sorted(MODELS.iterdir()), ids=lambda path: path.name)


def test_there_are_two() -> None:
    networks = {path.name: Segmenter.load(path).config.network for path in MODELS.iterdir()}
    assert networks == {"lgg-unet": "unet", "lgg-best": "attention_unet"}


@each
def test_its_card_tells_how_good_it_is_and_on_what(model: Path) -> None:
    card = Segmenter.load(model).card
    assert not card["simulated"] and card["config"]["fold"] == -1
    assert card["cross_validation"]["dice"]["n"] == 70
    # It trained on all 87 patients, so the test score is that of its recipe without them.
    assert card["recipe_test"]["dice"]["n"] == 17 and "test" not in card
    assert card["quality"]["n"] == 70 and card["quality"]["slope"] > 0
    assert len(card["data_fingerprint"]) == len(card["split_fingerprint"]) == 32


@each
def test_it_is_small(model: Path) -> None:
    assert (model / "model.onnx").stat().st_size < 8_000_000
    assert sum(path.stat().st_size for path in model.iterdir()) < 2.1 * 8_000_000


@each
def test_it_names_no_folder_of_the_machine_that_made_it(model: Path) -> None:
    content = (model / "model.onnx").read_bytes()
    assert b"site-packages" not in content and b"src/lggseg" not in content


@each
def test_its_two_engines_agree(model: Path, shared_tree: Path) -> None:
    cohort = load_cohort(shared_tree, progress=False)
    volume = cohort.image(cohort.patients.index[0])
    onnx, torch_ = (Segmenter.load(model, engine).predict(volume) for engine in ("onnx", "torch"))
    np.testing.assert_allclose(onnx.probability, torch_.probability, atol=1e-4)


@each
def test_it_segments_real_patients(model: Path, real_tree: Path, tmp_path: Path) -> None:
    """Nearly all of them trained it: this shows that it works here, not how good it is."""
    assert cli.main(["predict", str(model), str(real_tree), str(tmp_path)]) == 0
    assert pd.read_csv(tmp_path / "predictions.csv")["dice"].median() > 0.8


@each
def test_the_readme_leads_to_its_numbers_and_names_its_licence(model: Path) -> None:
    text = (model / "README.md").read_text()
    assert "(../../MODEL_CARD.md)" in text and "CC BY-NC-SA 4.0" in text


@each
@pytest.mark.parametrize("name", ["model.onnx", "weights.safetensors", "model_card.json"])
def test_it_is_whole(name: str, model: Path) -> None:
    assert (model / name).is_file()


def test_onnx_runtime_reports_to_nobody(tmp_path: Path) -> None:
    """Its official builds keep a device's number and a queue of events in the user's cache."""
    code = f"from lggseg.inference.segmenter import Segmenter; Segmenter.load({str(MODEL)!r})"
    unset = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "LGGSEG_CACHE")
    environment = {name: text for name, text in os.environ.items() if name not in unset}
    environment["HOME"] = str(tmp_path)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert not list(tmp_path.rglob("*onnxruntime*"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A copy of the model."""
    return Path(shutil.copytree(MODEL, tmp_path / "model"))


@pytest.mark.parametrize("share", [0.0, 0.5, None])
@pytest.mark.parametrize("command", ["predict", "export"])
def test_broken_weights_are_named(
    share: float | None, command: str, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, out = own / "weights.safetensors", tmp_path / "out"
    content = weights.read_bytes()
    if share is None:  # those of another network
        save_file({"other": torch.zeros(3)}, weights)
    else:
        weights.write_bytes(content[: int(share * len(content))])
    arguments = {
        "predict": ["predict", str(own), str(tmp_path), str(out), "--engine", "torch"],
        "export": ["export", str(own), "--monai-bundle", str(out)],
    }
    assert cli.main(arguments[command]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"lggseg: {weights}: found ") and said.count("\n") == 1
    assert "Copy the model folder again" in said and not out.exists()


@pytest.mark.parametrize("fact", ["versions", "data_fingerprint", "split_fingerprint", "simulated"])
@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_a_model_card_without_a_fact_is_named(fact: str, engine: str, own: Path) -> None:
    card = json.loads((own / "model_card.json").read_text())
    del card[fact]
    (own / "model_card.json").write_text(json.dumps(card))
    with pytest.raises(
        DataError, match=f"model_card.json: found no readable model card .no '{fact}'"
    ):
        Segmenter.load(own, engine)


def test_a_threshold_in_quotes_is_named(own: Path) -> None:
    card = json.loads((own / "model_card.json").read_text())
    card["config"]["threshold"] = "0.5"
    (own / "model_card.json").write_text(json.dumps(card))
    with pytest.raises(
        DataError, match=r"model_card.json: .*threshold='0.5': expected a value of type"
    ):
        Segmenter.load(own)
