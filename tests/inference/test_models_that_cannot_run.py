"""Models that load but cannot run: the endpoint and the viewer say so before they listen."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fastapi.testclient import TestClient
from onnx import TensorProto, helper, numpy_helper

from lggseg.data.codecs import NPY, npy_bytes
from lggseg.inference.segmenter import Segmenter
from lggseg.serving import endpoint as serve
from lggseg.serving.server import Limits
from lggseg.serving.viewer import app
from lggseg.utils.errors import DataError

MODEL = Path(__file__).resolve().parents[2] / "models" / "lgg-unet"
CHANNELS = Segmenter.load(MODEL).config.channels


def write_model(folder: Path, graph: onnx.GraphProto) -> Path:
    """A model folder whose graph is this one, and the rest as it was."""
    shutil.copytree(MODEL, folder)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    card = json.loads((folder / "model_card.json").read_text())
    card.pop("checksums", None)
    (folder / "model_card.json").write_text(json.dumps(card))
    return folder


def graph_of(
    slices: str | int = "slices", channels: int = CHANNELS, out: int = 1, wrong: float | None = None
) -> onnx.GraphProto:
    """A graph that gives the least of so many channels, or ``wrong`` where all of them are 255, as
    in no image that a model is tried on."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [slices, channels, 256, 256])
    rows = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels])
        for name in ("air", "contrast")
    ]
    result = helper.make_tensor_value_info("probability", TensorProto.FLOAT, None)
    constants = {"axis": np.array([1]), "scale": np.float32(1000), "top": np.float32(0.254)}
    constants |= {"wrong": np.float32(np.nan if wrong is None else wrong)}
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "scale"], ["small"]),
        helper.make_node("ReduceMin", ["small", "axis"], ["mean"], keepdims=int(out > 1)),
    ]
    if out > 1:
        nodes.append(helper.make_node("Concat", ["mean"] * out, ["probability"], axis=1))
    else:
        nodes.append(helper.make_node("Greater", ["mean", "top"], ["bright"]))
        nodes.append(helper.make_node("Where", ["bright", "wrong", "mean"], ["probability"]))
    initial = [
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    ]
    return helper.make_graph(nodes, "model", [image, *rows], [result], initial)


BROKEN: dict[str, dict[str, Any]] = {
    "another number of channels": {"channels": 2},
    "a fixed number of slices": {"slices": 2},
    "five outputs": {"out": 5},
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("build", [serve.build_app, app.build_app])
def test_a_model_that_cannot_run_is_told_at_the_start(
    name: str, build: Any, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "model", graph_of(**BROKEN[name]))
    arguments = (Limits(),) if build is serve.build_app else (None, "127.0.0.1")
    with pytest.raises(DataError, match=r"model\.onnx: found a model that (cannot run|gives)"):
        build(folder, *arguments)


def test_the_command_ends_with_a_sentence(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", graph_of(out=5))
    for command in ("serve", "view"):
        line = [sys.executable, "-m", "lggseg.cli", command, str(folder), "--port", "1"]
        found = subprocess.run(line, capture_output=True, text=True, timeout=60)
        assert found.returncode == 1 and "Traceback" not in found.stderr
        assert "model.onnx: found a model that gives float32 (2, 5, 256, 256)" in found.stderr


@pytest.mark.parametrize("wrong", [None, float("inf"), -1.0, 7.0])
def test_a_volume_without_probabilities_is_refused_and_the_next_is_answered(
    wrong: float | None, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "model", graph_of(wrong=wrong))
    endpoint = TestClient(serve.build_app(folder, Limits()), raise_server_exceptions=False)
    volume = np.full((2, 256, 256, 3), 255, np.uint8)
    for accept in ("application/json", NPY, "image/tiff", "image/png"):
        headers = {"Content-Type": NPY, "Accept": accept}
        answer = endpoint.post("/invocations", content=npy_bytes(volume), headers=headers)
        assert answer.status_code == 422 and "the model gives none" in answer.json()["error"]
    headers = {"Content-Type": NPY, "Accept": NPY}
    answer = endpoint.post("/invocations", content=npy_bytes(volume // 3), headers=headers)
    assert answer.status_code == 200 and not np.load(BytesIO(answer.content)).any()
    assert endpoint.get("/ping").status_code == 200


@pytest.mark.parametrize(
    "change",
    [{"versions": None}, {"versions": "text"}, {"versions": []}, {"data_fingerprint": None}],
)
def test_a_card_without_what_an_answer_names(change: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    card = json.loads((folder / "model_card.json").read_text()) | change
    card = {name: value for name, value in card.items() if value is not None}
    (folder / "model_card.json").write_text(json.dumps(card))
    with pytest.raises(DataError, match=r"model_card\.json: found .*expected"):
        serve.build_app(folder, Limits())
