"""The largest diameters of shapes whose diameters are known."""

from __future__ import annotations

import numpy as np
import pytest

from lggseg.evaluation.diameters import largest_diameters


def ellipse(long: float, short: float, degrees: float, size: int = 256) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - size / 2
    angle = np.radians(degrees)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return (along / long) ** 2 + (across / short) ** 2 <= 1


@pytest.mark.parametrize("degrees", [0, 30, 45, 77, 90])
def test_an_ellipse_has_its_axes(degrees: float) -> None:
    found = largest_diameters(ellipse(60, 25, degrees)[None], pixel=0.5)
    assert found is not None and found.slice == 0
    assert found.longest == pytest.approx(60, abs=1)
    assert found.perpendicular == pytest.approx(25, abs=1)


def test_the_slice_of_the_largest_product_counts_and_parts_are_apart() -> None:
    mask = np.zeros((3, 256, 256), bool)
    mask[0] = ellipse(90, 5, 0)  # longer, but thin
    mask[1] = ellipse(40, 30, 0)
    mask[2, 5:8, 5:8] = mask[2, 240:250, 240:250] = True  # far apart, each of them small
    found = largest_diameters(mask, pixel=1)
    assert found is not None and found.slice == 1
    alone = largest_diameters(mask[2:], pixel=1)
    assert alone is not None and alone.longest == pytest.approx(10 * 2**0.5)


def test_one_pixel_and_none() -> None:
    mask = np.zeros((2, 8, 8), bool)
    assert largest_diameters(mask, pixel=1) is None
    mask[1, 3, 3] = True
    found = largest_diameters(mask, pixel=1)
    assert found is not None and found.longest == pytest.approx(2**0.5) and found.slice == 1
