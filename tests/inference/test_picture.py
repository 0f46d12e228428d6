"""The picture of a slice with its mask's outline."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from lggseg.cli import main
from lggseg.inference.picture import ORANGE_RED, largest_slice, outline_png

ROOT = Path(__file__).resolve().parents[2]


def test_the_outline_lies_on_the_border_of_the_mask() -> None:
    flair, mask = np.full((32, 32), 100, np.uint8), np.zeros((32, 32), bool)
    mask[8:20, 10:24] = True
    for zoom in (1, 3):
        picture = np.array(Image.open(BytesIO(outline_png(flair, mask, zoom=zoom))))
        assert picture.shape == (32 * zoom, 32 * zoom, 3)
        drawn = (picture == ORANGE_RED).all(axis=-1)
        rows, columns = np.nonzero(drawn)
        assert (rows.min(), rows.max()) == (8 * zoom, 20 * zoom - 1)
        assert (columns.min(), columns.max()) == (10 * zoom, 24 * zoom - 1)
        assert not drawn[14 * zoom, 17 * zoom]


def test_the_slice_with_most_of_the_mask() -> None:
    mask = np.zeros((5, 4, 4), bool)
    assert largest_slice(mask) == 2
    mask[3, :2] = mask[1, 0] = True
    assert largest_slice(mask) == 3


def test_predict_names_a_picture_for_each_patient(
    shared_tree: Path, tmp_path: Path, capsys
) -> None:
    patient = sorted(path.name for path in shared_tree.iterdir() if path.is_dir())[0]
    model = str(ROOT / "models" / "lgg-unet")
    main(["predict", model, str(shared_tree / patient), str(tmp_path), "--pictures"])
    picture = tmp_path / f"{patient}.png"
    assert f"picture: {picture}" in capsys.readouterr().out
    assert Image.open(picture).size == (768, 768)
