"""Muon for the weights of convolutions and linear layers, AdamW for everything else, as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# Smaller matrices (the head's) are AdamW's.
SMALLEST_MATRIX = 16


def as_matrix(weight: Tensor) -> Tensor:
    """A weight as a matrix ``(first dimension, everything else)``; of a convolution that lies in
    memory channels last it is a view."""
    return (weight.permute(0, 2, 3, 1) if weight.ndim == 4 else weight).flatten(1)


def is_matrix(weight: Tensor) -> bool:
    """Whether Muon trains this weight."""
    return weight.ndim in (2, 4) and min(as_matrix(weight).shape) >= SMALLEST_MATRIX


class MuonAdamW(torch.optim.Optimizer):
    """Muon (Jordan 2024) makes each update of a weight matrix orthogonal, so that no direction of
    it learns slower than another; torch's Muon takes matrices only, so it gets views.

    Its update is scaled to the size of AdamW's (Liu 2025, equation 4), so that both share a rate.
    The last parameter group is AdamW's; the one before is Muon's, where there are such weights. A
    schedule sets their ``lr`` here. Raises ``ValueError`` when a convolution's weight does not lie
    in memory channels last.
    """

    def __init__(self, network: nn.Module, learning_rate: float, weight_decay: float) -> None:
        weights = [weight for weight in network.parameters() if is_matrix(weight)]
        others = [weight for weight in network.parameters() if not is_matrix(weight)]
        self._views = [as_matrix(weight.detach()) for weight in weights]
        for view, weight in zip(self._views, weights, strict=True):
            if view.data_ptr() != weight.data_ptr():
                raise ValueError(f"weight {tuple(weight.shape)}: expected channels last in memory")
        rates: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
        adamw = torch.optim.AdamW(others, fused=others[0].device.type in ("cpu", "cuda"), **rates)
        muon: tuple[torch.optim.Optimizer, ...] = ()
        if weights:  # a small network may have none for Muon
            muon = (torch.optim.Muon(self._views, adjust_lr_fn="match_rms_adamw", **rates),)
        self._weights, self._parts = weights, (*muon, adamw)
        groups = [{"params": group} for group in (weights, others) if group]
        super().__init__(groups, rates)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for view, weight in zip(self._views, self._weights, strict=True):
            view.grad = None if weight.grad is None else as_matrix(weight.grad)
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.param_groups[0]["lr"] = group["lr"]
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The two states beside the groups, so that a resumed run goes on exactly."""
        return {**super().state_dict(), "parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what :meth:`state_dict` gave."""
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
