"""What the report measures itself: the cohort in aggregate, and baselines without a network."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from lggseg import notebooks
from lggseg.config import profile
from lggseg.data.cohort import Cohort
from lggseg.data.splits import make_split
from report import baselines, checks
from report import cohort as facts


def test_a_copy_of_flair_is_no_evidence_against_it(cohort: Cohort) -> None:
    images = cohort.images.copy()
    images[..., 0] = images[..., 2] = images[..., 1]
    found = facts.brightest_channel(replace(cohort, images=images))
    has_tumour = int((cohort.patients["tumour_pixels"] > 0).sum())
    assert found["brightest"] == {"FLAIR": has_tumour} and found["exceptions"] == []
    assert found["with_copies"] == len(cohort.patients)


def test_a_brighter_other_channel_is_an_exception(cohort: Cohort) -> None:
    images = cohort.images.copy()
    images[..., 2][cohort.masks > 0] = 255
    images[..., 1][cohort.masks > 0] = 90
    found = facts.brightest_channel(replace(cohort, images=images))
    assert "post-contrast" in found["brightest"]
    assert len(found["exceptions"]) == found["brightest"]["post-contrast"]


def test_positions_are_shares(cohort: Cohort) -> None:
    share = pd.DataFrame(facts.position_map(cohort))
    assert share.shape == (facts.GRID, facts.GRID)
    assert share.min().min() >= 0 and 0 < share.max().max() <= 1


def test_baselines_do_not_read_the_test_patients(cohort: Cohort) -> None:
    split = make_split(cohort, test_fraction=0.25, folds=3)
    found = baselines.scores(cohort, split)
    test = split["patient"][split["subset"] == "test"]
    assert set(found["patient"]) == set(split["patient"]) - set(test) and len(test)
    assert found[["flair", "position"]].stack().between(0, 1).all()
    masks = cohort.masks.copy()
    for patient in test:
        masks[cohort.rows(patient)] = 0
    pd.testing.assert_frame_equal(baselines.scores(replace(cohort, masks=masks), split), found)


def test_a_notebook_says_with_which_recipe_it_measured() -> None:
    said = notebooks.recipe(replace(profile("full"), epochs=24, augmentation=0.0))
    assert said["differs"] == ["epochs", "augmentation"]
    assert checks.recipe(said["config"])["epochs"] == 24
