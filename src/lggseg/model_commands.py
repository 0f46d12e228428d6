"""What the commands do that use a model folder: predict, export, serve, view."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lggseg.utils.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    from lggseg.inference.segmenter import Segmenter


def predict(options: argparse.Namespace) -> None:
    """Write masks."""
    from lggseg.data.kinds import kind_of
    from lggseg.inference.segmenter import Segmenter

    kind = "NIfTI" if options.data.is_file() and options.pre else kind_of(options.data)
    segment = {"TIFF": _predict_slices, "NIfTI": _predict_niftis, "DICOM": _predict_dicom}[kind]
    table = segment(Segmenter.load(options.model, options.engine), options)
    for row in table.to_dict("records"):
        for note in filter(None, [row.get("missing"), row.get("notes")]):
            stands_in = note == row.get("missing")
            text = f"without {note}: FLAIR stands in" if stands_in else note
            print(f"{row['patient']}: {text}")
    masks = "1 mask" if len(table) == 1 else f"{len(table)} masks"
    ml = f"{table['tumour_ml'].iloc[0]:.1f} ml of tumour; " if "tumour_ml" in table else ""
    print(f"{ml if len(table) == 1 else ''}{masks} and predictions.csv in {options.out}")
    if options.pictures:
        print("\n".join(f"picture: {options.out / name}.png" for name in table["patient"]))


def _predict_slices(segmenter: Segmenter, options: argparse.Namespace) -> pd.DataFrame:
    from lggseg.inference.predict import predict_folder

    _without(options, "slices in TIFF", "flair", "pre", "post", "register", "name", "reports")
    pictures, again = options.pictures, {"overwrite": options.overwrite, "resume": options.resume}
    return predict_folder(segmenter, options.data, options.out, pictures=pictures, **again)


def _predict_niftis(segmenter: Segmenter, options: argparse.Namespace) -> pd.DataFrame:
    from lggseg.inference.scans import predict_nifti, predict_scans

    again = {name: getattr(options, name) for name in ("register", "reports", "overwrite")}
    if options.data.is_dir():
        _without(options, "a folder of patients", "flair", "pre", "post", "pictures", "name")
        again["resume"] = options.resume
        return predict_scans(segmenter, options.data, options.out, **again)
    _without(options, "FLAIR in NIfTI", "flair", "pictures", "resume", "name")
    sequences = {"pre": options.pre, "post": options.post}
    return predict_nifti(segmenter, options.data, options.out, **sequences, **again)


def _predict_dicom(segmenter: Segmenter, options: argparse.Namespace) -> pd.DataFrame:
    from lggseg.inference.scans import predict_dicom
    from lggseg.preprocessing.volume import CHANNELS

    _without(options, "DICOM", "pictures")
    numbers = {}
    for role, option in zip(CHANNELS, ("pre", "flair", "post"), strict=True):
        if (value := getattr(options, option)) is not None:
            if not value.isdecimal():
                expected = "the number of a series"
                raise DataError(f"--{option}", value, expected, "Leave it out to see them all.")
            numbers[role] = int(value)
    names = ("name", "register", "reports", "overwrite", "resume")
    again = {name: getattr(options, name) for name in names}
    return predict_dicom(segmenter, options.data, options.out, numbers=numbers, **again)


def _without(options: argparse.Namespace, kind: str, *names: str) -> None:
    """Refuse options that say nothing about this kind of data."""
    for name in names:
        if getattr(options, name):
            raise DataError(options.data, kind, f"other data for --{name}", "Leave it out.")


def export(options: argparse.Namespace) -> None:
    """Write a model as a MONAI bundle or as one HTML file."""
    if options.html:
        from lggseg.serving.standalone.export import export_html

        path = export_html(options.model, options.html)
        print(f"{path}, {path.stat().st_size / 1e6:.1f} MB: open it in a browser, drop files on it")
        return
    from lggseg.inference.monai_bundle import export_bundle

    bundle = export_bundle(options.model, options.monai_bundle)
    print(f"MONAI bundle {bundle}; how to run it: {bundle / 'docs' / 'README.md'}")


def serve(options: argparse.Namespace) -> None:
    """Answer over HTTP."""
    from lggseg.serving.endpoint import serve

    serve(options.model, options.host, options.port)


def view(options: argparse.Namespace) -> None:
    """Show patients and masks in the browser."""
    from lggseg.serving.viewer.app import view

    view(options.model, options.data, options.host, options.port)
