"""Kaggle tree → :class:`Cohort`: checked once, then one memory-mapped uint8 file."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from lggseg.data.cache import cached_tree
from lggseg.data.clinical import read_clinical
from lggseg.data.kaggle import PATIENT, find_cohort, patient_files
from lggseg.preprocessing.volume import CHANNELS, FLAIR, SIZE
from lggseg.utils.files import read_table


@dataclass(frozen=True)
class Cohort:
    """All slices of all patients, patients sorted by name, slices by number.

    images: uint8 ``(slices, 256, 256, 3)``, pre-contrast, FLAIR, post-contrast; masks: uint8
    ``(slices, 256, 256)``, 0 or 255; both are views of one memory-mapped file.
    slices: one row per slice of these: patient, slice, tumour_pixels, blank, digest (of the
    image). patients: index patient; institution, slices, tumour_slices, tumour_pixels and the
    columns of data.csv. fingerprint: the same for the same pixels and names, wherever they lie.
    simulated: whether ``lggseg phantom`` made it.
    """

    root: Path
    images: np.ndarray
    masks: np.ndarray
    slices: pd.DataFrame
    patients: pd.DataFrame
    fingerprint: str
    simulated: bool

    @property
    def label(self) -> str:
        """``simulated`` or ``real``: what figures and run folders are marked with."""
        return "simulated" if self.simulated else "real"

    def rows(self, patient: str) -> slice:
        """The rows of ``images``, ``masks`` and ``slices`` that belong to a patient."""
        return self._rows[patient]

    @cached_property
    def _rows(self) -> dict[str, slice]:
        counts = self.patients["slices"]
        ends = counts.cumsum().tolist()
        starts = [0, *ends[:-1]]
        return dict(zip(counts.index, map(slice, starts, ends), strict=True))

    def image(self, patient: str) -> np.ndarray:
        """The volume of a patient: uint8 ``(slices, 256, 256, 3)``."""
        return self.images[self.rows(patient)]

    def mask(self, patient: str) -> np.ndarray:
        """The mask of a patient: bool ``(slices, 256, 256)``."""
        return self.masks[self.rows(patient)] > 0


def load_cohort(root: Path | str, *, progress: bool = True) -> Cohort:
    """Read the tree at ``root`` (see :func:`lggseg.data.kaggle.find_cohort`), or its cache.

    Names what is left out by warnings. Raises ``DataError`` that names the file, what was found,
    what was expected and what to do.

    >>> from lggseg.data.simulation import make_cohort
    >>> cohort = load_cohort(make_cohort("data", patients=4, progress=False), progress=False)
    >>> cohort.patients["institution"].tolist()
    ['CS', 'DU', 'FG', 'HT']
    >>> cohort.image(cohort.patients.index[0]).shape[1:]
    (256, 256, 3)
    """
    found = find_cohort(root)
    clinical = read_clinical(found.root, found.patients)
    files = {folder: patient_files(folder) for folder in found.patients}
    cache = cached_tree(found.root, files, progress)
    slices = read_table(cache / "slices.csv")
    fingerprint = json.loads((cache / "meta.json").read_text())["fingerprint"]
    # Where data.csv has a column of ours, its own gets a longer name.
    patients = _patients_table(slices).join(clinical, rsuffix=" of data.csv")
    pixels = np.load(cache / "pixels.npy", mmap_mode="c")
    above = {found.root, *(folder.parent for folder in found.patients)}
    simulated = any((folder / "simulated.json").exists() for folder in above)
    return Cohort(found.root, *_views(pixels), slices, patients, fingerprint, simulated)


def select_patients(cohort: Cohort, patients: Collection[str]) -> Cohort:
    """The cohort of these patients alone, its pixels copied into memory; the fingerprint stays that
    of the cohort which it is a part of."""
    rows = cohort.slices["patient"].isin(patients).to_numpy()
    return replace(
        cohort,
        images=cohort.images[rows],
        masks=cohort.masks[rows],
        slices=cohort.slices[rows].reset_index(drop=True),
        patients=cohort.patients[cohort.patients.index.isin(patients)],
    )


def _views(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks in rows that hold the bytes of an image, then those of its mask."""
    plane = SIZE * SIZE
    images = pixels[:, : 3 * plane].reshape(-1, SIZE, SIZE, 3)
    return images, pixels[:, 3 * plane :].reshape(-1, SIZE, SIZE)


def missing_sequences(cohort: Cohort) -> pd.DataFrame:
    """Whether a sequence is only a copy of FLAIR: index patient, bool columns ``pre-contrast`` and
    ``post-contrast``. Found by comparing every pixel."""
    copies = [
        [np.array_equal(cohort.image(patient)[..., other], cohort.image(patient)[..., FLAIR])
         for other in (0, 2)]
        for patient in cohort.patients.index
    ]  # fmt: skip
    return pd.DataFrame(copies, cohort.patients.index, columns=[CHANNELS[0], CHANNELS[2]])


def _patients_table(slices: pd.DataFrame) -> pd.DataFrame:
    counted = slices.assign(slices=1, tumour_slices=(slices["tumour_pixels"] > 0).astype(int))
    table = counted.groupby("patient", sort=False)[
        ["slices", "tumour_slices", "tumour_pixels"]
    ].sum()
    matches = [PATIENT.fullmatch(str(patient)) for patient in table.index]
    codes = [match["institution"] if match else "unknown" for match in matches]
    table.insert(0, "institution", codes)
    return table
