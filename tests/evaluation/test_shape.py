from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from lggseg.evaluation import shape
from lggseg.evaluation.shape import FEATURES, PAPER, shape_features

INVARIANT = ("angular_standard_deviation", "margin_fluctuation", "volume", "components")


def grid(size: int = 61) -> list[np.ndarray]:
    """Slice, row and column of each voxel, from the centre."""
    return list(np.indices((size,) * 3) - size // 2)


def ellipsoid(*radii: float) -> np.ndarray:
    return sum((a / r) ** 2 for a, r in zip(grid(), radii, strict=True)) <= 1


def box(*lengths: int) -> np.ndarray:
    return np.pad(np.ones(lengths, dtype=bool), 3)


def flat(radius: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """One slice of all pixels that lie no farther from the centre than their radius."""
    return (np.hypot(rows, columns) <= radius)[None]


def star(size: float, depth: float, rays: int) -> np.ndarray:
    rows, columns = np.indices((2 * int(1.2 * size) + 1,) * 2) - int(1.2 * size)
    return flat(size * (1 + depth * np.cos(rays * np.arctan2(rows, columns))), rows, columns)


def test_cube_by_hand() -> None:
    n = 9
    features = shape_features(box(n, n, n), spacing=1)
    # The surface half-way between voxels cuts the edges and corners of the cube off.
    area = 6 * (n - 1) ** 2 + 12 * (n - 1) * math.sqrt(0.5) + math.sqrt(3)
    inside = (n - 1) ** 3 + 6 * (n - 1) ** 2 / 2 + 12 * (n - 1) / 8 + 8 / 48
    radius = math.sqrt((n / 2) ** 2 + 2 * ((n - 1) / 2) ** 2)
    assert features["volume"] == n**3
    assert features["surface_area"] == pytest.approx(area)
    assert features["sphericity"] == pytest.approx((36 * math.pi * inside**2) ** (1 / 3) / area)
    ratio = inside / (4 / 3 * math.pi * radius**3)
    assert features["bounding_ellipsoid_volume_ratio"] == pytest.approx(ratio, rel=3e-4)
    assert (features["elongation"], features["flatness"]) == pytest.approx((1, 1))


def test_axes_of_a_box_by_hand() -> None:
    features = shape_features(box(4, 10, 20), spacing=3)
    # n points at a distance of d have the variance d² (n² - 1) / 12.
    first, second, third = 20**2 - 1, 3**2 * (4**2 - 1), 10**2 - 1
    assert features["elongation"] == pytest.approx(math.sqrt(second / first))
    assert features["flatness"] == pytest.approx(math.sqrt(third / first))
    assert features["volume"] == 3 * 4 * 10 * 20


def test_ball_is_round() -> None:
    features = shape_features(ellipsoid(25, 25, 25), spacing=1)
    assert features["volume"] == pytest.approx(4 / 3 * math.pi * 25**3, rel=0.01)
    assert features["elongation"] == pytest.approx(1) and features["flatness"] == pytest.approx(1)
    # Steps of voxels make a surface larger and an ellipsoid hold more than the ball.
    assert 0.93 < features["bounding_ellipsoid_volume_ratio"] < 1
    assert 0.9 < features["sphericity"] < 1
    assert features["margin_fluctuation"] < 0.015
    assert features["angular_standard_deviation"] < 0.015


def test_ellipsoid_fills_its_ellipsoid_but_is_no_ball() -> None:
    features = shape_features(ellipsoid(28, 14, 21), spacing=1)
    assert features["elongation"] == pytest.approx(21 / 28, abs=0.01)
    assert features["flatness"] == pytest.approx(14 / 28, abs=0.01)
    assert features["bounding_ellipsoid_volume_ratio"] > 0.9
    assert features["sphericity"] < shape_features(ellipsoid(20, 20, 20), 1)["sphericity"] - 0.05


def test_cross_fills_little_of_its_ball() -> None:
    size, length, width = 61, 41, 9
    near = [np.abs(axis) <= width // 2 for axis in grid(size)]
    long = [np.abs(axis) <= length // 2 for axis in grid(size)]
    cross = sum(long[i] & near[i - 1] & near[i - 2] for i in range(3)) > 0
    voxels = 3 * length * width**2 - 2 * width**3
    assert cross.sum() == voxels
    radius = math.sqrt((length / 2) ** 2 + 2 * ((width - 1) / 2) ** 2)
    found = shape_features(cross, spacing=1)["bounding_ellipsoid_volume_ratio"]
    assert found == pytest.approx(voxels / (4 / 3 * math.pi * radius**3), rel=0.02)


def test_solid_features_are_those_of_pyradiomics() -> None:
    slices, rows, columns = np.indices((13, 41, 25)) - np.array([6, 20, 12])[:, None, None, None]
    mask = (slices / 5) ** 2 + (rows / 18) ** 2 + (columns / 10) ** 2 <= 1
    features = shape_features(mask, spacing=4.8)
    # PyRadiomics 3.0.1, the same mask and spacing: VoxelVolume, SurfaceArea, Sphericity,
    # Elongation and Flatness. Its marching cubes meshes ambiguous voxels differently.
    expected = [17832, 4190.8677, 0.784053, 0.771785, 0.424467]
    assert [features[name] for name in shape.SOLID] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("slices", "ratio"), [(5, 0.75), (20, 0.92)])
def test_steps_between_few_slices_lower_the_ratio(slices: int, ratio: float) -> None:
    """Notebook 06 names the first."""
    depth = np.arange(slices) - (slices - 1) / 2
    rows, columns = np.indices((61, 61)) - 30
    mask = (depth[:, None, None] / (slices / 2)) ** 2 + (rows / 22) ** 2 + (columns / 28) ** 2 <= 1
    found = shape_features(mask)["bounding_ellipsoid_volume_ratio"]
    assert found == pytest.approx(ratio, abs=0.02)


def test_smallest_ellipsoid_of_known_points() -> None:
    cube = np.argwhere(np.ones((2, 2, 2))) * 2.0 - 1
    ball = 4 / 3 * math.pi * 3**1.5
    assert shape.smallest_ellipsoid_volume(cube) == pytest.approx(ball, rel=3e-4)
    assert shape.smallest_ellipsoid_volume(np.vstack([cube, cube / 3])) == pytest.approx(
        ball, rel=3e-4
    )
    turn = np.linspace(0, math.tau, 100, endpoint=False)
    ellipse = np.column_stack([7 * np.cos(turn) + 3, 2 * np.sin(turn) - 5])
    assert shape.smallest_ellipsoid_volume(ellipse) == pytest.approx(14 * math.pi, rel=3e-4)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_smallest_ellipsoid_stretches_with_its_points(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, matrix = rng.normal(size=(30, 3)), rng.normal(size=(3, 3))
    assume(np.linalg.cond(matrix) < 100)
    volume = shape.smallest_ellipsoid_volume(points)
    moved = shape.smallest_ellipsoid_volume(points @ matrix + rng.normal(size=3))
    assert moved == pytest.approx(volume * abs(np.linalg.det(matrix)), rel=3e-4)


def test_smallest_ellipsoid_says_when_it_was_not_found() -> None:
    points = np.random.default_rng(0).normal(size=(30, 3))
    with pytest.raises(RuntimeError, match="30 points: found no smallest ellipsoid in 3 steps"):
        shape.smallest_ellipsoid_volume(points, steps=3)


def test_margin_of_a_star_by_hand() -> None:
    depth, rays = 0.03, 10
    features = shape_features(star(120, depth, rays))
    # Each sector, and each window of the moving average, sees one whole wave.
    expected = depth / math.sqrt(2) / (1 + depth)
    assert features["margin_fluctuation"] == pytest.approx(expected, rel=0.05)
    assert features["angular_standard_deviation"] == pytest.approx(expected, rel=0.05)


def test_ellipse_varies_slowly_and_fluctuates_little() -> None:
    rows, columns = np.indices((241, 241)) - 120
    ellipse = ((rows / 110) ** 2 + (columns / 55) ** 2 <= 1)[None]
    features = shape_features(ellipse)
    assert features["angular_standard_deviation"] > 3 * features["margin_fluctuation"]


def test_sectors_of_a_square_by_quadrature() -> None:
    along = np.linspace(-1, 1, 100_000)
    points = np.concatenate([side * np.stack([np.ones_like(along), along], 1) for side in (1, -1)])
    points = np.concatenate([points, points[:, ::-1]])
    radii = np.hypot(*points.T) / math.sqrt(2)
    sectors = np.floor(np.degrees(np.arctan2(*points.T)) / 36)
    deviations = [radii[sectors == sector].std() for sector in range(-5, 5)]
    found = shape_features(box(1, 201, 201))["angular_standard_deviation"]
    # Sectors that begin elsewhere than at 0° cut the square differently.
    assert found == pytest.approx(np.mean(deviations), rel=0.1)


def test_sizes_of_alike_margins_do_not_matter() -> None:
    small, large = (shape_features(star(size, 0.2, 4)) for size in (40, 120))
    for name in ("margin_fluctuation", "angular_standard_deviation"):
        assert large[name] == pytest.approx(small[name], rel=0.05)


def blob(seed: int) -> np.ndarray:
    """A random tumour, whose largest part, slice and piece are each larger than the next."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal((12, 40, 40)), (1, 3, 3))
    axes = np.indices(noise.shape) - np.array([6, 20, 20])[:, None, None, None]
    depth = 1 - np.sqrt(sum((a / r) ** 2 for a, r in zip(axes, (4, 12, 9), strict=True)))
    mask = np.pad(depth + 0.3 * noise / noise.std() > 0, 2)
    part, _ = shape.largest_component(mask)
    areas = np.sort(part.sum(axis=(1, 2)))
    pieces = shape.label(part[part.sum(axis=(1, 2)).argmax()], connectivity=2)
    assume(part.sum() > mask.sum() / 2 and areas[-1] > areas[-2])
    assume(np.bincount(pieces.ravel())[1:].max() > areas[-1] / 2)
    return mask


def assert_alike(one: dict[str, float], other: dict[str, float]) -> None:
    for name in INVARIANT:
        assert one[name] == pytest.approx(other[name], rel=1e-9), name
    # Ambiguous voxels may be meshed differently when they are turned.
    assert one == pytest.approx(other, rel=2e-3)


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.lists(st.integers(0, 2), unique=True))
@settings(max_examples=20, deadline=None)
def test_turned_and_mirrored_tumours_have_the_same_shape(
    seed: int, turns: int, mirrors: list[int]
) -> None:
    mask = blob(seed)
    turned = np.flip(np.rot90(mask, turns, axes=(1, 2)), mirrors)
    assert_alike(shape_features(turned), shape_features(mask))


@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(0, 9)] * 6))
@settings(max_examples=20, deadline=None)
def test_a_tumours_position_does_not_matter(seed: int, margins: tuple[int, ...]) -> None:
    mask = blob(seed)
    moved = np.pad(mask, np.reshape(margins, (3, 2)))
    assert shape_features(moved) == pytest.approx(shape_features(mask), rel=1e-6)


def test_what_the_unknown_distance_of_slices_changes() -> None:
    mask = ellipsoid(14, 14, 14)
    near, far = shape_features(mask, spacing=1), shape_features(mask, spacing=4)
    for name in (*PAPER, "components"):
        assert far[name] == near[name], name
    assert far["volume"] == 4 * near["volume"]
    for name in ("surface_area", "sphericity", "elongation", "flatness"):
        assert far[name] != pytest.approx(near[name], rel=0.05), name


def test_the_ratio_of_a_stretched_surface_is_the_same() -> None:
    points, triangles = shape.surface(ellipsoid(8, 20, 14))
    ratio = shape.bounding_ellipsoid_volume_ratio(points, triangles)
    stretched = shape.bounding_ellipsoid_volume_ratio(points * [5, 1, 1], triangles)
    assert stretched == pytest.approx(ratio, rel=3e-4)


def test_a_stray_voxel_is_only_counted() -> None:
    mask = np.pad(ellipsoid(10, 12, 14), 20)
    stray = mask.copy()
    stray[0, 0, 0] = True
    assert shape_features(stray) == {**shape_features(mask), "components": 2}


def test_holes_change_no_margin() -> None:
    whole = ellipsoid(1, 20, 20)
    hollow = whole.copy()
    hollow[:, 28:32, 28:33] = False
    one, other = shape_features(whole), shape_features(hollow)
    assert one["margin_fluctuation"] == other["margin_fluctuation"]
    assert one["angular_standard_deviation"] == other["angular_standard_deviation"]


def test_a_tumour_at_the_border_of_the_image() -> None:
    assert shape_features(np.ones((3, 8, 8), bool)) == pytest.approx(shape_features(box(3, 8, 8)))


def test_empty_mask() -> None:
    features = shape_features(np.zeros((4, 8, 8), dtype=bool))
    assert tuple(features) == FEATURES
    assert features.pop("volume") == features.pop("components") == 0
    assert np.isnan(list(features.values())).all()


def test_a_single_voxel_has_no_axes() -> None:
    features = shape_features(box(1, 1, 1))
    assert math.isnan(features.pop("elongation")) and math.isnan(features.pop("flatness"))
    assert np.isfinite(list(features.values())).all()


@pytest.mark.parametrize(
    ("mask", "spacing"),
    [(np.ones((2, 4, 4)), 1.0), (np.ones((4, 4), bool), 1.0), (np.ones((2, 4, 4), bool), 0.0)],
)
def test_other_input_is_refused(mask: np.ndarray, spacing: float) -> None:
    with pytest.raises(ValueError, match="expected bool"):
        shape_features(mask, spacing)
