from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from test_train import CONFIG

from lggseg import compare
from lggseg.config import NETWORK_KNOBS, for_network
from lggseg.data import Cohort, load_cohort
from lggseg.models import NETWORKS, build_network, describe
from lggseg.splits import make_split


@pytest.fixture(scope="module")
def cohort(shared_tree: Path) -> Cohort:
    return load_cohort(shared_tree, progress=False)


@pytest.fixture(scope="module")
def split(cohort: Cohort) -> pd.DataFrame:
    return make_split(cohort, folds=2)


CONFIGS = {
    "unet": replace(CONFIG, epochs=2),
    "wide": replace(CONFIG, epochs=2, width=6),
}


@pytest.fixture(scope="module")
def compared(cohort: Cohort, split: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("compared")
    compare.compare(CONFIGS, cohort, split, run, progress=False)
    return run


def test_each_model_scores_each_patient_once_and_no_test_patient(
    compared: Path, split: pd.DataFrame
) -> None:
    table = pd.read_csv(compared / "patients.csv")
    others = sorted(split["patient"][split["role"] != "test"])
    assert len(others) < len(split)
    for name in CONFIGS:
        assert sorted(table.loc[table["model"] == name, "patient"]) == others
    wide = compare.per_patient(table)
    assert list(wide.columns) == list(CONFIGS) and wide.notna().all(axis=None)
    folds = table.drop_duplicates(["patient", "fold"])
    assert len(folds) == len(others), "the same folds for all"


def test_comparison_goes_on_where_it_was(
    compared: Path, cohort: Cohort, split: pd.DataFrame
) -> None:
    before = {path: path.stat().st_mtime_ns for path in compared.glob("*/fold-*/metrics.csv")}
    compare.compare(CONFIGS, cohort, split, compared, resume=True, progress=False)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_costs_and_equal_time(compared: Path) -> None:
    costs = compare.costs(CONFIGS, compared)
    assert costs.loc["wide", "parameters"] > costs.loc["unet", "parameters"]
    assert (costs[["multiply_adds", "training_seconds", "mib"]] > 0).all(axis=None)
    metrics = compared / "wide" / "fold-0" / "metrics.csv"
    for path in compared.glob("*/fold-*/metrics.csv"):
        table = pd.read_csv(path)
        table["seconds"] = 3.0 if "wide" in str(path) else 6.0
        table.to_csv(path, index=False)
    assert metrics.exists() and compare.training_seconds(compared / "wide") == 6.0
    fair = compare.with_time_of(CONFIGS["wide"], compared / "wide", compared / "unet")
    assert fair.epochs == 4


def test_another_seed_is_no_fair_comparison(
    cohort: Cohort, split: pd.DataFrame, tmp_path: Path
) -> None:
    configs = {"one": CONFIG, "other": replace(CONFIG, seed=1)}
    with pytest.raises(ValueError, match="different seeds"):
        compare.compare(configs, cohort, split, tmp_path, progress=False)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_each_network_has_defaults_that_build(name: str) -> None:
    assert set(NETWORK_KNOBS) == set(NETWORKS)
    config = for_network(name, replace(CONFIG, width=12))
    network = build_network(config)
    facts = describe(config)
    assert facts["parameters"] == sum(p.numel() for p in network.parameters())
    assert facts["multiply_adds"] > facts["parameters"] / 100


def test_multiply_adds_grow_with_the_pixels() -> None:
    small, large = (describe(replace(CONFIG, width=4, downsample=d)) for d in (4, 2))
    assert large["multiply_adds"] == 4 * small["multiply_adds"]
