"""Training and inference alone and beside two busy processes: default threads against ours.

    python benchmarks/contention.py [--quick] [--avx2] [--out report/results]

Each setting lives in a process of its own, and the settings take turns within each measurement, so
that a machine that grows slower does so for all of them. ``default`` is what a user gets who
imports torch first and opens an ONNX Runtime session without options; ``ours`` is
:mod:`lggseg.utils.threads`. Without ``--quick``, other ways to wait are measured as well. A
training step is lggseg's own: augmentation, network, loss and optimiser, on random images of the
default size.

Writes contention.json: slices per second, the optimiser's share of a training step, and how many
CPUs were idle before each measurement (all of them, if nothing else ran on the machine). ``--avx2``
hides AVX-512 from torch (ONNX Runtime knows no such switch); both kinds are kept in one file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from typing import IO, Any

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
# Environment variables of each setting.
SETTINGS: dict[str, dict[str, str]] = {"default": {}, "ours": {}}
TRIED = {
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "spin 10000 times": {"GOMP_SPINCOUNT": "10000"},
    "all threads": {},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
LOADS = {"alone": 0, "beside_two": 2}
SLICES = 16  # that inference sees at once
# It ends with the process that started it.
BUSY_CODE = """
import os
parent = os.getppid()
while os.getppid() == parent:
    sum(range(10_000))
"""
BUSY = [sys.executable, "-c", BUSY_CODE]
# What lggseg.training.trainer.keep_freed_memory asks of glibc.
MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
MEMORY |= {"MALLOC_TOP_PAD_": str(2**26)}


class Training:
    """lggseg's training step, on random images."""

    def __init__(self) -> None:
        import torch

        from lggseg.config import Config
        from lggseg.models.losses import build_loss
        from lggseg.models.networks import build_network
        from lggseg.training.muon import MuonAdamW

        self.config = config = Config()
        self.network = build_network(config).train()
        self.loss = build_loss(config)
        self.optimizer = MuonAdamW(self.network, config.learning_rate, config.weight_decay)
        shape = (64, config.channels + 1, config.size, config.size)
        self.pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
        self.optimizer_seconds = 0.0

    def batch(self) -> tuple[Any, Any]:
        """Images and masks, augmented as in training."""
        import torch

        from lggseg.preprocessing import transforms
        from lggseg.training import augmentation

        config, rows = self.config, torch.randint(0, len(self.pixels), (self.config.batch_size,))
        matrix = augmentation.random_affine(len(rows), config.augmentation, rows.device)
        stack = augmentation.warp(self.pixels[rows].float(), matrix)
        ones = torch.ones(1, config.channels)
        image, mask = transforms.normalise(stack[:, :-1], 0 * ones, 100 * ones), stack[:, -1:] / 255
        image = augmentation.drop_sequences(image, config.sequence_dropout)
        augmentation.paste_tumours(image, mask)
        image = augmentation.vary_intensity(image, config.augmentation)
        return image.contiguous(memory_format=torch.channels_last), mask

    def __call__(self) -> int:
        """One step; returns the number of slices."""
        import torch

        image, mask = self.batch()
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16()):
            logits = self.network(image)
        self.loss(logits.float(), mask).backward()
        start = time.perf_counter()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.optimizer_seconds += time.perf_counter() - start
        return len(image)


class Inference:
    """A model folder on random slices."""

    def __init__(self, model: str, engine: str, default: bool) -> None:
        import numpy as np

        from lggseg.inference.segmenter import Segmenter
        from lggseg.preprocessing.volume import channel_statistics

        self.segmenter = Segmenter.load(model, engine)
        rng = np.random.default_rng(0)
        self.volume = rng.integers(0, 256, (SLICES, 256, 256, 3), dtype=np.uint8)
        self.statistics = channel_statistics(self.volume)
        if default and engine == "onnx":
            self.segmenter = default_session(model, self.segmenter)

    def __call__(self) -> int:
        """Predict all slices; returns their number."""
        self.segmenter.probability(self.volume, self.statistics)
        return SLICES


def default_session(model: str, segmenter: Any) -> Any:
    """The same model in a session without options."""
    from dataclasses import replace

    import onnxruntime

    session = onnxruntime.InferenceSession(Path(model) / "model.onnx")

    def run(*inputs: Any) -> Any:
        names = (entry.name for entry in session.get_inputs())
        feed = dict(zip(names, inputs, strict=True))
        return session.run(["probability"], feed)[0]

    return replace(segmenter, run=run)


def has_bf16() -> bool:
    """Whether torch multiplies in bfloat16 here by instructions."""
    cpuinfo = Path("/proc/cpuinfo")
    hidden = "ONEDNN_MAX_CPU_ISA" in os.environ
    return not hidden and cpuinfo.exists() and "avx512_bf16" in cpuinfo.read_text()


def measure(task: Any, seconds: float) -> dict[str, float]:
    """Slices per second, and the optimiser's share of the time of a training."""
    before = getattr(task, "optimizer_seconds", None)
    start, slices = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        slices += task()
    took = time.perf_counter() - start
    values = {"slices_per_second": slices / took}
    if before is not None:
        values["optimizer_share"] = (task.optimizer_seconds - before) / took
    return values


def work(setting: str, model: str) -> None:
    """Be the process of one setting: for each line ``task seconds``, measure and answer in JSON."""
    default = setting == "default"
    if not default:  # else torch reads its settings before lggseg can change them
        import lggseg  # noqa: F401
    import torch

    count = torch.get_num_threads()
    from lggseg.utils.threads import leave_busy_cpus, threads

    use_all = partial(torch.set_num_threads, threads())
    if default:
        torch.set_num_threads(count)
    tasks: dict[str, Callable[[], int]] = {
        "training": Training(),
        "torch": Inference(model, "torch", default),
        "onnx": Inference(model, "onnx", default),
    }
    for task in tasks.values():
        task()
    print("ready", flush=True)
    for line in sys.stdin:
        name, seconds = line.split()
        if setting == "ours":
            (leave_busy_cpus if name == "training" else use_all)()
        print(json.dumps(measure(tasks[name], float(seconds))), flush=True)


class Worker:
    """The process of one setting, asked over its standard input and output."""

    def __init__(
        self, setting: str, variables: dict[str, str], options: argparse.Namespace
    ) -> None:
        hidden = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS"}
        env = {name: value for name, value in os.environ.items() if name not in hidden}
        env |= MEMORY | variables | (AVX2 if options.avx2 else {})
        command = [sys.executable, __file__, "--worker", setting, "--model", options.model]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, env=env, text=True, **pipes)

    def ask(self, task: str, seconds: float) -> dict[str, float]:
        """What :func:`measure` gives there."""
        stdin: IO[str] = self.process.stdin  # type: ignore[assignment]
        print(task, seconds, file=stdin, flush=True)
        return json.loads(self.answer())

    def answer(self) -> str:
        """The next line that the process prints."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("a process of the benchmark has ended; its message stands above")
        return line


@contextmanager
def workers(options: argparse.Namespace) -> Iterator[dict[str, Worker]]:
    """A process per setting, ready to measure."""
    settings = SETTINGS if options.quick else SETTINGS | TRIED
    started = {name: Worker(name, values, options) for name, values in settings.items()}
    try:
        for worker in started.values():
            worker.answer()
        yield started
    finally:
        for worker in started.values():
            worker.process.kill()
            worker.process.wait()


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that compute without a pause."""
    started = [subprocess.Popen(BUSY) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """The medians over the rounds: task → load → setting → what :func:`measure` gives."""
    from lggseg.utils.threads import idle_cpus

    rows: dict[str, Any] = {}
    idle: dict[str, list[float]] = {}
    with workers(options) as started:
        for _ in range(options.rounds):
            for load, count in LOADS.items():
                with busy(count):
                    idle.setdefault(load, []).append(idle_cpus())
                    for task in ("training", "torch", "onnx"):
                        for name, worker in started.items():
                            place = rows.setdefault(task, {}).setdefault(load, {})
                            answer = worker.ask(task, options.seconds)
                            place.setdefault(name, []).append(answer)
                            print(task, load, name, answer, flush=True)
    tasks = {
        task: {load: {name: medians(v) for name, v in row.items()} for load, row in loads.items()}
        for task, loads in rows.items()
    }
    found = {load: round(statistics.median(values), 2) for load, values in idle.items()}
    return {"idle_cpus": found, **tasks}


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    """The median of each number."""
    return {name: round(statistics.median(row[name] for row in rows), 4) for name in rows[0]}


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    from importlib.metadata import version

    from lggseg.utils.threads import threads, usable_cpus

    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    name = text.partition("model name\t: ")[2].partition("\n")[0] or platform.machine()
    facts = {"cpu": name, "cores": os.cpu_count(), "avx512_bf16": "avx512_bf16" in text}
    versions = {name: version(name) for name in ("torch", "onnxruntime")}
    return {**facts, "usable_cpus": usable_cpus(), "threads": threads(), **versions}


def run(options: argparse.Namespace) -> None:
    """Compare, and write the results beside those of the other kind from the same machine."""
    from lggseg.utils.files import write_json

    path, facts = options.out / "contention.json", machine()
    stored = json.loads(path.read_text()) if path.exists() else {}
    results = stored if stored.get("machine") == facts else {"machine": facts}
    kind = {"date": date.today().isoformat(), "seconds": options.seconds, "rounds": options.rounds}
    results["avx2" if options.avx2 else "native"] = {**kind, **compare(options)}
    write_json(results, path)
    print(json.dumps(results, indent=1))


def main() -> None:
    """Compare, or be the process of one setting."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="default and ours only, one round")
    parser.add_argument("--avx2", action="store_true", help="hide AVX-512 from torch")
    parser.add_argument("--seconds", type=float, help="of each measurement")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--model", default="models/lgg-unet")
    parser.add_argument("--out", type=Path, default=Path("report/results"))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.seconds = options.seconds or (1.0 if options.quick else 4.0)
    options.rounds = options.rounds or (1 if options.quick else 3)
    (partial(work, options.worker, options.model) if options.worker else partial(run, options))()


if __name__ == "__main__":
    main()
