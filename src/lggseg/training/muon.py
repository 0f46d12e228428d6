"""Muon for the weights of convolutions and linear layers, AdamW for everything else, as one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Smaller matrices (the head's) are AdamW's.
SMALLEST_MATRIX = 16
MOMENTUM = 0.95
# The polynomial a x + b x³ + c x⁵ of each Newton-Schulz iteration: the first three of You Jiacheng
# (2025). After 40 epochs of folds 0 and 1 with two seeds the mean Dice was 0.839, as with the five
# of torch's Muon; with the first three of those it was 0.834 (report/results/gpu.json).
Iterations = Sequence[tuple[float, float, float]]
ITERATIONS: Iterations = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
)


def as_matrix(weight: Tensor, transposed: bool = False) -> Tensor:
    """A weight as a matrix of outputs × everything else, or of everything else × outputs where it
    is a transposed convolution's; a view of a convolution that lies in memory channels last."""
    if weight.ndim == 4:
        weight = weight.permute(0, 2, 3, 1)
    return weight.flatten(0, -2) if transposed else weight.flatten(1)


def is_matrix(weight: Tensor) -> bool:
    """Whether Muon trains this weight."""
    return weight.ndim in (2, 4) and min(as_matrix(weight).shape) >= SMALLEST_MATRIX


def orthogonalise(matrices: Sequence[Tensor], iterations: Iterations = ITERATIONS) -> list[Tensor]:
    """The nearest matrix with singular values of about 1, of each matrix: Newton-Schulz iterations
    on the small square G = X Xᵀ alone, since every iterate of X is a polynomial of G times X.

    Matrices of one shape are one batched product, and so are all squares of one size. In 32 bits
    everywhere: a processor without 16-bit instructions takes 10 to 40 times as long for 16 bits,
    and the squares would not bear their rounding.
    """
    shapes, squares = defaultdict(list), defaultdict(list)
    for index, matrix in enumerate(matrices):
        shapes[tuple(matrix.shape)].append(index)
    for shape in shapes:
        squares[min(shape)].append(shape)
    result: list[Tensor] = [matrices[0]] * len(matrices)
    for same_size in squares.values():
        stacks = [_stack([matrices[index] for index in shapes[shape]]) for shape in same_size]
        gram = torch.cat([stack @ stack.mT for stack in stacks])
        factors = _inverse_root(gram, iterations).split([len(stack) for stack in stacks])
        for shape, stack, factor in zip(same_size, stacks, factors, strict=True):
            wide = factor @ stack
            for index, matrix in zip(shapes[shape], wide, strict=True):
                result[index] = matrix if shape[0] <= shape[1] else matrix.mT
    return result


def _stack(matrices: list[Tensor]) -> Tensor:
    """Matrices of one shape as ``(matrices, short side, long side)``, each of Frobenius norm 1."""
    stack = torch.stack([m if m.shape[0] <= m.shape[1] else m.mT for m in matrices]).float()
    return stack / stack.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)


def _inverse_root(gram: Tensor, iterations: Iterations) -> Tensor:
    """The symmetric factor that makes X orthogonal, from ``gram`` = X Xᵀ, ``(matrices, n, n)``."""
    factor = _quintic(gram, *iterations[0])
    last = factor
    for coefficients in iterations[1:]:
        gram = last @ (last @ gram)  # that of the new iterate; all of these commute
        last = _quintic(gram, *coefficients)
        factor = last @ factor
    return factor


def _quintic(gram: Tensor, a: float, b: float, c: float) -> Tensor:
    """``a I + b G + c G²``."""
    value = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    value.diagonal(dim1=1, dim2=2).add_(a)
    return value


class MuonAdamW(torch.optim.Optimizer):
    """Muon (Jordan 2024) makes each update of a weight matrix orthogonal, so that no direction of
    it learns slower than another. Its update is scaled to the size of AdamW's (Liu 2025, equation
    4), so that both share a rate.

    The last parameter group is AdamW's; the one before is Muon's, where there are such weights and
    ``muon`` asks for it. Nothing in :meth:`update` reads a value
    back from the device, so a CUDA graph can hold it. Raises ``ValueError`` when a convolution's
    weight does not lie in memory channels last.
    """

    def __init__(
        self, network: nn.Module, learning_rate: float, weight_decay: float, muon: bool = True
    ) -> None:
        transposed = {
            id(layer.weight) for layer in network.modules() if isinstance(layer, nn.ConvTranspose2d)
        }
        parameters = list(network.parameters())
        self._weights = [weight for weight in parameters if muon and is_matrix(weight)]
        others = [weight for weight in parameters if not (muon and is_matrix(weight))]
        self._transposed = [id(weight) in transposed for weight in self._weights]
        self._views = list(map(as_matrix, [w.detach() for w in self._weights], self._transposed))
        for view, weight in zip(self._views, self._weights, strict=True):
            if view.data_ptr() != weight.data_ptr():
                raise ValueError(f"weight {tuple(weight.shape)}: expected channels last in memory")
        device = others[0].device
        # On the device, where a CUDA graph reads it.
        self._rate = torch.full((), learning_rate, device=device)
        fused = device.type in ("cpu", "cuda")
        self._kind: dict[str, Any] = {"fused": fused, "capturable": device.type == "cuda"}
        self._adamw = torch.optim.AdamW(
            others,
            lr=self._rate if fused else learning_rate,
            weight_decay=weight_decay,
            **self._kind,
        )
        # Its first steps run outside the graph on purpose; the name has no public form.
        self._adamw._warned_capturable_if_run_uncaptured = True
        groups = [{"params": group} for group in (self._weights, others) if group]
        super().__init__(groups, {"lr": learning_rate, "weight_decay": weight_decay})
        for weight, view in zip(self._weights, self._views, strict=True):
            self.state[weight]["momentum"] = torch.zeros_like(view)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.set_rate(self.param_groups[0]["lr"])
        self.update()
        return loss

    def set_rate(self, rate: float) -> None:
        """The rate of the next :meth:`update`, told to the device."""
        for group in self.param_groups:
            group["lr"] = rate
        self._rate.fill_(rate)
        if not isinstance(self._adamw.param_groups[0]["lr"], Tensor):
            self._adamw.param_groups[0]["lr"] = rate

    @torch.no_grad()
    def update(self) -> None:
        """Change the weights by their gradients, at the rate that :meth:`set_rate` told."""
        self._adamw.step()
        used = [index for index, weight in enumerate(self._weights) if weight.grad is not None]
        if not used:
            return
        views = [self._views[index] for index in used]
        gradients = [as_matrix(self._weights[i].grad, self._transposed[i]) for i in used]  # type: ignore[arg-type]
        momenta = [self.state[self._weights[index]]["momentum"] for index in used]
        # What torch's own optimisers call; these have no public names.
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        updates = orthogonalise(torch._foreach_lerp(gradients, momenta, MOMENTUM))
        torch._foreach_mul_(updates, [0.2 * max(view.shape) ** 0.5 for view in views])
        torch._foreach_mul_(updates, -self._rate)
        torch._foreach_mul_(views, 1 - self._rate * self.param_groups[0]["weight_decay"])
        torch._foreach_add_(views, updates)

    def state_dict(self) -> dict[str, Any]:
        """AdamW's state beside Muon's, so that a resumed run goes on exactly."""
        return {**super().state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what :meth:`state_dict` gave."""
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        self._adamw.load_state_dict(state_dict["adamw"])
        for group in self._adamw.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"] = self._rate
            group.update(self._kind)  # the run may have begun on another device
