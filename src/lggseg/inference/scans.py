"""Masks for scans: one patient's NIfTI files, a folder of such patients, or DICOM studies."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lggseg.data.dicom import EXPECTED, Series, choose, files_below, pseudonym, read_studies
from lggseg.data.dicom_volume import study_volume
from lggseg.data.kaggle import unusable
from lggseg.data.nifti import Scan, read_nifti, scan_name
from lggseg.data.sequences import find_patients
from lggseg.inference.dicom_seg import segmentation
from lggseg.inference.outputs import Predictions
from lggseg.inference.patient_report import patient_report
from lggseg.inference.predict import describe, keeping, open_predictions
from lggseg.inference.segmenter import Segmenter
from lggseg.utils.errors import DataError, usable_name
from lggseg.utils.progress import progress_bar

if TYPE_CHECKING:
    import pandas as pd
    from pydicom import Dataset

_MASK, _SEG, _REPORT = "{}_mask.nii.gz", "{}_seg.dcm", "{}_report.html"


@dataclass(frozen=True)
class Loaded:
    """A patient's scan, read: volume uint8 ``(slices, 256, 256, 3)``; slices: FLAIR's data sets
    where it is DICOM."""

    volume: np.ndarray
    scan: Scan
    slices: Sequence[Dataset] = field(default=())


Patients = Mapping[str, Callable[[], Loaded]]  # how to read each patient, by name


def predict_nifti(
    segmenter: Segmenter,
    flair: Path | str,
    out: Path | str,
    *,
    pre: Path | str | None = None,
    post: Path | str | None = None,
    register: bool = False,
    reports: bool = False,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Segment one patient's NIfTI files (:func:`lggseg.data.nifti.read_nifti`).

    Writes ``<flair>_mask.nii.gz`` (0 and 1, on the voxels of FLAIR) into ``out`` and a row into
    ``predictions.csv``, and returns a table of that row: the columns of
    :func:`lggseg.inference.predict.predict_folder` with voxels of the file, tumour_ml (the affine
    taken for millimetres), missing (the sequences that FLAIR stands in for) and notes (what was
    done to sequences on other voxels). ``reports``: also ``<flair>_report.html``
    (:mod:`lggseg.inference.patient_report`). Raises ``DataError``.
    """
    name = scan_name(flair)
    if not usable_name(name):
        raise unusable(Path(flair))
    masks, others = _files([name], [_REPORT] if reports else [])
    written = open_predictions(segmenter, out, masks, others, overwrite=overwrite)
    loaded = Loaded(*read_nifti(flair, pre, post, register=register))
    _write(segmenter, written, name, loaded, reports)
    written.save()
    return written.table


def predict_scans(
    segmenter: Segmenter,
    data: Path | str,
    out: Path | str,
    *,
    register: bool = False,
    reports: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Segment all patients below a folder of NIfTI files, which are found by their names
    (:func:`lggseg.data.sequences.find_patients`).

    Writes ``<patient>_mask.nii.gz`` each and one table as :func:`predict_nifti` does. ``resume``:
    leave out the patients whose masks an earlier call with the same model wrote. Raises
    ``DataError`` before anything is written where a file is in the way, and ``PatientsRefused`` at
    the end where a patient cannot be segmented, which stops no other.
    """
    found = find_patients(data)

    def read(flair: Path, pre: Path | None, post: Path | None) -> Loaded:
        return Loaded(*read_nifti(flair, pre, post, register=register))

    patients = {p.name: partial(read, p.flair, p.pre, p.post) for p in found.patients}
    files = _files(patients, [_REPORT] if reports else [])
    written = open_predictions(segmenter, out, *files, overwrite=overwrite, resume=resume)
    return _segment(segmenter, written, patients, found.refused, progress, reports)


def predict_dicom(
    segmenter: Segmenter,
    data: Path | str,
    out: Path | str,
    *,
    numbers: Mapping[str, int | None] | None = None,
    name: str = "",
    register: bool = False,
    reports: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Segment the DICOM studies below a folder (:mod:`lggseg.data.dicom`).

    Writes ``<study>_mask.nii.gz`` and ``<study>_seg.dcm`` (DICOM-SEG) each, and one table as
    :func:`predict_scans` does, whose notes say which series was taken for what. A study is called
    by a pseudonym that tells nothing of the patient; ``name``: by this, where there is one study.
    Where the images' headers are too incomplete for DICOM-SEG, a note says so instead.
    numbers: series to take, by the names in ``CHANNELS``. Raises what :func:`predict_scans` raises.
    """
    if Path(data).is_file():
        action = "Give the folder that it lies in."
        raise DataError(data, "one file of a series", EXPECTED, action)
    studies = read_studies(files_below(Path(data)), str(data))
    if len(studies) > 1 and (name or numbers):
        action = "Give the folder of one study, or leave out the name and the series numbers."
        raise DataError(data, f"{len(studies)} studies", "one study to name", action)
    if not usable_name(name) or Path(name).name != name:
        raise DataError("--name", repr(name), "a name for files", "Use letters and digits.")

    def read(study: Sequence[Series]) -> Loaded:
        chosen = choose(study, f"{data}, {pseudonym(study)}", numbers)
        return Loaded(*study_volume(chosen, register=register))

    patients = {name or pseudonym(study): partial(read, study) for study in studies}
    files = _files(patients, [_SEG, *([_REPORT] if reports else [])])
    written = open_predictions(segmenter, out, *files, overwrite=overwrite, resume=resume)
    return _segment(segmenter, written, patients, [], progress, reports)


def _files(names: Iterable[str], others: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """The names of the masks of patients, and those of their other files by kind."""
    names = list(names)
    return [_MASK.format(n) for n in names], [[kind.format(n) for n in names] for kind in others]


def _segment(
    segmenter: Segmenter,
    written: Predictions,
    patients: Patients,
    refused: Sequence[DataError],
    progress: bool,
    reports: bool,
) -> pd.DataFrame:
    """Segment all patients that are not done yet; one that cannot be read stops no other."""
    left = [name for name in patients if not written.has(_MASK.format(name))]
    with keeping(written, refused) as errors:
        for name in progress_bar(left, "predict", "patient", show=progress):
            try:
                _write(segmenter, written, name, patients[name](), reports)
            except DataError as error:
                errors.append(error)
    return written.table


def _write(
    segmenter: Segmenter, written: Predictions, name: str, loaded: Loaded, reports: bool
) -> None:
    """Segment a patient, and write the mask, what goes with it, and its row."""
    scan = loaded.scan
    prediction = segmenter.predict(loaded.volume, slice_stride=scan.slice_stride)
    mask = scan.mask_image(prediction.mask)
    voxels = int(np.count_nonzero(mask.dataobj))
    facts: dict[str, Any] = {**describe(prediction, None), "tumour_voxels": voxels}
    facts |= {"tumour_ml": round(voxels * scan.voxel_ml, 3), "missing": ", ".join(scan.missing)}
    notes = list(scan.notes)
    if loaded.slices:
        try:
            content = segmentation(mask, loaded.slices, segmenter.fingerprint)
        except DataError as error:
            notes.append(str(error))
            written.outputs.remove(_SEG.format(name))
        else:
            written.outputs.write(_SEG.format(name), content)
    if reports:
        page = patient_report(segmenter, name, loaded.volume, scan, prediction)
        written.outputs.write(_REPORT.format(name), page.encode())
    content = gzip.compress(mask.to_bytes(), compresslevel=6, mtime=0)
    written.add(name, _MASK.format(name), content, {**facts, "notes": " ".join(notes)})
