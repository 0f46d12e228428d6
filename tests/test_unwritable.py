"""A full disk and a place that may not be written to: one sentence, and nothing half-written."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from lggseg import cli
from lggseg.data.cohort import Cohort, load_cohort
from lggseg.utils.errors import DataError
from report import build

resource = pytest.importorskip("resource")
KNOBS = ["--profile", "smoke", "--epochs", "1", "--width", "4", "--precision", "32-true"]
Full = Callable[[int], AbstractContextManager[None]]


@contextmanager
def full(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes: the system refuses as on a full disk."""
    cached, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # it would be cut off
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = cached


@pytest.fixture(scope="module")
def model(shared_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("unwritable") / "run"
    assert cli.main(["train", "--data", str(shared_tree), "--run", str(run), *KNOBS]) == 0
    return run / "model"


def files_in(folder: Path) -> list[str]:
    """All files, hidden ones included, but for the lock of a run folder, which stays empty."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def command_of(name: str, model: Path, tree: Path, out: Path) -> list[str]:
    return {
        "split": ["split", str(tree), "--out", str(out / "split.csv")],
        "train": ["train", "--data", str(tree), "--run", str(out), *KNOBS],
        "tune": ["tune", "--data", str(tree), "--run", str(out), "--trials", "1", *KNOBS],
        "predict": ["predict", str(model), str(tree), str(out)],
        "evaluate": ["evaluate", str(model), str(tree), "--out", str(out)],
        "export": ["export", str(model), "--monai-bundle", str(out / "bundle")],
        "phantom": ["phantom", str(out), "--patients", "1"],
    }[name]


@pytest.mark.parametrize(
    ("name", "size", "refused", "left"),
    [
        ("split", 100, "split.csv", []),
        ("train", 10_000, "last.ckpt", []),
        ("train", 100, "config.json", []),
        ("tune", 10_000, "study.db", None),
        ("predict", 50, "_mask.tif", []),
        ("evaluate", 50, "patients.csv", []),
        ("export", 10_000, "bundle", []),
        ("phantom", 50_000, "kaggle_3m", []),
    ],
)
def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(
    name: str,
    size: int,
    refused: str,
    left: list[str] | None,
    model: Path,
    cohort: Cohort,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    arguments = command_of(name, model, cohort.root, out)
    capsys.readouterr()
    with full(size):
        assert cli.main(arguments) == 1
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lggseg:")]
    assert f"{out}" in said and refused in said and "Free some space" in said
    # A database is made by SQLite, which goes on from what is there.
    assert left is None or files_in(out) == left


def test_after_a_full_disk_the_same_command_goes_on(
    model: Path, cohort: Cohort, tmp_path: Path
) -> None:
    arguments = command_of("train", model, cohort.root, tmp_path / "run")
    with full(10_000):
        assert cli.main(arguments) == 1
    assert cli.main(arguments) == 0
    weights = tmp_path / "run" / "model" / "weights.safetensors"
    assert weights.read_bytes() == (model / "weights.safetensors").read_bytes()


def test_a_full_disk_keeps_the_checkpoint_that_was_there(
    model: Path, cohort: Cohort, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(model.parent, run)
    (run / "patients.csv").unlink()
    last = run / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    longer = [part if part != "1" else "2" for part in KNOBS]
    (run / "config.json").write_text(
        (run / "config.json").read_text().replace('"epochs": 1', '"epochs": 2')
    )
    arguments = ["train", "--data", str(cohort.root), "--run", str(run), *longer, "--resume"]
    with full(10_000):
        assert cli.main(arguments) == 1
    assert last.read_bytes() == before


def test_a_full_cache_says_where_else(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LGGSEG_CACHE", str(tmp_path / "cache"))
    with full(1_000_000), pytest.raises(DataError, match=r"cache: .*set LGGSEG_CACHE to a folder"):
        load_cohort(tree, progress=False)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_report_on_a_full_disk(tmp_path: Path) -> None:
    with full(100), pytest.raises(DataError, match=r"report.html: .*Free some space"):
        build.write(tmp_path / "report.html", 1000 * "text")
    assert list(tmp_path.iterdir()) == []


FORBIDDEN = Path("/sys/lggseg")
linux = pytest.mark.skipif(sys.platform != "linux", reason="/sys is Linux's")


@linux
@pytest.mark.parametrize("name", ["split", "train", "tune", "predict", "evaluate", "export"])
def test_a_folder_that_may_not_be_written_to(
    name: str, model: Path, cohort: Cohort, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(command_of(name, model, cohort.root, FORBIDDEN)) == 1
    assert f"lggseg: {FORBIDDEN}" in (said := capsys.readouterr().err)
    assert "choose another folder" in said and "Traceback" not in said


@linux
def test_a_cache_that_may_not_be_written_to(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LGGSEG_CACHE", str(FORBIDDEN))
    with pytest.raises(DataError, match=r"/sys/lggseg: .*set LGGSEG_CACHE to a folder"):
        load_cohort(tree, progress=False)


def test_a_broken_database_is_named(
    model: Path, cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study.db").write_bytes(b"this is no database" * 100)
    assert cli.main(command_of("tune", model, cohort.root, tmp_path)) == 1
    said = capsys.readouterr().err
    assert "study.db: found no way to use it (file is not a database)" in said
