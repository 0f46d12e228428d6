"""What each command of ``lggseg`` does: a thin call of the function that notebooks call.

Heavy libraries are imported by the command that needs them, so that ``--help`` is instant.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lggseg import config as configuration
from lggseg.utils.errors import DataError
from lggseg.utils.files import (
    json_bytes,
    private_folder,
    read_json,
    table_bytes,
    write_json,
    write_table,
)
from lggseg.utils.stopping import SIGNALS

if TYPE_CHECKING:
    import pandas as pd

    from lggseg.data.cohort import Cohort
    from lggseg.inference.outputs import Outputs


def phantom(options: argparse.Namespace) -> None:
    """Make a simulated cohort."""
    from lggseg.data.simulation import make_cohort

    root = make_cohort(options.dest, patients=options.patients, seed=options.seed)
    print(f"{options.patients} simulated patients in {root}")


def download(options: argparse.Namespace) -> None:
    """Fetch the real cohort."""
    from lggseg.data.download import download

    print(f"The Kaggle tree is in {download(options.dest)}")


def split(options: argparse.Namespace) -> None:
    """Write a split by patient."""
    from lggseg.data.cohort import load_cohort
    from lggseg.data.splits import (
        check_no_leakage,
        make_split,
        slice_folds,
        split_by_institution,
        write_split,
    )

    cohort = load_cohort(options.data)
    split = make_split(cohort, seed=options.seed)
    if options.by_institution:
        split = split_by_institution(split)
    check_no_leakage(cohort, slice_folds(cohort, split))
    write_split(split, options.out, overwrite=options.overwrite)
    print(f"{split['subset'].value_counts().to_dict()} patients in {options.out}")


def train(options: argparse.Namespace) -> None:
    """Train a network."""
    train_from_options(options)


def train_from_options(options: argparse.Namespace) -> Path:
    """Train as the options of :func:`lggseg.cli.add_train_options` say; returns the run folder."""
    from lggseg.inference.model_folder import card_path
    from lggseg.training import distributed
    from lggseg.training.train import train

    config = configuration.from_options(options)
    cohort, split = _cohort_and_split(options)
    run = train(config, cohort, split, options.run, resume=options.resume)
    if distributed.rank():
        return run
    card = read_json(card_path(run / "model"), "Delete the folder model and --resume.")
    if card.get("validation"):
        print(f"validation Dice per patient: {_interval(card['validation']['dice'])}")
    print(f"run folder {run}")
    return run


def crossvalidate(options: argparse.Namespace) -> None:
    """Train and score every fold."""
    from lggseg.experiments.cross_validation import FINAL, crossvalidate

    config = configuration.from_options(options)
    _keep_others(options.run, ("patients.csv", "summary.json"), "fold-*")
    cohort, split = _cohort_and_split(options)
    table = crossvalidate(
        config, cohort, split, options.run, final=options.final, resume=options.resume
    )
    scores = _summary(cohort, table.drop(columns="fold"))
    write_json(scores, options.run / "summary.json")
    _print_dice(scores, options.run)
    if folder := FINAL[options.final]:
        print(f"the model of {options.final} patients is {options.run / folder / 'model'}")


def compare(options: argparse.Namespace) -> None:
    """Cross-validate several networks alike."""
    from lggseg.evaluation.statistics import compare_all
    from lggseg.experiments.compare import compare, per_patient
    from lggseg.models.networks import NETWORKS

    base = configuration.from_options(options)
    _keep_others(options.run, ("patients.csv", "pairs.csv"), "*/fold-*")
    cohort, split = _cohort_and_split(options)
    configs = {name: replace(base, network=name) for name in options.networks or NETWORKS}
    table = compare(configs, cohort, split, options.run, resume=options.resume)
    dice = per_patient(table)
    write_table(compare_all(dice), options.run / "pairs.csv")
    print(dice.agg(["mean", "median"]).T.round(3).to_string())
    print(f"patients.csv and pairs.csv (paired tests) in {options.run}")


def tune(options: argparse.Namespace) -> None:
    """Search the hyperparameters."""
    from lggseg.experiments.search import tune
    from lggseg.experiments.search_results import best_config
    from lggseg.experiments.workers import helpers

    config = configuration.from_options(options)
    _keep_others(options.run, ("trials.csv", "best.json"), "study.db")
    cohort, split = _cohort_and_split(options)
    with SIGNALS, helpers(options.workers - 1, options.arguments):
        table = tune(
            config,
            cohort,
            split,
            options.run,
            trials=options.trials,
            folds=options.folds,
            worker=options.worker,
            progress=options.worker == 0,
        )
    best_config(table, config).save(options.run / "best.json")
    print(table.nlargest(3, "dice").round(4).to_string(index=False))
    print(f"all {len(table)} trials in {options.run / 'trials.csv'}, the best in best.json")


def _keep_others(run: Path, names: Sequence[str], own: str) -> None:
    """Refuse a folder with files of these names unless it also holds ``own``, which the command
    leaves beside its own. Raises ``DataError``."""
    if any(run.glob(own)):
        return
    for path in (run / name for name in names):
        if os.path.lexists(path):
            found, expected = "a file that is not of such a run", "none, since it would be lost"
            raise DataError(path, found, expected, "Move it away, or choose another --run.")


def _cohort_and_split(options: argparse.Namespace) -> tuple[Cohort, pd.DataFrame]:
    from lggseg.data.cohort import load_cohort
    from lggseg.data.splits import make_split, read_split

    cohort = load_cohort(options.data)
    split = read_split(options.split, cohort) if options.split else make_split(cohort, seed=0)
    return cohort, split


def _summary(cohort: Cohort, table: pd.DataFrame) -> dict[str, Any]:
    """Metrics per patient with their intervals, after what they were measured on."""
    from lggseg.evaluation.statistics import summarise

    facts = {"simulated": cohort.simulated, "data_fingerprint": cohort.fingerprint}
    return {**facts, **summarise(table)}


def _print_dice(scores: dict[str, Any], out: Path) -> None:
    print(f"Dice per patient: {_interval(scores['dice'])}; patients.csv, summary.json in {out}")


def _interval(summary: dict[str, float]) -> str:
    return (
        f"mean {summary['mean']:.3f} (95 % interval {summary['low']:.3f} to "
        f"{summary['high']:.3f}), median {summary['median']:.3f}, {summary['n']} patients"
    )


def evaluate(options: argparse.Namespace) -> None:
    """Compare a model with the patients' masks."""
    from lggseg.data.cohort import load_cohort
    from lggseg.data.splits import patients_of, read_split, split_fingerprint
    from lggseg.inference.evaluate import evaluate
    from lggseg.inference.model_folder import amend_card
    from lggseg.inference.outputs import Outputs
    from lggseg.inference.segmenter import Segmenter

    outputs = Outputs(options.out, overwrite=options.overwrite)
    outputs.check(_SCORES)
    cohort, segmenter = load_cohort(options.data), Segmenter.load(options.model)
    patients = list(cohort.patients.index)
    if options.split:
        split = read_split(options.split, cohort)
        if split_fingerprint(split) != segmenter.card["split_fingerprint"]:
            raise ValueError(
                f"{options.split}: found another split than the one {options.model} was trained "
                "with, so its patients may have trained; expected the split.csv of that run."
            )
        patients = patients_of(split, options.subset, segmenter.config.fold)
        if not patients:
            raise ValueError(f"{options.model}: found no {options.subset} patient of its fold.")
    table = evaluate(segmenter, cohort, patients)
    scores = _write_scores(outputs, cohort, table)
    _print_dice(scores, options.out)
    if options.record:
        metrics = {name: scores[name] for name in scores if isinstance(scores[name], dict)}
        amend_card(options.model, {options.subset if options.split else "evaluation": metrics})


# The table per patient, and its summary.
_SCORES = ("patients.csv", "summary.json")


def _write_scores(outputs: Outputs, cohort: Cohort, table: pd.DataFrame) -> dict[str, Any]:
    """Write both, and return the summary."""
    scores = _summary(cohort, table)
    private_folder(outputs.folder)
    for name, content in zip(_SCORES, (table_bytes(table), json_bytes(scores)), strict=True):
        outputs.write(name, content)
    return scores


def leak(options: argparse.Namespace) -> None:
    """Say what a split leaks."""
    from lggseg.data.cohort import load_cohort
    from lggseg.data.leaks import find_leaks, read_subsets
    from lggseg.data.splits import LeakageError

    cohort = load_cohort(options.data)
    subsets = read_subsets(options.split, cohort)
    used = subsets != ""
    names = sorted(set(subsets[used]))
    print(f"{used.sum()} of {len(subsets)} slices in {len(names)} subsets: {', '.join(names)}")
    if found := find_leaks(cohort, subsets):
        raise LeakageError(f"{options.split}: found {'; '.join(map(str, found))}. {_MEND}")
    print(f"{options.split}: no patient, picture or pair of neighbouring slices in two subsets")


_MEND = "Expected each patient in one subset. Split by patient (`lggseg split DATA`)."


def score(options: argparse.Namespace) -> None:
    """Compare anybody's masks with those of the patients."""
    from lggseg.data.cohort import load_cohort
    from lggseg.data.splits import patients_of, read_split
    from lggseg.inference.outputs import Outputs
    from lggseg.inference.score import score

    outputs = Outputs(options.out, overwrite=options.overwrite)
    outputs.check(_SCORES)
    cohort = load_cohort(options.data)
    patients = list(cohort.patients.index)
    if options.split:
        patients = patients_of(read_split(options.split, cohort), options.subset, options.fold)
    table = score(options.masks, cohort, patients)
    scores = _write_scores(outputs, cohort, table)
    if without := len(patients) - len(table):
        print(f"{without} of {len(patients)} patients have no mask in {options.masks}: not scored")
    _print_dice(scores, options.out)


def check(options: argparse.Namespace) -> None:
    """Compare files with their checksums."""
    from lggseg.inference.check import check

    print("\n".join(check(options.path)))


def push(options: argparse.Namespace) -> None:
    """Push the images to the account's registry."""
    from lggseg.cloud.aws.account import open_account
    from lggseg.cloud.aws.images import push

    print("\n".join(push(open_account())))


def notebooks(options: argparse.Namespace) -> None:
    """Execute the notebooks."""
    from lggseg.data.kaggle import find_tree
    from lggseg.data.simulation import cohort_root
    from lggseg.notebooks import run_notebooks, say_what_follows

    say_what_follows(options.folder, options.out, options.profile, not str(options.data))
    tree = find_tree(cohort_root(options.data)).resolve()
    parameters = {"DATA": str(tree), "PROFILE": options.profile}
    run_notebooks(options.folder, options.out, parameters)
