"""A simulated cohort in the exact Kaggle layout: runs everything without the real data.

Anatomy is the MNI ICBM152 tissue maps that nilearn ships (Fonov et al. 2011, NeuroImage 54),
deformed for each patient; contrasts, tumours, scanners and clinical data are invented. It shows
that the software works, and nothing about glioma.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
from scipy import ndimage

from lggseg.preprocessing.volume import SIZE
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


@dataclass(frozen=True)
class Anatomy:
    """Maps from 0 to 1, float32 ``(slices, 256, 256)``, the first slice lowest."""

    gray: np.ndarray
    white: np.ndarray
    fluid: np.ndarray
    head: np.ndarray  # falls from 1 inside to 0 outside; the skin is at 0.06
    skull: np.ndarray  # 1 in the brain, falls to 0 at the outer face of the skull

    @property
    def brain(self) -> np.ndarray:
        """All that lies inside the skull."""
        return self.gray + self.white + self.fluid


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
        with working_folder(root.parent, ".simulating-") as beside:
            _write_tree(beside / "kaggle_3m", facts, progress)
            # Another process may have made the same cohort meanwhile, and someone may read it.
            if not _is_cohort(root, facts):
                if root.exists():
                    root.rename(beside / "replaced")
                (beside / "kaggle_3m").rename(root)
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
    _template()  # once: workers that are forked share it
    with ProcessPoolExecutor(workers, initializer=_end_with_parent) as pool:
        jobs = pool.map(_write_patient, plans, [tree] * len(plans))
        list(progress_bar(jobs, "simulate", "patient", total=len(plans), show=progress))
    _template.cache_clear()
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
    places = (np.arange(patients) + 0.5) / patients * shares[-1]
    institutions = [list(SCANNERS)[share] for share in np.searchsorted(shares, places)]
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
    anatomy = _deformed(slices, scanner.pixel, rng)
    mask, extent = make_tumour(anatomy, irregularity(plan.cluster, rng), rng)
    scans = [_scan(tissue, anatomy, scanner, rng) for tissue in _contrasts(anatomy, extent, rng)]
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


@cache
def _template() -> tuple[np.ndarray, np.ndarray]:
    """The five maps of :class:`Anatomy` for the MNI head, float32, one row per voxel of 1 mm; and
    bool ``(up, front to back, left to right)``: whether the cube of eight voxels that begins there
    holds anything to draw, which is tissue, or a head beyond the skin."""
    gray, white, head = (_mni152_map(name) for name in ("gm", "wm", "t1"))
    brain = ndimage.binary_fill_holes(head > 0.2).astype(np.float32)
    fluid = np.clip(brain - gray - white, 0, 1)
    # The maps end at the skull: below its widest section the head is that section, narrowing.
    above = np.maximum.accumulate(brain[::-1], axis=0)[::-1]
    narrowing = np.clip(0.35 * (1 - np.arange(len(brain), dtype=np.float32) / 50), 0, None)
    head = _blurred(above, 15) - narrowing[:, None, None]
    maps = np.stack([gray, white, fluid, head, _blurred(brain, 7)], axis=-1)
    holds = (maps > [0, 0, 0, 0.06, 0]).any(axis=-1)
    # A cube begins up to one voxel before what it holds.
    return maps.reshape(-1, 5), ndimage.maximum_filter(holds, size=2, origin=-1)


def _mni152_map(name: str) -> np.ndarray:
    """One of the maps that nilearn ships, scaled to a maximum of 1: float32. What its functions
    ``load_mni152_*`` give, without importing nilearn and scikit-learn, which takes seconds."""
    import nibabel as nib

    package = find_spec("nilearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("No module named 'nilearn': install requirements.txt")
    file = f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
    image: Any = nib.load(Path(package.origin).parent / "datasets" / "data" / file)
    values = np.asarray(image.dataobj).astype(np.float32)
    values /= values.max()
    return np.ascontiguousarray(values.transpose(2, 1, 0)[:, ::-1])


def _blurred(volume: np.ndarray, width: int) -> np.ndarray:
    """Two box filters: near a Gaussian, and as fast for any width."""
    return ndimage.uniform_filter(ndimage.uniform_filter(volume, width), width)


def _smooth_noise(
    shape: tuple[int, ...], scale: tuple[float, ...], rng: np.random.Generator
) -> np.ndarray:
    """Gaussian noise of mean 0 and deviation 1 in clumps of ``scale`` voxels: float32."""
    # Drawn coarsely and smoothed before it is stretched: fast, and without creases.
    steps = [max(1.0, s / 2) for s in scale]
    coarse = [max(3, round(n / step) + 1) for n, step in zip(shape, steps, strict=True)]
    noise = ndimage.gaussian_filter(
        rng.standard_normal(coarse, dtype=np.float32),
        [s / step / 2 for s, step in zip(scale, steps, strict=True)],
    )
    noise = _stretched(noise, shape)
    return (noise - noise.mean()) / noise.std()


def _stretched(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Trilinear interpolation to ``shape``, corner on corner: float32. What ``ndimage.zoom`` of
    order 1 gives, axis by axis, which is several times faster."""
    planes = volume.astype(np.float64)
    planes = np.stack([_between(_between(plane, 0, shape[1]), 1, shape[2]) for plane in planes])
    stretched = np.empty(shape, np.float32)
    places = zip(stretched, *_neighbours(len(planes), shape[0]), strict=True)
    for plane, low, high, weight in places:
        plane[...] = planes[low] * (1 - weight) + planes[high] * weight
    return stretched


def _between(plane: np.ndarray, axis: int, size: int) -> np.ndarray:
    """A plane stretched along one axis."""
    low, high, weight = _neighbours(plane.shape[axis], size)
    weight = weight[:, None] if axis == 0 else weight
    return plane.take(low, axis) * (1 - weight) + plane.take(high, axis) * weight


def _neighbours(before: int, after: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of ``after`` positions along an axis: the two of ``before`` that it lies between,
    and the weight of the second."""
    position = np.arange(after) * ((before - 1) / (after - 1))
    low = np.minimum(position.astype(int), before - 1)
    return low, np.minimum(low + 1, before - 1), position - low


def _deformed(slices: int, pixel: float, rng: np.random.Generator) -> Anatomy:
    """The anatomy of one patient: the template, turned, scaled and smoothly displaced."""
    shape, (_, height, width) = (slices, SIZE, SIZE), _template()[1].shape
    turn, tilt = rng.normal(0, 0.06), rng.normal(0, 0.04)
    pitch, side = (pixel * rng.normal(1, 0.035, 2)).astype(np.float32)
    across = np.arange(SIZE, dtype=np.float32) - SIZE / 2
    upwards = np.linspace(rng.uniform(0, 16), rng.uniform(151, 166), slices, dtype=np.float32)
    z, y, x = np.meshgrid(upwards, across * pitch, across * side, indexing="ij")
    rows = math.cos(turn) * y - math.sin(turn) * x + height / 2
    columns = math.sin(turn) * y + math.cos(turn) * x + width / 2
    place = np.stack([z + tilt * y, rows, columns])
    for axis in place:
        axis += 3.0 * _smooth_noise(shape, (6, 40, 40), rng)
    return Anatomy(*_interpolated(place))


def _interpolated(place: np.ndarray) -> np.ndarray:
    """The maps of the template at places ``(3, slices, height, width)`` by trilinear interpolation:
    float32 ``(maps, slices, height, width)``. What ``ndimage.map_coordinates`` of order 1 gives
    wherever anything is drawn, 0 elsewhere, for all maps at once and so several times faster."""
    maps, drawn = _template()
    result = np.zeros((place.shape[1], place[0, 0].size, maps.shape[1]), np.float32)
    for slice_, points in zip(result, place.swapaxes(0, 1), strict=True):
        points = points.reshape(3, -1).astype(np.float64)
        # A place on the last voxel lies at the end of the cube before it.
        low = [
            np.clip(p.astype(np.intp), 0, n - 2) for p, n in zip(points, drawn.shape, strict=True)
        ]
        inside = drawn[tuple(low)]
        for position, length in zip(points, drawn.shape, strict=True):
            inside &= (position >= 0) & (position <= length - 1)
        chosen = np.flatnonzero(inside)
        weights = [(p - start)[chosen] for p, start in zip(points, low, strict=True)]
        first = np.ravel_multi_index([start[chosen] for start in low], drawn.shape)
        slice_[chosen] = _in_cubes(maps, drawn.shape, first, weights)
    return np.moveaxis(result, -1, 0).reshape(-1, *place.shape[1:])


def _in_cubes(
    maps: np.ndarray, shape: tuple[int, ...], first: np.ndarray, weights: list[np.ndarray]
) -> np.ndarray:
    """The weighted mean of the eight corners of each cube: float64 ``(cubes, maps)``."""
    total = np.zeros((len(first), maps.shape[1]))
    for corner in np.ndindex(2, 2, 2):
        z, y, x = (w if far else 1 - w for w, far in zip(weights, corner, strict=True))
        corners = maps.take(first + np.ravel_multi_index(corner, shape), axis=0)
        total += corners * (z * y * x)[:, None]
    return total


def make_tumour(
    anatomy: Anatomy, rough: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mask (bool) and soft extent (0 to 1) of a tumour, both ``(slices, 256, 256)``.

    An ellipsoid with its centre in white matter, whose border noise of several scales moves by
    ``rough``; only the part that is connected to the centre, inside the brain, is kept.
    """
    brain = anatomy.brain > 0.6
    slices = len(brain)
    inner = ndimage.binary_erosion(anatomy.white > 0.5, iterations=2)
    inner[: slices // 4] = inner[slices * 4 // 5 :] = False
    centre = rng.choice(np.argwhere(inner if inner.any() else brain))
    share = float(np.clip(rng.lognormal(-1.3, 0.5), 0.09, 0.85))  # of the slices
    radii = np.full(3, share * slices / 2)
    radii[1:] = rng.uniform(22, 38) * rng.uniform(0.75, 1.25, 2) * math.sqrt(share / 0.36)
    axes = np.ogrid[tuple(slice(0, n) for n in brain.shape)]
    squares = (((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True))
    noise = _smooth_noise(brain.shape, (3, 22, 22), rng)
    noise += 0.5 * _smooth_noise(brain.shape, (2, 8, 8), rng)
    depth = 1 - np.sqrt(sum(squares)) + rough * 0.4 * (noise - noise[tuple(centre)])
    parts, _ = ndimage.label((depth > 0) & brain)
    mask = parts == parts[tuple(centre)]
    soft = ndimage.gaussian_filter(mask.astype(np.float32), (0, 2.5, 2.5)) * brain
    return mask, soft


def _contrasts(anatomy: Anatomy, extent: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Pre-contrast, FLAIR and post-contrast without scanner effects; tissue is near 1."""
    shape = extent.shape
    gray, white, fluid = anatomy.gray, anatomy.white, anatomy.fluid
    texture = np.clip(1 + 0.2 * _smooth_noise(shape, (3, 14, 14), rng), 0.35, 1.7)
    tumour = extent * texture
    around = _around_brain(anatomy, rng)
    pre = (0.72 * gray + 0.98 * white + 0.32 * fluid) * (1 - rng.uniform(0.15, 0.4) * tumour)
    pre += rng.uniform(1.2, 2.2) * around
    flair = rng.normal(0.86, 0.03) * gray + 0.68 * white + 0.22 * fluid
    flair = flair * (1 - 0.5 * extent) + rng.uniform(0.65, 1.25) * tumour
    flair += _white_matter_lesions(anatomy, rng) + rng.uniform(0.8, 1.8) * around
    vessels = np.clip(_smooth_noise(shape, (1, 4, 4), rng) - 1.9, 0, 1) * (fluid + 0.3 * gray)
    rim = 4 * extent * (1 - extent) * float(rng.choice([0.0, 0.2, 0.6], p=[0.5, 0.3, 0.2]))
    return [pre, flair, pre + 0.9 * vessels + rim * texture]


def _around_brain(anatomy: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """Dark skull, bright fat under the skin, and mixed soft tissue and air below the brain."""
    outside = (anatomy.head > 0.06) & (anatomy.skull < 0.03)
    fat = np.exp(-(((anatomy.head - 0.10) / 0.05) ** 2))
    noise = _smooth_noise(outside.shape, (2, 10, 10), rng)
    soft = np.clip(0.5 + 0.35 * (noise + noise[..., ::-1]), 0, 1.6)  # a face is symmetric
    mixed = np.where(anatomy.head > 0.25, soft, np.maximum(1.3 * fat, 0.6 * soft))
    return outside * mixed + 0.07 * (anatomy.head > 0.06)


def _white_matter_lesions(anatomy: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """Bright FLAIR in spots and beside the ventricles that is no tumour, so not in the mask."""
    near_fluid = ndimage.gaussian_filter(anatomy.fluid, (0.5, 5, 5))
    caps = np.clip(near_fluid - 0.2, 0, 0.4) * anatomy.white
    spots = np.clip(_smooth_noise(caps.shape, (1.5, 7, 7), rng) - 1.7, 0, 1) * anatomy.white
    return rng.uniform(0.4, 1.5) * caps + rng.uniform(0.2, 1.0) * spots


def _scan(
    tissue: np.ndarray, anatomy: Anatomy, scanner: Scanner, rng: np.random.Generator
) -> np.ndarray:
    """One sequence as an institution's scanner shows it: uint8 ``(slices, 256, 256)``."""
    field = np.exp(scanner.bias * _smooth_noise(tissue.shape, (12, 90, 90), rng))
    image = ndimage.gaussian_filter(tissue * field, (0, 0.6, 0.6))
    brain = float(np.median(image[anatomy.brain > 0.9]))
    noise = rng.standard_normal((2, *image.shape), dtype=np.float32) * scanner.noise * brain
    noise[0] += image
    image = np.sqrt(noise[0] ** 2 + noise[1] ** 2)  # Rician, as magnitude images have it
    level = scanner.level * rng.uniform(0.75, 1.25) / brain
    return np.clip(image * level, 0, 255).astype(np.uint8)
