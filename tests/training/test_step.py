"""The training step that Lightning, experiments and the CUDA graph share."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lggseg.config import Config, profile
from lggseg.data.cohort import Cohort
from lggseg.data.splits import make_split, patients_of, slice_subsets
from lggseg.experiments.side_by_side import Model, train_together
from lggseg.training import train
from lggseg.training.datamodule import DeviceCohort
from lggseg.training.step import (
    Networks,
    TrainingStep,
    build_optimizer,
    count_voxels,
    one_cycle,
    runner,
)

CONFIG = replace(profile("smoke"), epochs=2, batch_size=4, precision="32-true", width=4)
CPU = torch.device("cpu")


@pytest.mark.parametrize("total", [10, 37, 2920])
def test_the_rate_is_torchs_one_cycle(total: int) -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], 0.003)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.003, total_steps=total, pct_start=0.2, cycle_momentum=False
    )
    for done in range(total):
        assert one_cycle(0.003, done, total) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if done + 1 < total:
            schedule.step()


@pytest.mark.parametrize("total", [1, 2, 4, 5, 6])
def test_a_run_of_a_few_steps_has_a_rate(total: int) -> None:
    rates = [one_cycle(1.0, done, total) for done in range(total)]
    assert all(0 < rate <= 1 for rate in rates)


def make_step(cohort: Cohort, config: Config = CONFIG) -> TrainingStep:
    torch.manual_seed(config.seed)
    networks = Networks(config).train()
    on_device = DeviceCohort(cohort, config, CPU)
    return TrainingStep(networks, build_optimizer(networks), on_device, 20)


def test_a_step_trains_and_averages(cohort: Cohort) -> None:
    step = make_step(cohort)
    run, rows = runner(step), torch.arange(4)
    assert not step.capturable
    first = float(run(rows))
    networks = step.networks
    pairs = list(zip(networks.averaged.parameters(), networks.trained.parameters(), strict=True))
    assert all(torch.equal(average, trained) for average, trained in pairs)
    before = [average.clone() for average, _ in pairs]
    second = float(run(rows))
    for (average, trained), old in zip(pairs, before, strict=True):
        expected = CONFIG.ema_decay * old + (1 - CONFIG.ema_decay) * trained.detach()
        torch.testing.assert_close(average, expected)
    assert step.done == 2 and float(step.total) == pytest.approx(4 * (first + second), rel=1e-5)


def test_the_average_keeps_its_statistics_in_validation(cohort: Cohort) -> None:
    step = make_step(cohort)
    runner(step)(torch.arange(4))
    before = [buffer.clone() for buffer in step.networks.averaged.buffers()]
    _, voxels = count_voxels(step.networks, step.on_device, torch.arange(6))
    assert not any(module.training for module in step.networks.averaged.modules())
    assert all(map(torch.equal, before, step.networks.averaged.buffers()))
    truth = cohort.masks[:6] > 0
    assert (voxels[:, 0] + voxels[:, 2]).tolist() == truth.sum(axis=(1, 2)).tolist()


def test_random_numbers_come_from_the_step_alone(cohort: Cohort) -> None:
    config = replace(CONFIG, dropout=0.3)
    one, other = make_step(cohort, config), make_step(cohort, config)
    torch.manual_seed(1)
    first = float(runner(one)(torch.arange(4)))
    torch.manual_seed(2)
    assert float(runner(other)(torch.arange(4))) == first


def test_models_side_by_side_give_what_each_gives_alone(cohort: Cohort) -> None:
    split = make_split(cohort)
    configs = [replace(CONFIG, fold=fold, seed=seed) for fold, seed in ((0, 0), (1, 1))]
    subsets = [slice_subsets(cohort, split, config.fold) for config in configs]
    both = train_together(configs, cohort, subsets, CPU)
    for config, labels, trained in zip(configs, subsets, both, strict=True):
        (alone,) = train_together([config], cohort, [labels], CPU)
        assert trained.loss == alone.loss
        assert trained.dice.to_dict() == alone.dice.to_dict()
        weights = zip(trained.networks.parameters(), alone.networks.parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in weights)


class _Watch(TorchDispatchMode):
    """Which operations change a tensor, and on whose stream."""

    def __init__(self, stream: list[str], watched: dict[int, str]) -> None:
        super().__init__()
        self.stream, self.watched, self.seen = stream, watched, set[tuple[str, str]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for argument in args:
            owner = self.watched.get(id(argument))
            if owner:
                self.seen.add((owner, self.stream[-1]))
        return func(*args, **(kwargs or {}))


def test_a_model_is_touched_on_its_own_stream_alone(
    cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams of a GPU wait for nothing: what is done on another one overtakes this one's steps,
    and a stream that stays set after a step is the next model's."""
    stream = ["nobody"]

    @contextmanager
    def on_stream(model: Model) -> Iterator[None]:
        assert stream == ["nobody"]
        stream.append(str(model.config.seed))
        yield
        assert stream.pop() == str(model.config.seed)

    monkeypatch.setattr(Model, "on_stream", on_stream)
    labels = slice_subsets(cohort, make_split(cohort), 0)
    configs = [replace(CONFIG, seed=seed) for seed in (0, 1)]
    on_device = DeviceCohort(cohort, CONFIG, CPU)
    models = [Model(config, cohort, labels, on_device) for config in configs]
    totals = {id(model.step.total): str(model.config.seed) for model in models}
    running = [model.steps() for model in models]
    with _Watch(stream, totals) as watch:
        while running:
            running = [steps for steps in running if next(steps, None) is not None]
            assert stream == ["nobody"]
    assert watch.seen == {("0", "0"), ("1", "1")}


def test_nothing_waits_for_the_garbage_collector_to_forget_a_model(cohort: Cohort) -> None:
    """A CUDA graph that lives on in a cycle is destroyed at any time, in a recording, too."""
    labels = slice_subsets(cohort, make_split(cohort), 0)
    gc.disable()
    try:
        model = Model(CONFIG, cohort, labels, DeviceCohort(cohort, CONFIG, CPU))
        next(model.steps())
        parts = [weakref.ref(part) for part in (model, model.step, model.networks)]
        del model
        assert [part() for part in parts] == [None] * 3
    finally:
        gc.enable()


def test_a_model_of_an_experiment_is_that_of_a_training(cohort: Cohort) -> None:
    labels = slice_subsets(cohort, make_split(cohort), 0)
    (trained,) = train_together([CONFIG], cohort, [labels], CPU)
    dice = train.validation_dice(CONFIG, cohort, labels, progress=False)
    np.testing.assert_allclose(trained.dice.sort_index(), dice.sort_index(), atol=1e-6)
    assert sorted(trained.dice.index) == sorted(patients_of(make_split(cohort), "validation", 0))


def test_models_side_by_side_need_the_same_pixels(cohort: Cohort) -> None:
    labels = slice_subsets(cohort, make_split(cohort), 0)
    with pytest.raises(ValueError, match="found downsample=2, expected 4"):
        train_together([CONFIG, replace(CONFIG, downsample=2)], cohort, [labels] * 2, CPU)
