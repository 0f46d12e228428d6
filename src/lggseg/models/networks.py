"""The networks that a config can name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lggseg.config import Config
from lggseg.utils.lazy import NOT_FOR_MONAI, hidden

with hidden(*NOT_FOR_MONAI):
    from monai.networks.nets import AttentionUnet, SwinUNETR, UNet

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
