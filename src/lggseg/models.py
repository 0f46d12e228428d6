"""The registries of networks and losses."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from monai.losses import DiceFocalLoss, DiceLoss, TverskyLoss
from monai.networks.nets import UNet
from torch import Tensor, nn

from lggseg.config import Config


def _unet(config: Config) -> nn.Module:
    """U-Net with residual units (Ronneberger 2015; Kerfoot 2018), as MONAI builds it.

    It works at half the resolution on 2 × 2 pixels as channels and gives back 2 × 2 logits each
    (Shi 2016, equation 4). The layers at full resolution, which take most of the time and hold
    few of the weights, are gone; the pixels are not.
    """
    body = UNet(
        spatial_dims=2,
        in_channels=4 * config.channels,
        out_channels=config.width,
        channels=[config.width * 2**level for level in range(4)],
        strides=[2, 2, 2],
        num_res_units=2,
        norm="batch",
        act="relu",
        dropout=config.dropout,
    )
    # A head of its own: MONAI's last residual unit would be a bottleneck of as many channels as
    # there are logits.
    head = nn.Conv2d(config.width, 4, kernel_size=1)
    return nn.Sequential(nn.PixelUnshuffle(2), body, head, nn.PixelShuffle(2))


NETWORKS: dict[str, Callable[[Config], nn.Module]] = {"unet": _unet}


def build_network(config: Config) -> nn.Module:
    """The network ``config.network``: ``(slices, channels, size, size)`` → one logit a pixel.

    Its weights lie in memory channels last, which convolutions prefer on CPUs and GPUs.

    Raises ``ValueError`` when the registry has no such name.
    """
    if config.network not in NETWORKS:
        raise ValueError(f"network={config.network!r}: expected one of {sorted(NETWORKS)}")
    network = NETWORKS[config.network](config)
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


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
