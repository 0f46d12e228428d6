"""The graph of a prediction, and its export with the weights into a model folder."""

from __future__ import annotations

import logging
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from lggseg.config import Config
from lggseg.preprocessing.volume import SIZE
from lggseg.utils.files import replace_file

if TYPE_CHECKING:
    import torch


def inference_graph(network: torch.nn.Module, config: Config) -> torch.nn.Module:
    """All pixel arithmetic of a prediction as one module.

    image: uint8 ``(slices, channels, 256, 256)``; background, scale: float32 ``(1, channels)`` →
    probability float32 ``(slices, 256, 256)``.
    """
    import torch

    from lggseg.preprocessing import transforms

    class InferenceGraph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(
            self, image: torch.Tensor, background: torch.Tensor, scale: torch.Tensor
        ) -> torch.Tensor:
            small = transforms.shrink(image, config.downsample)
            small = transforms.normalise(small, background, scale)
            if config.test_flips:
                # One pass for both: the exported graph holds the network once.
                both = self.network(torch.cat([small, small.flip(-1)])).unflatten(0, (2, -1))
                logits = (both[0] + both[1].flip(-1)) / 2
            else:
                logits = self.network(small)
            return transforms.enlarge(logits, config.downsample).sigmoid()[:, 0]

    return InferenceGraph().eval()


def export_model(network: torch.nn.Module, config: Config, folder: Path) -> None:
    """Write the weights and the graph of a model folder, which
    :func:`lggseg.inference.model_folder.write_card` completes."""
    from safetensors.torch import save

    network = network.cpu().eval()
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    # Written by Python, whose errors say that a disk is full.
    contents = {"weights.safetensors": save(weights), "model.onnx": _onnx(network, config)}
    for name, content in contents.items():
        replace_file(folder / name, partial(Path.write_bytes, data=content))


def _onnx(network: torch.nn.Module, config: Config) -> bytes:
    import torch

    # The exporter warns of operations of packages that are not installed, which none here uses.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    graph = inference_graph(network, config)
    image = torch.zeros(2, config.channels, SIZE, SIZE, dtype=torch.uint8)
    # Two tensors: the exporter would merge one that is given twice into a single input.
    background, scale = torch.zeros(1, config.channels), torch.ones(1, config.channels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            (image, background, scale),
            input_names=["image", "background", "scale"],
            output_names=["probability"],
            dynamic_shapes=({0: torch.export.Dim("slices")}, None, None),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    # The exporter's stack traces name this machine's folders.
    for node in model.graph.node:
        node.ClearField("metadata_props")
    return cast(bytes, model.SerializeToString())
