from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from trainings import CONFIG, final_metrics, training_command

from lggseg.config import Config
from lggseg.data.cohort import Cohort
from lggseg.data.splits import (
    LeakageError,
    make_split,
    patients_of,
    read_split,
    slice_subsets,
    split_fingerprint,
)
from lggseg.evaluation.segmentation import patient_metrics
from lggseg.experiments import cross_validation
from lggseg.inference.evaluate import evaluate
from lggseg.inference.model_folder import FILES, amend_card
from lggseg.inference.predict import predict_folder
from lggseg.inference.segmenter import Segmenter
from lggseg.models import losses
from lggseg.models import networks as models
from lggseg.preprocessing import transforms
from lggseg.training import callbacks, module, precision, train
from lggseg.training.datamodule import Batch, DeviceCohort, TrainingRows
from lggseg.training.step import Networks, TrainingStep, build_optimizer, runner
from lggseg.utils.errors import DataError
from lggseg.utils.files import try_lock

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def split(cohort: Cohort) -> pd.DataFrame:
    return make_split(cohort)


@pytest.fixture(scope="module")
def run(cohort: Cohort, split: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "unet"
    return train.train(CONFIG, cohort, split, folder, progress=False)


def test_run_folder_is_complete(run: Path, cohort: Cohort, split: pd.DataFrame) -> None:
    for name in (
        "config.json",
        "split.csv",
        "metrics.csv",
        "patients.csv",
        "checkpoints/last.ckpt",
    ):
        assert (run / name).is_file(), name
    assert sorted(path.name for path in (run / "model").iterdir()) == sorted(FILES)
    metrics = pd.read_csv(run / "metrics.csv")
    assert metrics["epoch"].tolist() == [0, 1, 2]
    assert {"train/loss", "val/loss", "val/dice_raw", "learning_rate", "seconds"} <= set(metrics)
    patients = pd.read_csv(run / "patients.csv")["patient"].tolist()
    assert patients == patients_of(split, "validation", 0)
    card = json.loads((run / "model" / "model_card.json").read_text())
    assert card["data_fingerprint"] == cohort.fingerprint
    assert card["validation"]["dice"]["n"] == len(patients)
    assert not card["simulated"]


def test_both_engines_give_the_same_mask(run: Path, cohort: Cohort) -> None:
    volume = cohort.image(cohort.patients.index[0])
    onnx, torch_ = (
        Segmenter.load(run / "model", engine).predict(volume) for engine in ("onnx", "torch")
    )
    assert onnx.mask.shape == volume.shape[:3] and onnx.mask.dtype == bool
    np.testing.assert_allclose(onnx.probability, torch_.probability, atol=1e-4)
    assert (onnx.mask == torch_.mask).mean() > 0.9999


def test_serving_normalises_as_training_does(run: Path, cohort: Cohort) -> None:
    """The network sees the same numbers from a batch of the cohort and from a lone volume."""
    config = replace(CONFIG, test_flips=False)
    on_device = DeviceCohort(cohort, config, CPU)
    patient = cohort.patients.index[2]
    rows = torch.arange(cohort.rows(patient).start, cohort.rows(patient).stop)
    seen: list[torch.Tensor] = []
    network = models.build_network(config).eval()
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    from lggseg.inference.onnx_export import inference_graph

    graph = inference_graph(network, config)
    segmenter = Segmenter(
        config, {}, lambda *parts: graph(*map(torch.from_numpy, parts)).detach().numpy()
    )
    segmenter.predict(cohort.image(patient))
    torch.testing.assert_close(seen[0], on_device.batch(rows, training=False).image)


def test_validation_dice_is_exact_per_patient(cohort: Cohort, split: pd.DataFrame) -> None:
    """The running counts of the module equal the Dice of the masks themselves."""
    config = replace(CONFIG, epochs=1, test_flips=False)
    subsets = slice_subsets(cohort, split, 0)
    kept: dict[str, module.SegmentationModule] = {}
    build = module.SegmentationModule

    class Kept(build):  # type: ignore[misc, valid-type]
        def __init__(self, config: Config) -> None:
            super().__init__(config)
            kept["module"] = self

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "SegmentationModule", Kept)
        dice = train.validation_dice(config, cohort, subsets, progress=False)
    assert sorted(dice.index) == sorted(patients_of(split, "validation", 0))
    network, on_device = kept["module"].networks.averaged, DeviceCohort(cohort, config, CPU)
    for patient, value in dice.items():
        rows = torch.arange(cohort.rows(patient).start, cohort.rows(patient).stop)
        with torch.no_grad():
            logits = network(on_device.batch(rows, training=False).image)
        probability = transforms.enlarge(logits, config.downsample).sigmoid()[:, 0]
        mask = probability >= config.threshold
        truth = cohort.mask(str(patient))
        assert value == pytest.approx(patient_metrics(truth, mask.numpy())["dice"], abs=1e-3)


def _start_and_stop(command: list[str], run: Path, how: signal.Signals, log: Path) -> None:
    """Start training, wait for its third epoch, and stop it by a signal."""
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if (run / "metrics.csv").exists() and len(final_metrics(run)) >= 2:
                break
            time.sleep(0.02)
        process.send_signal(how)
        process.wait(60)
    assert not (run / "patients.csv").exists(), log.read_text()
    assert (run / "checkpoints" / "last.ckpt").exists(), log.read_text()


@pytest.fixture(scope="module")
def uninterrupted(shared_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    subprocess.run(training_command(shared_tree, run), check=True, capture_output=True)
    return run


def test_a_run_of_an_earlier_version_goes_on_under_the_new_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks.SIGNALS, "after_step", False)
    epochs = pd.DataFrame({"epoch": [0, 1], "val/dice": [0.1, 0.2], "val/dice_median": [0.3, 0.4]})
    epochs.to_csv(tmp_path / "metrics.csv", index=False)
    folder = callbacks.RunFolder(tmp_path)
    trainer: Any = SimpleNamespace(world_size=1, current_epoch=1)
    folder.on_train_start(trainer, cast(Any, None))
    assert folder.rows == [{"epoch": 0, "val/dice_raw": 0.1, "val/dice_raw_median": 0.3}]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_resumed_run_ends_as_an_uninterrupted_one(
    shared_tree: Path, uninterrupted: Path, tmp_path: Path, how: signal.Signals
) -> None:
    run = tmp_path / "run"
    _start_and_stop(training_command(shared_tree, run), run, how, tmp_path / "log")
    done = len(final_metrics(run))
    assert done < 8
    subprocess.run(training_command(shared_tree, run, "--resume"), check=True, capture_output=True)
    resumed, whole = final_metrics(run), final_metrics(uninterrupted)
    pd.testing.assert_frame_equal(resumed, whole, rtol=1e-5)
    pd.testing.assert_frame_equal(
        pd.read_csv(run / "patients.csv"), pd.read_csv(uninterrupted / "patients.csv"), rtol=1e-5
    )


def test_an_earlier_run_is_not_overwritten(run: Path, cohort: Cohort, split: pd.DataFrame) -> None:
    with pytest.raises(DataError, match=r"found an earlier run; expected a new folder.*--resume"):
        train.train(CONFIG, cohort, split, run, progress=False)


def test_two_processes_do_not_train_in_one_folder(
    cohort: Cohort, split: pd.DataFrame, tmp_path: Path
) -> None:
    other = try_lock(tmp_path / ".lock")
    with pytest.raises(DataError, match=r"found another process that trains in it.*another --run"):
        train.train(CONFIG, cohort, split, tmp_path, progress=False)
    assert other is not None and not (tmp_path / "config.json").exists()
    other.release()
    one = replace(CONFIG, epochs=1)
    assert train.train(one, cohort, split, tmp_path, progress=False) == tmp_path


def test_resuming_a_finished_run_does_nothing(
    run: Path, cohort: Cohort, split: pd.DataFrame
) -> None:
    before = os.stat(run / "metrics.csv").st_mtime_ns
    assert train.train(CONFIG, cohort, split, run, resume=True, progress=False) == run
    assert os.stat(run / "metrics.csv").st_mtime_ns == before


def test_a_checkpoint_of_an_earlier_version_is_named() -> None:
    with pytest.raises(DataError, match=r"last.ckpt: found a checkpoint of an earlier version"):
        module.SegmentationModule(CONFIG).on_load_checkpoint({"state_dict": {}})


def test_resuming_with_another_config(cohort: Cohort, split: pd.DataFrame, tmp_path: Path) -> None:
    CONFIG.save(tmp_path / "config.json")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"")
    other = replace(CONFIG, learning_rate=0.1)
    with pytest.raises(DataError, match=r"found learning_rate=0.1; expected 0.003"):
        train.train(other, cohort, split, tmp_path, resume=True, progress=False)


def test_a_leaking_split_is_refused(cohort: Cohort, split: pd.DataFrame, tmp_path: Path) -> None:
    leaking = cohort.slices["digest"].copy()
    leaking[:] = "the same picture"
    twin = replace(cohort, slices=cohort.slices.assign(digest=leaking, blank=False))
    with pytest.raises(LeakageError):
        train.train(CONFIG, twin, split, tmp_path / "run", progress=False)


def test_crossvalidation_scores_each_patient_by_a_model_that_had_not_seen_it(
    cohort: Cohort, split: pd.DataFrame, tmp_path: Path
) -> None:
    config = replace(CONFIG, epochs=1, test_flips=False)
    table = cross_validation.crossvalidate(config, cohort, split, tmp_path, progress=False)
    development = split[split["subset"] != "test"]
    assert sorted(table["patient"]) == sorted(development["patient"])
    fold = development.set_index("patient")["fold"]
    assert (table.set_index("patient")["fold"] == fold.loc[table["patient"]]).all()
    card = Segmenter.load(tmp_path / "final" / "model").card
    assert card["cross_validation"]["dice"]["n"] == len(table)
    assert card["cross_validation"]["dice"]["mean"] == pytest.approx(table["dice"].mean())
    assert card["validation"] == {} and card["config"]["fold"] == -1
    before = (tmp_path / "fold-1" / "patients.csv").stat().st_mtime_ns
    again = cross_validation.crossvalidate(
        config, cohort, split, tmp_path, resume=True, progress=False
    )
    pd.testing.assert_frame_equal(table, again)
    assert (tmp_path / "fold-1" / "patients.csv").stat().st_mtime_ns == before


def test_the_model_of_all_patients_keeps_the_scores_of_the_folds(
    cohort: Cohort, split: pd.DataFrame, tmp_path: Path
) -> None:
    config = replace(CONFIG, epochs=1, test_flips=False)
    options = {"final": "all", "progress": False}
    table = cross_validation.crossvalidate(config, cohort, split, tmp_path, **options)
    assert not (tmp_path / "final").exists()
    card = Segmenter.load(tmp_path / "all" / "model").card
    assert card["cross_validation"]["dice"]["mean"] == pytest.approx(table["dice"].mean())
    assert card["quality"]["n"] == len(table) and card["validation"] == {}
    assert "recipe_test" not in card
    trained = read_split(tmp_path / "all" / "split.csv")
    assert (trained["subset"] == "development").all() and len(trained) == len(split)
    assert card["split_fingerprint"] == split_fingerprint(trained) != split_fingerprint(split)
    tested = {"dice": {"mean": 0.5, "n": 1}}
    shutil.copytree(tmp_path / "all" / "model", tmp_path / "final" / "model")
    amend_card(tmp_path / "final" / "model", {"test": tested})
    cross_validation.crossvalidate(config, cohort, split, tmp_path, resume=True, **options)
    card = Segmenter.load(tmp_path / "all" / "model").card
    assert card["recipe_test"] == tested and "test" not in card
    with pytest.raises(ValueError, match="final='test': expected one of"):
        cross_validation.crossvalidate(config, cohort, split, tmp_path, final="test")


def test_without_a_fold_all_but_the_test_patients_train(split: pd.DataFrame) -> None:
    assert patients_of(split, "validation", -1) == []
    everyone = patients_of(split, "train", -1) + patients_of(split, "test", -1)
    assert sorted(everyone) == sorted(split["patient"])


def test_a_non_finite_loss_names_the_patients(
    cohort: Cohort, split: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(losses.LOSSES, "dice", lambda logits, mask: logits.mean() * float("nan"))
    with pytest.raises(module.NonFiniteLoss, match=r"became nan in epoch 0.*TCGA_\w\w_T00\d"):
        train.train(replace(CONFIG, loss="dice"), cohort, split, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def test_losses_are_computed_in_32_bits(cohort: Cohort) -> None:
    networks = Networks(replace(CONFIG, precision="bf16-mixed"))
    seen: list[torch.dtype] = []
    networks._loss = lambda logits, mask: seen.append(logits.dtype) or logits.mean()
    batch = DeviceCohort(cohort, CONFIG, CPU).batch(torch.arange(4), training=False)
    networks.trained[2].register_forward_hook(lambda *_: seen.append(_[2].dtype))
    networks.loss(networks.trained, batch)
    assert seen == [torch.bfloat16, torch.float32]


class _Says(torch.nn.Module):
    """A network that gives these logits whatever it sees."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.logits


def test_dice_focal_overflows_in_16_bits_and_not_here() -> None:
    """The NaN for which others train in 32 bits: a batch has more tumour pixels than 65,504."""
    mask, logits = torch.ones(8, 1, 128, 128), torch.full((8, 1, 128, 128), 6.0).half()
    config = replace(CONFIG, loss="dice_focal")
    assert not losses.build_loss(config)(logits, mask.half()).isfinite()
    networks = Networks(replace(config, precision="16-mixed"))
    batch = Batch(torch.zeros(8, 5, 128, 128), mask, torch.arange(8))
    loss, _ = networks.loss(_Says(logits), batch)
    assert loss.dtype == torch.float32 and loss.isfinite()


def test_training_rows_go_on_after_any_step() -> None:
    def rows(steps: int) -> TrainingRows:
        return TrainingRows(np.arange(10), np.arange(10, 40), CONFIG, lambda: steps)

    first, second = ([batch.tolist() for batch in rows(steps)] for steps in (0, 5))
    assert len(first) == len(second) == len(rows(0)) == 5
    assert first != second
    assert sorted(row for batch in first for row in batch)[:10] == list(range(10))
    assert [batch.tolist() for batch in rows(2)] == first[2:]


def test_a_cohort_too_large_for_the_device_stays_on_the_host(
    cohort: Cohort, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = (DeviceCohort(cohort, CONFIG, CPU, budget) for budget in (None, 1000))
    assert here.resident and not there.resident
    assert "stays in host memory" in capsys.readouterr().out
    rows = torch.tensor([0, 7, 20])
    torch.testing.assert_close(
        here.batch(rows, training=False).image, there.batch(rows, training=False).image
    )


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_pixels_are_shrunk_as_the_network_sees_them_later(cohort: Cohort, factor: int) -> None:
    """To the last bit, ties of rounding included: prediction shrinks in floating point."""
    rng = np.random.default_rng(0)
    rows = range(len(cohort.slices))
    noise = rng.integers(0, 256, cohort.images.shape, dtype=np.uint8)
    held = DeviceCohort(replace(cohort, images=noise), replace(CONFIG, downsample=factor), CPU)
    for part in torch.tensor(rows).split(8):
        image = torch.from_numpy(noise[part]).permute(0, 3, 1, 2)
        mask = torch.from_numpy(cohort.masks[part])[:, None]
        expected = transforms.shrink(torch.cat([image, mask], dim=1), factor)
        assert torch.equal(held.pixels[part].float(), expected.float())


def test_neighbours_come_from_the_same_patient(cohort: Cohort) -> None:
    image = DeviceCohort(cohort, CONFIG, CPU).gather(torch.arange(12))
    first, last = 0, 5  # of the first patient
    assert torch.equal(image[first, 3], image[first, 1])
    assert torch.equal(image[last, 4], image[last, 1])
    assert torch.equal(image[last, 3], image[last - 1, 1])


def test_wandb_works_without_an_account(
    cohort: Cohort, split: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    config = replace(CONFIG, epochs=1, tracker="wandb")
    run = train.train(config, cohort, split, tmp_path / "tracked", progress=False)
    (files,) = run.glob("wandb/offline-run-*/files")
    patients = pd.read_csv(run / "patients.csv")["patient"].tolist()
    (table,) = files.glob("media/table/*.json")
    logged = json.loads(table.read_text())
    assert [row[logged["columns"].index("patient")] for row in logged["data"]] == patients
    overlays = list(files.glob("media/images/*.png"))
    assert len(overlays) == min(3, len(patients))
    assert len(list(files.glob("media/images/mask/*.png"))) == 2 * len(overlays)


def test_predict_writes_masks_of_unseen_volumes(
    run: Path, shared_tree: Path, cohort: Cohort, tmp_path: Path
) -> None:
    segmenter = Segmenter.load(run / "model")
    table = predict_folder(segmenter, shared_tree, tmp_path / "tree", progress=False)
    assert table["patient"].tolist() == cohort.patients.index.tolist()
    scores = evaluate(segmenter, cohort, list(cohort.patients.index), progress=False)
    assert table["dice"].tolist() == pytest.approx(scores["dice"].tolist())
    patient = cohort.patients.index[0]
    mask = tifffile.imread(tmp_path / "tree" / f"{patient}_mask.tif")
    assert mask.shape == (6, 256, 256) and mask.dtype == np.uint8
    assert np.array_equal(mask > 0, segmenter.predict(cohort.image(patient)).mask)
    assert set(np.unique(mask)) <= {0, 255}
    tifffile.imwrite(tmp_path / "scan.tif", cohort.image(patient), photometric="rgb")
    for data in (shared_tree / patient, tmp_path / "scan.tif"):
        predict_folder(segmenter, data, tmp_path / "one", progress=False)
        again = tifffile.imread(tmp_path / "one" / f"{data.stem}_mask.tif")
        assert np.array_equal(again, mask)


def test_predict_refuses_another_shape(run: Path) -> None:
    segmenter = Segmenter.load(run / "model")
    with pytest.raises(ValueError, match=r"found float64 \(2, 256, 256, 3\), expected uint8"):
        segmenter.predict(np.zeros((2, 256, 256, 3)))


def test_a_broken_model_folder_names_the_file(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"model.onnx: found no such file"):
        Segmenter.load(tmp_path)
    for name in FILES:
        (tmp_path / name).write_bytes((run / "model" / name).read_bytes())
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(DataError, match=r"model.onnx: found the checksum .* changed or damaged"):
        Segmenter.load(tmp_path)
    card = json.loads((tmp_path / "model_card.json").read_text())
    del card["checksums"]
    (tmp_path / "model_card.json").write_text(json.dumps(card))
    with pytest.raises(DataError, match=r"model.onnx: found what ONNX Runtime cannot read"):
        Segmenter.load(tmp_path)
    (tmp_path / "model_card.json").write_text("{}")
    with pytest.raises(DataError, match=r"model_card.json: found no readable model card"):
        Segmenter.load(tmp_path)


def test_registries_refuse_unknown_names() -> None:
    with pytest.raises(ValueError, match="network='vgg': expected one of"):
        models.build_network(Config(network="vgg"))
    with pytest.raises(ValueError, match="loss='mse': expected one of"):
        losses.build_loss(Config(loss="mse"))


@pytest.mark.parametrize("network", sorted(models.NETWORKS))
@pytest.mark.parametrize("neighbours", [True, False])
@pytest.mark.parametrize("downsample", [1, 2, 4])
def test_network_shapes(network: str, neighbours: bool, downsample: int) -> None:
    config = Config(network=network, width=12, neighbours=neighbours, downsample=downsample)
    network = models.build_network(config)
    logits = network(torch.zeros(2, config.channels, config.size, config.size))
    assert logits.shape == (2, 1, config.size, config.size)


def test_batch_loss_and_optimiser_never_wait_for_the_device(cohort: Cohort) -> None:
    """On the meta device, which holds no data, everything that reads a value back raises."""
    meta = torch.device("meta")
    networks = Networks(replace(CONFIG, width=16)).to(meta)
    on_device = DeviceCohort(cohort, CONFIG, meta)
    step = TrainingStep(networks, build_optimizer(networks), on_device, 100)
    loss = runner(step)(torch.empty(4, dtype=torch.int64, device=meta))
    assert loss.is_meta and loss.ndim == 0 and step.done == 1
    with pytest.raises((RuntimeError, NotImplementedError)):
        loss.item()


def test_precision_is_measured_once_for_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []

    def seconds(network: torch.nn.Module, image: torch.Tensor, half: bool) -> float:
        steps.append(half)
        if len(steps) == 2:
            return 9.0  # something else took the processor
        return 1.0 if half == (len(steps) <= 10) else 2.0  # the second answer would be another

    monkeypatch.setattr(precision, "_seconds_of_a_step", seconds)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    precision._faster_on_cpu.cache_clear()
    try:
        for fold in range(2):
            chosen = precision.choose_precision(replace(Config(), fold=fold, learning_rate=0.01))
            assert chosen == "bf16-mixed" and steps == [False, True] * 5
        assert precision.choose_precision(replace(Config(), width=8)) == "32-true"
    finally:
        precision._faster_on_cpu.cache_clear()
