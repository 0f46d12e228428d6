"""What only a GPU can prove: ``pytest -m gpu``. Skipped where there is none; with ``REHEARSAL=1``,
as ``benchmarks/gpu.py --smoke`` sets it, what needs no call of CUDA runs on the processor."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from lggseg.config import Config
from lggseg.data.cohort import Cohort
from lggseg.data.splits import make_split, slice_subsets
from lggseg.experiments.side_by_side import train_together
from lggseg.inference.engines import torch_engine
from lggseg.inference.onnx_export import export_model
from lggseg.inference.segmenter import Segmenter
from lggseg.training import cuda_graph
from lggseg.training.datamodule import DeviceCohort, training_rows
from lggseg.training.module import SegmentationModule
from lggseg.training.step import Networks, TrainingStep, build_optimizer, runner
from lggseg.training.train import train

CUDA = torch.cuda.is_available()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not CUDA and "REHEARSAL" not in os.environ, reason="no GPU"),
]
on_cuda = pytest.mark.skipif(not CUDA, reason="no GPU")
CONFIG = Config(width=16, downsample=4, batch_size=8, precision="bf16-mixed")
GPU = torch.device("cuda" if CUDA else "cpu")


def make_step(cohort: Cohort, config: Config, **options: int) -> TrainingStep:
    torch.manual_seed(0)
    networks = Networks(config).to(GPU).train()
    on_device = DeviceCohort(cohort, config, GPU, **options)
    return TrainingStep(networks, build_optimizer(networks), on_device, 200)


def losses(step: TrainingStep, steps: int, rows: list[torch.Tensor]) -> np.ndarray:
    run = runner(step)
    values = [run(rows[number % len(rows)]).clone() for number in range(steps)]
    return torch.stack(values).cpu().numpy()


@pytest.fixture(scope="module")
def rows(cohort: Cohort) -> list[torch.Tensor]:
    subsets = slice_subsets(cohort, make_split(cohort), 0)
    return list(training_rows(cohort, subsets, CONFIG, lambda: 0))


@on_cuda
def test_a_captured_step_equals_a_launched_one(
    cohort: Cohort, rows: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, precision="32-true")
    captured = make_step(cohort, config)
    assert captured.capturable
    one = losses(captured, 24, rows)
    monkeypatch.setenv("LGGSEG_CUDA_GRAPH", "0")
    launched = make_step(cohort, config)
    assert not launched.capturable
    two = losses(launched, 24, rows)
    # On an H100 eight epochs gave the same Dice to the last digit.
    np.testing.assert_allclose(one, two, rtol=1e-3)


@on_cuda
@pytest.mark.parametrize("switch", ["0", "1"])
def test_a_step_never_waits_for_the_device(
    cohort: Cohort, rows: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    monkeypatch.setenv("LGGSEG_CUDA_GRAPH", switch)
    step = make_step(cohort, CONFIG)
    run = runner(step)
    for row in rows * 8:  # set up, and record
        run(row)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for row in rows:
            run(row)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_cuda
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "32-true"])
def test_two_hundred_steps_stay_finite(
    cohort: Cohort, rows: list[torch.Tensor], precision: str
) -> None:
    values = losses(make_step(cohort, replace(CONFIG, precision=precision)), 200, rows)
    assert np.isfinite(values).all() and values[-20:].mean() < values[:20].mean()


def test_a_forced_overflow_skips_the_step_in_16_bits(
    cohort: Cohort, rows: list[torch.Tensor]
) -> None:
    step = make_step(cohort, replace(CONFIG, precision="16-mixed"))
    run = runner(step)
    run(rows[0])
    assert step.scaler is not None
    before = [weight.clone() for weight in step.networks.trained.parameters()]
    step.scaler.update(2.0**120)
    run(rows[0])
    after = list(step.networks.trained.parameters())
    assert all(map(torch.equal, before, after)) and step.scaler.get_scale() < 2.0**120
    step.scaler.update(2.0**10)
    run(rows[0])
    assert not all(map(torch.equal, before, after))


@on_cuda
def test_a_cohort_that_does_not_fit_stays_in_the_hosts_memory(
    cohort: Cohort, rows: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its batches travel from pinned memory."""
    select, pinned = torch.index_select, list[bool]()

    def watched(*where: Any, out: torch.Tensor) -> torch.Tensor:
        pinned.append(out.is_pinned())
        return select(*where, out=out)

    monkeypatch.setattr(torch, "index_select", watched)
    step = make_step(cohort, CONFIG, budget=1000)
    assert not step.on_device.pixels.is_cuda and not step.capturable
    assert np.isfinite(losses(step, 3, rows)).all()
    assert pinned and all(pinned)


def test_a_resumed_run_ends_as_an_uninterrupted_one(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: SegmentationModule) -> None:
        if self.current_epoch == 2:
            raise RuntimeError("the machine was taken away")

    config, split = replace(CONFIG, epochs=4), make_split(cohort)
    whole = train(config, cohort, split, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="taken away"):
        patch.setattr(SegmentationModule, "on_validation_epoch_end", fail)
        train(config, cohort, split, tmp_path / "run", progress=False)
    assert len(pd.read_csv(tmp_path / "run" / "metrics.csv")) == 2
    run = train(config, cohort, split, tmp_path / "run", resume=True, progress=False)
    tables = [pd.read_csv(folder / "metrics.csv") for folder in (run, whole)]
    one, two = (table[["epoch", "train/loss", "val/loss"]] for table in tables)
    pd.testing.assert_frame_equal(one, two, rtol=1e-3)


def test_models_side_by_side_give_what_each_gives_alone(cohort: Cohort) -> None:
    config = replace(CONFIG, precision="32-true", epochs=4)
    split = make_split(cohort)
    configs = [replace(config, fold=fold) for fold in (0, 1)]
    subsets = [slice_subsets(cohort, split, fold) for fold in (0, 1)]
    both = train_together(configs, cohort, subsets, GPU)
    for one, labels, together in zip(configs, subsets, both, strict=True):
        (alone,) = train_together([one], cohort, [labels], GPU)
        assert together.loss == pytest.approx(alone.loss, rel=1e-3)


@on_cuda
def test_a_graph_is_recorded_while_earlier_trainings_are_forgotten(
    cohort: Cohort, rows: list[torch.Tensor]
) -> None:
    """Python's garbage collector, which here runs all the time, may destroy none of theirs then."""
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(4):
            step = make_step(cohort, CONFIG)
            step.networks.itself = [step]  # type: ignore[assignment] # a cycle, as Lightning's are
            assert np.isfinite(losses(step, 6, rows)).all()
            del step
    finally:
        gc.set_threshold(*before)


def test_cpu_and_gpu_draw_the_same_mask(
    cohort: Cohort, rows: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    step = make_step(cohort, replace(CONFIG, precision="32-true"))
    losses(step, 60, rows)
    export_model(step.networks.averaged, step.config, tmp_path)
    there = Segmenter(step.config, {}, torch_engine(tmp_path, step.config))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    here = Segmenter(step.config, {}, torch_engine(tmp_path, step.config))
    volumes = [cohort.images[cohort.rows(name)] for name in cohort.patients.index]
    masks = [[one.predict(volume).mask for volume in volumes] for one in (here, there)]
    one, other = map(np.concatenate, masks)
    assert (one != other).mean() < 1e-4


@on_cuda
def test_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    made: Callable[[], bool] = lambda: cuda_graph.available(GPU)  # noqa: E731
    assert made() and os.environ.get("LGGSEG_CUDA_GRAPH") is None
    monkeypatch.setenv("LGGSEG_CUDA_GRAPH", "0")
    assert not made()
