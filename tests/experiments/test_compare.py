from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from trainings import CONFIG

from lggseg.data.cohort import Cohort
from lggseg.data.splits import make_split
from lggseg.experiments import compare
from lggseg.experiments.search_space import SEARCH_SPACE
from lggseg.inference.model_folder import read_card, write_card
from lggseg.inference.onnx_export import export_model
from lggseg.inference.segmenter import Segmenter
from lggseg.models.networks import NETWORKS, build_network
from lggseg.models.profiling import describe, joined, stages


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
    others = sorted(split["patient"][split["subset"] != "test"])
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
    assert (costs[["multiply_adds", "training_seconds", "model_mib", "inference_ms"]] > 0).all(
        axis=None
    )
    metrics = compared / "wide" / "fold-0" / "metrics.csv"
    for path in compared.glob("*/fold-*/metrics.csv"):
        table = pd.read_csv(path)
        table["seconds"] = 3.0 if "wide" in str(path) else 6.0
        table.to_csv(path, index=False)
    assert metrics.exists() and compare.training_seconds(compared / "wide") == 6.0
    long = {name: replace(config, epochs=8) for name, config in CONFIGS.items()}
    fair = compare.in_time_of("wide", long, compared)
    assert {name: config.epochs for name, config in fair.items()} == {"unet, equal time": 4}
    one_epoch = {name: replace(config, epochs=1) for name, config in CONFIGS.items()}
    assert compare.in_time_of("wide", one_epoch, compared) == {}


def test_another_seed_is_no_fair_comparison(
    cohort: Cohort, split: pd.DataFrame, tmp_path: Path
) -> None:
    configs = {"one": CONFIG, "other": replace(CONFIG, seed=1)}
    with pytest.raises(ValueError, match="different seeds"):
        compare.compare(configs, cohort, split, tmp_path, progress=False)


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("width", SEARCH_SPACE["width"].values)
def test_each_network_builds_at_each_width_of_the_search(name: str, width: int) -> None:
    config = replace(CONFIG, network=name, width=width)
    network = build_network(config)
    facts = describe(config)
    assert facts["parameters"] == sum(p.numel() for p in network.parameters())
    assert facts["multiply_adds"] > facts["parameters"] / 100


def test_an_unknown_network_is_found_before_the_others_train(
    cohort: Cohort, split: pd.DataFrame, tmp_path: Path
) -> None:
    configs = {"unet": CONFIG, "vgg": replace(CONFIG, network="vgg")}
    with pytest.raises(ValueError, match="network='vgg': expected one of"):
        compare.compare(configs, cohort, split, tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_multiply_adds_grow_with_the_pixels() -> None:
    small, large = (describe(replace(CONFIG, width=4, downsample=d)) for d in (4, 2))
    assert large["multiply_adds"] == 4 * small["multiply_adds"]
    assert large["activation_mib"] == pytest.approx(4 * small["activation_mib"], rel=0.05)


@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_joined_at_one_resolution_on_the_way_up(name: str) -> None:
    steps = stages(replace(CONFIG, network=name, width=12, downsample=2))
    pairs = joined(steps)
    assert len(pairs) >= 2
    for first, last in pairs:
        assert first < last and steps[first].size == steps[last].size
        assert ("gate" in steps[last].kind) == (name == "attention_unet")


def test_out_of_fold_predictions_are_those_that_were_scored(
    compared: Path, cohort: Cohort, split: pd.DataFrame
) -> None:
    table = pd.read_csv(compared / "unet" / "patients.csv").set_index("patient")
    found = dict(compare.out_of_fold(compared / "unet", cohort, split))
    assert sorted(found) == sorted(table.index)
    for patient, prediction in found.items():
        assert int(prediction.mask.sum()) == table.loc[patient, "predicted_voxels"]


def test_only_the_final_table_scores_test_patients_by_the_mean_of_the_folds(
    compared: Path, cohort: Cohort, split: pd.DataFrame
) -> None:
    table = compare.score_test(list(CONFIGS), cohort, split, compared)
    test = sorted(split["patient"][split["subset"] == "test"])
    assert sorted(table["patient"]) == sorted(test * 2)
    folders = sorted((compared / "unet").glob("fold-*/model"))
    volume = cohort.image(test[0])
    each = [Segmenter.load(folder).predict(volume).probability for folder in folders]
    mean = Segmenter.ensemble(folders).predict(volume).probability
    assert len(each) == 2 and mean == pytest.approx(np.mean(each, axis=0), abs=1e-6)


def test_ensembles_need_the_same_channels(
    compared: Path, cohort: Cohort, split: pd.DataFrame, tmp_path: Path
) -> None:
    folder = compared / "unet" / "fold-0" / "model"
    config, _ = read_card(folder)
    other = replace(config, neighbours=not config.neighbours)
    export_model(build_network(other), other, tmp_path / "model")
    facts = {"data_fingerprint": "", "split_fingerprint": "", "simulated": True}
    write_card(other, facts, tmp_path / "model")
    with pytest.raises(ValueError, match=r"found models of \[5, 3\] channels"):
        Segmenter.ensemble([folder, tmp_path / "model"])


def test_test_patients_are_segmented_by_the_mean_of_the_folds(
    compared: Path, cohort: Cohort, split: pd.DataFrame
) -> None:
    found = dict(compare.ensemble_on_test(compared / "unet", cohort, split))
    assert sorted(found) == sorted(split["patient"][split["subset"] == "test"])
    segmenter = Segmenter.ensemble(sorted((compared / "unet").glob("fold-*/model")))
    for patient, prediction in found.items():
        assert np.array_equal(prediction.mask, segmenter.predict(cohort.image(patient)).mask)


def test_a_model_of_another_split_may_have_seen_the_patients(
    compared: Path, cohort: Cohort
) -> None:
    other = make_split(cohort, seed=1, folds=2)
    for predictions in (compare.out_of_fold, compare.ensemble_on_test):
        with pytest.raises(ValueError, match="found a model of another split"):
            next(predictions(compared / "unet", cohort, other))


def test_without_trained_folds_the_message_says_what_to_run(
    cohort: Cohort, split: pd.DataFrame, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"found no trained fold.*05_compare_models"):
        next(compare.out_of_fold(tmp_path / "unet", cohort, split))
