"""The combined optimiser is Muon on matrices and AdamW on the rest, and can be stored."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lggseg.config import Config
from lggseg.models.networks import build_network
from lggseg.training import muon as optim
from lggseg.training.muon import MuonAdamW, as_matrix, is_matrix

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


TORCHS = ((3.4445, -4.7750, 2.0315),) * 5


def plain(matrix: torch.Tensor, iterations: optim.Iterations) -> torch.Tensor:
    """Newton-Schulz as Jordan writes it, in 64 bits."""
    x = matrix.double() / matrix.double().norm()
    for a, b, c in iterations:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


@pytest.mark.parametrize("iterations", [TORCHS, optim.ITERATIONS])
def test_the_small_squares_give_what_the_plain_iteration_gives(
    iterations: optim.Iterations,
) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(32, 180), (32, 180), (64, 32), (64, 64), (32, 288), (16, 400)]
    matrices = [torch.randn(shape, generator=generator) for shape in shapes]
    matrices[4][16:] = matrices[4][:16] + 1e-3 * matrices[4][16:]  # nearly of half the rank
    for matrix, found in zip(matrices, optim.orthogonalise(matrices, iterations), strict=True):
        expected = plain(matrix, iterations)
        assert found.dtype == torch.float32
        assert float((found - expected).norm() / expected.norm()) < 2e-4


def test_it_is_torchs_muon_within_its_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim.orthogonalise, "__defaults__", (TORCHS,))
    ours, theirs = nn.Linear(32, 16, bias=True), nn.Linear(32, 16, bias=True)
    theirs.load_state_dict(ours.state_dict())
    start = ours.weight.detach().clone()
    muon = torch.optim.Muon([theirs.weight], 1e-2, 0.1, adjust_lr_fn="match_rms_adamw")
    steps(ours, MuonAdamW(ours, 1e-2, 0.1), range(3))
    steps(theirs, muon, range(3))
    moved = (theirs.weight - start).norm()
    assert (ours.weight - theirs.weight).norm() < 0.02 * moved


def test_a_transposed_convolution_is_a_matrix_of_its_outputs() -> None:
    weight = torch.arange(2 * 3 * 4.0).reshape(2, 3, 2, 2).to(memory_format=torch.channels_last)
    matrix = as_matrix(weight, transposed=True)
    assert matrix.shape == (8, 3) and matrix.data_ptr() == weight.data_ptr()
    assert matrix[:, 1].sum() == weight[:, 1].sum()


def test_the_rate_of_the_groups_is_the_rate_of_both() -> None:
    network = build_network(CONFIG)
    before = copy.deepcopy(list(network.parameters()))
    optimizer = MuonAdamW(network, 1e-2, 0.1)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    steps(network, optimizer, range(1))
    assert all(map(torch.equal, network.parameters(), before))


def test_the_update_of_a_convolution_is_orthogonal() -> None:
    network = nn.Conv2d(16, 32, 3).to(memory_format=torch.channels_last)
    optimizer = MuonAdamW(network, 1e-2, 0.0)
    gradients(network, 0)
    # One direction a hundred times as steep as another.
    network.weight.grad *= torch.logspace(0, -2, 32)[:, None, None, None]
    assert _spread(network.weight.grad) > 50
    before = network.weight.detach().clone()
    optimizer.step()
    assert _spread(network.weight.detach() - before) < 6  # of 0.25 to 1.25


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


@pytest.mark.parametrize("name", ["fused", "capturable"])
def test_a_state_of_another_device_goes_on_as_this_one_needs(name: str) -> None:
    """A CUDA graph needs AdamW of another kind than a processor."""
    network = build_network(CONFIG)
    optimizer = MuonAdamW(network, 1e-2, 0.1)
    steps(network, optimizer, range(1))
    state, (group,) = copy.deepcopy(optimizer.state_dict()), optimizer._adamw.param_groups
    wanted = group[name]
    state["adamw"]["param_groups"][0][name] = not wanted
    optimizer.load_state_dict(state)
    (group,) = optimizer._adamw.param_groups
    assert group[name] is wanted
    steps(network, optimizer, range(1, 2))


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
