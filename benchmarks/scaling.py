"""How time, memory and disk grow with the number of patients, and what that means for more.

    python benchmarks/scaling.py [--sizes 10 30 100 300 1000] [--stages load_first …]

Simulated trees of so many patients: each is a few slices spread over one of ten patients of
``lggseg.data.simulation``, under a name of its own and with its number in a corner pixel, since the
same picture under two names would count as a leak. Each stage then runs in a process of its own on
the package's own functions: seconds, and the peak of the process's own memory above what its
imports took (pages of mapped files, which the system takes back when it needs them, are not
counted). What works on tables alone is measured for up to 100,000 patients without pixels. Slopes
are least squares in log-log: 1 is linear. Writes scaling.json, with what 10 to 100,000 volumes of
the real length would need once all stages are in it; stages that were not asked for stay. A tree is
deleted before the next one is made; the largest takes 2 GB, its cache included.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
from scipy.stats import linregress

from lggseg.cloud.cost import Plan, estimate_cost, prices
from lggseg.data.cohort import Cohort, load_cohort
from lggseg.data.kaggle import patient_folders
from lggseg.data.simulation import make_cohort
from lggseg.data.slices import read_volume
from lggseg.preprocessing.volume import SIZE
from lggseg.utils.files import write_json
from lggseg.utils.paths import project_root

MODEL = Path(__file__).resolve().parents[1] / "models" / "lgg-unet"
CORES = os.cpu_count() or 1
SOURCES = 10  # simulated patients that all others are made of
SLICES = 4  # of each patient here
STEPS = 20  # of a training; the first few are not counted
PRECISION = "bf16-mixed"  # a fixed one, since ``auto`` might choose differently by size

# What is assumed of larger cohorts and of machines, for what is reckoned and not measured.
VOLUMES = (10, 100, 1_000, 10_000, 100_000)
ASSUMED: dict[str, Any] = {
    "slices": 36,  # a volume: 3,929 slices of 110 patients
    "epochs": 40,
    "train_on": "ml.c5.2xlarge",
    "transform_on": "ml.m5.xlarge",
    "packed": 0.42,  # of the tree's size, as lggseg.data.archive found it on real slices
    "disk_gb": Plan().volume_gb,  # of a training job, unless more is asked for
    "memory_gb": 16,  # of the smallest GPU instances
    "spared_gb": 2,  # of that, for the system, Python and the network
    "gpu_gb": 24,
    "gpu_share": 0.6,  # lggseg.training.datamodule.memory_budget
}


def make_tree(base: Path, root: Path, patients: int) -> Path:
    """A tree of so many patients in Kaggle's layout, all slices different files."""
    sources = [(folder.name[:7], *_few_slices(folder)) for folder in patient_folders(base)]
    names = []
    for number in range(patients):
        start, images, masks = sources[number % len(sources)]
        names.append(f"{start}_{number:04d}")
        _write_patient(root / f"{names[-1]}_20000101", images, masks, number)
    pd.DataFrame({"Patient": names, "gender": 1}).to_csv(root / "data.csv", index=False)
    (root / "simulated.json").write_text("{}\n")
    return root


def _few_slices(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    volume, masks = read_volume(folder)
    assert masks is not None
    places = np.linspace(0, len(volume) - 1, SLICES).round().astype(int)
    return volume[places], masks[places].astype(np.uint8) * 255


def _write_patient(folder: Path, images: np.ndarray, masks: np.ndarray, number: int) -> None:
    folder.mkdir(parents=True)
    for at, (image, mask) in enumerate(zip(images, masks, strict=True), start=1):
        if image.any():  # a blank slice stays blank
            image[0, 0] = (number // 256, number % 256, 1)
        path = folder / f"{folder.name}_{at}.tif"
        tifffile.imwrite(path, image, photometric="rgb", metadata=None)
        tifffile.imwrite(path.with_name(f"{path.stem}_mask.tif"), mask, metadata=None)


def own_mib() -> float:
    """MiB of this process's own memory, without pages of mapped files."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


@contextmanager
def measured() -> Iterator[dict[str, Any]]:
    """Fills in ``seconds``; ``cpu_seconds`` of all threads, which others on the machine hardly
    change; and ``own_mib``, the peak above what there was before."""
    found: dict[str, Any] = {}
    before, done, peak = own_mib(), threading.Event(), [0.0]

    def watch() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], own_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start, cpu = time.perf_counter(), time.process_time()
    try:
        yield found
    finally:
        found["seconds"] = time.perf_counter() - start
        found["cpu_seconds"] = time.process_time() - cpu
        done.set()
        watcher.join()
        found["own_mib"] = max(max(peak[0], own_mib()) - before, 1 / 256)  # a page


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def load_first(place: str) -> dict[str, Any]:
    """TIFF to cache."""
    with measured() as found:
        load_cohort(place, progress=False)
    cache = size_of(Path(os.environ["LGGSEG_CACHE"]))
    return {**found, "tree_bytes": size_of(Path(place)), "cache_bytes": cache}


def load_later(place: str) -> dict[str, Any]:
    """The cache, mapped."""
    with measured() as found:
        load_cohort(place, progress=False)
    return found


def split(place: str) -> dict[str, Any]:
    """A split, the check that nothing leaks, and the side of each slice."""
    from lggseg.data import splits

    cohort = load_cohort(place, progress=False)
    with measured() as found:
        _split(splits, cohort)
    return found


def _split(splits: Any, cohort: Cohort) -> np.ndarray:
    table = splits.make_split(cohort)
    splits.check_no_leakage(cohort, splits.slice_folds(cohort, table))
    return splits.slice_subsets(cohort, table, 0)


def device(place: str) -> dict[str, Any]:
    """The cohort on the device that trains, here host memory."""
    import torch

    from lggseg.config import Config
    from lggseg.training.datamodule import DeviceCohort

    cohort = load_cohort(place, progress=False)
    with measured() as found:
        made = DeviceCohort(cohort, Config(), torch.device("cpu"))
    return {**found, "device_bytes": made.pixels.nbytes + made.truth.nbytes}


def train(place: str) -> dict[str, Any]:
    """A few steps and a whole validation of the default recipe."""
    import pytorch_lightning as pl

    from lggseg.config import Config
    from lggseg.data import splits
    from lggseg.training.datamodule import CohortDataModule
    from lggseg.training.module import SegmentationModule
    from lggseg.training.trainer import keep_freed_memory

    cohort, config = load_cohort(place, progress=False), Config(precision=PRECISION)
    pl.seed_everything(0, verbose=False)
    keep_freed_memory()
    data = CohortDataModule(cohort, _split(splits, cohort), config)
    clock = _clock(pl.Callback)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=STEPS,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = SegmentationModule(config)
    with measured() as found:
        trainer.fit(module, data)
        trainer.limit_val_batches = 1.0
        trainer.validate(module, data, verbose=False)
    batches = data.train_dataloader()
    start, end = (clock.times[f"on_validation_epoch_{n}"][0] for n in ("start", "end"))
    return {
        **found,
        "step_cpu_seconds": float(np.median(np.diff(clock.times["on_train_batch_end"])[5:])),
        "step_slices": np.mean([len(rows) for rows in batches]),
        "steps_an_epoch": len(batches),
        "validation_cpu_seconds": end - start,
    }


def _clock(base: type) -> Any:
    """A callback that keeps at which processor time its hooks were called."""

    class Clock(base):  # type: ignore[misc]
        def __init__(self) -> None:
            self.times: dict[str, list[float]] = {}

    def hook(name: str) -> Callable[..., None]:
        def tick(self: Any, *_: Any) -> None:
            self.times.setdefault(name, []).append(time.process_time())

        return tick

    for part in ("train_batch", "validation_epoch"):
        for end in ("start", "end"):
            setattr(Clock, f"on_{part}_{end}", hook(f"on_{part}_{end}"))
    return Clock()


def predict(place: str) -> dict[str, Any]:
    """``lggseg predict``: slices read, masks and a table written."""
    from lggseg.inference.predict import predict_folder
    from lggseg.inference.segmenter import Segmenter

    segmenter = Segmenter.load(MODEL)
    segmenter.predict(np.zeros((SLICES, SIZE, SIZE, 3), np.uint8))
    with tempfile.TemporaryDirectory(dir=Path(place).parent) as out:
        with measured() as found:
            predict_folder(segmenter, place, out, progress=False)
        return {**found, "masks_bytes": size_of(Path(out))}


def evaluate(place: str) -> dict[str, Any]:
    """All metrics of each patient, and their summary with intervals."""
    from lggseg.evaluation import segmentation, statistics
    from lggseg.inference import evaluate as evaluation
    from lggseg.inference.segmenter import Segmenter

    cohort, segmenter = load_cohort(place, progress=False), Segmenter.load(MODEL)
    segmenter.predict(cohort.images[:SLICES])
    truth = np.zeros((2, 8, 8), bool)
    truth[:, 2:4] = True
    segmentation.patient_metrics(truth, truth)  # imports MONAI
    with measured() as found:
        table = evaluation.evaluate(segmenter, cohort, list(cohort.patients.index), progress=False)
        start = time.process_time()
        statistics.summarise(table)
        summary = time.process_time() - start
    return {**found, "summary_cpu_seconds": summary}


def view(place: str) -> dict[str, Any]:
    """``lggseg view``: its start, and the list of patients that the page asks for."""
    from fastapi.testclient import TestClient

    from lggseg.serving.viewer.app import build_app

    with measured() as found:
        client = TestClient(build_app(MODEL, Path(place), "127.0.0.1"), base_url="http://localhost")
        start = time.process_time()
        listed = client.get("/api/patients").json()["patients"]
        seconds = time.process_time() - start
    assert len(listed) == len(patient_folders(Path(place)))
    return {**found, "list_cpu_seconds": seconds}


def tables(place: str) -> dict[str, Any]:
    """What needs no pixels, for cohorts of any size: seconds of each part, without a tree."""
    from lggseg.config import Config
    from lggseg.data import splits
    from lggseg.evaluation import statistics
    from lggseg.training.datamodule import TrainingRows

    cohort, rng = _without_pixels(int(place)), np.random.default_rng(0)
    dice = pd.DataFrame({"dice": rng.beta(8, 2, int(place))})
    subsets = _split(splits, cohort)
    rows = np.flatnonzero(subsets == "train")
    tumour = cohort.slices["tumour_pixels"].to_numpy()[rows] > 0
    batches = TrainingRows(rows[tumour], rows[~tumour], Config(), lambda: 0)
    calls: dict[str, Callable[[], object]] = {
        "split": lambda: _split(splits, cohort),
        "rows": lambda: [cohort.rows(patient) for patient in cohort.patients.index],
        "epoch_start": lambda: next(iter(batches)),
        "summary": lambda: statistics.summarise(dice),
    }
    found = {}
    for name, call in calls.items():
        with measured() as part:
            call()
        found |= {f"{name}_{key}": value for key, value in part.items()}
    return found


def _without_pixels(patients: int) -> Cohort:
    rng = np.random.default_rng(0)
    names = [f"TCGA_{'CDFH'[n % 4]}S_{n:06d}_20000101" for n in range(patients)]
    slices = pd.DataFrame(
        {
            "patient": np.repeat(names, ASSUMED["slices"]),
            "slice": np.tile(np.arange(1, ASSUMED["slices"] + 1), patients),
            "tumour_pixels": rng.integers(0, 3, patients * ASSUMED["slices"]),
            "blank": False,
        }
    )
    slices["digest"] = [f"{n:032x}" for n in range(len(slices))]
    table = slices.groupby("patient")[["tumour_pixels"]].sum()
    table = table.assign(institution=[name[5:7] for name in table.index], slices=ASSUMED["slices"])
    pixels = np.broadcast_to(np.uint8(0), (len(slices), SIZE, SIZE, 3))
    return Cohort(Path("nowhere"), pixels, pixels[..., 0], slices, table, "", True)


STAGES: dict[str, Callable[[str], dict[str, Any]]] = {
    call.__name__: call
    for call in (load_first, load_later, split, device, train, predict, evaluate, view)
}


ALL = ["tables", *STAGES]


def in_own_process(stage: str, place: Path | int) -> dict[str, Any]:
    """What a stage measured in a fresh process."""
    command = [sys.executable, __file__, str(place), "--stage", stage]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    print(stage, place, {key: round(value, 4) for key, value in found.items()}, flush=True)
    return found


def measure(
    sizes: Sequence[int], table_sizes: Sequence[int], stages: Sequence[str]
) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """A row per size, by stage; again after each size, since the largest takes longest."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in stages}
    for patients in table_sizes:
        if "tables" in stages:
            rows["tables"].append({"patients": patients, **in_own_process("tables", patients)})
    with tempfile.TemporaryDirectory(prefix="scaling-") as work:
        base = make_cohort(project_root() / "build" / "scaling", patients=SOURCES, progress=False)
        for patients in sizes:
            os.environ["LGGSEG_CACHE"] = f"{work}/cache"
            tree = make_tree(base, Path(work) / "tree", patients)
            for name in filter(stages.__contains__, STAGES):
                rows[name].append({"patients": patients, **in_own_process(name, tree)})
            shutil.rmtree(tree)
            shutil.rmtree(f"{work}/cache")
            yield rows
    yield rows


def slopes(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each quantity of a stage: the slope in log-log with its standard error, the same between
    the two largest sizes alone, where what does not grow weighs least, and what a further patient
    adds (least squares, not logarithmic)."""
    patients = np.array([row["patients"] for row in rows])
    found = {}
    for key in rows[0].keys() - {"patients"}:
        values = np.array([row[key] for row in rows], dtype=float)
        logs = np.log(patients), np.log(values)
        fit = linregress(*logs)
        found[key] = {
            "slope": float(fit.slope),
            "error": float(np.nan_to_num(fit.stderr)),
            "last": float(np.diff(logs[1])[-1] / np.diff(logs[0])[-1]),
            "a_patient": float(linregress(patients, values).slope),
        }
    return dict(sorted(found.items()))


def reckon(
    growth: dict[str, dict[str, dict[str, float]]], step_seconds: float
) -> list[dict[str, Any]]:
    """What cohorts of real length would need at the measured slopes: extrapolated, on all cores of
    the machine that measured; AWS's instances are taken to be as fast."""
    keys = {
        "tree_gb": ("load_first", "tree_bytes", 1e-9),
        "cache_gb": ("load_first", "cache_bytes", 1e-9),
        "load_minutes": ("load_first", "cpu_seconds", 1 / 60 / CORES),
        "load_own_gb": ("load_first", "own_mib", 2**20 / 1e9),
        "later_seconds": ("load_later", "cpu_seconds", 1),
        "later_own_gb": ("load_later", "own_mib", 2**20 / 1e9),
        "device_gb": ("device", "device_bytes", 1e-9),
        "device_minutes": ("device", "cpu_seconds", 1 / 60 / CORES),
        "steps_an_epoch": ("train", "steps_an_epoch", 1),
        "validation_minutes": ("train", "validation_cpu_seconds", 1 / 60 / CORES),
        "predict_hours": ("predict", "cpu_seconds", 1 / 3600 / CORES),
        "evaluate_hours": ("evaluate", "cpu_seconds", 1 / 3600 / CORES),
    }
    rows = []
    for volumes in VOLUMES:
        patients = volumes * ASSUMED["slices"] / SLICES
        row = {
            name: patients * growth[stage][key]["a_patient"] * factor
            for name, (stage, key, factor) in keys.items()
            if stage in growth
        }
        rows.append({"volumes": volumes, **row, **_bill(row, step_seconds)})
    return rows


def _bill(row: dict[str, float], step_seconds: float) -> dict[str, float]:
    packed = ASSUMED["packed"] * row["tree_gb"]
    disk = packed + row["tree_gb"] + row["cache_gb"]  # the archive, the tree in it, the cache
    if "steps_an_epoch" not in row or "predict_hours" not in row:
        return {"disk_gb": disk}
    epoch = row["steps_an_epoch"] * step_seconds / 3600 + row["validation_minutes"] / 60
    hours = ASSUMED["epochs"] * epoch
    jobs = {
        "train": Plan(ASSUMED["train_on"], hours=hours, volume_gb=max(disk, ASSUMED["disk_gb"])),
        "transform": Plan(ASSUMED["transform_on"], hours=row["predict_hours"]),
    }
    dollars = {f"{name}_dollars": estimate_cost(plan).train for name, plan in jobs.items()}
    storage = estimate_cost(Plan(stored_gb=packed)).storage_month
    return {"train_hours": hours, "disk_gb": disk, **dollars, "storage_dollars_a_month": storage}


def limits(row: dict[str, Any]) -> dict[str, float]:
    """The number of volumes at which something is full, to two digits: all grow in proportion."""
    room = {
        "disk": ASSUMED["disk_gb"] / row["disk_gb"],
        "memory": (ASSUMED["memory_gb"] - ASSUMED["spared_gb"]) / row["device_gb"],
        "gpu": ASSUMED["gpu_share"] * ASSUMED["gpu_gb"] / row["device_gb"],
    }
    return {name: float(f"{share * row['volumes']:.2g}") for name, share in room.items()}


def summarised(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The results file: rows, slopes, and what they mean for more patients."""
    from throughput import machine  # brings torch, which not every stage has

    growth = {name: slopes(found) for name, found in rows.items() if len(found) > 1}
    results = {"machine": machine(), "slices": SLICES, "measured": rows, "slopes": growth}
    if {"load_first", "device"} <= growth.keys():
        step = rows["train"][-1]["step_cpu_seconds"] / CORES if "train" in growth else 0.0
        reckoned = reckon(growth, step)
        results |= {"assumed": ASSUMED, "reckoned": reckoned, "limits": limits(reckoned[-1])}
        results["prices"] = {name: prices()[name] for name in ("date", "region")}
    return results


def show(growth: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print the slopes as a table."""
    rows = [
        {"stage": stage, "what": key, **values}
        for stage, found in growth.items()
        for key, values in found.items()
    ]
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.4g}".format))


def main() -> None:
    """Measure every stage at every size, or one stage in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("place", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10, 30, 100, 300, 1000])
    parser.add_argument("--table-sizes", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--stages", nargs="+", choices=ALL)
    parser.add_argument("--out", type=Path, default=Path("report/results/scaling.json"))
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        call = tables if options.stage == "tables" else STAGES[options.stage]
        print(json.dumps(call(options.place)))
        return
    kept = json.loads(options.out.read_text())["measured"] if options.out.exists() else {}
    for rows in measure(options.sizes, options.table_sizes, options.stages or ALL):
        write_json(summarised({**kept, **rows}), options.out)
    show(json.loads(options.out.read_text())["slopes"])


if __name__ == "__main__":
    main()
