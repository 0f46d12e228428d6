"""``lggseg check PATH``: compares everything that has a checksum; loading compares only the cheap.

A model folder: its checksums, and whether both engines run and agree. A run folder: that, and its
checkpoint. Data: each pixel of the cache, which training reads, with what was read of the files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lggseg.config import Config
from lggseg.data.cache import fingerprint_of, slice_facts
from lggseg.data.cohort import Cohort, load_cohort
from lggseg.data.nifti import is_nifti, read_nifti
from lggseg.data.slices import read_volume
from lggseg.data.splits import read_split
from lggseg.inference.model_folder import CARD, FILES, has_checksums
from lggseg.inference.segmenter import Segmenter
from lggseg.preprocessing.volume import SIZE
from lggseg.utils.checksums import check_checkpoint
from lggseg.utils.errors import DataError
from lggseg.utils.files import read_table

# By which the probabilities of the two engines may differ.
TOLERANCE = 1e-3


def check(path: Path, *, progress: bool = True) -> list[str]:
    """What was compared and is whole, a sentence each. Raises ``DataError`` for what is not."""
    if any((path / name).is_file() for name in FILES):
        return [_check_model(path)]
    if (path / "config.json").is_file():
        return _check_run(path)
    if runs := sorted(
        {file.parent for name in ("config.json", CARD) for file in path.glob(f"*/{name}")}
    ):
        return [sentence for run in runs for sentence in check(run, progress=progress)]
    if path.is_file():
        volume = (read_nifti if is_nifti(path) else read_volume)(path)[0]
        return [f"{path}: {len(volume)} slices can be read"]
    cohort = load_cohort(path, progress=progress)
    check_pixels(cohort)
    slices, patients = len(cohort.slices), len(cohort.patients)
    return [f"{cohort.root}: {slices} slices of {patients} patients are in the cache as read"]


def _check_model(folder: Path) -> str:
    onnx, torch = (Segmenter.load(folder, engine) for engine in ("onnx", "torch"))
    volume = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    one, other = (segmenter.predict(volume).probability for segmenter in (onnx, torch))
    difference = float(np.abs(one - other).max())
    if difference > TOLERANCE:
        found = f"probabilities that differ by {difference:.3g} from those of {FILES[1]}"
        action = "Copy the model folder again: the two files are of different models."
        raise DataError(folder / FILES[0], found, f"at most {TOLERANCE}", action)
    if has_checksums(onnx.card):
        return f"{folder}: the files match their checksums; both engines run and agree"
    return f"{folder}: no checksums (an earlier version wrote it); both engines run and agree"


def _check_run(run: Path) -> list[str]:
    Config.load(run / "config.json")
    action = "Delete the run folder and train again."
    read_split(run / "split.csv")
    for name in ("metrics.csv", "patients.csv"):
        if (run / name).exists():
            read_table(run / name, action)
    sentences = []
    last = run / "checkpoints" / "last.ckpt"
    if last.exists():
        check_checkpoint(last)
        sentences.append(f"{last}: every record matches its checksum")
    if (run / "model").is_dir():
        sentences.append(_check_model(run / "model"))
    if not (run / "patients.csv").exists():
        sentences.append(f"{run}: not finished; go on with --resume")
    return sentences


def check_pixels(cohort: Cohort) -> None:
    """Compare all pixels of a cohort's cache with the digests that were kept of the files. Raises
    ``DataError`` that names the slice."""
    kept = cohort.slices[["patient", "slice", "tumour_pixels", "blank", "digest"]]
    rows = []
    for row, image, mask in zip(
        kept.itertuples(index=False, name=None), cohort.images, cohort.masks, strict=True
    ):
        patient, number = str(row[0]), int(row[1])
        facts = slice_facts(image, mask)
        if facts[:3] != row[2:]:
            raise _damaged(cohort, f"slice {number} of {patient} with other pixels")
        rows.append((patient, number, *facts))
    if fingerprint_of(rows) != cohort.fingerprint:
        raise _damaged(cohort, "a mask with other pixels")


def _damaged(cohort: Cohort, found: str) -> DataError:
    cache = Path(getattr(cohort.images, "filename", None) or cohort.root)
    action = f"Delete the folder {cache.parent}: it is made again. Is the disk damaged?"
    return DataError(cache, found, "the pixels that were read of the files", action)
