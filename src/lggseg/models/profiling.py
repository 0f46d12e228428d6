"""What a network is made of, and what it costs: stages, parameters, arithmetic, memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lggseg.config import Config
from lggseg.models.networks import build_network

REORDERED = "2 × 2 pixels become channels"
PATCHES, ATTENTION = "patches of 2 × 2", "windowed attention"
# The kinds of stages that are a transformer's.
TRANSFORMER = (PATCHES, ATTENTION)
# What counts as one step of a network: the classes of MONAI's blocks, and our reordering of pixels.
_BLOCKS = {
    "PixelUnshuffle": REORDERED,
    "ResidualUnit": "convolutions",
    "ConvBlock": "convolutions",
    "AttentionLayer": "convolutions, attention gate",
    "PatchEmbed": PATCHES,
    "BasicLayer": ATTENTION,
    "UnetrUpBlock": "convolutions",
    "PixelShuffle": "channels become pixels",
}


@dataclass(frozen=True)
class Stage:
    """A step of a network: what it does, and the shape of what it gives."""

    kind: str
    channels: int
    size: int


def stages(config: Config) -> list[Stage]:
    """The steps of the network ``config.network`` in their order, by running it on one slice."""
    network = build_network(config).eval()
    found = [Stage("input", config.channels, config.size)]

    def keep(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        kind = _BLOCKS[type(module).__name__]
        found.append(Stage(kind, output.shape[1], output.shape[2]))

    for module in network.modules():
        if type(module).__name__ in _BLOCKS:
            module.register_forward_hook(keep)
    with torch.inference_mode():
        network(torch.zeros(1, config.channels, config.size, config.size))
    return found


def joined(steps: list[Stage]) -> list[tuple[int, int]]:
    """Where features are copied over and joined: the places in ``steps`` of a step on the way down
    and of the one on the way up. A Swin UNETR copies the reordered pixels, too."""
    bottom = min(range(len(steps)), key=lambda i: (steps[i].size, -steps[i].channels))
    all_steps = any(step.kind == PATCHES for step in steps)
    down = {steps[i].size: i for i in range(1, bottom) if all_steps or steps[i].kind != REORDERED}
    # From the end, so that the first step of a size stays.
    up = {steps[i].size: i for i in range(len(steps) - 2, bottom, -1)}
    return sorted((i, up[size]) for size, i in down.items() if size in up)


def describe(config: Config) -> dict[str, float]:
    """The network's parameters, its multiply_adds for one slice at ``config.size``, and
    activation_mib: what a training step of ``config.batch_size`` slices keeps for the way back, in
    MiB of 32-bit numbers.

    >>> from lggseg.models import NETWORKS
    >>> facts = {name: describe(Config(network=name, downsample=4)) for name in NETWORKS}
    >>> min(facts, key=lambda name: facts[name]["multiply_adds"])
    'unet'
    """
    network = build_network(config).eval()
    image = torch.zeros(1, config.channels, config.size, config.size)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(image)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    # The counter takes a multiplication and an addition for two operations.
    adds = counter.get_total_flops() // 2
    activations = config.batch_size * (_saved_mib(config, 3) - _saved_mib(config, 2))
    return {"parameters": parameters, "multiply_adds": adds, "activation_mib": activations}


def _saved_mib(config: Config, slices: int) -> float:
    """MiB of the tensors that autograd keeps of a forward pass, each storage counted once."""
    network = build_network(config)
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.zeros(slices, config.channels, config.size, config.size))
    return sum(storage.nbytes() for storage in storages.values()) / 2**20
