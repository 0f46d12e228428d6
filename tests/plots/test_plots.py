from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from lggseg import plots
from lggseg.config import Config
from lggseg.data import exploration
from lggseg.data.cohort import Cohort
from lggseg.data.splits import make_split
from lggseg.evaluation import shape
from lggseg.evaluation.calibration import entropy
from lggseg.evaluation.statistics import associations, compare_paired, rank_shares
from lggseg.models.networks import NETWORKS
from lggseg.notebooks import runs_of, save_results
from lggseg.plots.architectures import stages
from lggseg.preprocessing.volume import CHANNELS
from lggseg.utils.errors import DataError


def figures(cohort: Cohort) -> list[Figure]:
    patients = list(cohort.patients.index)
    table = pd.DataFrame({"patient": patients, "dice": np.linspace(0.2, 0.9, len(patients))})
    epochs = {"epoch": [0, 1], "train/loss": [1.0, 0.5], "val/loss": [1.0, 0.6]}
    metrics = pd.DataFrame(
        {**epochs, "val/dice_raw": [0.1, 0.7], "val/dice_raw_median": [0.2, 0.8]}
    )
    summary = {"mean": 0.6, "low": 0.4, "high": 0.7}
    masks = {patient: cohort.mask(patient) for patient in patients[:3]}
    pictures = np.random.default_rng(0).random((4, 32, 32))
    return [
        plots.channels(cohort, patients[0]),
        plots.outlines(cohort, patients[:3]),
        plots.montage(cohort, patients[0]),
        plots.position_map(cohort),
        plots.sizes(cohort),
        plots.grouped(
            cohort,
            exploration.tissue_level(cohort),
            cohort.patients["institution"],
            "grey level",
            "Levels",
        ),
        plots.contrast_in_mask(cohort, exploration.contrast_in_mask(cohort)),
        plots.split_balance(cohort, make_split(cohort)),
        *leak_figures(cohort),
        *idea_figures(cohort),
        plots.curves(cohort, metrics),
        plots.dice_per_patient(cohort, table, summary),
        plots.cases(cohort, masks, table),
        plots.augmented(cohort, pictures, pictures > 0.5),
        *search_figures(cohort),
        *comparison_figures(cohort),
        *shape_figures(cohort),
    ]


def search_figures(cohort: Cohort) -> list[Figure]:
    trials = pd.DataFrame({"number": range(5), "state": ["complete"] * 4 + ["pruned"]})
    trials = trials.assign(dice=np.linspace(0.5, 0.8, 5), rate=[1e-3, 1e-2, 2e-3, 5e-3, 1e-3])
    trials["paste"] = [True, False, True, True, False]
    knobs = {"rate": True, "paste": False}
    elsewhere = pd.DataFrame(
        {"fold": [1, 1, 2], "start": [0.5, 0.6, 0.7], "found": [0.6, 0.6, 0.8]}
    )
    return [
        plots.search_history(cohort, trials, pd.Series({"rate": 0.7, "paste": 0.3})),
        plots.search_slices(cohort, trials, knobs),
        plots.search_paths(cohort, trials, knobs),
        plots.gain(cohort, compare_paired(elsewhere["found"], elsewhere["start"]), 0.05, elsewhere),
    ]


def leak_figures(cohort: Cohort) -> list[Figure]:
    dice = pd.DataFrame({"random slices": [0.5, 0.9], "by patient": [0.4, np.nan]})
    summary = {name: {"mean": v.mean(), "interval": (0.2, 0.9)} for name, v in dice.items()}
    return [plots.leak(cohort, summary), plots.leak(cohort, summary, dice)]


def idea_figures(cohort: Cohort) -> list[Figure]:
    names = list(cohort.patients.index)
    truth = cohort.mask(names[0])[2]
    table = pd.DataFrame({"truth_voxels": [10, 900], "dice": [0.2, 0.9], "patient": names[:2]})
    rows = {"mean": [0.8, 0.7], "low": [0.7, 0.6], "high": [0.9, 0.8], "seconds": [9.0, np.nan]}
    return [
        plots.overlap(cohort, truth, np.roll(truth, 3, axis=1)),
        plots.neighbours(cohort, names[0], names[1]),
        plots.alike(cohort, exploration.slice_likeness(cohort)),
        plots.batch_times(cohort, {"slow": 10.0, "fast": 100.0}),
        plots.losses(cohort, [2.0, 1.0]),
        plots.one_slice(cohort, names[0], 1),
        plots.dice_by_volume(cohort, {"one": table, "two": table}),
        plots.candidates(cohort, pd.DataFrame(rows, index=["unet", "attention_unet"])),
    ]


def comparison_figures(cohort: Cohort) -> list[Figure]:
    dice = pd.DataFrame(np.random.default_rng(0).uniform(0.5, 1, (9, 2)), columns=["one", "two"])
    volumes = {"truth_voxels": [900, 4000, 20000], "predicted_voxels": [1200, 3800, 24000]}
    table = pd.DataFrame({**volumes, "dice": [0.5, 0.9, 0.8], "expected_dice": [0.6, 0.9, 0.9]})
    patient = cohort.patients.index[0]
    probability = cohort.mask(patient) * np.float32(0.7)
    return [
        plots.leaderboard(cohort, dice, {"human readers": 0.84}),
        plots.rank_stability(cohort, rank_shares(dice)),
        plots.bland_altman(cohort, table),
        plots.expected_against_true(cohort, table),
        plots.disagreement(cohort, dice),
        plots.reliability(cohort, {"one": np.array([[9, 1, 2], [0, 0, 0], [4, 3.5, 3]])}),
        plots.uncertainty(cohort, patient, cohort.mask(patient), entropy(probability)),
    ]


def shape_figures(cohort: Cohort) -> list[Figure]:
    patients = list(cohort.patients.index)
    true = pd.DataFrame({p: shape.shape_features(cohort.mask(p)) for p in patients}).T
    found = true.iloc[:5] * 1.1
    clusters = pd.DataFrame({"Cluster": [1, 1, 2, 2, 3, 3, None, 1]}, index=patients)
    clusters["Nothing"] = np.nan
    masks = {"true": true, "predicted": found}
    tests = {name: associations(table, clusters.loc[table.index]) for name, table in masks.items()}
    return [
        plots.margins(cohort, patients[:2]),
        plots.shape_agreement(cohort, true.loc[found.index], found, shape.PAPER),
        plots.shape_agreement(cohort, true.iloc[:1], true.iloc[:1], shape.PAPER),
        plots.features_by_group(cohort, masks, clusters["Cluster"], shape.PAPER),
        plots.associations(cohort, tests),
    ]


@pytest.mark.parametrize("simulated", [True, False])
def test_every_figure_says_when_it_is_simulated(cohort: Cohort, simulated: bool) -> None:
    for figure in figures(replace(cohort, simulated=simulated)):
        assert ("(simulated)" in figure.get_suptitle()) == simulated
        figure.canvas.draw()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_drawing_of_a_network_has_its_real_shapes(name: str) -> None:
    config = Config(network=name, downsample=4, width=16)
    steps = stages(config)
    assert (steps[0].channels, steps[0].size) == (config.channels, config.size)
    assert (steps[-1].channels, steps[-1].size) == (1, config.size)
    assert (steps[1].channels, steps[1].size) == (4 * config.channels, config.size // 2)
    drawn = plots.network(config)
    drawn.canvas.draw()
    texts = [text.get_text() for text in drawn.axes[0].texts]
    assert [text for text in texts if text.isdigit()] == [str(step.channels) for step in steps]
    assert ("gate" in texts) == (name == "attention_unet")


def test_results_of_real_patients_are_drawn_by_the_same_functions() -> None:
    drawn = plots.split_balance(plots.REAL, plots.real_split())
    assert "(real patients)" in drawn.get_suptitle()
    candidates = plots.real_candidates()
    assert candidates["ships"].sum() == 2 and candidates["mean"].between(0, 1).all()
    assert (candidates["epochs"] > 0).all()
    assert set(plots.failures().index) <= set(plots.real_split()["patient"])


def test_names_of_the_worst_patients_stand_apart() -> None:
    tables = {name: plots.real_table(name) for name in ("cross_validation", "test")}
    drawn = plots.dice_by_volume(plots.REAL, tables)
    drawn.canvas.draw()
    boxes = [Text.get_window_extent(text) for text in drawn.axes[0].texts]  # without the line
    assert len(boxes) == 5
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_a_result_that_is_missing_says_what_to_do() -> None:
    with pytest.raises(DataError, match=r"no_such.json.*git clone"):
        plots.real_results("no_such")


def test_a_copy_of_flair_counts_as_flair() -> None:
    rows = {"pre-contrast": [9.0, 1.0, 1.0], "FLAIR": [9.0, 5.0, 2.0]}
    contrast = pd.DataFrame({**rows, "post-contrast": [9.0, 1.0, 3.0]}, index=list("abc"))
    found = exploration.brightest_channel(contrast)
    assert found.tolist() == ["FLAIR", "FLAIR", "post-contrast"]


@pytest.mark.parametrize("simulated", [True, False])
def test_every_table_says_when_it_is_simulated(cohort: Cohort, simulated: bool) -> None:
    html = plots.table(replace(cohort, simulated=simulated), cohort.patients, "Patients").to_html()
    assert ("Patients (simulated)" in html) == simulated


def test_whole_numbers_have_no_decimals(cohort: Cohort) -> None:
    frame = pd.DataFrame({"unet": {"parameters": 1642852, "dice": 0.5}, "other": {"dice": 1}}).T
    html = plots.table(cohort, frame, "Costs").to_html()
    for text in ("1,642,852", "0.500", "–"):
        assert f">{text}<" in html


def test_the_mask_is_brightest_in_flair(cohort: Cohort) -> None:
    contrast = exploration.contrast_in_mask(cohort)
    assert list(contrast) == list(CHANNELS)
    # conftest draws the tumour 90 grey levels brighter in FLAIR, and not at all elsewhere.
    assert contrast["FLAIR"].between(85, 95).all()
    assert contrast[["pre-contrast", "post-contrast"]].abs().max().max() < 2


def test_tissue_level(cohort: Cohort) -> None:
    assert exploration.tissue_level(cohort).between(80, 92).all()


def test_results_of_simulated_and_real_patients_are_kept_separate(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LGGSEG_RUNS", str(tmp_path))
    folder = runs_of(cohort)
    assert folder.parent == tmp_path and folder.name == f"kaggle_3m-{cohort.fingerprint[:8]}"
    others = [replace(cohort, fingerprint="0" * 32), replace(cohort, root=Path("/data/My MRI"))]
    names = {runs_of(other).name for other in others}
    assert names == {"kaggle_3m-00000000", f"My-MRI-{cohort.fingerprint[:8]}"}
    path = save_results(replace(cohort, simulated=True), "some", {"dice": 0.5})
    assert path == tmp_path / "simulated" / "results" / "some.json"
    assert '"dice": 0.5' in path.read_text() and cohort.fingerprint in path.read_text()


def test_a_sixth_model_is_drawn_too_and_by_a_look_of_its_own(cohort: Cohort) -> None:
    models = [f"model {number}" for number in range(7)]
    dice = pd.DataFrame(np.random.default_rng(0).uniform(0.5, 1, (4, 7)), columns=models)
    axes = plots.disagreement(cohort, dice).axes[0]
    dots = [part for part in axes.collections if part.get_label() in models]
    looks = {
        (tuple(part.get_facecolor()[0]), part.get_paths()[0].vertices.tobytes()) for part in dots
    }
    assert len(dots) == len(looks) == 7
