"""A run belongs to its config, split and data, and a start that saved nothing is no run."""

from __future__ import annotations

import runpy
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trainings import CONFIG, SCRIPT
from trees import write_tree

from lggseg import cli, commands
from lggseg.cloud import container
from lggseg.config import Config
from lggseg.data.cohort import Cohort, load_cohort
from lggseg.data.splits import make_split, read_split, split_fingerprint, write_split
from lggseg.experiments import compare, cross_validation
from lggseg.experiments import search as tune
from lggseg.inference.model_folder import FILES
from lggseg.models import losses
from lggseg.training import callbacks, train
from lggseg.training.module import NonFiniteLoss
from lggseg.training.run_folder import has_begun
from lggseg.utils.errors import DataError
from lggseg.utils.files import write_json
from lggseg.utils.stopping import Stopped

KNOBS = ["--profile", "smoke", "--epochs", "2", "--width", "4", "--precision", "32-true"]
SMALL = replace(CONFIG, epochs=2)


class Imitation:
    """Trains nothing, but writes what a training does, each row with the data that it was of."""

    def __init__(self) -> None:
        self.stop_after = 100  # epochs

    def fit(self, trainer: Any, module: Any, datamodule: Any, **_: Any) -> None:
        run = Path(trainer.default_root_dir)
        path, data = run / "metrics.csv", datamodule.cohort.fingerprint
        rows = pd.read_csv(path).to_dict("records") if path.exists() else []
        for _epoch in range(min(self.stop_after, module.config.epochs - len(rows))):
            rows.append({"epoch": len(rows), "data": data, "seconds": 1.0})
            pd.DataFrame(rows).to_csv(path, index=False)
            (run / "checkpoints").mkdir(exist_ok=True)
            nothing: dict[str, Any] = {"state_dict": {}, "optimizer_states": [], "loops": {}}
            torch.save({"epoch": len(rows), **nothing}, run / "checkpoints" / "last.ckpt")
        if len(rows) < module.config.epochs:
            raise Stopped(signal.SIGTERM)

    def finish(self, run: Path, config: Config, cohort: Cohort, split: Any, _: bool) -> None:
        (run / "model").mkdir(exist_ok=True)
        for name in FILES:
            write_json({"data_fingerprint": cohort.fingerprint}, run / "model" / name)
        patients = split["patient"][split["fold"] == config.fold]
        table = pd.DataFrame({"patient": patients, "data": cohort.fingerprint, "dice": 0.5})
        table.to_csv(run / "patients.csv", index=False)


@pytest.fixture
def imitation(monkeypatch: pytest.MonkeyPatch) -> Imitation:
    imitation = Imitation()
    monkeypatch.setattr(train, "_fit", imitation.fit)
    monkeypatch.setattr(train, "_finish", imitation.finish)
    return imitation


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# Order of operations: whatever is done to the data between starts, a run is of one data set.


def _change_file(tree: Path, ending: str) -> None:
    path = sorted(tree.glob(f"*/*{ending}"))[0]
    pixels = tifffile.imread(path)
    pixels[100:110, 100:110] = 255 - pixels[100:110, 100:110]
    tifffile.imwrite(path, pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack")


def change_pixels(tree: Path) -> None:
    _change_file(tree, "_1.tif")


def change_masks(tree: Path) -> None:
    _change_file(tree, "_2_mask.tif")


def change_patients(tree: Path) -> None:
    """Take one away, or give it back."""
    patient, aside = tree / "TCGA_DU_T004_20000101", tree.parent / "aside"
    shutil.move(*((patient, aside) if patient.exists() else (aside, patient)))


CHANGES: dict[str, Callable[[Path], None]] = {
    "pixels": change_pixels,
    "masks": change_masks,
    "patients": change_patients,
}
STARTS = st.tuples(st.sampled_from(["start", "resume"]), st.integers(1, 2))
OPERATIONS = st.lists(
    st.one_of(STARTS, st.sampled_from([*CHANGES, "split"])), min_size=3, max_size=7
).map(lambda rest: [("start", 1), *rest, ("resume", 2)])


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("pristine") / "tree", patients=5, slices=3)


@settings(max_examples=20, deadline=None)
@given(operations=OPERATIONS)
def test_whatever_changes_between_starts_a_run_is_of_one_data_set(
    pristine: Path, operations: list[Any]
) -> None:
    imitation = Imitation()
    with TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_fit", imitation.fit)
        patch.setattr(train, "_finish", imitation.finish)
        tree, run = Path(place, "tree"), Path(place, "run")
        shutil.copytree(pristine, tree)
        split, seed = make_split(load_cohort(tree, progress=False), folds=2), 0
        began: tuple[str, str] | None = None
        for operation in operations:
            if operation in CHANGES:
                CHANGES[operation](tree)
                continue
            cohort = load_cohort(tree, progress=False)
            if operation == "split":
                seed += 1
                split = make_split(cohort, seed=seed, folds=2)
                continue
            how, imitation.stop_after = operation
            now, before = (cohort.fingerprint, split_fingerprint(split)), contents(run)
            agrees = set(split["patient"]) == set(cohort.patients.index)
            allowed = agrees and (began is None or (how == "resume" and began == now))
            try:
                options: dict[str, Any] = {"resume": how == "resume", "progress": False}
                train.train(SMALL, cohort, split, run, **options)
            except DataError:
                assert not allowed and contents(run) == before
                continue
            except Stopped:
                pass
            assert allowed
            began = now
            for table in run.glob("*s.csv"):  # metrics and patients
                assert set(pd.read_csv(table)["data"]) == {began[0]}


def command(name: str, tree: Path, run: Path, *more: str) -> list[str]:
    extra = {"compare": ["--networks", "unet"], "tune": ["--trials", "1"]}.get(name, [])
    return [name, "--data", str(tree), "--run", str(run), *KNOBS, *extra, *more]


@pytest.fixture
def eight(shared_tree: Path, tmp_path: Path) -> Path:
    """A tree of ones own."""
    return Path(shutil.copytree(shared_tree, tmp_path / "tree"))


@pytest.mark.parametrize(
    "change", [change_pixels, pytest.param(change_masks, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("name", ["train", "crossvalidate", "compare"])
def test_no_command_resumes_on_other_data(
    name: str,
    finished: bool,
    change: Callable[[Path], None],
    eight: Path,
    imitation: Imitation,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commands, "read_json", lambda *_: {})
    monkeypatch.setattr(commands, "_summary", lambda *_: {})
    monkeypatch.setattr(commands, "_print_dice", lambda *_: None)
    monkeypatch.setattr(cross_validation, "amend_card", lambda *_: None)
    run, imitation.stop_after = tmp_path / "run", 100 if finished else 1
    assert cli.main(command(name, eight, run)) == (0 if finished else 143)
    before = contents(run)
    change(eight)
    capsys.readouterr()
    assert cli.main(command(name, eight, run, "--resume")) == 1
    said = capsys.readouterr().err
    assert "data.json: found that" in said and "other pixels, masks or patients" in said
    assert contents(run) == before


def test_a_fold_of_other_data_is_found_before_the_others_train(
    eight: Path, imitation: Imitation, tmp_path: Path
) -> None:
    cohort = load_cohort(eight, progress=False)
    split = make_split(cohort)
    train.train(replace(SMALL, fold=3), cohort, split, tmp_path / "fold-3", progress=False)
    change_masks(eight)
    cohort, before = load_cohort(eight, progress=False), contents(tmp_path)
    for resume in (True, False):
        with pytest.raises(DataError):
            options: dict[str, Any] = {"resume": resume, "progress": False}
            cross_validation.crossvalidate(SMALL, cohort, split, tmp_path, **options)
        assert contents(tmp_path) == before


def test_a_job_with_the_checkpoints_of_other_data_fails(
    eight: Path, imitation: Imitation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "start_processes", lambda *_: None)
    root = tmp_path / "ml"
    write_json(SMALL.to_strings(), root / "input" / "config" / "hyperparameters.json")
    (root / "input" / "data").mkdir()
    (root / "input" / "data" / "train").symlink_to(eight)
    assert container.main(root) == 0
    assert (root / "output" / "data" / "data.json").exists()
    shutil.rmtree(root / "model")
    change_masks(eight)
    assert container.main(root) == 1
    said = (root / "output" / "failure").read_text()
    assert "other pixels, masks or patients" in said and "another S3 place" in said
    assert not (root / "model").exists()


def test_a_run_of_an_earlier_version_has_its_data_in_the_model_card(
    eight: Path, imitation: Imitation, tmp_path: Path
) -> None:
    cohort = load_cohort(eight, progress=False)
    split, run = make_split(cohort), tmp_path / "run"
    train.train(SMALL, cohort, split, run, progress=False)
    (run / "data.json").unlink()
    assert train.train(SMALL, cohort, split, run, resume=True, progress=False) == run
    with pytest.raises(DataError, match=r"model/model_card.json: found that .* has other pixels"):
        other = replace(cohort, fingerprint="other")
        train.train(SMALL, other, split, run, resume=True, progress=False)


# Split and data disagree.


@pytest.mark.parametrize("name", ["train", "crossvalidate", "compare", "tune"])
def test_every_command_compares_the_split_with_the_data_first(
    name: str, eight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, run = tmp_path / "split.csv", tmp_path / "run"
    write_split(make_split(load_cohort(eight, progress=False)), table)
    shutil.rmtree(eight / "TCGA_DU_T004_20000101")
    assert cli.main(command(name, eight, run, "--split", str(table))) == 1
    said = capsys.readouterr().err
    assert f"{table}: found TCGA_DU_T004_20000101 in the split but not in {eight}" in said
    assert not run.exists()


def test_the_script_of_sagemaker_compares_them_too(
    eight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "split.csv"
    write_split(make_split(load_cohort(eight, progress=False)).iloc[1:], table)
    options = ["--data", str(eight), "--split", str(table), "--run", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["train.py", *options])
    assert runpy.run_path(str(SCRIPT))["main"]() == 1
    assert "TCGA_CS_T000_20000101 missing from it" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def _calls(cohort: Cohort, split: pd.DataFrame, run: Path) -> dict[str, Callable[[], object]]:
    no: dict[str, Any] = {"progress": False}
    return {
        "train": lambda: train.train(SMALL, cohort, split, run, **no),
        "crossvalidate": lambda: cross_validation.crossvalidate(SMALL, cohort, split, run, **no),
        "compare": lambda: compare.compare({"unet": SMALL}, cohort, split, run, **no),
        "tune": lambda: tune.tune(SMALL, cohort, split, run, trials=1, **no),
    }


@pytest.mark.parametrize("name", ["train", "crossvalidate", "compare", "tune"])
def test_every_function_compares_the_split_with_the_data_first(
    name: str, cohort: Cohort, tmp_path: Path
) -> None:
    split = make_split(cohort)
    stranger = split.assign(patient=split["patient"].replace("TCGA_DU_T004_20000101", "someone"))
    run = tmp_path / "run"
    with pytest.raises(DataError, match=r"the split: found TCGA_DU_T004_20000101 missing from it"):
        _calls(cohort, stranger, run)[name]()
    assert not run.exists()


@pytest.mark.parametrize("call", [compare.out_of_fold, compare.ensemble_on_test])
def test_predictions_of_a_comparison_need_the_patients_of_the_split(
    call: Callable[..., Any], cohort: Cohort, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="TCGA_CS_T000_20000101 missing from it"):
        next(call(tmp_path, cohort, make_split(cohort).iloc[1:]))
    with pytest.raises(DataError, match="TCGA_CS_T000_20000101 missing from it"):
        compare.score_test(["unet"], cohort, make_split(cohort).iloc[1:], tmp_path)


@pytest.mark.parametrize(
    ("column", "value", "found"),
    [
        ("subset", "Test", "the subset 'Test' of TCGA_CS_T000_20000101"),
        ("subset", "", "the subset"),
        ("fold", "one", "the fold one of TCGA_CS_T000_20000101"),
        ("fold", "", "the fold"),
        ("fold", "0.5", "the fold 0.5 of"),
        ("fold", "-7", "the fold -7 of"),
    ],
)
def test_a_split_that_an_editor_changed_is_named(
    column: str, value: str, found: str, cohort: Cohort, tmp_path: Path
) -> None:
    table = make_split(cohort).astype(object)
    table.loc[0, column] = value
    table.to_csv(tmp_path / "split.csv", index=False)
    with pytest.raises(DataError, match=f"split.csv: found {found}"):
        read_split(tmp_path / "split.csv", cohort)


@pytest.mark.parametrize("name", ["train", "crossvalidate", "compare", "tune"])
@pytest.mark.parametrize("what", ["no tumour", "blank"])
def test_data_of_which_nothing_can_be_learned_are_named(
    name: str, what: str, cohort: Cohort, tmp_path: Path
) -> None:
    changes = {"no tumour": {"tumour_pixels": 0}, "blank": {"blank": True}}
    empty = replace(cohort, slices=cohort.slices.assign(**changes[what]))
    run, found = tmp_path / "run", {"no tumour": "no slice with tumour", "blank": "blank slices"}
    with pytest.raises(DataError, match=rf"found {found[what]}.* training patients of fold 0"):
        _calls(empty, make_split(empty), run)[name]()
    assert not run.exists()


def test_tumours_of_test_and_validation_patients_train_nobody(
    cohort: Cohort, tmp_path: Path
) -> None:
    split = make_split(cohort)
    train_patients = split["patient"][(split["fold"] != 0) & (split["subset"] != "test")]
    slices = cohort.slices.copy()
    slices.loc[slices["patient"].isin(train_patients), "tumour_pixels"] = 0
    with pytest.raises(DataError, match="no slice with tumour in the 6 training patients"):
        train.train(SMALL, replace(cohort, slices=slices), split, tmp_path / "run", progress=False)


# Failed starts leave nothing.


WRONG_FOLD = "fold 7: expected one of"
WRONG = [
    (["--accelerator", "gpu"], "accelerator='gpu': found no GPU"),
    (["--accelerator", "mps"], "accelerator='mps': found no GPU of Apple's"),
    (["--tracker", "wandb"], "wandb: found no such package"),
    (["--network", "vgg"], "network='vgg': expected one of"),
    (["--loss", "mse"], "loss='mse': expected one of"),
]


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("train", ["--fold", "7"], WRONG_FOLD),
        ("tune", ["--folds", "0", "7"], WRONG_FOLD),
        *(
            (name, *wrong)
            for name in ("train", "crossvalidate", "compare", "tune")
            for wrong in WRONG
        ),
    ],
)
def test_a_start_that_fails_its_checks_leaves_nothing(
    name: str,
    wrong: list[str],
    said: str,
    shared_tree: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if wrong[0] == "--network" and name == "compare":
        wrong = ["--networks", "vgg"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert cli.main(command(name, shared_tree, tmp_path / "deep" / "run", *wrong)) == 1
    assert said in (err := capsys.readouterr().err) and "Traceback" not in err
    assert not (tmp_path / "deep").exists()


def test_after_a_loss_that_is_not_finite_the_corrected_start_begins_anew(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, run = make_split(cohort), tmp_path / "run"
    config = replace(SMALL, epochs=1, loss="dice")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(losses.LOSSES, "dice", lambda logits, mask: logits.mean() * float("nan"))
        with pytest.raises(NonFiniteLoss):
            train.train(config, cohort, split, run, progress=False)
    assert not run.exists()
    imitation = Imitation()
    monkeypatch.setattr(train, "_fit", imitation.fit)
    monkeypatch.setattr(train, "_finish", imitation.finish)
    assert train.train(replace(config, seed=1), cohort, split, run, progress=False) == run


def test_where_epochs_are_kept_a_loss_that_is_not_finite_says_so(
    cohort: Cohort, imitation: Imitation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*what: Any, **options: Any) -> None:
        imitation.stop_after = 1
        with pytest.raises(Stopped):
            imitation.fit(*what, **options)
        raise NonFiniteLoss("the loss became nan.")

    monkeypatch.setattr(train, "_fit", fail)
    with pytest.raises(NonFiniteLoss, match=r"became nan\. .*run keeps the epochs before; .*--run"):
        train.train(SMALL, cohort, make_split(cohort), tmp_path / "run", progress=False)


def test_what_a_kill_leaves_before_a_checkpoint_is_no_run(
    cohort: Cohort, imitation: Imitation, tmp_path: Path
) -> None:
    split = make_split(cohort)
    replace(SMALL, learning_rate=1.0).save(tmp_path / "config.json")
    write_json({"data_fingerprint": "other"}, tmp_path / "data.json")
    write_split(make_split(cohort, seed=1), tmp_path / "split.csv")
    pd.DataFrame({"epoch": [0]}).to_csv(tmp_path / "metrics.csv", index=False)
    assert not has_begun(tmp_path)
    (tmp_path / "metrics.csv").unlink()  # the real RunFolder does not read it in a new run
    train.train(SMALL, cohort, split, tmp_path, progress=False)
    assert Config.load(tmp_path / "config.json") == SMALL
    assert set(pd.read_csv(tmp_path / "metrics.csv")["data"]) == {cohort.fingerprint}


def test_a_failed_start_keeps_what_was_there(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = make_split(cohort)
    write_split(split, tmp_path / "split.csv")
    (tmp_path / "notes.txt").write_text("mine")
    before = contents(tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space")

    monkeypatch.setattr(train, "_fit", full)
    with pytest.raises(OSError, match="no space"):
        train.train(SMALL, cohort, split, tmp_path, progress=False)
    assert contents(tmp_path) == before


def test_a_table_of_ones_own_is_not_replaced(cohort: Cohort, tmp_path: Path) -> None:
    write_split(make_split(cohort, seed=1), tmp_path / "split.csv")
    (tmp_path / "config.json").write_text("of another program")
    before = contents(tmp_path)
    for name in ("config.json", "split.csv"):
        with pytest.raises(DataError, match=name):
            train.train(SMALL, cohort, make_split(cohort), tmp_path, progress=False)
        assert contents(tmp_path) == before
        (tmp_path / "config.json").unlink(missing_ok=True)
        before.pop("config.json", None)


def test_a_finished_run_without_its_model_makes_it_again(
    cohort: Cohort, imitation: Imitation, tmp_path: Path
) -> None:
    run, split = tmp_path / "run", make_split(cohort)
    train.train(SMALL, cohort, split, run, progress=False)
    before = contents(run)
    shutil.rmtree(run / "model")
    train.train(SMALL, cohort, split, run, resume=True, progress=False)
    assert contents(run) == before
    shutil.rmtree(run / "model")
    (run / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(DataError, match=r"last.ckpt: found no such file, nor a whole model"):
        train.train(SMALL, cohort, split, run, resume=True, progress=False)


@pytest.mark.parametrize("name", ["config.json", "data.json", "split.csv"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff garbage", b"{", b"[1]", None])
def test_a_broken_file_of_a_run_is_named(
    name: str, content: bytes | None, cohort: Cohort, imitation: Imitation, tmp_path: Path
) -> None:
    run, split = tmp_path / "run", make_split(cohort)
    imitation.stop_after = 1
    with pytest.raises(Stopped):
        train.train(SMALL, cohort, split, run, progress=False)
    (run / name).unlink()
    if content is not None:
        (run / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        train.train(SMALL, cohort, split, run, resume=True, progress=False)


def test_a_run_whose_checkpoint_was_deleted_is_kept(
    cohort: Cohort, imitation: Imitation, tmp_path: Path
) -> None:
    run, split, imitation.stop_after = tmp_path / "run", make_split(cohort), 2
    with pytest.raises(Stopped):
        train.train(replace(SMALL, epochs=3), cohort, split, run, progress=False)
    (run / "checkpoints" / "last.ckpt").unlink()
    before = contents(run)
    for resume in (True, False):
        with pytest.raises(DataError, match=r"last.ckpt: found no such file|an earlier run"):
            options: dict[str, Any] = {"resume": resume, "progress": False}
            train.train(replace(SMALL, epochs=3), cohort, split, run, **options)
        assert contents(run) == before


def test_broken_metrics_of_a_run_are_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_bytes(b"\x00\xff")
    with pytest.raises(DataError, match=r"metrics.csv: found no readable table"):
        callbacks.RunFolder(tmp_path).on_train_start(SimpleNamespace(world_size=1), None)


def test_a_run_is_private_to_its_user(
    cohort: Cohort, imitation: Imitation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "runs" / "real" / "unet"
    train.train(SMALL, cohort, make_split(cohort), run, progress=False)
    monkeypatch.setattr(tune, "validation_dice", lambda *_, **__: pd.Series([0.5]))
    search = tmp_path / "search"
    tune.tune(SMALL, cohort, make_split(cohort), search, trials=1, progress=False)
    write_split(make_split(cohort), tmp_path / "splits" / "split.csv")
    made = [run, run.parent, run.parent.parent, search, tmp_path / "splits"]
    assert {path.stat().st_mode & 0o777 for path in made} == {0o700}


def test_a_run_folder_that_is_a_file_is_named(cohort: Cohort, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for run in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(DataError, match="found a file; expected a folder, or nothing yet"):
            train.train(SMALL, cohort, make_split(cohort), run, progress=False)
