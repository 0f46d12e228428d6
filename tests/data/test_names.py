"""Trees of any names, endings, depths and hidden files: each patient has its own pixels, or a
sentence that names it."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import numpy as np
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lggseg.config import Config
from lggseg.data.cohort import Cohort, load_cohort
from lggseg.data.splits import make_split, read_split, write_split
from lggseg.inference.predict import predict_folder
from lggseg.inference.segmenter import Segmenter
from lggseg.utils.errors import DataError, printable, usable_name
from lggseg.utils.files import read_table

RIGHT = ["NA", "null", "nan", "None", "", "1.2.840.113619.1", "1.2.840.113619.2", "a.tif", "001"]
RIGHT += [
    "1",
    "1e5",
    "=1+1",
    "'=1+1",
    "-1",
    "a_1",
    "a_1_mask",
    "é",
    "e\u0301",
    "A",
    "a",
    "x;=y",
    '"',
]
WRONG = ["a\rb", "a\nb", "\tb", "caf\udce9"]
letters = st.characters(exclude_characters="/\0", exclude_categories=["Cs", "Cn"])
names = st.one_of(
    st.sampled_from([*filter(None, RIGHT), *WRONG]),
    st.text(letters, min_size=1, max_size=12).filter(lambda name: name[0] != "."),
)
endings = st.sampled_from([".tif", ".TIF", ".tiff", ".TIFF", ".TiF"])
places = st.sampled_from(["", "siteA", "siteB", "siteB/ward 1"])


@dataclass(frozen=True)
class Patient:
    name: str
    place: str
    endings: list[str]
    twins: bool


patients = st.builds(
    Patient, names, places, st.lists(endings, min_size=1, max_size=2), st.booleans()
)


def write(root: Path, made: list[Patient]) -> None:
    """Each patient shows the grey level 10, 11, …, by place; a twin is noise."""
    for level, patient in enumerate(made, start=10):
        folder = root / patient.place / patient.name
        folder.mkdir(parents=True)
        for number, ending in enumerate(patient.endings, start=1):
            pixels = np.full((256, 256, 3), level, np.uint8)
            for part, image in (
                (f"{number}{ending}", pixels),
                (f"{number}_mask.tif", pixels[..., 0] * 0),
            ):
                file = folder / f"{patient.name}_{part}"
                tifffile.imwrite(file, image, photometric="rgb" if image.ndim == 3 else None)
                if patient.twins:
                    file.with_name(f"._{file.name}").write_bytes(b"\0\5\26\7")


def level_of(image: np.ndarray, background: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """A stand-in for a network: the mask has as many rows as the image's grey level."""
    rows = np.arange(256)[:, None] < image[:, 1, :1, :1].astype(int)
    return np.broadcast_to(rows, (len(image), 256, 256)).astype(np.float32)


SEGMENTER = Segmenter(Config(min_component_fraction=0.0), {}, level_of)
slow_disk = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


@slow_disk
@given(st.lists(patients, min_size=1, max_size=4, unique_by=lambda patient: patient.name))
def test_each_patient_has_its_own_pixels_or_a_sentence(made: list[Patient]) -> None:
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        root = Path(place) / "data"
        write(root, made)
        usable = {p.name: level for level, p in enumerate(made, start=10) if usable_name(p.name)}
        twice = len({normalize("NFC", name) for name in usable}) < len(usable)
        try:
            check_table(root, Path(place) / "out", usable)
            check_cohort(load_cohort(root, progress=False), Path(place) / "split.csv", usable)
        except DataError as error:
            caught.append(error)  # type: ignore[arg-type]
            assert twice or not usable, error
        said = "\n".join(str(getattr(warning, "message", warning)) for warning in caught)
        for patient in made:
            assert patient.name in usable or printable(patient.name) in said
        assert all(map(usable_name, said.split("\n")))


def check_table(root: Path, out: Path, usable: dict[str, int]) -> None:
    """One mask and one row for each patient, the mask of its own grey level."""
    try:
        predict_folder(SEGMENTER, root, out, progress=False)
    except DataError as error:  # said after all others were segmented, or before any
        warnings.warn(str(error), stacklevel=1)
        if not (out / "predictions.csv").exists():
            raise
    table = read_table(out / "predictions.csv")
    assert dict(zip(table["patient"], table["mask"], strict=True)) == {
        name: f"{name}_mask.tif" for name in usable
    }
    for name, level in usable.items():
        assert tifffile.imread(out / f"{name}_mask.tif").reshape(-1, 256, 256)[0, :, 0].sum() == (
            255 * level
        )


def check_cohort(cohort: Cohort, path: Path, usable: dict[str, int]) -> None:
    """The pixels of each patient by name, through a split on disk as well."""
    assert set(cohort.patients.index) == set(usable)
    for name, level in usable.items():
        assert (cohort.image(name) == level).all()
    split = make_split(cohort, test_fraction=0, folds=1)
    write_split(split, path)
    assert read_split(path, cohort).equals(split)
