"""The combined optimiser is Muon on matrices and AdamW on the rest, and can be stored."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lggseg.config import Config
from lggseg.models import build_network
from lggseg.optim import MuonAdamW, as_matrix, is_matrix

CONFIG = Config(width=8, downsample=4)


def gradients(network: nn.Module, seed: int) -> None:
    """Random ones."""
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)


def steps(network: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        gradients(network, seed)
        optimizer.step()


def _spread(weight: torch.Tensor) -> float:
    """Largest singular value ÷ smallest, of the weight as a matrix."""
    values = torch.linalg.svdvals(as_matrix(weight))
    return float(values.max() / values.min())


def test_every_weight_moves() -> None:
    network = build_network(CONFIG)
    before = copy.deepcopy(list(network.parameters()))
    steps(network, MuonAdamW(network, 1e-2, 0.0), range(1))
    assert all(
        not torch.equal(new, old) for new, old in zip(network.parameters(), before, strict=True)
    )


def test_it_is_torchs_muon_on_a_linear_layer() -> None:
    ours, theirs = nn.Linear(32, 16, bias=True), nn.Linear(32, 16, bias=True)
    theirs.load_state_dict(ours.state_dict())
    muon = torch.optim.Muon([theirs.weight], 1e-2, 0.1, adjust_lr_fn="match_rms_adamw")
    optimizer = MuonAdamW(ours, 1e-2, 0.1)
    steps(ours, optimizer, range(3))
    steps(theirs, muon, range(3))
    torch.testing.assert_close(ours.weight, theirs.weight)


def test_the_update_of_a_convolution_is_orthogonal() -> None:
    network = nn.Conv2d(16, 32, 3).to(memory_format=torch.channels_last)
    optimizer = MuonAdamW(network, 1e-2, 0.0)
    gradients(network, 0)
    # One direction a hundred times as steep as another.
    network.weight.grad *= torch.logspace(0, -2, 32)[:, None, None, None]
    assert _spread(network.weight.grad) > 50
    before = network.weight.detach().clone()
    optimizer.step()
    assert _spread(network.weight.detach() - before) < 4  # Newton-Schulz gives 0.5 to 1.5


def test_only_the_head_and_vectors_are_adamws() -> None:
    network = build_network(Config())
    others = {name for name, weight in network.named_parameters() if not is_matrix(weight)}
    vectors = {name for name, weight in network.named_parameters() if weight.ndim == 1}
    assert vectors and others == vectors | {"2.weight"}


def test_a_restored_state_goes_on_alike() -> None:
    one = build_network(CONFIG)
    optimizer = MuonAdamW(one, 1e-2, 0.1)
    steps(one, optimizer, range(2))
    other = copy.deepcopy(one)
    state = copy.deepcopy(optimizer.state_dict())
    restored = MuonAdamW(other, 1.0, 0.1)
    restored.load_state_dict(state)
    steps(one, optimizer, range(2, 4))
    steps(other, restored, range(2, 4))
    for left, right in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(left, right)


def test_other_memory_formats_are_refused() -> None:
    with pytest.raises(ValueError, match="channels last"):
        MuonAdamW(nn.Conv2d(16, 32, 3), 1e-2, 0.0)


def test_without_a_large_matrix_it_is_adamw() -> None:
    network = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 4, 1))
    alone = copy.deepcopy(network)
    steps(network, MuonAdamW(network, 1e-2, 0.1), range(3))
    steps(alone, torch.optim.AdamW(alone.parameters(), lr=1e-2, weight_decay=0.1), range(3))
    for ours, theirs in zip(network.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
