"""The exported graph gives what the network gives, for any number of slices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lggseg.config import profile
from lggseg.inference.engines import onnx_engine
from lggseg.inference.onnx_export import export_model, inference_graph
from lggseg.models.networks import NETWORKS, build_network
from lggseg.preprocessing.volume import SIZE


@pytest.mark.parametrize("test_flips", [True, False])
@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_each_network_gives_the_same_in_both_engines(
    network: str, test_flips: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = replace(profile("smoke"), network=network, downsample=4, test_flips=test_flips)
    built = build_network(config).eval()
    export_model(built, config, tmp_path)
    run, graph = onnx_engine(tmp_path, config), inference_graph(built, config)
    draw = np.random.default_rng(0)
    for slices in (1, 2, 7):  # exported with two
        image = draw.integers(0, 256, (slices, config.channels, SIZE, SIZE), np.uint8)
        background = draw.uniform(0, 20, (1, config.channels)).astype(np.float32)
        scale = draw.uniform(50, 150, (1, config.channels)).astype(np.float32)
        with torch.inference_mode():
            expected = graph(*map(torch.from_numpy, (image, background, scale))).numpy()
        assert expected.std() > 0
        np.testing.assert_allclose(run(image, background, scale), expected, atol=1e-5)


def test_the_file_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    config = replace(profile("smoke"), width=2)
    export_model(build_network(config), config, tmp_path)
    content = (tmp_path / "model.onnx").read_bytes()
    assert b".py" not in content and str(Path.home()).encode() not in content
