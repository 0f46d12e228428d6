"""The run folder: whether a run may start or resume there, and what a failed start leaves behind.

A run is its config, its split and its data: whoever goes on with it must have the same three. A
start that has saved nothing yet, whether it failed or was killed, is no run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from lggseg.config import Config
from lggseg.data.cohort import Cohort
from lggseg.data.splits import read_split, split_fingerprint, write_split
from lggseg.inference.model_folder import card_path, model_files
from lggseg.training import distributed
from lggseg.utils.checksums import check_checkpoint
from lggseg.utils.errors import DataError
from lggseg.utils.files import private_folder, read_json, read_table, try_lock, write_json, writing

if TYPE_CHECKING:
    from filelock import BaseFileLock

# What a start writes before the first checkpoint, in this order.
STARTED = ("config.json", "data.json", "split.csv", "metrics.csv")
_ALIKE = (
    "Go on with the same options, split and data, or begin a new run in another folder (--run; of "
    "a SageMaker job: another S3 place for its checkpoints)."
)


def last_checkpoint(run: Path) -> Path:
    """The checkpoint from which a run goes on."""
    return run / "checkpoints" / "last.ckpt"


def is_finished(run: Path) -> bool:
    """Whether a run has ended, with its model."""
    return (run / "patients.csv").exists() and all(
        file.is_file() for file in model_files(run / "model")
    )


def has_begun(run: Path) -> bool:
    """Whether a folder holds anything that was trained. A table of metrics alone is a run whose
    checkpoint was deleted, unless a kill came between the first epoch's row and its checkpoint."""
    if any(path.exists() for path in (last_checkpoint(run), run / "patients.csv", run / "model")):
        return True
    metrics = run / "metrics.csv"
    return metrics.exists() and len(read_table(metrics, _ALIKE)) > 1


@contextmanager
def alone_in(run: Path) -> Iterator[None]:
    """Keep other processes from training in a run folder, which is made for this user alone.

    What is written inside goes again when an exception comes before anything was trained. Raises
    ``DataError`` while another process trains there.
    """
    # A finished run is only read, and the other processes of a run follow the first.
    if distributed.rank() != 0 or is_finished(run):
        yield
        return
    new = not run.exists()
    private_folder(run)
    lock = lock_run(run)
    before = set(run.iterdir())
    try:
        yield
    except BaseException:
        if not has_begun(run):
            _remove(run, {run / name for name in STARTED} - before, new)
        raise
    finally:
        lock.release()


def _remove(run: Path, files: set[Path], folder: bool) -> None:
    for file in files:
        file.unlink(missing_ok=True)
    with suppress(OSError):  # it holds something else, such as W&B's files
        last_checkpoint(run).parent.rmdir()
    if folder:
        (run / ".lock").unlink(missing_ok=True)
        with suppress(OSError):
            run.rmdir()


def find_run(
    run: Path, config: Config, cohort: Cohort, split: pd.DataFrame, resume: bool
) -> Config | None:
    """The stored config of the run to go on with; ``None`` where a new one may begin.

    Raises ``DataError`` for a run where a new one was asked for, for another config, split or data
    than the run's, and for a run that lacks what it would go on from.
    """
    if not has_begun(run):
        _check_free(run, split)
        return None
    if not resume:
        action = "Go on with it by --resume, choose another --run, or delete the folder."
        raise DataError(run, "an earlier run", "a new folder", action)
    stored = _same_run(run, config, cohort, split)
    if not is_finished(run):
        last = last_checkpoint(run)
        if not last.exists():
            action = "Restore one of them, or begin a new run in another folder (--run)."
            raise DataError(last, "no such file, nor a whole model", "one of the two", action)
        check_checkpoint(last)
    return stored


def begin_run(run: Path, config: Config, cohort: Cohort, split: pd.DataFrame) -> None:
    """Write down what the run is."""
    config.save(run / "config.json")
    write_json({"data_fingerprint": cohort.fingerprint}, run / "data.json")
    write_split(split, run / "split.csv")


def _check_free(run: Path, split: pd.DataFrame) -> None:
    """Files of a start that saved nothing are replaced; a split of somebody's own is not."""
    own, table = run / "config.json", run / "split.csv"
    action = "Choose another folder (--run), or delete the file."
    if own.exists():
        Config.load(own)  # else it is not of a run
    elif table.exists() and split_fingerprint(read_split(table)) != split_fingerprint(split):
        raise DataError(table, "another split, which is of no run", "a new folder", action)


def _same_run(run: Path, config: Config, cohort: Cohort, split: pd.DataFrame) -> Config:
    stored = Config.load(run / "config.json")
    if config.precision == "auto":
        config = replace(config, precision=stored.precision)
    changed = [name for name, value in asdict(stored).items() if asdict(config)[name] != value]
    if changed:
        found = f"{changed[0]}={getattr(config, changed[0])!r}"
        expected = f"{getattr(stored, changed[0])!r}, with which the run was started"
        raise DataError(run / "config.json", found, expected, _ALIKE)
    _same_data(run, cohort)
    if split_fingerprint(read_split(run / "split.csv")) != split_fingerprint(split):
        raise DataError(run / "split.csv", "another split", "the same", _ALIKE)
    return stored


def _same_data(run: Path, cohort: Cohort) -> None:
    # Runs of earlier versions have the fingerprint in the model card alone.
    path = next((p for p in (run / "data.json", card_path(run / "model")) if p.exists()), None)
    facts = read_json(path, _ALIKE) if path else {}
    if facts.get("data_fingerprint") != cohort.fingerprint:
        found = f"that {cohort.root} has other pixels, masks or patients"
        expected = "the data with which the run was started"
        raise DataError(path or run / "data.json", found, expected, _ALIKE)


def lock_run(run: Path) -> BaseFileLock:
    """A lock on a run folder; raises ``DataError`` while another process trains in it."""
    with writing(run):
        lock = try_lock(run / ".lock")
    if lock is None:
        action = "Wait until it has ended, or choose another --run."
        raise DataError(run, "another process that trains in it", "no other", action)
    return lock


def fresh_folder(path: Path) -> Path:
    """``path``, free for a new run: an earlier one is kept under its time. Raises ``DataError``
    while another process trains in it."""
    if path.exists():
        stamp = datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y%m%d-%H%M%S")
        lock_run(path).release()
        names = chain([""], (f"-{number}" for number in count(2)))
        locations = (path.with_name(f"{path.name}-{stamp}{name}") for name in names)
        path.rename(next(location for location in locations if not location.exists()))
    return path
