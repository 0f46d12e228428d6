"""Five hundred trees, each with one file spoilt: a clear error or all the pixels, no crash."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from trees import write_tree

from lggseg.data.cohort import Cohort, load_cohort
from lggseg.utils.errors import DataError

Spoil = Callable[[bytes, random.Random], bytes]


def flip(data: bytes, rng: random.Random, end: int) -> bytes:
    """A few of the first ``end`` bytes replaced by chance."""
    spoilt = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        spoilt[rng.randrange(min(end, len(data)))] = rng.randrange(256)
    return bytes(spoilt)


# What is done to a file, and whether it must be noticed: TIFF has no checksum, so that another
# value of a pixel or of a tag can be as good as the one before.
SPOILERS: dict[str, tuple[Spoil, bool]] = {
    "cut off": (lambda data, rng: data[: rng.randrange(len(data) // 2)], True),
    "emptied": (lambda data, rng: b"", True),
    "noise": (lambda data, rng: rng.randbytes(rng.randint(1, 3000)), True),
    "another start": (lambda data, rng: bytes([data[0] ^ rng.randint(1, 255)]) + data[1:], True),
    "longer": (lambda data, rng: data + rng.randbytes(rng.randint(1, 3000)), False),
    "other tags": (lambda data, rng: flip(data, rng, 300), False),
    "other bytes": (lambda data, rng: flip(data, rng, len(data)), False),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    tree = write_tree(tmp_path_factory.mktemp("whole") / "kaggle_3m", patients=1, slices=2)
    return load_cohort(tree, progress=False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", SPOILERS)
def test_a_spoilt_file_is_named_or_read_whole(kind: str, whole: Cohort, tmp_path: Path) -> None:
    spoil, must_fail = SPOILERS[kind]
    rng, files = random.Random(kind), sorted(whole.root.rglob("*.*"))
    files = [file for file in files if file.suffix in (".tif", ".csv")]
    for number in range(72):
        tree = tmp_path / str(number) / "kaggle_3m"
        shutil.copytree(whole.root, tree)
        file = tree / rng.choice(files).relative_to(whole.root)
        file.write_bytes(spoil(file.read_bytes(), rng))
        try:
            cohort = load_cohort(tree, progress=False)
        except DataError as error:
            assert str(file) in str(error)
        else:
            assert not must_fail or file.suffix == ".csv", file
            check_pixels(cohort, whole, changed=kind.startswith("other"))


def check_pixels(cohort: Cohort, whole: Cohort, changed: bool) -> None:
    assert cohort.images.shape == whole.images.shape
    assert set(np.unique(cohort.masks)) <= {0, 255}
    if not changed:
        np.testing.assert_array_equal(cohort.images, whole.images)
        np.testing.assert_array_equal(cohort.masks, whole.masks)
