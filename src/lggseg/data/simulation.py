"""A simulated cohort in the exact Kaggle layout: runs everything without the real data.

Anatomy is the MNI ICBM152 tissue maps that nilearn ships (Fonov et al. 2011, NeuroImage 54),
deformed for each patient; contrasts, tumours, scanners and clinical data are invented. It shows
that the software works, and nothing about glioma.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
from scipy import ndimage

from lggseg.data.simulated_anatomy import (
    Anatomy,
    contrasts,
    deformed,
    make_tumour,
    smooth_noise,
    template,
)
from lggseg.utils.errors import DataError
from lggseg.utils.files import working_folder, writing
from lggseg.utils.paths import project_root
from lggseg.utils.progress import progress_bar
from lggseg.utils.threads import usable_cpus

VERSION = 2
# Two processes need about 1 GiB together; more would not fit a small machine.
WORKERS = 2
# Shares of the real cohort's 110 patients; each blank slice is a patient's last one.
POST_MISSING, ALL_MISSING, BLANK = 4 / 110, 6 / 110, 36 / 110
# Columns of data.csv and how many levels each has; an age is in years.
CLINICAL = {
    "RNASeqCluster": 4,
    "MethylationCluster": 5,
    "miRNACluster": 4,
    "CNCluster": 3,
    "RPPACluster": 4,
    "OncosignCluster": 3,
    "COCCluster": 3,
    "histological_type": 3,
    "neoplasm_histologic_grade": 2,
    "tumor_tissue_site": 1,
    "laterality": 3,
    "tumor_location": 6,
    "gender": 2,
    "age_at_initial_pathologic": 0,
    "race": 3,
    "ethnicity": 2,
    "death01": 2,
}
EMPTY_CELLS = 0.021


@dataclass(frozen=True)
class Scanner:
    """How the images of one institution differ from another's."""

    patients: int  # of 110, as in the real cohort
    slices: int  # typical number
    pixel: float  # millimetres in MNI space
    level: float  # grey value of the brain, of 255
    bias: float  # deviation of the logarithm of the bias field
    noise: float  # of the brain's grey value


SCANNERS = {
    "CS": Scanner(patients=16, slices=26, pixel=0.88, level=62, bias=0.10, noise=0.030),
    "DU": Scanner(patients=45, slices=41, pixel=0.86, level=56, bias=0.18, noise=0.045),
    "EZ": Scanner(patients=1, slices=32, pixel=0.80, level=90, bias=0.08, noise=0.035),
    "FG": Scanner(patients=14, slices=45, pixel=0.78, level=50, bias=0.14, noise=0.025),
    "HT": Scanner(patients=34, slices=30, pixel=0.91, level=66, bias=0.12, noise=0.060),
}


@dataclass(frozen=True)
class Plan:
    """What one simulated patient will be."""

    name: str
    institution: str
    cluster: int  # RNASeqCluster, 1 to 4
    missing: str  # the sequences replaced by FLAIR: "", "post" or "all"
    blank: bool  # whether the last slice is all zero
    seed: tuple[int, int]


def make_cohort(
    dest: Path | str, *, patients: int = 24, seed: int = 0, progress: bool = True
) -> Path:
    """Write ``dest/kaggle_3m`` with this many simulated patients; returns that folder.

    The same arguments give the same bytes. The file ``simulated.json`` in it marks the tree. The
    same cohort is kept if it is already there, another simulated one is replaced, and a tree that
    was not simulated raises ``DataError``. The tree appears when it is complete. Takes half a
    second per patient on two cores.
    """
    if not 1 <= patients <= 999:
        raise ValueError(f"patients={patients}: expected 1 to 999")
    root = Path(dest) / "kaggle_3m"
    facts = {"patients": patients, "seed": seed, "version": VERSION}
    if _is_cohort(root, facts):
        return root
    with writing(root):
        root.parent.mkdir(parents=True, exist_ok=True)
        with working_folder(root.parent, ".simulating-") as staging:
            _write_tree(staging / "kaggle_3m", facts, progress)
            # Another process may have made the same cohort meanwhile, and someone may read it.
            if not _is_cohort(root, facts):
                if root.exists():
                    root.rename(staging / "replaced")
                (staging / "kaggle_3m").rename(root)
    return root


def cohort_root(data: str | Path = "") -> Path:
    """The tree that a notebook's parameter ``DATA`` names, relative to the project; when it is
    empty the simulated cohort in ``build/phantom``, made if it is not there yet."""
    if str(data):
        return project_root() / Path(data).expanduser()
    return make_cohort(project_root() / "build/phantom")


def _is_cohort(root: Path, facts: dict[str, int]) -> bool:
    """Whether exactly this cohort is there; refuses a tree without the mark."""
    if not root.exists():
        return False
    mark = root / "simulated.json"
    if not mark.exists():
        action = "Give another destination: this tree will not be overwritten."
        raise DataError(root, "a tree that was not simulated", "a free place", action)
    try:
        return bool(json.loads(mark.read_text()) == facts)
    except ValueError:
        return False


def _write_tree(tree: Path, facts: dict[str, int], progress: bool) -> None:
    tree.mkdir()
    plans = plan_cohort(facts["patients"], facts["seed"])
    workers = min(WORKERS, usable_cpus(), len(plans))
    template()  # once: workers that are forked share it
    with ProcessPoolExecutor(workers, initializer=_end_with_parent) as pool:
        jobs = pool.map(_write_patient, plans, [tree] * len(plans))
        list(progress_bar(jobs, "simulate", "patient", total=len(plans), show=progress))
    template.cache_clear()
    clinical_table(plans, facts["seed"]).to_csv(tree / "data.csv", index=False)
    (tree / "simulated.json").write_text(json.dumps(facts) + "\n")


def _end_with_parent() -> None:
    """In a worker: end when the process that started it is killed. It would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def missing_sequences(patients: int) -> list[str]:
    """How many patients lack "post" or "all" sequences at the real rates; "" for the others."""
    missing = ["post"] * round(POST_MISSING * patients) + ["all"] * round(ALL_MISSING * patients)
    return missing + [""] * (patients - len(missing))


def plan_cohort(patients: int, seed: int) -> list[Plan]:
    """Institutions, missing sequences and blank slices at the real rates, clusters at random."""
    rng = np.random.default_rng([seed, 0])
    shares = np.cumsum([scanner.patients for scanner in SCANNERS.values()])
    quantiles = (np.arange(patients) + 0.5) / patients * shares[-1]
    institutions = [list(SCANNERS)[share] for share in np.searchsorted(shares, quantiles)]
    missing = rng.permutation(missing_sequences(patients)).tolist()
    blank = rng.permutation(np.arange(patients) < max(1, round(BLANK * patients))).tolist()
    clusters = rng.permutation(np.arange(patients) % 4 + 1).tolist()
    names = [
        f"TCGA_{code}_S{number:03d}_{1994 + number % 12}{number % 12 + 1:02d}{number % 28 + 1:02d}"
        for number, code in enumerate(institutions, start=1)
    ]
    seeds = [(seed, number) for number in range(1, patients + 1)]
    columns = zip(names, institutions, clusters, missing, blank, seeds, strict=True)
    return [Plan(*column) for column in columns]


def clinical_table(plans: list[Plan], seed: int) -> pd.DataFrame:
    """The table data.csv: Kaggle's columns, some cells empty, one patient without any."""
    rng = np.random.default_rng([seed, 1_000_000])
    table = pd.DataFrame({"Patient": [plan.name.rsplit("_", 1)[0] for plan in plans]})
    for name, levels in CLINICAL.items():
        first, last = (1, levels) if levels else (20, 75)
        values = rng.integers(first, last + 1, len(plans))
        table[name] = pd.array(values - (name == "death01"), dtype="Int64")
    table["RNASeqCluster"] = pd.array([plan.cluster for plan in plans], dtype="Int64")
    empty = rng.random((len(plans), len(CLINICAL))) < EMPTY_CELLS
    empty[rng.integers(len(plans))] = True
    table.iloc[:, 1:] = table.iloc[:, 1:].mask(empty)
    return table


def irregularity(cluster: int, rng: np.random.Generator) -> float:
    """How far a tumour's border strays from an ellipsoid, 0 to 1; grows with the cluster."""
    return float(np.clip(0.10 + 0.18 * (cluster - 1) + rng.normal(0, 0.08), 0.05, 0.8))


def make_patient(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 ``(slices, 256, 256, 3)`` and mask bool ``(slices, 256, 256)``."""
    rng = np.random.default_rng(plan.seed)
    scanner = SCANNERS[plan.institution]
    slices = int(np.clip(round(rng.normal(scanner.slices, 6)), 20, 50))
    anatomy = deformed(slices, scanner.pixel, rng)
    mask, extent = make_tumour(anatomy, irregularity(plan.cluster, rng), rng)
    scans = [_scan(tissue, anatomy, scanner, rng) for tissue in contrasts(anatomy, extent, rng)]
    if plan.missing == "post":
        scans[2] = scans[1]
    if plan.missing == "all":
        scans[0] = scans[2] = scans[1]
    images = np.stack(scans, axis=-1)
    if plan.blank:
        images[-1], mask[-1] = 0, False
    return images, mask


def _write_patient(plan: Plan, root: Path) -> None:
    images, mask = make_patient(plan)
    folder = root / plan.name
    folder.mkdir()
    for number, (image, truth) in enumerate(zip(images, mask, strict=True), start=1):
        path, pixels = folder / f"{plan.name}_{number}.tif", truth.astype(np.uint8) * 255
        _write_tiff(path, image, "rgb")
        _write_tiff(path.with_name(f"{path.stem}_mask.tif"), pixels, "minisblack")


def _write_tiff(path: Path, pixels: np.ndarray, photometric: Any) -> None:
    file = BytesIO()  # NumPy, which writes for tifffile, does not say that a disk is full
    tifffile.imwrite(file, pixels, photometric=photometric, metadata=None, software=False)
    path.write_bytes(file.getbuffer())


def _scan(
    tissue: np.ndarray, anatomy: Anatomy, scanner: Scanner, rng: np.random.Generator
) -> np.ndarray:
    """One sequence as an institution's scanner shows it: uint8 ``(slices, 256, 256)``."""
    field = np.exp(scanner.bias * smooth_noise(tissue.shape, (12, 90, 90), rng))
    image = ndimage.gaussian_filter(tissue * field, (0, 0.6, 0.6))
    brain = float(np.median(image[anatomy.brain > 0.9]))
    noise = rng.standard_normal((2, *image.shape), dtype=np.float32) * scanner.noise * brain
    noise[0] += image
    image = np.sqrt(noise[0] ** 2 + noise[1] ** 2)  # Rician, as magnitude images have it
    level = scanner.level * rng.uniform(0.75, 1.25) / brain
    return np.clip(image * level, 0, 255).astype(np.uint8)
