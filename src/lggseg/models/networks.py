"""The registries of networks and losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from monai.losses import DiceFocalLoss, DiceLoss, TverskyLoss
from monai.networks.nets import AttentionUnet, SwinUNETR, UNet
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lggseg.config import Config

Body = tuple[type[nn.Module], dict[str, Any]]


def _levels(config: Config) -> dict[str, Any]:
    channels = [config.width * 2**level for level in range(4)]
    return {"channels": channels, "strides": [2, 2, 2], "dropout": config.dropout}


def _unet(config: Config) -> Body:
    """U-Net with residual units (Ronneberger 2015; Kerfoot 2018), as MONAI builds it."""
    return UNet, {**_levels(config), "num_res_units": 2, "norm": "batch", "act": "relu"}


def _attention_unet(config: Config) -> Body:
    """Attention U-Net (Oktay 2018), as MONAI builds it."""
    return AttentionUnet, _levels(config)


def _swin_unetr(config: Config) -> Body:
    """Swin UNETR (Hatamizadeh 2022), a vision transformer with shifted windows, in 2-D, as MONAI
    builds it: its width is a multiple of 12, the largest up to ``config.width`` (12 at least)."""
    width = max(config.width // 12 * 12, 12)
    options = {"window_size": 8, "norm_name": "batch", "drop_rate": config.dropout}
    return SwinUNETR, {"feature_size": width, "out_channels": width, **options}


# A line a network: its name, and what makes its body of a config (docs/extending.md).
NETWORKS: dict[str, Callable[[Config], Body]] = {
    "unet": _unet,
    "attention_unet": _attention_unet,
    "swin_unetr": _swin_unetr,
}


def network_body(config: Config) -> Body:
    """What ``config.network`` is made of: a class, one of MONAI's, and its options, plain values
    that fit into JSON; ``out_channels`` among them.

    Raises ``ValueError`` when the registry has no such name.
    """
    if config.network not in NETWORKS:
        raise ValueError(f"network={config.network!r}: expected one of {sorted(NETWORKS)}")
    body, options = NETWORKS[config.network](config)
    channels = {"in_channels": 4 * config.channels, "out_channels": config.width}
    return body, {"spatial_dims": 2, **channels, **options}


def build_network(config: Config) -> nn.Module:
    """The network ``config.network``: ``(slices, channels, size, size)`` → one logit a pixel.

    It works at half the resolution: 2 × 2 pixels are channels, and so are their logits (Shi 2016,
    equation 4). The layers at full resolution, which take most of the time and hold few of the
    weights, are gone; the pixels are not. The head is one of its own, since the body's last layer
    would be a bottleneck of as many channels as logits. The weights lie in memory channels last,
    which convolutions prefer on CPUs and GPUs.

    Raises ``ValueError`` when the registry has no such name.
    """
    body, options = network_body(config)
    head = nn.Conv2d(options["out_channels"], 4, kernel_size=1)
    network = nn.Sequential(nn.PixelUnshuffle(2), body(**options), head, nn.PixelShuffle(2))
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


def describe(config: Config) -> dict[str, float]:
    """The network's parameters, its multiply_adds for one slice at ``config.size``, and
    activation_mib: what a training step of ``config.batch_size`` slices keeps for the way back, in
    MiB of 32-bit numbers.

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


# The Dice terms pool the whole batch, so tumour-free slices count without a smoothing constant
# deciding what an empty slice is worth.
_batch_dice = DiceLoss(sigmoid=True, batch=True)
_dice_focal = DiceFocalLoss(sigmoid=True, batch=True)


def _dice_bce(logits: Tensor, mask: Tensor) -> Tensor:
    return _batch_dice(logits, mask) + F.binary_cross_entropy_with_logits(logits, mask)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dice_bce": _dice_bce,
    "dice_focal": _dice_focal,
    "dice": _batch_dice,
    "tversky": TverskyLoss(sigmoid=True, alpha=0.3, beta=0.7, batch=True),
}


def build_loss(config: Config) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss ``config.loss``: logits and mask ``(slices, 1, size, size)`` → a scalar.

    Raises ``ValueError`` when the registry has no such name.
    """
    if config.loss not in LOSSES:
        raise ValueError(f"loss={config.loss!r}: expected one of {sorted(LOSSES)}")
    return LOSSES[config.loss]
