from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState
from trainings import CONFIG

from lggseg import cli
from lggseg.config import Config
from lggseg.data.cohort import Cohort
from lggseg.data.splits import make_split
from lggseg.experiments import search, search_results
from lggseg.experiments.search_space import SEARCH_SPACE, Choice
from lggseg.training.module import NonFiniteLoss
from lggseg.utils.errors import DataError


@pytest.fixture(scope="module")
def split(cohort: Cohort) -> pd.DataFrame:
    return make_split(cohort)


Trainer = Callable[..., pd.Series]


def imitate(seen: list[Any]) -> Trainer:
    """Training whose Dice is best at a learning rate of 0.003, and tells what it was given."""

    def train(config: Config, cohort: Cohort, subsets: np.ndarray, **options: Any) -> pd.Series:
        seen.append((config, subsets))
        dice = pd.Series([1 - abs(np.log10(config.learning_rate / 3e-3)) / 2])
        for epoch in range(config.epochs):
            if options["each_epoch"]:
                options["each_epoch"](dice * (epoch + 1) / config.epochs)
        return dice

    return train


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    seen: list[Any] = []
    monkeypatch.setattr(search, "validation_dice", imitate(seen))
    return seen


def test_search_finds_the_best_and_prunes(
    cohort: Cohort, split: pd.DataFrame, seen: list[Any], tmp_path: Path
) -> None:
    config = replace(CONFIG, epochs=5)
    table = search.tune(config, cohort, split, tmp_path, trials=25, progress=False)
    assert len(table) == 25 and set(table["state"]) == {"complete", "pruned"}
    assert (table.loc[table["state"] == "pruned", "epochs"] < 5).all()
    assert pd.read_csv(tmp_path / "trials.csv")["number"].tolist() == table["number"].tolist()
    best = search_results.best_config(table, config)
    assert best.learning_rate == pytest.approx(3e-3, rel=0.5)
    assert best.epochs == 5 and best.paste in (True, False)
    assert set(SEARCH_SPACE) <= set(table.columns)


def test_search_goes_on_from_what_is_finished(
    cohort: Cohort, split: pd.DataFrame, seen: list[Any], tmp_path: Path
) -> None:
    assert len(search.tune(CONFIG, cohort, split, tmp_path, trials=3, progress=False)) == 3
    assert len(search.tune(CONFIG, cohort, split, tmp_path, trials=5, progress=False)) == 5
    assert len(seen) == 5
    # As after a kill between the last trial and its row in the table.
    (tmp_path / "trials.csv").unlink()
    assert len(search.tune(CONFIG, cohort, split, tmp_path, trials=5, progress=False)) == 5
    assert len(seen) == 5 and len(pd.read_csv(tmp_path / "trials.csv")) == 5


def test_all_trials_of_a_search_have_one_precision(
    cohort: Cohort,
    split: pd.DataFrame,
    seen: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter(["bf16-mixed", "32-true", "32-true"])  # as on a machine that others use, too
    monkeypatch.setattr(search, "choose_precision", lambda config: next(answers))
    config = replace(CONFIG, precision="auto")
    for trials in (2, 3):
        search.tune(config, cohort, split, tmp_path, trials=trials, progress=False)
    assert [config.precision for config, _ in seen] == ["bf16-mixed"] * 3


def test_search_on_other_terms_is_refused(
    cohort: Cohort, split: pd.DataFrame, seen: list[Any], tmp_path: Path
) -> None:
    search.tune(CONFIG, cohort, split, tmp_path, trials=1, progress=False)
    longer = replace(CONFIG, epochs=CONFIG.epochs + 1)
    with pytest.raises(DataError, match=r"study.db: found a search with epochs=3.*epochs=4"):
        search.tune(longer, cohort, split, tmp_path, trials=2, progress=False)
    with pytest.raises(DataError, match=r"a search with split="):
        search.tune(CONFIG, cohort, make_split(cohort, seed=1), tmp_path, trials=2, progress=False)
    assert len(seen) == 1


def test_search_never_sees_test_patients(
    cohort: Cohort, split: pd.DataFrame, seen: list[Any], tmp_path: Path
) -> None:
    search.tune(CONFIG, cohort, split, tmp_path, trials=3, folds=[0, 1], progress=False)
    test = set(split["patient"][split["subset"] == "test"])
    assert test and len(seen) == 6
    for config, subsets in seen:
        used = cohort.slices["patient"][np.isin(subsets, ["train", "validation"])]
        assert not test & set(used)
        validating = set(cohort.slices["patient"][subsets == "validation"])
        assert validating == set(split["patient"][split["fold"] == config.fold])


SLOW = """
import sys, time
import pandas as pd
from lggseg.experiments import search
from lggseg.config import Config
from lggseg.data.cohort import load_cohort
from lggseg.data.splits import make_split

def train(config, cohort, sides, **options):
    time.sleep(1)
    return pd.Series([config.learning_rate])

search.validation_dice = train
search.HEARTBEAT, search.GRACE = 1, 3
cohort = load_cohort(sys.argv[1], progress=False)
search.tune(Config(), cohort, make_split(cohort), sys.argv[2], trials=int(sys.argv[3]))
"""


@pytest.mark.slow
def test_killed_search_resumes_to_the_exact_number(shared_tree: Path, tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    folder = tmp_path / "search"
    command = [sys.executable, str(script), str(shared_tree), str(folder)]
    with subprocess.Popen([*command, "50"]) as process:
        table = folder / "trials.csv"
        while not table.exists():
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    before = len(pd.read_csv(table))
    workers = [subprocess.Popen([*command, str(before + 3)]) for _ in range(2)]
    assert [worker.wait() for worker in workers] == [0, 0]
    states = pd.read_csv(table)["state"]
    assert len(states) == before + 3 and set(states) == {"complete"}
    assert len(search_results.trials_table(search.open_study(folder))) == before + 3


def leave_a_trial_without_a_heartbeat(folder: Path) -> None:
    """As a process does that is killed right after it has begun a trial."""
    with pytest.warns(UserWarning, match="Heartbeat"):
        search.open_study(folder).ask()


def test_trial_killed_before_its_first_heartbeat_is_replaced(
    cohort: Cohort,
    split: pd.DataFrame,
    seen: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "GRACE", 1)
    leave_a_trial_without_a_heartbeat(tmp_path)
    table = search.tune(CONFIG, cohort, split, tmp_path, trials=2, progress=False)
    assert table["number"].tolist() == [1, 2]


def test_trial_that_another_process_fails_at_the_same_moment_is_replaced(
    cohort: Cohort,
    split: pd.DataFrame,
    seen: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leave_a_trial_without_a_heartbeat(tmp_path)
    monkeypatch.setattr(search, "GRACE", 1)
    time.sleep(1.1)

    def tell(study: optuna.Study, number: int, **_: Any) -> None:
        raise UpdateFinishedTrialError(f"Trial#{number} has already finished")

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", tell)
        search._fail_killed(search.open_study(tmp_path))
    table = search.tune(CONFIG, cohort, split, tmp_path, trials=1, progress=False)
    assert table["number"].tolist() == [1]


def test_trial_started_in_the_future_is_replaced(
    cohort: Cohort,
    split: pd.DataFrame,
    seen: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its process was killed before the first heartbeat, then the clock was set back."""
    leave_a_trial_without_a_heartbeat(tmp_path)

    class SetBack(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> SetBack:
            return super().now(tz) - timedelta(days=1)

    monkeypatch.setattr(search, "datetime", SetBack)
    table = search.tune(CONFIG, cohort, split, tmp_path, trials=1, progress=False)
    assert table["number"].tolist() == [1]


def test_a_search_goes_on_when_another_process_took_its_trial_for_killed(
    cohort: Cohort, split: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, taken = imitate([]), []

    def sleep_once(*arguments: Any, **options: Any) -> pd.Series:
        if not taken:
            (trial,) = search.open_study(tmp_path).get_trials(states=[TrialState.RUNNING])
            search.open_study(tmp_path).tell(trial.number, state=TrialState.FAIL)
            taken.append(trial.number)
        return train(*arguments, **options)

    monkeypatch.setattr(search, "validation_dice", sleep_once)
    table = search.tune(CONFIG, cohort, split, tmp_path, trials=2, progress=False)
    assert taken == [0] and table["number"].tolist() == [1, 2]


def test_gain_is_measured_on_the_folds_and_seeds_asked_for(
    cohort: Cohort, split: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(config: Config, cohort: Cohort, subsets: np.ndarray, **options: Any) -> pd.Series:
        patients = cohort.slices["patient"][subsets == "validation"].unique()
        return pd.Series(config.learning_rate + config.seed, index=patients)

    monkeypatch.setattr(search, "validation_dice", train)
    found, start = replace(CONFIG, learning_rate=0.5), replace(CONFIG, learning_rate=0.25)
    table = search.gain_elsewhere(found, start, cohort, split, folds=[1, 2], seeds=[0, 1])
    expected = split["patient"][split["fold"].isin([1, 2])]
    assert sorted(table["patient"]) == sorted([*expected, *expected])
    assert (table["found"] - table["start"] == 0.25).all()
    assert (table["start"] == 0.25 + table["seed"]).all()


def test_the_hyperparameter_that_matters_is_the_important_one() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(40):
        row: dict[str, Any] = {"number": number, "state": "complete"}
        for name, space in SEARCH_SPACE.items():
            if isinstance(space, Choice):
                row[name] = space.values[rng.integers(len(space.values))]
            else:
                row[name] = rng.uniform(space.low, space.high)
        rows.append({**row, "dice": 0.5 + row["dropout"]})
    table = pd.DataFrame(rows)
    found = search_results.importances(table)
    assert found.idxmax() == "dropout" and found.sum() == pytest.approx(1)
    assert set(found.index) == set(SEARCH_SPACE)
    assert (search_results.importances(table.assign(dice=0.5)) == 0).all()


def test_no_completed_trial() -> None:
    with pytest.raises(ValueError, match="no completed trial"):
        search_results.best_config(pd.DataFrame({"state": ["pruned"], "dice": [0.5]}), Config())


@pytest.mark.slow
def test_command_searches_with_two_workers(
    shared_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "search"
    command = ["tune", "--data", str(shared_tree), "--run", str(run), "--trials", "2"]
    knobs = ["--profile", "smoke", "--epochs", "1", "--precision", "32-true", "--workers", "2"]
    assert cli.main([*command, *knobs]) == 0
    assert "all 2 trials" in capsys.readouterr().out
    assert Config.load(run / "best.json").epochs == 1


@pytest.mark.parametrize("name", ["q?x", "a#b", "p%20q", "{x} [y]", "ü&=:"])
def test_a_folder_of_any_name_holds_its_own_database(
    name: str,
    cohort: Cohort,
    split: pd.DataFrame,
    seen: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, trials in ((Path(name, "tune"), 1), (Path(name, "tune"), 2), (Path(name + "2"), 1)):
        assert (
            len(search.tune(CONFIG, cohort, split, folder, trials=trials, progress=False)) == trials
        )
        with closing(sqlite3.connect(folder / "study.db")) as database:
            (count,) = database.execute(
                "SELECT count(*) FROM trials WHERE state='COMPLETE'"
            ).fetchone()
        assert count == trials
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, name + "2"])


def test_a_trial_that_diverges_is_told_in_one_line(
    cohort: Cohort,
    split: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    usual, calls = imitate([]), []

    def diverge(*arguments: Any, **options: Any) -> pd.Series:
        calls.append(1)
        if len(calls) == 1:
            raise NonFiniteLoss("the loss became nan.")
        return usual(*arguments, **options)

    monkeypatch.setattr(search, "validation_dice", diverge)
    table = search.tune(CONFIG, cohort, split, tmp_path, trials=1, progress=False)
    assert table["number"].tolist() == [1]
    assert capfd.readouterr().err == "trial 0 does not count: the loss became nan.\n"


def test_a_search_that_tried_nothing_blocks_no_corrected_one(
    cohort: Cohort, split: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> pd.Series:
        raise RuntimeError("out of memory")

    seen: list[Any] = []
    monkeypatch.setattr(search, "validation_dice", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        search.tune(CONFIG, cohort, split, tmp_path, trials=1, progress=False)
    monkeypatch.setattr(search, "validation_dice", imitate(seen))
    other = replace(CONFIG, epochs=1, dropout=0.25)
    search.tune(other, cohort, split, tmp_path, trials=1, progress=False)
    assert seen[0][0].dropout == 0.25, "the first trial is another config than the one asked for"
    with pytest.raises(DataError, match="found a search with epochs=1"):
        search.tune(CONFIG, cohort, split, tmp_path, trials=2, progress=False)


def test_a_search_on_other_data_is_refused(
    cohort: Cohort, split: pd.DataFrame, seen: list[Any], tmp_path: Path
) -> None:
    search.tune(CONFIG, cohort, split, tmp_path, trials=1, progress=False)
    with pytest.raises(DataError, match="found a search with data="):
        other = replace(cohort, fingerprint="other")
        search.tune(CONFIG, other, split, tmp_path, trials=1, progress=False)
