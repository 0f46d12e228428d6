"""A model folder's network in ONNX Runtime or in torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from lggseg.config import Config
from lggseg.inference.model_folder import Engine, checked
from lggseg.inference.onnx_export import inference_graph
from lggseg.utils.errors import DataError
from lggseg.utils.threads import threads

if TYPE_CHECKING:
    import onnxruntime


_AGAIN = "Copy the model folder again."


def onnx_engine(folder: Path, config: Config) -> Engine:
    """The graph of a model folder in ONNX Runtime. Raises ``DataError``."""
    # Its official builds report to Microsoft unless told not to before they are imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    path = folder / "model.onnx"
    try:
        session = onnxruntime.InferenceSession(
            path,
            sess_options=_session_options(),
            providers=onnxruntime.get_available_providers(),
        )
    except Exception as error:  # onnxruntime's exceptions share no base class of its own
        found = f"what ONNX Runtime cannot read ({error})"
        raise DataError(path, found, "an ONNX model", _AGAIN) from error

    # By position: version 0.1 called the second and third `air` and `contrast`.
    names = [entry.name for entry in session.get_inputs()]

    def run(image: np.ndarray, background: np.ndarray, scale: np.ndarray) -> np.ndarray:
        feed = dict(zip(names, (image, background, scale), strict=True))
        return cast(np.ndarray, session.run(["probability"], feed)[0])

    return checked(path, run, config)


def _session_options() -> onnxruntime.SessionOptions:
    """As many threads as this process may use, which sleep while they wait."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def torch_engine(folder: Path, config: Config) -> Engine:
    """The same built from a model folder's weights in torch, on the GPU where there is one."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from lggseg.models.networks import build_network

    path, network = folder / "weights.safetensors", build_network(config)
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        found = f"no weights of this network ({' '.join(str(error).split())[:300]})"
        raise DataError(path, found, f"those of {config.network}", _AGAIN) from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    graph = inference_graph(network, config).to(device)

    def run(image: np.ndarray, background: np.ndarray, scale: np.ndarray) -> np.ndarray:
        # A GPU would round the inputs of 32-bit convolutions to 19 bits.
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            inputs = (torch.from_numpy(array).to(device) for array in (image, background, scale))
            return cast(np.ndarray, graph(*inputs).cpu().numpy())

    return checked(path, run, config)
