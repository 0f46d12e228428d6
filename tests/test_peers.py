"""The pipelines that training is raced against: what they see, and what they are scored on."""

from __future__ import annotations

import numpy as np
import peers
import pytest
import torch

from lggseg.data.cohort import Cohort
from lggseg.data.splits import make_split, slice_subsets

CPU = torch.device("cpu")


@pytest.mark.parametrize("peer", peers.SIZES)
def test_a_peer_sees_whole_heads_with_their_masks(cohort: Cohort, peer: str) -> None:
    rows = cohort.slices["tumour_pixels"].nlargest(4).index.to_numpy()
    batch = next(iter(peers.loader(peer, cohort, rows, 0, CPU, training=False)))
    size = peers.SIZES[peer]
    assert batch["image"].shape == (4, 3, size, size)
    shown = 224 if size == 224 else 256  # pixels of the slice along an edge: a crop, or all
    for row, mask in zip(batch["row"], batch["mask"], strict=True):
        share = np.count_nonzero(cohort.masks[int(row)]) / shown**2
        assert float(mask.mean()) == pytest.approx(share, rel=0.1)


@pytest.mark.parametrize("peer", peers.SIZES)
def test_a_true_mask_scores_one(cohort: Cohort, peer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.flatnonzero(cohort.slices["patient"] == cohort.patients.index[0])
    batches = list(peers.loader(peer, cohort, rows, 0, CPU, training=False))
    trainer = peers.Trainer(CPU)
    answers = iter([20 * batch["mask"].float() - 10 for batch in batches])
    monkeypatch.setattr(trainer, "network", _Answers(answers))
    assert trainer.patient_dice(cohort, batches)[0] > (0.999 if peers.SIZES[peer] > 128 else 0.93)


class _Answers(torch.nn.Module):
    """A network that gives what it was told to."""

    def __init__(self, answers: object) -> None:
        super().__init__()
        self.answers = answers

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = next(self.answers)  # type: ignore[call-overload]
        return found


@pytest.mark.slow
def test_the_tuned_peer_ends_after_its_epochs_at_a_rate_of_zero(cohort: Cohort) -> None:
    subsets = slice_subsets(cohort, make_split(cohort, folds=2), 0)
    scores = list(peers.scores("monai-tuned", cohort, subsets, 0, CPU, 20, epochs=2))
    assert len(scores) == 2 and all(0 <= dice <= 1 for dice, _ in scores)
    trainer = peers.Trainer(CPU, steps=3)
    first = trainer.schedule.get_last_lr()[0]
    for _ in range(3):
        trainer.optimizer.step()
        trainer.schedule.step()
    assert trainer.schedule.get_last_lr()[0] < first < peers.PEAK_RATE
