"""What a network costs: parameters, arithmetic, memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lggseg.config import Config
from lggseg.models.networks import build_network


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
