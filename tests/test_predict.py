"""Masks of a tree, and the table beside them. What trains before it predicts is in test_train."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import write_tree

from lggseg import predict
from lggseg.config import Config
from lggseg.data import DataError
from lggseg.predict import Segmenter, predict_folder


def nothing(image: np.ndarray, air: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    return np.zeros(image.shape[:1] + image.shape[2:], np.float32)


SEGMENTER = Segmenter(Config(), {}, nothing)


def test_the_table_has_all_masks_when_a_later_patient_cannot_be_read(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", patients=14, slices=1)
    broken = sorted(tree.glob("*/*_1.tif"))[-1]
    broken.write_bytes(b"")
    with pytest.raises(DataError, match="an empty file"):
        predict_folder(SEGMENTER, tree, tmp_path / "out", progress=False)
    masks = {path.name for path in (tmp_path / "out").glob("*_mask.tif")}
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert {f"{patient}_mask.tif" for patient in table["patient"]} == masks
    assert len(table) == 13


def test_no_table_where_nothing_was_predicted(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", patients=1, slices=1)
    next(tree.glob("*/*_1.tif")).write_bytes(b"")
    with pytest.raises(DataError):
        predict_folder(SEGMENTER, tree, tmp_path / "out", progress=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_long_table_is_not_written_for_each_patient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [patient] = (write_tree(tmp_path / "tree", patients=1, slices=1)).glob("*/")
    lengths = []
    monkeypatch.setattr(predict, "volume_paths", lambda data: [patient] * 200)
    monkeypatch.setattr(predict, "write_table", lambda table, path: lengths.append(len(table)))
    predict_folder(SEGMENTER, tmp_path, tmp_path / "out", progress=False)
    assert lengths[:10] == list(range(1, 11)) and lengths[-1] == 200
    assert all(after <= 1.1 * before + 1 for before, after in pairwise(lengths))
    assert sum(lengths) < 12 * 200
