"""Slices a second and memory: ours against what a user would pick instead, and inference engines.

    python benchmarks/throughput.py DATA [--model models/lgg-unet] [--out report/results]

For each contestant and each setting of threads and workers, in a process of its own: the input
pipeline alone (augmented batches on the device), training (the whole step), the same step on one
constant batch, and the peak memory of the main process (mapped files included). Then slices a
second of whole volumes through the model folder by ONNX Runtime, torch, compiled torch, and
OpenVINO where it is installed. Writes throughput.json, with the fastest setting of each
contestant, which time_to_dice.py uses.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lggseg.config import Config
from lggseg.data.cohort import Cohort, load_cohort

CORES = os.cpu_count() or 1
# (torch threads, loader workers) worth trying; only one of the peers has workers.
SETTINGS = {
    "ours": [(1, 0), (CORES, 0)],
    "monai": [(threads, n) for threads in (1, CORES) for n in (CORES // 2, CORES)] + [(CORES, 0)],
    "monai-device": [(1, 0), (CORES, 0)],
}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def rate(call: Callable[[], int], seconds: float) -> float:
    """Slices a second of a call that says how many it handled, repeated for ``seconds``."""
    synchronise = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    call()
    synchronise()
    start, slices = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        slices += call()
    synchronise()
    return slices / (time.perf_counter() - start)


def measure_ours(options: argparse.Namespace) -> dict[str, Any]:
    """Rates of this package's pipeline and training step, at its own resolution and at 224."""
    from lggseg.training.datamodule import Batch, DeviceCohort
    from lggseg.training.precision import choose_precision
    from lggseg.training.step import Networks, TrainingStep, build_optimizer, runner
    from lggseg.training.trainer import keep_freed_memory

    keep_freed_memory()
    config, cohort = Config(), load_cohort(options.data, progress=False)
    config = replace(config, precision=choose_precision(config))
    on_device = DeviceCohort(cohort, config, DEVICE)
    rng = np.random.default_rng(0)

    def rows() -> torch.Tensor:
        drawn = rng.integers(0, len(on_device.pixels), config.batch_size)
        return torch.from_numpy(drawn).to(DEVICE)

    def fresh(source: DeviceCohort = on_device) -> Batch:
        chosen = rows() % len(source.pixels)
        return source.batch(chosen, training=True)

    def trainer(source: DeviceCohort) -> Callable[[], int]:
        networks = Networks(config).to(DEVICE).train()
        run = runner(TrainingStep(networks, build_optimizer(networks), source, 10**6))
        return lambda: len(run(rows()).expand(config.batch_size))

    same_batch, constant = copy.copy(on_device), fresh()
    same_batch.batch = lambda *_, **__: constant  # type: ignore[method-assign]
    real, same, seconds = trainer(on_device), trainer(same_batch), options.seconds
    pairs = [(rate(real, seconds), rate(same, seconds)) for _ in range(3)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    large = DeviceCohort(_cropped(cohort), replace(config, downsample=1), DEVICE)
    return {
        "pipeline": rate(lambda: len(fresh().rows), seconds),
        "pipeline_at_224": rate(lambda: len(fresh(large).rows), seconds),
        "train": statistics.median(ours for ours, _ in pairs),
        "real_over_constant": statistics.median(bare / ours for ours, bare in pairs),
        "peak_mib": peak,
        "size": config.size,
        "precision": config.precision,
    }


def _cropped(cohort: Cohort, patients: int = 20) -> Cohort:
    """The first patients, at the 224 × 224 pixels that the peers train at."""
    names = cohort.patients.index[:patients]
    rows, middle = slice(0, int(cohort.patients["slices"][names].sum())), slice(16, 240)
    return replace(
        cohort,
        images=cohort.images[rows, middle, middle],
        masks=cohort.masks[rows, middle, middle],
        slices=cohort.slices[rows],
        patients=cohort.patients.loc[names],
    )


def measure_peer(options: argparse.Namespace) -> dict[str, Any]:
    """Rates of a peer's pipeline and training step."""
    import peers

    cohort = load_cohort(options.data, progress=False)
    rows = np.flatnonzero(~cohort.slices["blank"].to_numpy())[: options.slices]
    loader = peers.loader(options.contestant, cohort, rows, options.workers, DEVICE, True)
    # Epoch after epoch, so that workers that were started once stay busy.
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    trainer = peers.Trainer(DEVICE)

    def step(batch: dict[str, Any]) -> int:
        trainer.step(batch)
        return len(batch["row"])

    pipeline = rate(lambda: len(next(batches)["row"]), options.seconds)
    return {
        "pipeline": pipeline,
        "pipeline_at_224": pipeline,
        "train": rate(lambda: step(next(batches)), 2 * options.seconds),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "size": peers.SIZES[options.contestant],
        "precision": "32-true",
    }


def contest(options: argparse.Namespace) -> None:
    """Measure one contestant with one setting in this process; prints JSON."""
    torch.set_num_threads(options.threads)
    measure = measure_ours if options.contestant == "ours" else measure_peer
    print(json.dumps(measure(options)))


def measure_inference(model: Path, cohort: Cohort, seconds: float) -> dict[str, float]:
    """Slices a second of whole volumes through a model folder, by engine."""
    from lggseg.inference.segmenter import Segmenter

    volume = cohort.image(cohort.patients["slices"].idxmax())
    engines = {
        "ONNX Runtime": lambda: Segmenter.load(model),
        "torch": lambda: Segmenter.load(model, "torch"),
        "torch.compile": lambda: _compiled(model),
        "OpenVINO": lambda: _openvino(model),
    }
    rates = {}
    for name, load in engines.items():
        try:
            segmenter = load()
            rates[name] = rate(lambda s=segmenter: len(s.predict(volume).mask), seconds)
        except Exception as error:  # not installed, or a compiler that fails: the others count
            print(f"{name}: not measured ({str(error).splitlines()[0]})", flush=True)
    return rates


def _compiled(model: Path) -> Any:
    from safetensors.torch import load_file

    from lggseg.inference.onnx_export import inference_graph
    from lggseg.inference.segmenter import Segmenter
    from lggseg.models.networks import build_network

    segmenter = Segmenter.load(model)
    network = build_network(segmenter.config)
    network.load_state_dict(load_file(model / "weights.safetensors"))
    graph = torch.compile(inference_graph(network, segmenter.config).to(DEVICE))

    def run(*parts: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return graph(*(torch.from_numpy(part).to(DEVICE) for part in parts)).cpu().numpy()

    return replace(segmenter, run=run)


def _openvino(model: Path) -> Any:
    import openvino

    from lggseg.inference.segmenter import Segmenter

    compiled = openvino.compile_model(model / "model.onnx", "CPU")
    return replace(Segmenter.load(model), run=lambda *parts: compiled(parts)[0])


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        name = cpuinfo.read_text().split("model name\t: ")[-1].splitlines()[0]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": name, "cores": os.cpu_count(), "gpu": gpu, "torch": torch.__version__}


def compete(options: argparse.Namespace) -> None:
    """Measure every contestant with every setting, then the engines; write the results."""
    from lggseg.utils.files import write_json

    tried: dict[str, list[dict[str, Any]]] = {}
    for name, settings in SETTINGS.items():
        for threads, workers in settings:
            command = [sys.executable, __file__, options.data, "--contestant", name]
            command += ["--threads", str(threads), "--workers", str(workers)]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            row = {"threads": threads, "workers": workers, **json.loads(output.splitlines()[-1])}
            tried.setdefault(name, []).append(row)
            print(name, row, flush=True)
    best = {name: max(rows, key=lambda row: row["train"]) for name, rows in tried.items()}
    results = {
        "machine": machine(),
        "settings": {name: [row["threads"], row["workers"]] for name, row in best.items()},
        "contestants": tried,
    }
    if options.model.is_dir():
        cohort = load_cohort(options.data)
        results["inference"] = measure_inference(options.model, cohort, options.seconds)
    write_json(results, options.out / "throughput.json")
    print(json.dumps(results, indent=1))


def main() -> None:
    """Compete, or be a contestant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--slices", type=int, default=512, help="that a peer caches")
    parser.add_argument("--model", type=Path, default=Path("models/lgg-unet"))
    parser.add_argument("--out", type=Path, default=Path("report/results"))
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    for name in ("threads", "workers"):
        parser.add_argument(f"--{name}", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    (contest if options.contestant else compete)(options)


if __name__ == "__main__":
    main()
