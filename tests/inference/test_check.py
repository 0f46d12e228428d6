"""``lggseg check`` finds what loading does not look for, and says what it compared."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from checked_runs import CONFIG, FACTS
from scan_files import head, saved
from trees import write_tree

from lggseg import cli
from lggseg.data.cache import cached_cohorts
from lggseg.data.cohort import load_cohort
from lggseg.data.splits import make_split, write_split
from lggseg.inference.check import check, check_pixels
from lggseg.inference.model_folder import write_card
from lggseg.inference.onnx_export import export_model
from lggseg.models import networks
from lggseg.utils.errors import DataError

MODEL = Path(__file__).resolve().parents[2] / "models" / "lgg-unet"


@pytest.fixture
def cached(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of ``tree``, alone in its place."""
    monkeypatch.setenv("LGGSEG_CACHE", str(tmp_path / "cache"))
    load_cohort(tree, progress=False)
    [folder] = cached_cohorts()
    return folder


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_each_pixel_of_the_cache_is_compared(tree: Path, cached: Path) -> None:
    [sentence] = check(tree, progress=False)
    assert sentence == f"{tree}: 12 slices of 3 patients are in the cache as read"
    row, plane, places = 256 * 256 * 4, 256 * 256, {}
    places["slice 1 of TCGA_CS_T000_20000101 with other pixels"] = 128
    places["slice 4 of TCGA_CS_T000_20000101 with other pixels"] = 128 + 3 * row + 3 * plane
    for found, place in places.items():
        flip(cached / "pixels.npy", place)
        with pytest.raises(DataError, match=rf"pixels.npy: found {found}; .*Delete the folder"):
            check(tree, progress=False)
        flip(cached / "pixels.npy", place)
    check(tree, progress=False)


def test_a_mask_that_only_moved_is_found(tree: Path, cached: Path) -> None:
    cohort = load_cohort(tree, progress=False)
    pixels = np.load(cached / "pixels.npy", mmap_mode="r+")
    mask = pixels[1, 3 * 256 * 256 :].reshape(256, 256)
    mask[:] = np.roll(mask, 1, axis=0)
    pixels.flush()
    with pytest.raises(DataError, match="found a mask with other pixels"):
        check_pixels(load_cohort(tree, progress=False))
    assert cohort.fingerprint == load_cohort(tree, progress=False).fingerprint


@pytest.mark.parametrize(
    ("name", "place"), [("slices.csv", -40), ("meta.json", 60), ("pixels.npy", 20)]
)
def test_what_is_cheap_is_compared_at_each_start(
    tree: Path, cached: Path, name: str, place: int
) -> None:
    """A table or a header that was changed at the same size is made again."""
    expected = load_cohort(tree, progress=False)
    flip(cached / name, place)
    cohort = load_cohort(tree, progress=False)
    assert cohort.slices.equals(expected.slices)
    assert cohort.fingerprint == expected.fingerprint
    check(tree, progress=False)


def test_the_committed_model_is_whole() -> None:
    [sentence] = check(MODEL)
    assert sentence.endswith("the files match their checksums; both engines run and agree")


def test_files_of_two_models_are_found(tmp_path: Path) -> None:
    for name in ("one", "other"):
        export_model(networks.build_network(CONFIG), CONFIG, tmp_path / name)
    shutil.copy(tmp_path / "one" / "model.onnx", tmp_path / "other" / "model.onnx")
    write_card(CONFIG, FACTS, tmp_path / "other")
    with pytest.raises(DataError, match=r"model.onnx: found probabilities that differ by"):
        check(tmp_path / "other")


def test_a_run_folder_tells_what_was_compared(tree: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "unet"
    (run / "checkpoints").mkdir(parents=True)
    CONFIG.save(run / "config.json")
    write_split(make_split(load_cohort(tree, progress=False), folds=2), run / "split.csv")
    shutil.copytree(MODEL, run / "model")
    for place in (run, run.parent):
        assert [s.partition(": ")[2] for s in check(place)] == [
            "the files match their checksums; both engines run and agree",
            "not finished; go on with --resume",
        ]
    (run / "checkpoints" / "last.ckpt").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"last.ckpt: found a damaged file"):
        check(run)


def test_single_files_are_read(tmp_path: Path) -> None:
    scan = saved(head(), tmp_path / "flair.nii.gz")
    assert check(scan) == [f"{scan}: 13 slices can be read"]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = write_tree(tmp_path / "kaggle_3m", patients=1, slices=2)
    assert cli.main(["check", str(tree)]) == 0
    assert "2 slices of 1 patients are in the cache as read" in capsys.readouterr().out
    assert cli.main(["check", str(tmp_path / "none")]) == 1
    assert "found no such folder" in capsys.readouterr().err


def test_too_little_memory_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(lambda: np.empty(2**50)) == 1
    assert "lggseg: found too little memory (Unable to allocate" in capsys.readouterr().err
