"""Bayesian search over hyperparameters with Optuna: resumable, pruned, with several workers on one
database.

Only validation patients of the given folds are asked; test patients never are.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
import pandas as pd
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import TrialState
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from lggseg.config import Config, Precision
from lggseg.data.cohort import Cohort
from lggseg.data.splits import slice_subsets, split_fingerprint
from lggseg.experiments.search_results import FINISHED, trials_table
from lggseg.experiments.search_space import SEARCH_SPACE, Choice
from lggseg.training.checks import check_start
from lggseg.training.module import NonFiniteLoss
from lggseg.training.precision import choose_precision
from lggseg.training.train import validation_dice
from lggseg.utils.errors import DataError
from lggseg.utils.files import locked, private_folder, write_table
from lggseg.utils.progress import progress_bar
from lggseg.utils.stopping import SIGNALS, Stopped

# Seconds between signs of life of a running trial, and without one until it counts as killed.
HEARTBEAT, GRACE = 5, 20
# Of the study in its database.
_NAME = "lggseg"


class EnoughTrials(Exception):
    """The trials asked for are finished or running."""


def open_study(folder: Path | str, seed: int = 0) -> optuna.Study:
    """The study in ``folder/study.db`` (SQLite), made if there is none. Raises ``DataError``."""
    folder = Path(folder)
    private_folder(folder)
    # Its warnings of a trial that failed or was stopped are tracebacks.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with _no_warnings(), _database(folder):
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        return optuna.create_study(
            storage=_storage(folder),
            study_name=_NAME,
            direction="maximize",
            sampler=sampler,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2),
            load_if_exists=True,
        )


def _storage(folder: Path) -> optuna.storages.RDBStorage:
    with warnings.catch_warnings():
        # That the heartbeat may change; requirements.txt pins the version.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _sqlite(folder)


def _sqlite(folder: Path) -> optuna.storages.RDBStorage:
    return optuna.storages.RDBStorage(
        # Else a "?", "#" or "%20" in the path would not be taken for letters of it.
        URL.create("sqlite", database=str(folder.absolute() / "study.db")).render_as_string(),
        engine_kwargs={"connect_args": {"timeout": 60}},
        heartbeat_interval=HEARTBEAT,
        grace_period=GRACE,
    )


@contextmanager
def _database(folder: Path) -> Iterator[None]:
    """What the database answers where it cannot be read or written is a ``DataError``."""
    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        source = error.__cause__ if isinstance(error, StorageInternalError) else error
        reason = getattr(source, "orig", source)
        action = "Free some space, or choose another folder (--run)."
        raise DataError(
            folder / "study.db", f"no way to use it ({reason})", "a database to write to", action
        ) from error


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Heartbeats and the multivariate sampler count as experimental in Optuna."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def suggest(trial: optuna.trial.BaseTrial) -> dict[str, Any]:
    """A value of each hyperparameter of
    :data:`lggseg.experiments.search_space.SEARCH_SPACE`."""
    values: dict[str, Any] = {}
    for name, space in SEARCH_SPACE.items():
        if isinstance(space, Choice):
            values[name] = trial.suggest_categorical(name, space.values)
        else:
            values[name] = trial.suggest_float(name, space.low, space.high, log=space.log)
    return values


def tune(
    config: Config,
    cohort: Cohort,
    split: pd.DataFrame,
    folder: Path | str,
    *,
    trials: int = 40,
    folds: Sequence[int] = (0,),
    worker: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Search until ``trials`` trials are finished (completed or pruned), those of earlier calls
    and of other processes on the same folder included.

    The first trial is ``config`` itself, as far as it lies in the space. A trial's value is the
    mean Dice over the validation patients of ``folds``; it is pruned by its curve on the first of
    them. ``worker`` numbers the processes of one search, so that each draws its own proposals.
    Writes ``trials.csv`` beside the database after each trial and returns that table (see
    :func:`trials_table`). Raises what :func:`lggseg.training.checks.check_start` raises, before it
    writes anything, ``DataError`` when the folder holds trials with other data, another split,
    other folds or other hyperparameters than those it varies, ``Stopped`` on SIGTERM and SIGINT.
    """
    check_start(config, cohort, split, folds)
    folder = Path(folder)
    try:
        with SIGNALS:
            terms = _terms(config, cohort, split, folds)
            study = _study_of(folder, terms, config.seed + 1000 * worker)
            return _search(study, config, cohort, split, folder, trials, folds, progress)
    except Stopped as stop:
        kept = f"{folder / 'study.db'} holds the finished trials. Go on with the same command."
        raise Stopped(stop.number, kept) from None


def _search(
    study: optuna.Study,
    config: Config,
    cohort: Cohort,
    split: pd.DataFrame,
    folder: Path,
    trials: int,
    folds: Sequence[int],
    progress: bool,
) -> pd.DataFrame:
    config = replace(config, precision=_precision(study, config))
    known = {name: getattr(config, name) for name in SEARCH_SPACE}
    inside = {name: value for name, value in known.items() if value in SEARCH_SPACE[name]}
    study.enqueue_trial(inside, skip_if_exists=True)
    storage = _storage(folder)

    def objective(trial: optuna.Trial) -> float:
        _beat(trial, storage)
        _stop_when_enough(trial, trials)
        try:
            return _score(trial, replace(config, **suggest(trial)), cohort, split, folds)
        except NonFiniteLoss as error:
            print(f"trial {trial.number} does not count: {error}", file=sys.stderr)
            raise

    keep = _keep_table(folder)
    with _database(folder), _finished_bar(study, trials, progress) as update:
        while _count(study, FINISHED) < trials:
            _fail_killed(study)
            if _count(study, (*FINISHED, TrialState.RUNNING)) < trials:
                _run_trial(study, objective, keep)
            else:
                time.sleep(1)  # another process runs the last ones
            update()
    table = trials_table(study)
    # The process that ran the last trial may have been killed before it wrote the table.
    write_table(table, folder / "trials.csv")
    return table


def _run_trial(study: optuna.Study, objective: Callable[..., float], keep: Any) -> None:
    """Run one trial. It does not count where another process took it for killed meanwhile, as when
    a laptop has slept."""
    try:
        with suppress(EnoughTrials):
            study.optimize(objective, 1, callbacks=[keep], catch=(NonFiniteLoss,))
    except ValueError as error:
        if not str(error).startswith("Cannot tell a FAIL trial"):
            raise


def _terms(
    config: Config, cohort: Cohort, split: pd.DataFrame, folds: Sequence[int]
) -> dict[str, Any]:
    """What all trials of a search share."""
    fixed = {name: value for name, value in asdict(config).items() if name not in SEARCH_SPACE}
    del fixed["fold"]
    data = {"data": cohort.fingerprint, "split": split_fingerprint(split)}
    return {**fixed, **data, "folds": list(folds)}


def _study_of(folder: Path, terms: dict[str, Any], seed: int) -> optuna.Study:
    """The search of these terms in a folder; one of other terms that has tried nothing is replaced.
    Raises ``DataError`` for one that has."""
    private_folder(folder)
    with locked(folder / ".lock"), _database(folder):
        study = open_study(folder)
        _fail_killed(study)
        tried = _count(study, (*FINISHED, TrialState.RUNNING))
        if not tried and study.user_attrs.get("terms", terms) != terms:
            optuna.delete_study(study_name=_NAME, storage=_storage(folder))
            study = open_study(folder)
        study = open_study(folder, seed=seed + len(study.get_trials(deepcopy=False)))
        _same_search(study, folder, terms)
    return study


def _same_search(study: optuna.Study, folder: Path, terms: dict[str, Any]) -> None:
    before = study.user_attrs.get("terms", terms)
    for name, value in terms.items():
        if before.get(name) != value:
            found, expected = f"a search with {name}={before.get(name)!r}", f"{name}={value!r}"
            action = "Go on with the same options and data, or choose another folder (--run)."
            raise DataError(folder / "study.db", found, expected, action)
    study.set_user_attr("terms", terms)


def _precision(study: optuna.Study, config: Config) -> Precision:
    """One for all trials and processes of a search, so that no busy moment chooses it for one."""
    if config.precision == "auto":
        chosen = study.user_attrs.get("precision") or choose_precision(config)
        study.set_user_attr("precision", study.user_attrs.get("precision", chosen))
        return cast(Precision, study.user_attrs["precision"])
    return config.precision


def _score(
    trial: optuna.Trial, config: Config, cohort: Cohort, split: pd.DataFrame, folds: Sequence[int]
) -> float:
    epochs: Iterator[int] = iter(range(config.epochs))

    def prune(dice: pd.Series) -> None:
        trial.report(float(dice.mean()), next(epochs))
        if trial.should_prune():
            raise optuna.TrialPruned

    dice = []
    for fold in folds:
        watch = prune if fold == folds[0] else None
        subsets = slice_subsets(cohort, split, fold)
        run = replace(config, fold=fold)
        dice.append(validation_dice(run, cohort, subsets, progress=False, each_epoch=watch))
    return float(np.concatenate(dice).mean())


def _beat(trial: optuna.Trial, storage: optuna.storages.RDBStorage) -> None:
    """Give the trial its first heartbeat, and note that it has one."""
    study = storage.get_study_id_from_name(_NAME)
    storage.record_heartbeat(storage.get_trial_id_from_study_id_trial_number(study, trial.number))
    trial.set_user_attr("beats", True)


def _fail_killed(study: optuna.Study) -> None:
    """Fail the trials whose process was killed, so that others take their place."""
    with _no_warnings():
        optuna.storages.fail_stale_trials(study)
    # Optuna waits forever for a trial that was killed before its first heartbeat.
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        now, started = datetime.now(), trial.datetime_start
        # A start in the future: the clock was set back since.
        old = started and not now - timedelta(seconds=GRACE) <= started <= now
        if "beats" not in trial.user_attrs and old:
            # Another process of the search may do so at the same moment.
            with suppress(UpdateFinishedTrialError):
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _stop_when_enough(trial: optuna.Trial, trials: int) -> None:
    """When two processes start the last trial at once, the later number gives way."""
    states = (*FINISHED, TrialState.RUNNING)
    others = trial.study.get_trials(deepcopy=False, states=states)
    if sum(other.number < trial.number for other in others) >= trials:
        raise EnoughTrials


def _count(study: optuna.Study, states: Sequence[TrialState]) -> int:
    return len(study.get_trials(deepcopy=False, states=tuple(states)))


def _keep_table(folder: Path) -> Callable[[optuna.Study, optuna.trial.FrozenTrial], None]:
    return lambda study, _: write_table(trials_table(study), folder / "trials.csv")


@contextmanager
def _finished_bar(study: optuna.Study, trials: int, progress: bool) -> Iterator[Callable[[], None]]:
    with progress_bar(range(trials), "tune", "trial", show=progress) as bar:

        def update() -> None:
            bar.n = min(_count(study, FINISHED), trials)
            done = _count(study, [TrialState.COMPLETE])
            bar.set_postfix_str(f"best Dice {study.best_value:.3f}" if done else "")

        update()
        yield update


def gain_elsewhere(
    found: Config,
    start: Config,
    cohort: Cohort,
    split: pd.DataFrame,
    *,
    folds: Sequence[int],
    seeds: Sequence[int] = (0,),
    progress: bool = True,
) -> pd.DataFrame:
    """What a search's winner is worth where it was not chosen. The best of many scores is partly
    luck (the winner's curse), so ``found`` and ``start`` train again on these folds and seeds.

    Returns a row per validation patient and seed: patient, fold, seed, start, found (their Dice).
    """
    runs = list(product(folds, seeds, (("start", start), ("found", found))))
    dice: dict[tuple[int, int], dict[str, pd.Series]] = {}
    for fold, seed, (name, config) in progress_bar(runs, "train again", "training", show=progress):
        config, subsets = replace(config, fold=fold, seed=seed), slice_subsets(cohort, split, fold)
        scores = validation_dice(config, cohort, subsets, progress=False)
        dice.setdefault((fold, seed), {})[name] = scores
    tables = [
        pd.DataFrame(scores).rename_axis("patient").assign(fold=fold, seed=seed)
        for (fold, seed), scores in dice.items()
    ]
    return pd.concat(tables).reset_index()[["patient", "fold", "seed", "start", "found"]]
