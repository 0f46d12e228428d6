"""Masks for a tree of patients or one patient in TIFF, and the table of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lggseg.data.codecs import mask_tiff
from lggseg.data.kaggle import (
    Survey,
    contents,
    ending,
    is_patient,
    named,
    survey,
    unusable,
    volume_name,
)
from lggseg.evaluation.segmentation import dice
from lggseg.inference.outputs import Outputs, Predictions
from lggseg.inference.segmenter import Prediction, Segmenter
from lggseg.preprocessing.volume import FLAIR
from lggseg.utils.errors import CONVERT, DataError, usable_name
from lggseg.utils.files import new_folder, not_a_file
from lggseg.utils.progress import progress_bar

if TYPE_CHECKING:
    import pandas as pd


_ENDINGS = ("_mask.tif", ".png")


class PatientsRefused(DataError):
    """Some patients could not be segmented: a sentence on each, and how many others were."""

    def __init__(self, errors: Sequence[DataError], done: int) -> None:
        rest = [f"Of the other patients, {done} were segmented."] if done else []
        ValueError.__init__(self, "\n".join([*map(str, errors), *rest]))


def predict_folder(
    segmenter: Segmenter,
    data: Path | str,
    out: Path | str,
    *,
    pictures: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Segment a tree of patients, one patient's folder, or one multi-page TIFF.

    Writes ``<patient>_mask.tif`` (multi-page, 0 and 255) and a row of ``predictions.csv`` into
    ``out``, and returns the rows: patient, mask (the file), model (a fingerprint), slices,
    tumour_slices, tumour_voxels, expected_dice (an estimate), review (whether it is low), and dice
    where the patient has masks. ``pictures``: also ``<patient>.png``, the slice with most tumour.
    ``overwrite``: replace what an earlier call wrote; other files are never replaced
    (:mod:`lggseg.inference.outputs`). ``resume``: leave out those that an earlier call wrote.
    Raises ``DataError`` before anything is written where a file is in the way, and at the end where
    a patient cannot be read, which stops no other.
    """
    found = find_volumes(data)
    found.warn(of_refused=False)  # which are raised at the end
    names = [[f"{volume_name(path)}{end}" for path in found.patients] for end in _ENDINGS]
    again = {"overwrite": overwrite, "resume": resume}
    written = open_predictions(segmenter, out, names[0], names[1:] if pictures else [], **again)
    left = [p for p in found.patients if not written.has(f"{volume_name(p)}_mask.tif")]
    with keeping(written, found.refused) as refused:
        for name, volume, truth in _readable(left, refused, progress):
            made = segmenter.predict(volume)
            written.add(name, f"{name}_mask.tif", mask_tiff(made.mask), describe(made, truth))
            if pictures:
                written.outputs.write(f"{name}.png", _picture(volume, made.mask))
    return written.table


@contextmanager
def keeping(written: Predictions, refused: Sequence[DataError]) -> Iterator[list[DataError]]:
    """Make the folder of the masks, and save their table however the segmenting ends. At the end
    ``PatientsRefused`` is raised for the patients refused before and those added meanwhile to the
    list that this gives."""
    new_folder(written.outputs.folder)
    errors = list(refused)
    try:
        yield errors
    finally:
        written.save()
    if errors:
        raise PatientsRefused(errors, len(written))


def _readable(
    paths: Sequence[Path], refused: list[DataError], progress: bool
) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    """Name, volume and mask of each patient; why one cannot be read goes into ``refused``."""
    from lggseg.data.slices import read_volume

    for path in progress_bar(paths, "predict", "patient", show=progress):
        try:
            volume, truth = read_volume(path)
        except DataError as error:
            refused.append(error)
            continue
        yield volume_name(path), volume, truth


def open_predictions(
    segmenter: Segmenter,
    out: Path | str,
    masks: Sequence[str],
    others: Sequence[Sequence[str]] = (),
    *,
    overwrite: bool = False,
    resume: bool = False,
) -> Predictions:
    """The masks and the table to write, anywhere but among a patient's slices, where a mask would
    be taken for a reader's (:class:`lggseg.inference.outputs.Predictions`). Raises ``DataError``.
    """
    folder = named(out)
    if folder.is_dir() and (is_patient(folder) or is_patient(folder.resolve())):
        action = "Choose another folder."
        raise DataError(folder, "a patient's folder of slices", "a folder for masks", action)
    outputs = Outputs(folder, overwrite=overwrite or resume)
    return Predictions(outputs, segmenter.fingerprint, masks, others, resume=resume)


def volume_paths(data: Path) -> list[Path]:
    """The patients of a tree, or the one patient whose folder or TIFF ``data`` is. Says what is
    left out. Raises ``DataError``."""
    found = find_volumes(data)
    if not found.patients:
        raise found.refused[0]
    found.warn()
    return found.patients


def find_volumes(data: Path | str) -> Survey:
    """What :func:`volume_paths` returns, and what is left out. Raises ``DataError``."""
    data = named(data)
    if not data.is_dir() and (found := not_a_file(data)):
        raise DataError(data, found, _PATIENTS, "Check the path.")
    if data.is_file() and data.suffix.lower() not in (".tif", ".tiff"):
        raise _no_patient(data, f"a file {ending(data.name)}")
    if data.is_file() and not usable_name(data.name):
        raise unusable(data)
    if data.is_file():
        return Survey(data.parent, [data])
    below = survey(data)
    if not (below.patients or below.refused):
        raise _no_patient(data, contents(data))
    return below


def _no_patient(data: Path, found: str) -> DataError:
    """What to do depends on the endings that ``found`` names."""
    kind = next((kind for kind in _ACTIONS if kind in found.lower()), "")
    return DataError(data, found, _PATIENTS, _ACTIONS.get(kind, CONVERT))


_PATIENTS = "a tree of patients, a folder NAME of slices NAME_1.tif, …, or a multi-page TIFF"
_SCAN = (
    "Name the FLAIR file itself to `lggseg predict`, the others by --pre and --post, or give it "
    "the folder; or drop all of them on the page of `lggseg view`."
)
_ACTIONS = {
    **dict.fromkeys((".nii", ".mgz", ".mgh", ".hdr", ".img"), _SCAN),
    ".tif": "Name the slices like their folder, or give one multi-page TIFF at a time.",
}


def describe(prediction: Prediction, truth: np.ndarray | None) -> dict[str, Any]:
    """What the table says of each mask, and its Dice where there is a truth."""
    mask = prediction.mask
    facts: dict[str, Any] = {
        "slices": len(mask),
        "tumour_slices": int(mask.any(axis=(1, 2)).sum()),
        "tumour_voxels": int(mask.sum()),
        "expected_dice": round(prediction.expected_dice, 4),
        "review": prediction.needs_review,
    }
    return facts if truth is None else {**facts, "dice": dice(truth, mask)}


def _picture(volume: np.ndarray, mask: np.ndarray) -> bytes:
    from lggseg.inference.picture import largest_slice, outline_png

    index = largest_slice(mask)
    return outline_png(volume[index, ..., FLAIR], mask[index], zoom=3)
