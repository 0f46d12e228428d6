"""kill -9 at random points: is anything half-written ever read, and does going on end right?

    python benchmarks/kills.py [--kills 100] [--stages load train tune report] [--seed 0]
        [--data DATA] [--out report/results]

Each stage runs undisturbed first. Then again and again in a forked process, which is killed after a
random share of that time: what it left is read as a reader would, the stage is run once more
(training and search go on from what is there), and the end must be that of the undisturbed run.
Without DATA on six simulated patients. Writes kills.json.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from throughput import machine

from lggseg.config import Config, profile
from lggseg.data.cohort import Cohort, load_cohort
from lggseg.data.simulation import make_cohort
from lggseg.data.splits import make_split
from lggseg.experiments import search, search_results
from lggseg.training.train import train
from lggseg.utils.files import write_json

# A fork copies one thread alone, so there must be no other.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# How many of the kills each stage gets.
SHARES = {"load": 0.4, "train": 0.25, "tune": 0.25, "report": 0.1}
CONFIG = replace(profile("smoke"), epochs=3, batch_size=4, precision="32-true", width=4)
TRIALS = 4


class Stage(NamedTuple):
    """run: does the work in a folder, or goes on with it; read: raises ``AssertionError`` unless
    each file in the folder is whole, by comparison with a folder of the undisturbed run; same:
    raises it unless the folder ended as that one."""

    run: Callable[[Path], object]
    read: Callable[[Path, Path], None]
    same: Callable[[Path, Path], None]


def visible(folder: Path) -> dict[str, Path]:
    """The files that a reader sees, by their place in the folder: none with a dot before a name."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path for name, path in files.items() if "/." not in f"/{name}"}


def check_bytes(folder: Path, whole: Path, *, but: tuple[str, ...] = ()) -> None:
    """Each visible file, except those named, is byte for byte the undisturbed run's."""
    expected = visible(whole)
    for name, path in visible(folder).items():
        if not name.startswith(but or ("\0",)):
            assert name in expected, f"{name} is not of this run"
            assert path.read_bytes() == expected[name].read_bytes(), f"{name} is not whole"


def load_stage(tree: Path) -> Stage:
    """Reading a tree into the cache, beside the cache of an earlier state of the tree."""

    def run(folder: Path) -> Cohort:
        os.environ["LGGSEG_CACHE"] = str(folder)
        return load_cohort(tree, progress=False)

    def read(folder: Path, whole: Path) -> None:
        (expected,) = _caches(whole)
        for cache in _caches(folder):
            assert set(visible(cache)) == set(visible(expected)), f"{cache} lacks a file"
            check_bytes(cache, expected)

    def same(folder: Path, whole: Path) -> None:
        assert [cache.name for cache in folder.iterdir()] == [c.name for c in _caches(whole)]
        before, after = run(whole), run(folder)
        assert before.fingerprint == after.fingerprint
        assert np.array_equal(before.images, after.images)
        assert np.array_equal(before.masks, after.masks)

    return Stage(run, read, same)


def _caches(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name[0] != "."]


def add_old_cache(folder: Path, whole: Path) -> None:
    """What the stage of loading finds there: the cache of an earlier state of the same tree."""
    (cache,) = _caches(whole)
    shutil.copytree(cache, folder / f"{cache.name.split('-')[0]}-earlier")


def train_stage(cohort: Cohort) -> Stage:
    """Training with ``resume``."""
    split = make_split(cohort)
    growing = ("metrics.csv", "checkpoints/last.ckpt", "model/model_card.json")

    def run(folder: Path) -> Path:
        return train(CONFIG, cohort, split, folder, resume=True, progress=False)

    def read(folder: Path, whole: Path) -> None:
        check_bytes(folder, whole, but=growing)
        files = visible(folder)
        if "metrics.csv" in files:
            rows, expected = _epochs(folder), _epochs(whole)
            pd.testing.assert_frame_equal(rows, expected.head(len(rows)), rtol=1e-5)
        if "checkpoints/last.ckpt" in files:
            state = torch.load(files["checkpoints/last.ckpt"], weights_only=True)
            assert state["epoch"] < CONFIG.epochs
        if "model/model_card.json" in files:
            card, expected = (_card(place) for place in (folder, whole))
            # Its scores follow when the model has been asked; patients.csv then says finished.
            # Its own checksum follows with them.
            own = set(card) - {"checksums"}
            other = sorted(name for name in own if card[name] != expected[name])
            assert not other, f"a model's card with other facts: {other}"

    def same(folder: Path, whole: Path) -> None:
        assert set(visible(folder)) == set(visible(whole))
        assert len(_epochs(folder)) == CONFIG.epochs
        assert _card(folder) == _card(whole)
        read(folder, whole)

    return Stage(run, read, same)


def _epochs(run: Path) -> pd.DataFrame:
    text = (run / "metrics.csv").read_text()
    assert text.endswith("\n"), "metrics.csv ends within a line"
    return pd.read_csv(io.StringIO(text)).drop(columns="seconds")


def _card(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "model" / "model_card.json").read_text()))


def imitate(config: Config, *_: Any, each_epoch: Any, **options: Any) -> pd.Series:
    """Training that writes nothing, as the real one of a search, but ends at once."""
    dice = pd.Series([_imitated(config.learning_rate)])
    for _epoch in range(config.epochs):
        time.sleep(0.01)
        each_epoch(dice)
    return dice


def _imitated(learning_rate: float) -> float:
    return float(1 - abs(np.log10(learning_rate / 3e-3)) / 2)


def tune_stage(cohort: Cohort) -> Stage:
    """A search with its database; the trainings in it are imitated."""
    split = make_split(cohort)

    def run(folder: Path) -> None:
        search.validation_dice = imitate
        search.HEARTBEAT, search.GRACE = 1, 2
        table = search.tune(CONFIG, cohort, split, folder, trials=TRIALS, progress=False)
        search_results.best_config(table, CONFIG).save(folder / "best.json")

    def read(folder: Path, whole: Path) -> None:
        files = visible(folder)
        if "trials.csv" in files:
            _check_trials(pd.read_csv(files["trials.csv"]))
        if "best.json" in files:
            Config.load(files["best.json"])
        if "study.db" in files:
            with closing(sqlite3.connect(files["study.db"])) as database:
                assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    def same(folder: Path, whole: Path) -> None:
        table = pd.read_csv(folder / "trials.csv")
        assert len(table) == TRIALS
        _check_trials(table)
        best = Config.load(folder / "best.json")
        assert np.isclose(_imitated(best.learning_rate), table["dice"].max())
        read(folder, whole)

    return Stage(run, read, same)


def _check_trials(table: pd.DataFrame) -> None:
    """Each trial once, with the Dice of its knobs."""
    assert table["number"].is_unique and len(table) <= TRIALS
    assert np.allclose(table["dice"], table["learning_rate"].map(_imitated))


def report_stage() -> Stage:
    """The report as HTML, with a simulated cohort for its pictures, the pages of the executed
    notebooks, and the pages of the repository; none of it in the repository."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from report import build

    def run(folder: Path) -> None:
        os.environ["LGGSEG_CACHE"] = str(folder / ".cache")  # the stage of loading tests it
        values = build.load_results()
        for path, template in build.PAGES.items():
            build.write(folder / path.name, build.render(template, values))
        build.build_notebooks(folder / "notebooks")
        build.build_report(values, folder)

    def same(folder: Path, whole: Path) -> None:
        assert set(visible(folder)) == set(visible(whole))
        check_bytes(folder, whole)

    return Stage(run, check_bytes, same)


def fork(call: Callable[[Path], object], folder: Path, log: Path) -> int:
    """Call with a folder in a forked process, the first of a group of its own; returns its
    number."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        os.setpgid(0, 0)
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        call(folder)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def undisturbed(call: Callable[[Path], object], folder: Path, log: Path) -> float:
    """Call in a forked process; returns the seconds. Raises ``RuntimeError`` when it fails."""
    start = time.perf_counter()
    if os.waitpid(fork(call, folder, log), 0)[1]:
        raise RuntimeError(log.read_text()[-2000:])
    return time.perf_counter() - start


def killed(call: Callable[[Path], object], folder: Path, after: float, log: Path) -> Counter[str]:
    """Call in a forked process that is killed after so many seconds. Counts whether it was, or had
    ended before, and whether processes of its own outlived it by ten seconds."""
    pid, start = fork(call, folder, log), time.monotonic()
    ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while time.monotonic() - start < after and os.waitid(os.P_PID, pid, ended) is None:
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    deadline = time.monotonic() + 10
    while (alive := group_lives(pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    if alive:
        os.killpg(pid, signal.SIGKILL)
    return Counter(kills=int(os.WIFSIGNALED(status)), left_running=int(alive))


def group_lives(group: int) -> bool:
    """Whether any process of a group is still there."""
    with suppress(ProcessLookupError):
        os.killpg(group, 0)
        return True
    return False


def count(stage: Stage, name: str, kills: int, rng: random.Random, place: Path) -> dict[str, Any]:
    """Kill a stage so often. Counts silent failures (something half-written was there to be read,
    or the end was another than the undisturbed one) and those that said so when run again."""
    whole, log = place / name / "whole", place / f"{name}.log"
    whole.mkdir(parents=True)
    seconds = undisturbed(stage.run, whole, log)
    found: Counter[str] = Counter(kills=0, silent_failures=0, loud_failures=0, left_running=0)
    while found["kills"] < kills:
        folder = place / name / "killed"
        folder.mkdir()
        if name == "load":
            add_old_cache(folder, whole)
        start = time.perf_counter()
        now = killed(stage.run, folder, rng.uniform(0, seconds), log)
        if not now["kills"]:  # it is quicker than when it was measured
            seconds = min(seconds, time.perf_counter() - start)
        found += now
        found += _judge(stage, folder, whole, log)
        shutil.rmtree(folder)
    return {"seconds": round(seconds, 2), **{key: found[key] for key in FOUND}}


FOUND = ("kills", "silent_failures", "loud_failures", "left_running")


def _judge(stage: Stage, folder: Path, whole: Path, log: Path) -> Counter[str]:
    try:
        stage.read(folder, whole)
        undisturbed(stage.run, folder, log)
        stage.same(folder, whole)
    except RuntimeError as error:
        print(f"run again, it failed: {error}", file=sys.stderr)
        return Counter(loud_failures=1)
    except Exception:  # whatever a reader trips over
        traceback.print_exc()
        return Counter(silent_failures=1)
    return Counter()


def stages(wanted: list[str], tree: Path, place: Path) -> dict[str, Stage]:
    """The stages by name, on a cohort that lies ready."""
    os.environ["LGGSEG_CACHE"] = str(place / "cache")
    undisturbed(lambda _: load_cohort(tree, progress=False), place, place / "cohort.log")
    cohort = load_cohort(tree, progress=False)
    makers: dict[str, Callable[[], Stage]] = {
        "load": lambda: load_stage(tree),
        "train": lambda: train_stage(cohort),
        "tune": lambda: tune_stage(cohort),
        "report": report_stage,
    }
    return {name: makers[name]() for name in wanted}


def _simulate(place: Path) -> Path:
    return make_cohort(place, patients=6, progress=False)


def main() -> int:
    """Kill, count, write the results; returns 1 when anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="in all")
    parser.add_argument("--stages", nargs="+", choices=list(SHARES), default=list(SHARES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("report/results"))
    options = parser.parse_args()
    total = sum(SHARES[name] for name in options.stages)
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="lggseg-kills-") as here:
        place = Path(here)
        tree = options.data or place / "kaggle_3m"
        if not options.data:
            undisturbed(_simulate, place, place / "cohort.log")
        for name, stage in stages(options.stages, tree, place).items():
            kills = max(1, round(options.kills * SHARES[name] / total))
            rows[name] = count(stage, name, kills, random.Random(f"{options.seed} {name}"), place)
            print(name, rows[name], flush=True)
            totals = {key: sum(row[key] for row in rows.values()) for key in FOUND}
            results = {"machine": machine(), "seed": options.seed, **totals, "stages": rows}
            write_json(results, options.out / "kills.json")
    return int(any(totals[key] for key in FOUND[1:]))


if __name__ == "__main__":
    if not ONE_THREAD.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_THREAD})
    sys.exit(main())
