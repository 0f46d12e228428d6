from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from kills import group_lives
from scipy import ndimage

from lggseg.data import simulated_anatomy, simulation
from lggseg.utils.errors import DataError

# The header of Kaggle's data.csv.
COLUMNS = [
    "Patient",
    "RNASeqCluster",
    "MethylationCluster",
    "miRNACluster",
    "CNCluster",
    "RPPACluster",
    "OncosignCluster",
    "COCCluster",
    "histological_type",
    "neoplasm_histologic_grade",
    "tumor_tissue_site",
    "laterality",
    "tumor_location",
    "gender",
    "age_at_initial_pathologic",
    "race",
    "ethnicity",
    "death01",
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulation.make_cohort(tmp_path_factory.mktemp("one"), patients=3, progress=False)


def _patients(tree: Path) -> list[Path]:
    return sorted(path for path in tree.iterdir() if path.is_dir())


def _masks(tree: Path) -> dict[Path, np.ndarray]:
    return {path: tifffile.imread(path) for path in tree.glob("*/*_mask.tif")}


def _image(mask: Path) -> Path:
    return mask.with_name(mask.name.replace("_mask", ""))


def _plan(**changes: object) -> simulation.Plan:
    facts = {"name": "TCGA_HT_S001_19950202", "institution": "HT", "cluster": 1, "missing": ""}
    return simulation.Plan(**{**facts, "blank": False, "seed": (0, 1), **changes})


def test_layout_is_kaggles(tree: Path) -> None:
    assert tree.name == "kaggle_3m"
    assert {path.name for path in tree.iterdir() if path.is_file()} == {
        "data.csv",
        "simulated.json",
    }
    patients = _patients(tree)
    assert len(patients) == 3
    for folder in patients:
        assert re.fullmatch(r"TCGA_(CS|DU|EZ|FG|HT)_S\d{3}_\d{8}", folder.name)
        pd.to_datetime(folder.name[-8:], format="%Y%m%d")
        count = len(list(folder.iterdir())) // 2
        assert 20 <= count <= 50
        expected = {
            f"{folder.name}_{n}{end}.tif" for n in range(1, count + 1) for end in ("", "_mask")
        }
        assert {path.name for path in folder.iterdir()} == expected


def test_files_are_uncompressed_rgb_and_binary_masks(tree: Path) -> None:
    for path, mask in _masks(tree).items():
        with tifffile.TiffFile(_image(path)) as tiff:
            page = tiff.pages[0]
            assert (page.shape, page.dtype) == ((256, 256, 3), np.uint8)
            assert (page.photometric.name, page.compression.name) == ("RGB", "NONE")
        assert (mask.shape, mask.dtype) == ((256, 256), np.uint8)
        assert set(np.unique(mask)) <= {0, 255}


def test_mark_names_the_arguments(tree: Path) -> None:
    mark = json.loads((tree / "simulated.json").read_text())
    assert mark == {"patients": 3, "seed": 0, "version": simulation.VERSION}


def test_each_patient_has_tumour_and_tumour_free_slices(tree: Path) -> None:
    masks = _masks(tree)
    for folder in _patients(tree):
        tumour = [mask.any() for path, mask in masks.items() if path.parent == folder]
        assert 0 < sum(tumour) < len(tumour)


def test_a_blank_slice_exists_and_has_no_tumour(tree: Path) -> None:
    blank = [path for path in _masks(tree) if not tifffile.imread(_image(path)).any()]
    assert len(blank) == 1
    assert not tifffile.imread(blank[0]).any()


def test_clinical_table_has_kaggles_columns_and_an_empty_patient(tree: Path) -> None:
    table = pd.read_csv(tree / "data.csv")
    assert list(table) == COLUMNS
    assert list(table["Patient"]) == [path.name.rsplit("_", 1)[0] for path in _patients(tree)]
    assert table.drop(columns="Patient").isna().all(axis=1).sum() == 1


def test_clinical_table_is_nearly_full_and_keeps_the_cluster() -> None:
    plans = simulation.plan_cohort(110, 0)
    table = simulation.clinical_table(plans, 0).drop(columns="Patient")
    assert 30 <= table.isna().sum().sum() <= 90  # 56 in the real table
    clusters = pd.Series([plan.cluster for plan in plans])
    known = table["RNASeqCluster"].notna()
    assert (table["RNASeqCluster"][known] == clusters[known]).all()
    assert set(table["death01"].dropna()) == {0, 1}


def test_same_seed_gives_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    again = simulation.make_cohort(tmp_path, patients=3, progress=False)
    files = sorted(path.relative_to(tree) for path in tree.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((tree / name).read_bytes() == (again / name).read_bytes() for name in files)


def test_the_pixels_are_those_of_this_version() -> None:
    """Measured results name the simulated cohort: another one needs another ``VERSION``."""
    digest = hashlib.sha256()
    for array in simulation.make_patient(_plan()):
        digest.update(array.tobytes())
    assert simulation.VERSION == 2
    assert digest.hexdigest()[:16] == "8d165b53eba85754"


def test_the_template_is_what_nilearn_loads() -> None:
    from nilearn import datasets

    def load(name: str) -> np.ndarray:
        image = getattr(datasets, f"load_mni152_{name}")(resolution=1)
        return image.get_fdata(dtype=np.float32).transpose(2, 1, 0)[:, ::-1]

    maps, drawn = simulated_anatomy.template()
    gray, white, *_ = maps.T.reshape(5, *drawn.shape)
    assert np.array_equal(gray, load("gm_template"))
    assert np.array_equal(white, load("wm_template"))
    brain = ndimage.binary_fill_holes(load("brain_mask") > 0)
    assert np.array_equal(maps[:, :3].sum(axis=1) > 0, (brain | (gray + white > 0)).ravel())


def test_interpolation_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    coarse = rng.standard_normal((9, 12, 7), dtype=np.float32)
    zoomed = ndimage.zoom(coarse, (20 / 9, 31 / 12, 44 / 7), order=1, mode="nearest")
    assert np.allclose(
        simulated_anatomy._stretched(coarse, (20, 31, 44)), zoomed, rtol=0, atol=1e-6
    )
    maps, drawn = simulated_anatomy.template()
    place = rng.uniform(-5, 240, (3, 2, 60, 60)).astype(np.float32)
    place[:, 0, 0, 0] = np.array(drawn.shape) - 1
    found = simulated_anatomy._interpolated(place)
    for tissue, values in zip(maps.T.reshape(5, *drawn.shape), found, strict=True):
        expected = ndimage.map_coordinates(tissue, place, order=1)
        # Outside the skin nothing is drawn.
        drawn_there, expected = np.maximum(values, 0.06), np.maximum(expected, 0.06)
        assert np.allclose(drawn_there, expected, rtol=0, atol=1e-6)


def test_another_seed_gives_another_patient() -> None:
    images, mask = simulation.make_patient(_plan())
    others, other_mask = simulation.make_patient(_plan(seed=(1, 1)))
    assert images.shape != others.shape or np.any(images != others)
    assert mask.shape != other_mask.shape or np.any(mask != other_mask)


@pytest.mark.parametrize(("patients", "post", "every"), [(4, 0, 0), (24, 1, 1), (110, 4, 6)])
def test_missing_sequences_at_the_real_rate(patients: int, post: int, every: int) -> None:
    missing = simulation.missing_sequences(patients)
    assert (missing.count("post"), missing.count("all")) == (post, every)
    assert len(missing) == patients
    assert sorted(plan.missing for plan in simulation.plan_cohort(patients, 0)) == sorted(missing)


@pytest.mark.parametrize(("missing", "replaced"), [("", []), ("post", [2]), ("all", [0, 2])])
def test_missing_sequences_are_flair(missing: str, replaced: list[int]) -> None:
    images, _ = simulation.make_patient(_plan(missing=missing))
    same = [c for c in (0, 2) if np.array_equal(images[..., c], images[..., 1])]
    assert same == replaced


def test_institutions_and_blank_slices_at_the_real_rates() -> None:
    plans = simulation.plan_cohort(110, 0)
    codes = [plan.institution for plan in plans]
    assert {code: codes.count(code) for code in simulation.SCANNERS} == {
        "CS": 16, "DU": 45, "EZ": 1, "FG": 14, "HT": 34,
    }  # fmt: skip
    assert sum(plan.blank for plan in plans) == 36
    assert len({plan.name for plan in plans}) == 110


def test_flair_is_brighter_and_t1_darker_in_the_tumour() -> None:
    images, mask = simulation.make_patient(_plan())
    pre, flair = images[..., 0], images[..., 1]
    brain = (flair > 30) & ~mask
    assert np.median(flair[mask]) > 1.15 * np.median(flair[brain])
    assert np.median(pre[mask]) < np.median(pre[brain])


def test_irregularity_grows_with_the_cluster() -> None:
    rng = np.random.default_rng(0)
    means = [np.mean([simulation.irregularity(c, rng) for _ in range(200)]) for c in range(1, 5)]
    assert np.all(np.diff(means) > 0.1)


def _roundness(mask: np.ndarray) -> float:
    """Area over squared perimeter of the largest section; 1 / 4π for a circle, less otherwise."""
    section = mask[mask.sum(axis=(1, 2)).argmax()]
    perimeter = sum(np.count_nonzero(np.diff(section, axis=axis)) for axis in (0, 1))
    return float(np.count_nonzero(section)) / perimeter**2


def test_tumours_of_a_high_cluster_have_rougher_borders() -> None:
    white = np.ones((24, 192, 192), np.float32)
    empty = np.zeros_like(white)
    anatomy = simulated_anatomy.Anatomy(empty, white, empty, white, white)

    def roundness(cluster: int, seed: int) -> float:
        rng = np.random.default_rng(seed)
        mask, extent = simulated_anatomy.make_tumour(
            anatomy, simulation.irregularity(cluster, rng), rng
        )
        assert extent.shape == mask.shape and extent.min() >= 0 and extent.max() <= 1
        return _roundness(mask)

    smooth, rough = ([roundness(c, seed) for seed in range(6)] for c in (1, 4))
    assert np.mean(rough) < 0.8 * np.mean(smooth)


def test_the_same_cohort_is_kept(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "_write_tree", None)
    assert simulation.make_cohort(tree.parent, patients=3, progress=False) == tree


def test_another_simulated_cohort_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(tree: Path, facts: dict[str, int], progress: bool) -> None:
        tree.mkdir()
        (tree / "simulated.json").write_text(json.dumps(facts))

    monkeypatch.setattr(simulation, "_write_tree", write)
    root = simulation.make_cohort(tmp_path, patients=3)
    (root / "old").touch()
    assert simulation.make_cohort(tmp_path, patients=4) == root
    assert [path.name for path in root.iterdir()] == ["simulated.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["kaggle_3m"]


def test_the_cohort_of_another_process_that_was_first_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(tree: Path, facts: dict[str, int], progress: bool) -> None:
        for place in (tree, tmp_path / "kaggle_3m"):
            place.mkdir()
            (place / "simulated.json").write_text(json.dumps(facts))
        (tmp_path / "kaggle_3m" / "first").touch()

    monkeypatch.setattr(simulation, "_write_tree", write)
    root = simulation.make_cohort(tmp_path, patients=3)
    assert (root / "first").exists()
    assert list(tmp_path.iterdir()) == [root]


def test_a_foreign_tree_is_refused_and_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "kaggle_3m" / "TCGA_CS_4941_19960909"
    foreign.mkdir(parents=True)
    with pytest.raises(DataError, match=r"kaggle_3m: found a tree that was not simulated.*Give"):
        simulation.make_cohort(tmp_path, patients=3)
    assert foreign.is_dir()


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tree: Path, facts: dict[str, int], progress: bool) -> None:
        tree.mkdir()
        raise OSError("disk full")

    monkeypatch.setattr(simulation, "_write_tree", fail)
    with pytest.raises(OSError, match="disk full"):
        simulation.make_cohort(tmp_path, patients=3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("patients", [0, 1000])
def test_number_of_patients_is_checked(tmp_path: Path, patients: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 999"):
        simulation.make_cohort(tmp_path, patients=patients)


@pytest.mark.slow
def test_workers_end_with_a_simulation_that_is_killed(tmp_path: Path) -> None:
    code = "import sys; from lggseg.data.simulation import make_cohort; make_cohort(sys.argv[1])"
    command = [sys.executable, "-c", code, str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        pytest.skip("the kernel does not tell a process's children")
    deadline = time.monotonic() + 60
    while len(children.read_text().split()) < simulation.WORKERS and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    try:
        while group_lives(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not group_lives(process.pid), "its workers outlived it"
    finally:
        if group_lives(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
