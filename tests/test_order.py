"""predict, split and evaluate in any order, while data, masks and tables change: no result mixes
with another, and nothing that a reader wrote is lost."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lggseg.config import Config
from lggseg.data.cohort import load_cohort
from lggseg.data.splits import make_split, read_split, write_split
from lggseg.evaluation.segmentation import dice
from lggseg.inference.evaluate import evaluate
from lggseg.inference.predict import predict_folder
from lggseg.inference.segmenter import Segmenter
from lggseg.utils.errors import DataError
from lggseg.utils.files import read_table

NAMES = ["p.1", "p.2", "NA", "=x"]
SIZE = 256


def square(place: int) -> np.ndarray:
    """A mask, bool ``(1, 256, 256)``: a square whose place tells what it was made of."""
    mask = np.zeros((1, SIZE, SIZE), bool)
    mask[:, place : place + 40, place : place + 40] = True
    return mask


def model(shift: int) -> Segmenter:
    """A model that finds what is bright, moved by so many pixels."""

    def run(image: np.ndarray, background: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return np.roll(image[:, 1] > 100, shift, axis=-1).astype(np.float32)

    return Segmenter(Config(min_component_fraction=0.0), {"shift": shift}, run)


MODELS = {shift: model(shift) for shift in (0, 30)}
patients, models, outs = st.sampled_from(NAMES), st.sampled_from([0, 30]), st.sampled_from("ab")


class Session(RuleBasedStateMachine):
    """Someone at work on four patients in two folders of results, ``a`` and ``b``."""

    @initialize()
    def start(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.places = {name: 20 + 10 * number for number, name in enumerate(NAMES)}
        self.readers: dict[Path, bytes] = {}
        for name in NAMES:
            (self.root / "data" / name).mkdir(parents=True)
            self.write_patient(name)
        rows = "\n".join(["Patient", *NAMES, ""])
        self.reader(self.root / "data" / "data.csv", rows.encode())

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    def write_patient(self, name: str) -> None:
        image = np.zeros((SIZE, SIZE, 3), np.uint8)
        image[square(self.places[name])[0]] = 200
        file = self.root / "data" / name / f"{name}_1.tif"
        tifffile.imwrite(file, image, photometric="rgb")
        truth = square(60)[0].astype(np.uint8) * 255
        tifffile.imwrite(file.with_name(f"{name}_1_mask.tif"), truth)

    def reader(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        self.readers[path] = content

    @rule(name=patients, place=st.sampled_from([30, 70, 110]))
    def change_a_patient(self, name: str, place: int) -> None:
        self.places[name] = place
        self.write_patient(name)

    @rule(name=st.sampled_from([None, *NAMES]), shift=models, out=outs, overwrite=st.booleans())
    def predict(self, name: str | None, shift: int, out: str, overwrite: bool) -> None:
        data = self.root / "data" / (name or "")
        before = files(self.root / out)
        try:
            predict_folder(
                MODELS[shift], data, self.root / out, overwrite=overwrite, progress=False
            )
        except DataError:
            assert files(self.root / out) == before  # refused before anything was written
            return
        for patient in [name] if name else NAMES:
            mask = tifffile.imread(self.root / out / f"{patient}_mask.tif") > 0
            assert np.array_equal(mask, np.roll(square(self.places[patient]), shift, axis=-1))

    @rule(name=patients, out=outs)
    def correct_a_mask(self, name: str, out: str) -> None:
        self.reader(self.root / out / f"{name}_mask.tif", b"a reader's mask")

    @rule(out=outs)
    def note_in_a_table(self, out: str) -> None:
        self.reader(self.root / out / "predictions.csv", b"patient,note\np.1,fine\n")

    @rule(out=outs)
    def start_a_folder_anew(self, out: str) -> None:
        shutil.rmtree(self.root / out, ignore_errors=True)
        self.readers = {p: text for p, text in self.readers.items() if p.parent.name != out}

    @rule(seed=st.integers(0, 2), overwrite=st.booleans(), name=st.sampled_from(["s.csv", "data"]))
    def split(self, seed: int, overwrite: bool, name: str) -> None:
        path = self.root / (name if name == "s.csv" else "data/data.csv")
        cohort = load_cohort(self.root / "data", progress=False)
        expected = make_split(cohort, seed=seed, test_fraction=0.25, folds=3)
        before = path.read_bytes() if path.exists() else None
        try:
            write_split(expected, path, overwrite=overwrite)
        except DataError:
            assert path.read_bytes() == before
        else:
            assert read_split(path, cohort).equals(expected)

    @rule(shift=models)
    def evaluate(self, shift: int) -> None:
        cohort = load_cohort(self.root / "data", progress=False)
        table = evaluate(MODELS[shift], cohort, NAMES, progress=False).set_index("patient")
        for name in NAMES:
            mask = np.roll(square(self.places[name]), shift, axis=-1)
            assert table.loc[name, "dice"] == pytest.approx(dice(square(60), mask))

    @invariant()
    def readers_files_are_untouched(self) -> None:
        assert all(path.read_bytes() == content for path, content in self.readers.items())

    @invariant()
    def each_row_has_its_mask_and_one_model(self) -> None:
        for out in "ab":
            path = self.root / out / "predictions.csv"
            if path.exists() and path not in self.readers:
                table = read_table(path)
                assert table["model"].nunique() == 1 and table["mask"].is_unique
                assert {f"{name}_mask.tif" for name in table["patient"]} == set(table["mask"])
                assert all((self.root / out / mask).exists() for mask in table["mask"])


def files(folder: Path) -> dict[str, bytes]:
    found = folder.rglob("*") if folder.exists() else []
    return {str(path): path.read_bytes() for path in found if path.is_file()}


TestSession = Session.TestCase
TestSession.settings = settings(
    max_examples=15, stateful_step_count=12, deadline=None, derandomize=True
)
