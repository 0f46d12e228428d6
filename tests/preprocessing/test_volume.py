from __future__ import annotations

import numpy as np
import pytest

from lggseg.preprocessing.postprocessing import drop_small_components
from lggseg.preprocessing.volume import channel_statistics, stack_channels


def head(background: int, tissue: int) -> np.ndarray:
    volume = np.full((4, 64, 64, 3), background, dtype=np.uint8)
    volume[:, 16:48, 16:48] = tissue
    return volume


@pytest.mark.parametrize("background", [0, 3, 100])
def test_statistics_find_background_and_tissue(background: int) -> None:
    statistics = channel_statistics(head(background, 180))
    assert statistics.dtype == np.float32
    assert statistics == pytest.approx(np.array([[background] * 3, [180 - background] * 3]))


def test_statistics_of_a_constant_channel() -> None:
    volume = head(0, 100)
    volume[..., 2] = 7
    statistics = channel_statistics(volume)
    assert statistics[:, 2].tolist() == [7, 1]


def test_neighbours_stay_inside_the_volume() -> None:
    volume = np.zeros((3, 8, 8, 3), dtype=np.uint8)
    volume[..., 1] = np.arange(3)[:, None, None] + 1
    stacked = stack_channels(volume, neighbours=True)
    assert stacked.shape == (3, 5, 8, 8)
    assert stacked[:, 3, 0, 0].tolist() == [1, 1, 2]
    assert stacked[:, 4, 0, 0].tolist() == [2, 3, 3]
    assert np.array_equal(stacked[:, :3], np.moveaxis(volume, -1, 1))
    stacked = stack_channels(volume, neighbours=True, slice_stride=2)
    assert stacked[:, 3, 0, 0].tolist() == [1, 2, 1]
    assert stacked[:, 4, 0, 0].tolist() == [3, 2, 3]
    far = stack_channels(volume, neighbours=True, slice_stride=7)
    assert np.array_equal(far[:, 3], volume[..., 1]) and np.array_equal(far[:, 4], volume[..., 1])


def test_small_components_are_dropped() -> None:
    mask = np.zeros((4, 20, 20), dtype=bool)
    mask[1:3, 2:12, 2:12] = True  # 200 voxels
    mask[0, 15, 15:19] = True  # 4, separate
    mask[3, 12, 12] = True  # touches the large part by a corner
    kept = drop_small_components(mask, 0.1)
    assert kept[3, 12, 12] and kept[1:3].sum() == 200 and not kept[0].any()
    assert np.array_equal(drop_small_components(mask, 0.0), mask)
    empty = np.zeros_like(mask)
    assert np.array_equal(drop_small_components(empty, 0.1), empty)
