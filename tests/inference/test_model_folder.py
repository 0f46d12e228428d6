"""A model folder that was cut, flipped or tampered with is one sentence wherever it is loaded."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from lggseg import cli
from lggseg.cloud import registry
from lggseg.cloud.archives import pack_model
from lggseg.config import Config, profile
from lggseg.inference.model_folder import (
    CARD,
    FILES,
    OLD_CARD,
    amend_card,
    model_files,
    read_card,
    write_card,
)
from lggseg.inference.onnx_export import export_model
from lggseg.inference.segmenter import Segmenter
from lggseg.models.networks import build_network
from lggseg.serving import endpoint
from lggseg.serving.viewer import app
from lggseg.utils.errors import DataError

MODEL = Path(__file__).resolve().parents[2] / "models" / "lgg-unet"
CONFIG = replace(profile("smoke"), width=2)
FACTS = {"data_fingerprint": "", "split_fingerprint": "", "simulated": True}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "model"
    torch.manual_seed(0)
    export_model(build_network(CONFIG), CONFIG, folder)
    write_card(CONFIG, FACTS, folder)
    return folder


@pytest.fixture
def folder(small: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small, tmp_path / "model")


def change_card(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a card, and leave out its checksums, as an earlier version or a stranger would."""
    card = json.loads((folder / "model_card.json").read_text())
    card.pop("checksums", None)
    change(card)
    (folder / "model_card.json").write_text(json.dumps(card))


def refused(folder: Path, engine: str = "onnx") -> str:
    with pytest.raises(DataError, match=r": found .*; expected ") as caught:
        Segmenter.load(folder, engine)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_card_holds_the_checksums_of_the_folder(folder: Path) -> None:
    assert set(read_card(folder)[1]["checksums"]) == set(FILES)
    amend_card(folder, {"validation": {"dice": 1}})
    assert read_card(folder)[1]["validation"] == {"dice": 1}
    assert set(read_card(MODEL)[1]["checksums"]) == set(FILES)


def as_an_earlier_version_wrote_it(folder: Path) -> None:
    card = json.loads((folder / CARD).read_text())
    card["checksums"][OLD_CARD] = card["checksums"].pop(CARD)
    (folder / OLD_CARD).write_text(json.dumps(card))
    (folder / CARD).unlink()


def test_a_folder_with_the_old_name_of_the_card_loads(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Segmenter.load(folder)
    as_an_earlier_version_wrote_it(folder)
    after = Segmenter.load(folder)
    assert after.config == before.config and after.fingerprint == before.fingerprint
    amend_card(folder, {"test": {"dice": 1}})
    assert read_card(folder)[1]["test"] == {"dice": 1} and not (folder / CARD).exists()
    assert [path.name for path in model_files(folder)] == [*FILES[:2], OLD_CARD]
    with tarfile.open(pack_model(folder, tmp_path / "model.tar.gz")) as tar:
        assert tar.getnames() == [*FILES[:2], OLD_CARD]
    monkeypatch.setenv("LGGSEG_RUNS", str(tmp_path / "runs"))
    kept = registry.resolve(f"old:{registry.register(folder, 'old')}")
    assert read_card(kept) == read_card(folder)


def test_the_checksums_of_an_old_card_are_compared(folder: Path) -> None:
    as_an_earlier_version_wrote_it(folder)
    card = json.loads((folder / OLD_CARD).read_text())
    card["config"]["threshold"] = 0.7
    (folder / OLD_CARD).write_text(json.dumps(card))
    assert f"{folder / OLD_CARD}: found the checksum" in refused(folder)


def test_predicting_imports_neither_pandas_nor_torch() -> None:
    code = (
        "import sys, lggseg.inference, lggseg.inference.segmenter, lggseg.config\n"
        "print(sorted({'pandas', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found(folder: Path, name: str) -> None:
    content, draw = (folder / name).read_bytes(), random.Random(name)
    right = read_card(folder)
    for _ in range(25):
        damaged = bytearray(content)
        damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (folder / name).write_bytes(damaged)
        try:
            assert read_card(folder) == right  # a blank of the JSON, say
        except DataError as error:
            assert str(error).startswith(f"{folder}/")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_cut_file_is_found_with_checksums_and_without(
    folder: Path, name: str, share: float
) -> None:
    for checksums in (True, False):
        if not checksums and name != "model_card.json":
            change_card(folder, lambda card: None)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])
        engine = "torch" if name.startswith("weights") else "onnx"
        assert refused(folder, engine).startswith(f"{folder / name}: found ")


CARDS: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "a threshold of text": ("threshold='0.5'", lambda c: c["config"].update(threshold="0.5")),
    "a threshold of 2": ("threshold=2", lambda c: c["config"].update(threshold=2)),
    "a size of text": ("downsample='4'", lambda c: c["config"].update(downsample="4")),
    "a truth of a number": ("test_flips=1", lambda c: c["config"].update(test_flips=1)),
    "no versions": ("no 'versions'", lambda c: c.pop("versions")),
    "no version of lggseg": ("no 'lggseg'", lambda c: c["versions"].pop("lggseg")),
    "no fingerprint": ("no 'data_fingerprint'", lambda c: c.pop("data_fingerprint")),
    "no config": ("no 'config'", lambda c: c.pop("config")),
    "another option": ("'colour'", lambda c: c["config"].update(colour=1)),
    "a config of text": ("no readable model card", lambda c: c.update(config="x")),
    "versions of text": ("versions='1'", lambda c: c.update(versions="1")),
    "checksums by another name": (
        "expected None",
        lambda c: c.update(checksum={"model.onnx": "0" * 64}),
    ),
    "checksums of text": ("expected None", lambda c: c.update(checksums="x")),
}


@pytest.mark.parametrize("name", CARDS)
def test_a_tampered_card_is_named(folder: Path, name: str) -> None:
    found, change = CARDS[name]
    change_card(folder, change)
    assert found in refused(folder)


def test_a_folder_of_an_earlier_version_still_loads(folder: Path) -> None:
    def rename(card: dict[str, Any]) -> None:
        card["config"]["smallest_part"] = card["config"].pop("min_component_fraction")

    change_card(folder, rename)
    assert Segmenter.load(folder).config == CONFIG


def test_a_graph_with_the_old_names_of_its_inputs_gives_the_same(folder: Path) -> None:
    volume = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), np.uint8)
    before = Segmenter.load(folder).predict(volume).probability
    model = onnx.load(folder / "model.onnx")
    names = {"background": "air", "scale": "contrast"}
    assert [entry.name for entry in model.graph.input] == ["image", *names]
    for entry in model.graph.input:
        entry.name = names.get(entry.name, entry.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    onnx.save(model, folder / "model.onnx")
    change_card(folder, lambda card: None)
    np.testing.assert_array_equal(Segmenter.load(folder).predict(volume).probability, before)


def test_channels_of_another_network_are_found_at_once(folder: Path) -> None:
    change_card(folder, lambda card: card["config"].update(neighbours=False))
    assert "model.onnx: found a model that cannot run" in refused(folder)
    assert "weights.safetensors: found no weights of this network" in refused(folder, "torch")


class Fake(torch.nn.Module):
    """A graph of the right inputs that gives something else."""

    def __init__(self, give: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.give = give

    def forward(self, image: torch.Tensor, background: torch.Tensor, scale: torch.Tensor) -> Any:
        return self.give((image + background[..., None, None]) / scale[..., None, None])


GRAPHS: dict[str, tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "NaN": ("numbers from nan to nan", lambda x: x[:, 0] * torch.nan),
    "one NaN": ("numbers from", lambda x: torch.where(x[:, 0] > 2.54, torch.nan, 0.5)),
    "logits": ("numbers from", lambda x: x[:, 0] * 100 - 50),
    "5 channels": ("float32 (2, 5, 256, 256) for 2 slices", torch.sigmoid),
    "half the size": ("float32 (2, 128, 256)", lambda x: x[:, 0, ::2].sigmoid()),
    "64 bits": ("float64 (2, 256, 256)", lambda x: x[:, 0].double().sigmoid()),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_that_gives_no_probability_is_refused_at_once(folder: Path, name: str) -> None:
    found, give = GRAPHS[name]
    image, rest = torch.zeros(2, 5, 256, 256, dtype=torch.uint8), torch.ones(1, 5)
    torch.onnx.export(
        Fake(give).eval(), (image, rest, rest + 1), folder / "model.onnx",
        input_names=["image", "background", "scale"], output_names=["probability"],
        dynamic_axes={"image": {0: "slices"}, "probability": {0: "slices"}}, dynamo=False,
    )  # fmt: skip
    change_card(folder, lambda card: None)
    assert f"model.onnx: found a model that gives {found}" in refused(folder)


def test_weights_of_nan_are_refused_at_once(folder: Path) -> None:
    path = folder / "weights.safetensors"
    save_file({name: value * torch.nan if value.is_floating_point() else value
               for name, value in load_file(path).items()}, path)  # fmt: skip
    change_card(folder, lambda card: None)
    assert "weights.safetensors: found a model that gives numbers" in refused(folder, "torch")


def test_whoever_loads_a_broken_model_gets_the_sentence(
    folder: Path, tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LGGSEG_RUNS", str(folder.parent / "runs"))
    content = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(content[:-1])
    out = folder.parent / "out"
    commands = [
        ["predict", folder, tree, out],
        ["predict", folder, tree, out, "--engine", "torch"],
        ["evaluate", folder, tree, "--out", out],
        ["export", folder, "--monai-bundle", out],
        ["serve", folder],
        ["view", folder],
    ]
    for command in commands:
        assert cli.main([str(part) for part in command]) == 1
        said = capsys.readouterr().err
        assert "weights.safetensors: found the checksum" in said and "Traceback" not in said
    calls: list[Callable[[], object]] = [
        lambda: registry.register(folder, "unet"),
        lambda: endpoint.build_app(folder, endpoint.Limits()),
        lambda: app.build_app(folder, None, "127.0.0.1"),
        lambda: amend_card(folder, {"test": {}}),
        lambda: Segmenter.ensemble([MODEL, folder]),
    ]
    for call in calls:
        with pytest.raises(DataError, match=r"weights.safetensors: found the checksum"):
            call()
    assert not out.exists() and not (folder.parent / "runs").exists()


def test_a_volume_on_which_the_model_fails_is_a_sentence(folder: Path) -> None:
    segmenter = Segmenter.load(folder)
    with pytest.raises(DataError, match=r"model.onnx: found a model that cannot run"):
        segmenter.run(np.zeros((1, 4, 256, 256), np.uint8), *[np.ones((1, 4), np.float32)] * 2)


def test_types_of_the_config_are_held() -> None:
    for values in ({"epochs": "5"}, {"paste": 3}, {"width": True}, {"fold": 1.0}, {"loss": 1}):
        with pytest.raises(ValueError, match="expected a value of type"):
            Config(**{**asdict(Config()), **values})
    assert Config(learning_rate=1).learning_rate == 1
