"""``lggseg``: the command line."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import Any, cast

from lggseg import commands, model_commands
from lggseg import config as configuration
from lggseg.utils.errors import LeftOut, missing_extra
from lggseg.utils.stopping import Stopped

Subparsers = Any  # argparse names no public type of it


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


def _add_phantom(subparsers: Subparsers) -> None:
    command = subparsers.add_parser("phantom", help="make a simulated cohort in Kaggle's layout")
    command.add_argument("dest", type=Path, help="folder to write kaggle_3m into")
    command.add_argument("--patients", type=int, default=24, help="how many (%(default)s)")
    command.add_argument("--seed", type=int, default=0, help="another seed, others (%(default)s)")
    command.set_defaults(call=commands.phantom)


def _add_download(subparsers: Subparsers) -> None:
    command = subparsers.add_parser("download", help="fetch the real cohort from Kaggle")
    command.add_argument("dest", type=Path, help="folder to write kaggle_3m into")
    command.set_defaults(call=commands.download)


def _add_split(subparsers: Subparsers) -> None:
    command = subparsers.add_parser("split", help="write a split by patient")
    command.add_argument("data", type=Path, help="the Kaggle tree")
    out = Path("runs/split.csv")
    command.add_argument("--out", type=Path, default=out, help="table to write (%(default)s)")
    command.add_argument("--seed", type=int, default=0, help="another seed, another split")
    text = "a fold for each institution, instead of all of them in every fold"
    command.add_argument("--by-institution", action="store_true", help=text)
    command.add_argument("--overwrite", action="store_true", help="replace another split")
    command.set_defaults(call=commands.split)


def _add_train(subparsers: Subparsers) -> None:
    command = subparsers.add_parser("train", help="train a network; writes a run folder")
    add_train_options(command)
    command.set_defaults(call=commands.train)


def _add_crossvalidate(subparsers: Subparsers) -> None:
    command = subparsers.add_parser(
        "crossvalidate", help="train and score every fold, then train on all but the test patients"
    )
    add_train_options(command)
    text = "patients of the model after the folds: without the test patients, all, or no such model"
    kinds = ("development", "all", "none")
    command.add_argument("--final", choices=kinds, default=kinds[0], help=f"{text} (%(default)s)")
    command.set_defaults(call=commands.crossvalidate, run=Path("runs/cv"))


def _add_tune(subparsers: Subparsers) -> None:
    command = subparsers.add_parser(
        "tune", help="search the hyperparameters on validation patients"
    )
    add_train_options(command)
    command.add_argument("--trials", type=int, default=40, help="finished ones, earlier included")
    command.add_argument("--folds", type=int, nargs="+", default=[0], help="folds that validate")
    command.add_argument("--workers", type=int, default=1, help="processes that share the cores")
    command.add_argument("--worker", type=int, default=0, help=argparse.SUPPRESS)
    command.set_defaults(call=commands.tune, run=Path("runs/tune"))


def _add_compare(subparsers: Subparsers) -> None:
    command = subparsers.add_parser("compare", help="cross-validate several networks alike")
    add_train_options(command)
    command.add_argument("--networks", nargs="+", help="of lggseg.models.NETWORKS (default: all)")
    command.set_defaults(call=commands.compare, run=Path("runs/compare"))


def _add_predict(subparsers: Subparsers) -> None:
    command = subparsers.add_parser("predict", help="write masks for volumes never seen before")
    command.add_argument("model", type=Path, help="model folder")
    text = "a tree of TIFF slices, NIfTI scans or DICOM, one patient of such, or FLAIR in NIfTI"
    command.add_argument("data", type=Path, help=text)
    command.add_argument("out", type=Path, help="folder to write masks and predictions.csv into")
    for option, text in {"flair": "FLAIR", "pre": "T1 before contrast", "post": "T1 after"}.items():
        file = "" if option == "flair" else "; the file, where data is FLAIR in NIfTI"
        text = f"{text}: the number of the DICOM series{file}"
        command.add_argument(f"--{option}", metavar="SERIES", help=text)
    text = "bring T1s onto FLAIR by a rigid registration, too (needs the extra dicom)"
    command.add_argument("--register", action="store_true", help=text)
    text = "what to call the patient of a DICOM study (default: a pseudonym)"
    command.add_argument("--name", default="", help=text)
    text = "also draw the slice with most tumour of each patient (not for NIfTI)"
    command.add_argument("--pictures", action="store_true", help=text)
    engines, text = ("onnx", "torch"), "same mask; torch uses a GPU (%(default)s)"
    command.add_argument("--engine", choices=engines, default="onnx", help=text)
    text = "replace masks that an earlier call wrote; other files are never replaced"
    command.add_argument("--overwrite", action="store_true", help=text)
    text = "also write a page for each patient of NIfTI or DICOM: slices, volume, diameters"
    command.add_argument("--reports", action="store_true", help=text)
    text = "leave out the patients whose masks an earlier call wrote"
    command.add_argument("--resume", action="store_true", help=text)
    command.set_defaults(call=model_commands.predict)


def _add_export(subparsers: Subparsers) -> None:
    text = "write a model as a MONAI bundle, or as a page that segments in the browser"
    command = subparsers.add_parser("export", help=text)
    command.add_argument("model", type=Path, help="model folder")
    kind = command.add_mutually_exclusive_group(required=True)
    text = "new folder, named like the bundle"
    kind.add_argument("--monai-bundle", type=Path, metavar="FOLDER", help=text)
    text = "one file with all inside, which opens from disk without a network"
    kind.add_argument("--html", type=Path, metavar="FILE", help=text)
    command.set_defaults(call=model_commands.export)


def _add_serve(subparsers: Subparsers) -> None:
    command = subparsers.add_parser("serve", help="answer over HTTP: /ping, /invocations")
    command.add_argument("model", type=Path, help="model folder")
    command.add_argument("--host", default="127.0.0.1", help="0.0.0.0 in a container")
    command.add_argument("--port", type=int, default=8080, help="(%(default)s)")
    command.set_defaults(call=model_commands.serve)


def _add_view(subparsers: Subparsers) -> None:
    command = subparsers.add_parser("view", help="look at patients and masks in the browser")
    command.add_argument("model", type=Path, help="model folder")
    command.add_argument(
        "data",
        type=Path,
        nargs="?",
        help="a tree, one patient's folder, or one TIFF; without it drop files on the page",
    )
    command.add_argument("--host", default="127.0.0.1", help="0.0.0.0: for every machine around")
    command.add_argument("--port", type=int, default=8081, help="(%(default)s)")
    command.set_defaults(call=model_commands.view)


def _add_evaluate(subparsers: Subparsers) -> None:
    command = subparsers.add_parser("evaluate", help="compare a model with the patients' masks")
    command.add_argument("model", type=Path, help="model folder")
    command.add_argument("data", type=Path, help="the Kaggle tree")
    command.add_argument("--split", type=Path, help="only those of --subset in this split.csv")
    subsets = ("train", "validation", "test")
    command.add_argument("--subset", choices=subsets, default="test", help="(%(default)s)")
    out, text = Path("runs/evaluation"), "folder to write the scores into (%(default)s)"
    command.add_argument("--out", type=Path, default=out, help=text)
    text = "replace what an earlier evaluation wrote"
    command.add_argument("--overwrite", action="store_true", help=text)
    command.add_argument(
        "--record", action="store_true", help="keep the scores in the model's card"
    )
    command.set_defaults(call=commands.evaluate)


def _add_leak(subparsers: Subparsers) -> None:
    command = subparsers.add_parser("leak", help="say what anybody's split of a cohort leaks")
    text = "a CSV file of patients or slices with the subset of each"
    command.add_argument("split", type=Path, help=text)
    command.add_argument("data", type=Path, help="the Kaggle tree")
    command.set_defaults(call=commands.leak)


def _add_score(subparsers: Subparsers) -> None:
    command = subparsers.add_parser("score", help="compare anybody's masks with the patients' own")
    text = "a folder of PATIENT_mask.tif (a page per slice) or PATIENT/PATIENT_1_mask.tif, …"
    command.add_argument("masks", type=Path, help=text)
    command.add_argument("data", type=Path, help="the Kaggle tree")
    command.add_argument(
        "--split", type=Path, help="only the patients of --subset in this split.csv"
    )
    subsets = ("train", "validation", "test")
    command.add_argument("--subset", choices=subsets, default="test", help="(%(default)s)")
    command.add_argument("--fold", type=int, default=0, help="of the validation (%(default)s)")
    out, text = Path("runs/score"), "folder to write the scores into (%(default)s)"
    command.add_argument("--out", type=Path, default=out, help=text)
    text = "replace what an earlier scoring wrote"
    command.add_argument("--overwrite", action="store_true", help=text)
    command.set_defaults(call=commands.score)


def _add_check(subparsers: Subparsers) -> None:
    command = subparsers.add_parser(
        "check", help="compare a model folder, a run folder or data with their checksums"
    )
    command.add_argument("path", type=Path, help="a model folder, a run folder, or data")
    command.set_defaults(call=commands.check)


def _add_push(subparsers: Subparsers) -> None:
    command = subparsers.add_parser("push", help="push the images to the AWS account's registry")
    command.set_defaults(call=commands.push)


def _add_notebooks(subparsers: Subparsers) -> None:
    command = subparsers.add_parser("notebooks", help="execute all notebooks in order")
    folder, out = Path("notebooks"), Path("build/notebooks")
    command.add_argument("--folder", type=Path, default=folder, help="of the notebooks")
    text = "folder for the executed ones (%(default)s)"
    command.add_argument("--out", type=Path, default=out, help=text)
    command.add_argument("--data", default="", help="the Kaggle tree (default: a simulated one)")
    text = "seconds, minutes, or the real cohort: smoke, demo, full (%(default)s)"
    names = sorted(configuration.PROFILES)
    command.add_argument("--profile", choices=names, default="demo", help=text)
    command.set_defaults(call=commands.notebooks)


# In the order of the help.
_COMMANDS = (
    _add_phantom,
    _add_download,
    _add_split,
    _add_train,
    _add_crossvalidate,
    _add_tune,
    _add_compare,
    _add_predict,
    _add_export,
    _add_serve,
    _add_view,
    _add_evaluate,
    _add_leak,
    _add_score,
    _add_check,
    _add_push,
    _add_notebooks,
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(prog="lggseg", description=_DESCRIPTION)
    subparsers = parser.add_subparsers(dest="command", required=True)
    for add in _COMMANDS:
        add(subparsers)
    for command in subparsers.choices.values():
        command.register("type", Path, _path)
    return parser


def _path(text: str) -> Path:
    """A path that is given. Path("") would be the current folder: ``predict M "$UNSET" "$OUT"``."""
    if not text:
        raise argparse.ArgumentTypeError("found an empty path; expected a file or a folder")
    return Path(text)


def run(call: Callable[[], object]) -> int:
    """Call; a mistake of the user ends with its message alone, without a traceback."""
    try:
        call()
        return 0
    except MemoryError as error:
        code = 1
        message = f"found too little memory ({error}); expected more. Give a smaller volume."
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("lggseg"):
            raise
        code, message = 1, missing_extra(error)
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
