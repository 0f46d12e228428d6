"""The losses that a config can name."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from lggseg.config import Config
from lggseg.utils.lazy import NOT_FOR_MONAI, hidden

with hidden(*NOT_FOR_MONAI):
    from monai.losses import DiceFocalLoss, DiceLoss, TverskyLoss

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
