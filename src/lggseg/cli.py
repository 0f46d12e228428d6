"""``lggseg``: the command line. Each command is a thin call of the function that notebooks call.

Heavy libraries are imported by the command that needs them, so that ``--help`` is instant.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lggseg import config as configuration
from lggseg.utils.paths import (
    LeftOut,
    json_bytes,
    private_folder,
    read_json,
    table_bytes,
    write_json,
    write_table,
)
from lggseg.utils.stopping import SIGNALS, Stopped

if TYPE_CHECKING:
    import pandas as pd

    from lggseg.data.cohort import Cohort


def _phantom(options: argparse.Namespace) -> None:
    from lggseg.data.simulation import make_cohort

    root = make_cohort(options.dest, patients=options.patients, seed=options.seed)
    print(f"{options.patients} simulated patients in {root}")


def _download(options: argparse.Namespace) -> None:
    from lggseg.data.download import download

    print(f"The Kaggle tree is in {download(options.dest)}")


def _split(options: argparse.Namespace) -> None:
    from lggseg.data.cohort import load_cohort
    from lggseg.data.splits import check_no_leakage, make_split, slice_sides, write_split

    cohort = load_cohort(options.data)
    split = make_split(cohort, seed=options.seed)
    check_no_leakage(cohort, slice_sides(cohort, split))
    write_split(split, options.out, overwrite=options.overwrite)
    print(f"{split['role'].value_counts().to_dict()} patients in {options.out}")


def _train(options: argparse.Namespace) -> None:
    train_from_options(options)


def train_from_options(options: argparse.Namespace) -> Path:
    """Train as the options of :func:`add_train_options` say; returns the run folder."""
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


def _crossvalidate(options: argparse.Namespace) -> None:
    from lggseg.training.train import crossvalidate

    config = configuration.from_options(options)
    cohort, split = _cohort_and_split(options)
    table = crossvalidate(config, cohort, split, options.run, resume=options.resume)
    scores = _summary(cohort, table.drop(columns="fold"))
    write_json(scores, options.run / "summary.json")
    _print_dice(scores, options.run)
    print(f"the model of all but the test patients is {options.run / 'final' / 'model'}")


def _compare(options: argparse.Namespace) -> None:
    from lggseg.evaluation.statistics import compare_all
    from lggseg.experiments.compare import compare, per_patient
    from lggseg.models.networks import NETWORKS

    base = configuration.from_options(options)
    cohort, split = _cohort_and_split(options)
    configs = {name: replace(base, network=name) for name in options.networks or NETWORKS}
    table = compare(configs, cohort, split, options.run, resume=options.resume)
    dice = per_patient(table)
    write_table(compare_all(dice), options.run / "pairs.csv")
    print(dice.agg(["mean", "median"]).T.round(3).to_string())
    print(f"patients.csv and pairs.csv (paired tests) in {options.run}")


def _tune(options: argparse.Namespace) -> None:
    from lggseg.experiments.search import best_config, helpers, tune

    config = configuration.from_options(options)
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


def _predict(options: argparse.Namespace) -> None:
    from lggseg.data.nifti import is_nifti
    from lggseg.inference.predict import Segmenter, predict_folder, predict_nifti

    segmenter, out = Segmenter.load(options.model, options.engine), options.out
    again = {"overwrite": options.overwrite}
    scan = is_nifti(options.data) and not options.data.is_dir()
    if not (options.pre or options.post or scan):
        table = predict_folder(segmenter, options.data, out, pictures=options.pictures, **again)
        masks = "1 mask" if len(table) == 1 else f"{len(table)} masks"
        print(f"{masks} and predictions.csv in {out}")
        if options.pictures:
            print("\n".join(f"picture: {out / name}.png" for name in table["patient"]))
        return
    sequences = {"pre": options.pre, "post": options.post}
    table = predict_nifti(segmenter, options.data, out, **sequences, **again)
    row = table.iloc[0]
    if row["missing"]:
        print(f"without {row['missing']}: FLAIR stands in")
    print(f"{row['tumour_ml']:.1f} ml of tumour; the mask and predictions.csv in {out}")


def _export(options: argparse.Namespace) -> None:
    from lggseg.inference.monai_bundle import export_bundle

    bundle = export_bundle(options.model, options.monai_bundle)
    print(f"MONAI bundle {bundle}; how to run it: {bundle / 'docs' / 'README.md'}")


def _serve(options: argparse.Namespace) -> None:
    from lggseg.serving.endpoint import serve

    serve(options.model, options.host, options.port)


def _view(options: argparse.Namespace) -> None:
    from lggseg.serving.viewer.app import view

    view(options.model, options.data, options.host, options.port)


def _evaluate(options: argparse.Namespace) -> None:
    from lggseg.data.cohort import load_cohort
    from lggseg.data.splits import patients_of, read_split, split_fingerprint
    from lggseg.inference.model_folder import amend_card
    from lggseg.inference.outputs import Outputs
    from lggseg.inference.predict import Segmenter, evaluate

    outputs = Outputs(options.out, overwrite=options.overwrite)
    outputs.check(["patients.csv", "summary.json"])
    cohort, segmenter = load_cohort(options.data), Segmenter.load(options.model)
    patients = list(cohort.patients.index)
    if options.split:
        split = read_split(options.split, cohort)
        if split_fingerprint(split) != segmenter.card["split_fingerprint"]:
            raise ValueError(
                f"{options.split}: found another split than the one {options.model} was trained "
                "with, so its patients may have trained; expected the split.csv of that run."
            )
        patients = patients_of(split, options.role, segmenter.config.fold)
        if not patients:
            raise ValueError(f"{options.model}: found no {options.role} patient of its fold.")
    table = evaluate(segmenter, cohort, patients)
    private_folder(options.out)
    outputs.write("patients.csv", table_bytes(table))
    outputs.write("summary.json", json_bytes(scores := _summary(cohort, table)))
    _print_dice(scores, options.out)
    if options.record:
        metrics = {name: scores[name] for name in scores if isinstance(scores[name], dict)}
        amend_card(options.model, {options.role if options.split else "evaluation": metrics})


def _check(options: argparse.Namespace) -> None:
    from lggseg.inference.check import check

    print("\n".join(check(options.path)))


def _push(options: argparse.Namespace) -> None:
    from lggseg.cloud.account import open_account
    from lggseg.cloud.images import push

    print("\n".join(push(open_account())))


def _notebooks(options: argparse.Namespace) -> None:
    from lggseg.data.kaggle import find_tree
    from lggseg.data.simulation import cohort_root
    from lggseg.notebooks import run_notebooks, say_what_follows

    say_what_follows(options.folder, options.out, options.profile, not str(options.data))
    tree = find_tree(cohort_root(options.data)).resolve()
    parameters = {"DATA": str(tree), "PROFILE": options.profile}
    run_notebooks(options.folder, options.out, parameters)


def add_train_options(parser: argparse.ArgumentParser) -> None:
    """Options shared by ``lggseg train`` and ``python src/train.py``."""
    parser.add_argument("--data", type=Path, required=True, help="the Kaggle tree")
    parser.add_argument("--split", type=Path, help="split.csv (default: the split of seed 0)")
    parser.add_argument("--run", type=Path, default=Path("runs/unet"), help="run folder to write")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    configuration.add_options(parser)


_default = warnings.formatwarning
_DESCRIPTION = (
    "Segment lower-grade glioma in brain MRI: data, training, masks, endpoint. "
    "`lggseg COMMAND --help` lists the options of a command."
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(prog="lggseg", description=_DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("phantom", help="make a simulated cohort in Kaggle's layout")
    command.add_argument("dest", type=Path, help="folder to write kaggle_3m into")
    command.add_argument("--patients", type=int, default=24, help="how many (%(default)s)")
    command.add_argument("--seed", type=int, default=0, help="another seed, others (%(default)s)")
    command.set_defaults(call=_phantom)

    command = commands.add_parser("download", help="fetch the real cohort from Kaggle")
    command.add_argument("dest", type=Path, help="folder to write kaggle_3m into")
    command.set_defaults(call=_download)

    command = commands.add_parser("split", help="write a split by patient")
    command.add_argument("data", type=Path, help="the Kaggle tree")
    out = Path("runs/split.csv")
    command.add_argument("--out", type=Path, default=out, help="table to write (%(default)s)")
    command.add_argument("--seed", type=int, default=0, help="another seed, another split")
    command.add_argument("--overwrite", action="store_true", help="replace another split")
    command.set_defaults(call=_split)

    command = commands.add_parser("train", help="train a network; writes a run folder")
    add_train_options(command)
    command.set_defaults(call=_train)

    command = commands.add_parser(
        "crossvalidate", help="train and score every fold, then train on all but the test patients"
    )
    add_train_options(command)
    command.set_defaults(call=_crossvalidate, run=Path("runs/cv"))

    command = commands.add_parser("tune", help="search the hyperparameters on validation patients")
    add_train_options(command)
    command.add_argument("--trials", type=int, default=40, help="finished ones, earlier included")
    command.add_argument("--folds", type=int, nargs="+", default=[0], help="folds that validate")
    command.add_argument("--workers", type=int, default=1, help="processes that share the cores")
    command.add_argument("--worker", type=int, default=0, help=argparse.SUPPRESS)
    command.set_defaults(call=_tune, run=Path("runs/tune"))

    command = commands.add_parser("compare", help="cross-validate several networks alike")
    add_train_options(command)
    command.add_argument("--networks", nargs="+", help="of lggseg.models.NETWORKS (default: all)")
    command.set_defaults(call=_compare, run=Path("runs/compare"))

    command = commands.add_parser("predict", help="write masks for volumes never seen before")
    command.add_argument("model", type=Path, help="model folder")
    command.add_argument(
        "data", type=Path, help="a tree, one patient's folder, one TIFF, or FLAIR in NIfTI"
    )
    command.add_argument("out", type=Path, help="folder to write masks and predictions.csv into")
    command.add_argument("--pre", type=Path, help="pre-contrast T1 on the voxels of NIfTI data")
    command.add_argument("--post", type=Path, help="post-contrast T1 on the voxels of NIfTI data")
    text = "also draw the slice with most tumour of each patient (not for NIfTI)"
    command.add_argument("--pictures", action="store_true", help=text)
    engines, text = ("onnx", "torch"), "same mask; torch uses a GPU (%(default)s)"
    command.add_argument("--engine", choices=engines, default="onnx", help=text)
    text = "replace masks that an earlier call wrote; other files are never replaced"
    command.add_argument("--overwrite", action="store_true", help=text)
    command.set_defaults(call=_predict)

    command = commands.add_parser("export", help="write a model as a MONAI bundle")
    command.add_argument("model", type=Path, help="model folder")
    command.add_argument(
        "--monai-bundle", type=Path, required=True, help="new folder, named like the bundle"
    )
    command.set_defaults(call=_export)

    command = commands.add_parser("serve", help="answer over HTTP: /ping, /invocations")
    command.add_argument("model", type=Path, help="model folder")
    command.add_argument("--host", default="127.0.0.1", help="0.0.0.0 in a container")
    command.add_argument("--port", type=int, default=8080, help="(%(default)s)")
    command.set_defaults(call=_serve)

    command = commands.add_parser("view", help="look at patients and masks in the browser")
    command.add_argument("model", type=Path, help="model folder")
    command.add_argument(
        "data",
        type=Path,
        nargs="?",
        help="a tree, one patient's folder, or one TIFF; without it drop files on the page",
    )
    command.add_argument("--host", default="127.0.0.1", help="0.0.0.0: for every machine around")
    command.add_argument("--port", type=int, default=8081, help="(%(default)s)")
    command.set_defaults(call=_view)

    command = commands.add_parser("evaluate", help="compare a model with the patients' masks")
    command.add_argument("model", type=Path, help="model folder")
    command.add_argument("data", type=Path, help="the Kaggle tree")
    command.add_argument("--split", type=Path, help="only the patients of --role in this split.csv")
    roles = ("train", "validation", "test")
    command.add_argument("--role", choices=roles, default="test", help="(%(default)s)")
    out, text = Path("runs/evaluation"), "folder to write the scores into (%(default)s)"
    command.add_argument("--out", type=Path, default=out, help=text)
    text = "replace what an earlier evaluation wrote"
    command.add_argument("--overwrite", action="store_true", help=text)
    command.add_argument(
        "--record", action="store_true", help="keep the scores in the model's card"
    )
    command.set_defaults(call=_evaluate)

    text = "compare a model folder, a run folder or data with their checksums"
    command = commands.add_parser("check", help=text)
    command.add_argument("path", type=Path, help="a model folder, a run folder, or data")
    command.set_defaults(call=_check)

    command = commands.add_parser("push", help="push the images to the AWS account's registry")
    command.set_defaults(call=_push)

    command = commands.add_parser("notebooks", help="execute all notebooks in order")
    folder, out = Path("notebooks"), Path("build/notebooks")
    command.add_argument("--folder", type=Path, default=folder, help="of the notebooks")
    text = "folder for the executed ones (%(default)s)"
    command.add_argument("--out", type=Path, default=out, help=text)
    command.add_argument("--data", default="", help="the Kaggle tree (default: a simulated one)")
    text = "seconds, minutes, or the real cohort: smoke, demo, full (%(default)s)"
    names = sorted(configuration.PROFILES)
    command.add_argument("--profile", choices=names, default="demo", help=text)
    command.set_defaults(call=_notebooks)
    return parser


def run(call: Callable[[], object]) -> int:
    """Call; a mistake of the user ends with its message alone, without a traceback."""
    try:
        call()
        return 0
    except MemoryError as error:
        code = 1
        message = f"found too little memory ({error}); expected more. Give a smaller volume."
    except (ValueError, RuntimeError, OSError) as error:
        code, message = 1, str(error)
    except Stopped as stop:
        code, message = stop.status, str(stop)
    except KeyboardInterrupt:
        code, message = 130, "interrupted"
    # Not before a progress bar, which goes with the error, has ended its line.
    print(f"lggseg: {message}", file=sys.stderr)
    return code


def _one_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """A warning on the user's data as a sentence, others with their place in the code."""
    ours = issubclass(category, LeftOut)
    return f"lggseg: {message}\n" if ours else _default(message, category, filename, lineno, line)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    warnings.formatwarning = _one_line
    # The name of a folder may hold bytes that are not UTF-8.
    cast(TextIOWrapper, sys.stdout).reconfigure(errors="backslashreplace")
    options = build_parser().parse_args(arguments)
    options.arguments = sys.argv[1:] if arguments is None else arguments
    return run(lambda: options.call(options))


if __name__ == "__main__":
    sys.exit(main())
