"""The graph of a prediction, and its export with the weights into a model folder."""

from __future__ import annotations

import io
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

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
    """The graph as an ONNX file.

    By torch's exporter that traces (``dynamo=False``). The one that torch has made the default
    needs 3 s for a U-Net and 13 s for Swin UNETR, 20 times as long, and gives the same probability.
    """
    import torch

    graph = inference_graph(network, config)
    image = torch.zeros(2, config.channels, SIZE, SIZE, dtype=torch.uint8)
    background, scale = torch.zeros(1, config.channels), torch.ones(1, config.channels)
    model = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            (image, background, scale),
            model,
            input_names=["image", "background", "scale"],
            output_names=["probability"],
            dynamic_axes={"image": {0: "slices"}, "probability": {0: "slices"}},
            dynamo=False,
        )
    return model.getvalue()
