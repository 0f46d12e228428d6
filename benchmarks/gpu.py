"""What one GPU does with it: correctness, speed against MONAI's pipelines, and cross-validations.

    python benchmarks/gpu.py DATA --pack FOLDER          # here: two files of at most 45 MiB
    python benchmarks/gpu.py --packed FOLDER --out OUT   # there; --stages, --minutes: not all of it
    python benchmarks/gpu.py --smoke                     # anywhere, on simulated patients

A machine with a GPU may be at hand for minutes only, and may have neither the data nor a network:
so the cohort at half the resolution and its masks travel as two files, and each stage writes its
results as soon as it has them, the most valuable first. A stage that is complete is not measured
again; the race and the candidates go on where they were cut off. What is still to be proved there:
docs/gpu.md. Slices are enlarged again for MONAI's pipelines, which train at 224 pixels; the
statistics of each volume are those of the halved slices.
"""

from __future__ import annotations

import argparse
import functools
import gc
import hashlib
import io
import json
import lzma
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd

CHUNKS = ("cohort-1.xz", "cohort-2.xz")
FIXED: dict[str, Any] = {"precision": "bf16-mixed"}
# Epochs of the shortest training that is to reach a Dice of 0.80; one of three of 8 epochs did.
SHORT = 10
Row = dict[str, Any]


def pack(data: str, folder: Path) -> None:
    """Write the halved slices, their masks and tables as two files."""
    import torch

    from lggseg.data.cohort import load_cohort
    from lggseg.preprocessing import transforms

    cohort = load_cohort(data, progress=False)
    images = torch.from_numpy(cohort.images).permute(0, 3, 1, 2)
    small = torch.cat([transforms.shrink(part, 2).byte() for part in images.split(64)]).numpy()
    content = io.BytesIO()
    facts = {"fingerprint": cohort.fingerprint, "simulated": cohort.simulated}
    np.savez(
        content,
        images=small,
        masks=np.packbits(cohort.masks > 0, axis=-1),
        slices=cohort.slices.to_csv(index=False),
        patients=cohort.patients.to_csv(),
        facts=json.dumps(facts),
    )
    whole = content.getvalue()
    folder.mkdir(parents=True, exist_ok=True)
    middle = len(whole) // 2
    for name, chunk in zip(CHUNKS, (whole[:middle], whole[middle:]), strict=True):
        (folder / name).write_bytes(lzma.compress(chunk, preset=4))
    (folder / "cohort.sha256").write_text(hashlib.sha256(whole).hexdigest())
    print({path.name: f"{path.stat().st_size / 2**20:.1f} MiB" for path in folder.iterdir()})


def unpack(folder: Path, into: Path) -> None:
    """Check and unpack what :func:`pack` wrote; enlarges the slices again."""
    whole = b"".join(lzma.decompress((folder / name).read_bytes()) for name in CHUNKS)
    if hashlib.sha256(whole).hexdigest() != (folder / "cohort.sha256").read_text():
        raise SystemExit(
            f"{folder}: the cohort differs from the packed one; pack and send it again"
        )
    with np.load(io.BytesIO(whole)) as packed:
        into.mkdir(parents=True, exist_ok=True)
        large = packed["images"].transpose(0, 2, 3, 1).repeat(2, axis=1).repeat(2, axis=2)
        np.save(into / "images.npy", large)
        np.save(into / "masks.npy", np.unpackbits(packed["masks"], axis=-1) * np.uint8(255))
        for name in ("slices", "patients"):
            (into / f"{name}.csv").write_text(str(packed[name]))
        (into / "facts.json").write_text(str(packed["facts"]))


def load(folder: Path) -> Any:
    """The cohort that :func:`unpack` wrote."""
    from lggseg.data.cohort import Cohort

    images, masks = (np.load(folder / f"{name}.npy", mmap_mode="c") for name in ("images", "masks"))
    slices = pd.read_csv(folder / "slices.csv", dtype={"patient": str, "digest": str})
    patients = pd.read_csv(folder / "patients.csv", index_col="patient")
    return Cohort(
        folder, images, masks, slices, patients, **json.loads((folder / "facts.json").read_text())
    )


def machine() -> Row:
    """What the numbers were measured on."""
    import torch

    facts: Row = {"cores": os.cpu_count(), "python": platform.python_version()}
    facts |= {"torch": torch.__version__, "cuda": torch.version.cuda}
    if torch.cuda.is_available():
        query = [
            "nvidia-smi",
            "--query-gpu=name,driver_version,memory.total",
            "--format=csv,noheader",
        ]
        facts["gpu"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    return facts


def tests(options: argparse.Namespace) -> Row:
    """What only a GPU can prove; rehearsed on a processor as far as that goes."""
    file = "tests/training/test_gpu.py"
    command = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", file]
    rehearsal = {"REHEARSAL": "1"} if options.smoke else {}
    with open(options.out / "tests.log", "w+") as log:
        status = subprocess.call(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **rehearsal},
            timeout=options.left(),
        )
        log.seek(0)
        lines = log.read().strip().splitlines()
    return {"status": status, "closing": lines[-1:]}


class _Bench:
    """A cohort on the device, its split, and clocks."""

    def __init__(self, options: argparse.Namespace) -> None:
        import torch

        from lggseg.config import Config
        from lggseg.data.splits import make_split
        from lggseg.training.datamodule import DeviceCohort

        self.smoke = options.smoke
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.config = Config(**FIXED)
        if self.smoke:
            self.config = replace(self.config, width=4, downsample=4, epochs=1, precision="32-true")
        self.cohort = load(options.cohort)
        self.split = make_split(self.cohort)
        self.on_device = DeviceCohort(self.cohort, self.config, self.device)

    def wait(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def folds(
        self, config: Any, seeds: range, folds: range = range(5)
    ) -> tuple[list[Any], list[Any]]:
        """Configurations of all folds and seeds, and the sides of their slices."""
        from lggseg.data.splits import slice_subsets

        folds = range(1) if self.smoke else folds
        configs = [replace(config, fold=fold, seed=seed) for seed in seeds for fold in folds]
        subsets = {fold: slice_subsets(self.cohort, self.split, fold) for fold in folds}
        return configs, [subsets[config.fold] for config in configs]

    def train(self, configs: list[Any], subsets: list[Any]) -> list[Any]:
        from lggseg.experiments.side_by_side import train_together

        return train_together(configs, self.cohort, subsets, self.device, self.on_device)


def _table(trained: list[Any]) -> Row:
    """Dice of each patient, averaged over seeds, and each seed's."""
    seeds: Row = {}
    for one in trained:
        seeds.setdefault(str(one.config.seed), {}).update(one.dice.round(4).to_dict())
    mean = pd.DataFrame(seeds).mean(axis=1)
    facts = {"mean": mean.mean(), "median": mean.median(), "lowest": mean.min(), "n": len(mean)}
    facts["by_seed"] = {seed: float(np.mean(list(dice.values()))) for seed, dice in seeds.items()}
    rounded = {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in facts.items()
    }
    seconds, models = round(trained[0].seconds, 2), len(trained)
    return {**rounded, "seconds": seconds, "models": models, "dice": seeds}


def speed(options: argparse.Namespace) -> Iterator[Row]:
    """Peak memory; how long a training takes when everything is warm; an epoch, in a bare loop and
    with Lightning and validation, against its steps; milliseconds a step, captured and launched
    kernel by kernel; validation."""
    import torch

    from lggseg.experiments.side_by_side import Model
    from lggseg.training.step import count_voxels

    bench, results = _Bench(options), Row()
    (config,), (subsets,) = bench.folds(bench.config, range(1), range(1))
    epochs = 1 if bench.smoke else SHORT
    short = replace(config, epochs=epochs, paste=False)
    networks = ("unet",) if bench.smoke else ("unet", "attention_unet", "swin_unetr")
    for name, switch, trainings in (("captured", "1", 2), ("launched", "0", 1)):
        with mock.patch.dict(os.environ, LGGSEG_CUDA_GRAPH=switch):
            runs = [_run(bench, short, subsets) for _ in range(trainings)]
            results[f"{name}, {epochs} epochs"] = runs
            results.setdefault("peak_mib", runs[0]["peak_mib"])
            lightning = _epoch_with_lightning(bench, short, subsets)
            results[f"{name}, s an epoch with Lightning"] = lightning
            yield results
            for network in networks:
                own = replace(config, network=network)
                model = Model(own, bench.cohort, subsets, bench.on_device)
                results[f"{name} {network}, ms a step"] = _milliseconds(
                    bench, functools.partial(model.run, next(iter(model.rows)))
                )
        yield results
    rows = torch.arange(min(128, len(bench.cohort.slices)), device=bench.device)
    milliseconds = _milliseconds(
        bench, lambda: count_voxels(model.networks, bench.on_device, rows)[1]
    )
    results["swin validation, slices/s"] = len(rows) / milliseconds * 1000
    yield results


def _epoch_with_lightning(bench: _Bench, config: Any, subsets: Any) -> float:
    """Seconds from the end of one epoch to that of the next, as a user's training takes them."""
    from lggseg.training.train import validation_dice

    marks: list[float] = []
    validation_dice(
        replace(config, epochs=max(2, config.epochs)),
        bench.cohort,
        subsets,
        progress=False,
        each_epoch=lambda _: marks.append(time.perf_counter()),
    )
    return float(statistics.median(np.diff(marks)))


def _milliseconds(bench: _Bench, call: Callable[[], Any], calls: int = 60) -> float:
    calls = 4 if bench.smoke else calls
    for _ in range(4 if bench.smoke else 12):
        call()
    times = []
    for _ in range(3):
        bench.wait()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        bench.wait()
        times.append((time.perf_counter() - start) / calls * 1000)
    return round(statistics.median(times), 3)


def _run(bench: _Bench, config: Any, subsets: Any) -> Row:
    """One training by itself: its Dice, and an epoch against as many steps on the same rows (which
    are gathered and augmented anew, too)."""
    import torch

    from lggseg.experiments.side_by_side import Model

    cuda = bench.device.type == "cuda"
    gc.collect()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    model = Model(config, bench.cohort, subsets, bench.on_device)
    marks = [time.perf_counter()]
    for number, _ in enumerate(model.steps(), start=1):
        if number % len(model.rows) == 0:
            bench.wait()
            marks.append(time.perf_counter())
    dice = float(model.dice().mean())
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else None
    batch = next(iter(model.rows))
    bare = _milliseconds(bench, lambda: model.run(batch)) * len(model.rows) / 1000
    epoch = statistics.median(np.diff(marks))
    return {
        "seconds": seconds,
        "dice": dice,
        "epoch": epoch,
        "steps_of_an_epoch": bare,
        "epoch_ratio": epoch / bare,
        "peak_mib": peak,
    }


def contest(options: argparse.Namespace) -> None:
    """One contestant of :func:`race`, in a process of its own; a line of JSON for each score."""
    import torch
    from time_to_dice import SLICES_BETWEEN_SCORES, report

    from lggseg.config import Config
    from lggseg.data.splits import make_split, slice_subsets

    cohort = load(options.cohort)
    subsets = slice_subsets(cohort, make_split(cohort), 0)

    name, epochs = options.contestant.split()
    if name == "ours":
        from lggseg.training.train import validation_dice

        config = replace(Config(**FIXED), paste=False, epochs=int(epochs), seed=options.seed)
        if options.smoke:
            config = replace(config, width=4, downsample=4, precision="32-true")
        validation_dice(
            config, cohort, subsets, progress=False, each_epoch=lambda dice: report(dice.mean())
        )
        return
    import peers

    torch.manual_seed(options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    workers = 8 if name == "monai" and not options.smoke else 0
    between = 40 if options.smoke else SLICES_BETWEEN_SCORES
    for dice, scoring in peers.scores(name, cohort, subsets, workers, device, between, int(epochs)):
        report(dice, scoring)


def race(options: argparse.Namespace) -> Iterator[Row]:
    """Seconds from process start to each Dice: ours of a short and a longer training, and MONAI's
    pipelines. All start from compiled Python, as packages do that pip has installed."""
    from time_to_dice import watch

    ours = f"ours {1 if options.smoke else SHORT}"
    plan = [(ours, 120), ("monai-tuned 20", 180), ("ours 20", 120), (ours, 60), (ours, 60)]
    plan += [("monai-device 0", 60), ("monai 0", 60)]
    if options.smoke:
        plan = [(ours, 120), ("monai-tuned 1", 30)]
    _compile()
    runs = _so_far(options.out, "race").get("runs", [])
    for number, (name, most) in enumerate(plan[len(runs) :], start=len(runs)):
        command = [sys.executable, __file__, "--contestant", name, "--seed", str(number)]
        command += ["--cohort", str(options.cohort), *(["--smoke"] if options.smoke else [])]
        limit = min(most, options.left())
        run: Row = {"name": name, "limit": limit, "rows": []}
        try:
            run["rows"] = watch(command, limit)
        except RuntimeError as error:
            run["error"] = str(error)
        if limit == most or run["rows"]:  # else it was not given its time, and is tried again
            runs.append(run)
        yield {"runs": runs}


def _compile() -> None:
    """Let every process from here on find its libraries compiled, and CUDA's read from the disk."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(Path(tempfile.gettempdir()) / "lggseg-bytecode")
    lines = [
        "import sys",
        f"sys.path.append({str(Path(__file__).parent)!r})",
        "import peers, lggseg.training.train, torch",
        "x = torch.ones(1, 8, 8, 8, device='cuda' if torch.cuda.is_available() else 'cpu')",
        "print(float(torch.nn.functional.conv2d(x, x).sum() + (x @ x).sum()))",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, stdout=subprocess.DEVNULL)


def _so_far(folder: Path, stage: str) -> Row:
    """What a stage has written, complete or not; empty when nothing."""
    path = folder / f"{stage}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def muon(options: argparse.Namespace) -> Iterator[Row]:
    """How many iterations Muon needs, and as which matrix it takes a transposed convolution."""
    from lggseg.training import muon as optim

    bench, results = _Bench(options), {}
    usual, tuned = optim.as_matrix, optim.ITERATIONS
    five = ((3.4445, -4.7750, 2.0315),) * 5  # torch's
    seeds = range(1 if bench.smoke else 2)
    for name, iterations, flat in (
        ("5 iterations", five, False),
        ("3 iterations", five[:3], False),
        ("3 tuned iterations", tuned, False),
        ("2 tuned iterations", tuned[:2], False),
        ("5 iterations, transposed convolutions by their inputs", five, True),
    ):
        optim.as_matrix = (lambda weight, _=False: usual(weight)) if flat else usual
        optim.orthogonalise.__defaults__ = (iterations,)
        try:
            trained = bench.train(*bench.folds(bench.config, seeds, range(2)))
        finally:
            optim.as_matrix, optim.orthogonalise.__defaults__ = usual, (tuned,)
        results[name] = _table(trained)
        yield results


def candidates(options: argparse.Namespace) -> Iterator[Row]:
    """Cross-validation and leave-one-institution-out, two seeds, of each candidate."""
    from candidates import CANDIDATES, INSTITUTIONS, RECIPE, Screening, collect

    bench, out = _Bench(options), options.out / "candidates"
    screening = Screening(bench.cohort, bench.split, out, bench.config)
    names = [RECIPE] if bench.smoke else list(CANDIDATES)
    seeds, folds = (range(1), "0") if bench.smoke else (range(2), "01234")
    for name in names:
        for without in (folds, INSTITUTIONS):
            try:
                screening.run(name, seeds, without)
            except ImportError as error:  # the pretrained weights did not travel
                print(f"{name}: {error}", flush=True)
            facts = {"data_fingerprint": bench.cohort.fingerprint}
            yield collect(screening, facts)


def collect(folder: Path, path: Path) -> None:
    """One results file of the stages' files, with a summary of what is told of them."""
    from lggseg.utils.files import write_json

    stages = {name: found for name in STAGES if (found := _so_far(folder, name))}
    beside = ("machine", "complete")
    results = {
        name: {k: v for k, v in found.items() if k not in beside} for name, found in stages.items()
    }
    facts = next(iter(stages.values()))["machine"]
    write_json({"machine": facts, "summary": summarise(results), **results}, path)


def summarise(results: Row) -> Row:
    """Medians of the speed and of the race, and the Dice of each candidate with its interval."""
    found, summary = results.get("speed", {}), Row()
    for name, rows in found.items():
        if name.startswith("captured,") and isinstance(rows, list):
            numbers = [key for key in rows[0] if rows[0][key] is not None]
            summary["warm"] = {key: statistics.median(row[key] for row in rows) for key in numbers}
    networks = [name.split()[1].strip(",") for name in found if "ms a step" in name]
    for kind in ("captured", "launched"):
        steps = {name: found.get(f"{kind} {name}, ms a step") for name in dict.fromkeys(networks)}
        summary[f"{kind}_ms"] = steps
    summary["peak_mib"] = found.get("peak_mib")
    summary["race"] = {}
    for run in results.get("race", {}).get("runs", []):
        summary["race"].setdefault(run["name"].removesuffix(" 0"), []).append(_told(run))
    # Those of one number of epochs are told by name alone.
    for row in results.get("candidates", {}).get("rows", []):
        summary.setdefault("candidates", {})[row["name"].rsplit(", ", 1)[0]] = row
    return summary


def _told(run: Row) -> Row:
    """When a contestant was scored first, when it reached each Dice, when it ended and how well."""
    from time_to_dice import TARGETS, reached

    rows = run["rows"]
    times = {f"{target:.2f}": reached(rows, target, "wall") for target in TARGETS}
    if not rows:
        return {**times, "limit": run["limit"]}
    best = max(row["dice"] for row in rows)
    ends = {"first": rows[0]["wall"], "last": rows[-1]["wall"], "dice": rows[-1]["dice"]}
    return {**times, **ends, "best": best}


STAGES: dict[str, Callable[[argparse.Namespace], Any]] = {
    "machine": lambda options: machine(),
    "tests": tests,
    "speed": speed,
    "race": race,
    "candidates": candidates,
    "muon": muon,
}


def measure(options: argparse.Namespace) -> None:
    """Run the stages that are not complete yet; each writes its file after every result. None
    begins, and none goes on to its next result, after ``options.minutes``."""
    from lggseg.utils.files import write_json

    options.out.mkdir(parents=True, exist_ok=True)
    facts, end = machine(), time.monotonic() + 60 * options.minutes
    options.left = lambda: max(0.0, end - time.monotonic())
    for name in options.stages:
        path, start = options.out / f"{name}.json", time.perf_counter()
        if _so_far(options.out, name).get("complete") or not options.left():
            continue
        try:
            result, part = STAGES[name](options), Row()
            for part in result if isinstance(result, Iterator) else [result]:
                write_json({"machine": facts, **part}, path)
                if not options.left():
                    return
            write_json({"machine": facts, **part, "complete": True}, path)
        except Exception:  # the next stage may work all the same
            traceback.print_exc()
        print(f"{name}: {time.perf_counter() - start:.1f} s", flush=True)


def main() -> None:
    """Pack, measure, or be a contestant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?")
    parser.add_argument("--pack", type=Path)
    parser.add_argument("--packed", type=Path)
    parser.add_argument("--cohort", type=Path, default=Path(tempfile.gettempdir()) / "lggseg-gpu")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--out", type=Path, default=Path("build/gpu"))
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--collect", type=Path, help="the results file to make of --out")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        return contest(options)
    if options.collect:
        return collect(options.out, options.collect)
    if options.pack:
        return pack(options.data, options.pack)
    if options.smoke:
        from lggseg.data.simulation import make_cohort

        folder = Path(tempfile.mkdtemp())
        pack(str(make_cohort(folder / "data", patients=10, progress=False)), folder / "packed")
        options.packed, options.cohort = folder / "packed", folder / "cohort"
    if options.packed:
        unpack(options.packed, options.cohort)
    measure(options)


if __name__ == "__main__":
    main()
