"""The code of docs/extending.md runs, and costs nothing more than the lines that it shows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lggseg import cli
from lggseg.evaluation import segmentation
from lggseg.experiments.compare import per_patient
from lggseg.inference.segmenter import Segmenter
from lggseg.models import networks
from lggseg.models.networks import build_network

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the page's code leaves, run from top to bottom in an empty folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("extending"))
        patch.setattr(networks, "NETWORKS", dict(networks.NETWORKS))
        patch.setattr(segmentation, "METRICS", dict(segmentation.METRICS))
        names: dict[str, Any] = {}
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S):
            exec(block, names)
        yield names


def test_the_new_network_trains_and_is_the_models(names: dict[str, Any]) -> None:
    network = build_network(names["config"])
    assert any(type(part).__name__ == "SegResNet" for part in network.modules())
    card = Segmenter.load(names["run"] / "model").card
    assert card["config"]["network"] == "segresnet" and card["epoch"] == 0
    assert np.isfinite(pd.read_csv(names["run"] / "metrics.csv")["train/loss"]).all()


def test_its_two_engines_agree(names: dict[str, Any]) -> None:
    volume = names["cohort"].images[:4]
    onnx, torch = (Segmenter.load(names["run"] / "model", engine) for engine in ("onnx", "torch"))
    expected = torch.predict(volume).probability
    np.testing.assert_allclose(onnx.predict(volume).probability, expected, atol=1e-3)


def test_the_command_line_takes_the_new_networks(names: dict[str, Any], tmp_path: Path) -> None:
    data, split, run = names["cohort"].root, names["run"] / "split.csv", tmp_path / "run"
    places = ["--data", str(data), "--split", str(split), "--run", str(run)]
    knobs = ["--profile", "smoke", "--epochs", "1", "--precision", "32-true", "--fold", "-1"]
    assert cli.main(["train", *places, "--network", "plain", *knobs]) == 0
    assert Segmenter.load(run / "model").config.network == "plain"


def test_the_new_metric_is_a_column_of_the_table_per_patient(names: dict[str, Any]) -> None:
    table = names["table"]
    truth, predicted = table["truth_voxels"], table["predicted_voxels"]
    assert table["volume_error"].to_numpy() == pytest.approx(
        ((predicted - truth) / truth).to_numpy()
    )
    assert per_patient(table.assign(model="one"), "volume_error").shape == (len(table), 1)


def test_a_run_with_the_metric_keeps_it_in_table_and_card(
    names: dict[str, Any], tmp_path: Path
) -> None:
    run, data = tmp_path / "evaluation", names["cohort"].root
    arguments = ["evaluate", str(names["run"] / "model"), str(data), "--out", str(run)]
    assert cli.main(arguments) == 0
    assert "volume_error" in pd.read_csv(run / "patients.csv")
    assert json.loads((run / "summary.json").read_text())["volume_error"]["n"] == 4
