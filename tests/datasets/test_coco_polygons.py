"""Polygons against Matplotlib, a ray-casting loop and hand-made cases; run-length codes against an encoder."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.path import Path as Outline

from mmdefect.datasets.coco import decode_rle, rasterize_polygons, touched_pixels

SIZE_HW = (17, 23)
#: Written by pycocotools 2.0: a 37x53 mask with a block, a hole in it and two single pixels.
CODE = '01e;?PE00000000D_O4a0L_O4a0L_O4a0L_O4a0L_O4a0800000000000000000000if0AR[O'


def centres(size_hw):
    rows, columns = np.mgrid[: size_hw[0], : size_hw[1]] + 0.5
    return np.column_stack([columns.ravel(), rows.ravel()])


def ray_cast(polygon, size_hw):
    """Count, pixel by pixel and in fractions, the edges that a ray to the left of the centre crosses."""
    exact = [Fraction(float(v)) for v in polygon]
    points = list(zip(exact[::2], exact[1::2], strict=True))
    half = Fraction(1, 2)
    mask = np.zeros(size_hw, bool)
    for row in range(size_hw[0]):
        for column in range(size_hw[1]):
            x, y, inside = column + half, row + half, False
            for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
                if (y0 <= y) != (y1 <= y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x:
                    inside = not inside
            mask[row, column] = inside
    return mask


# In binary fractions a crossing is on a centre or far from it, so floats must agree with fractions on every pixel;
# every second coordinate is a corner or a centre of a pixel, so many outlines do go through centres.
COORDINATES = st.one_of(
    st.integers(-4 * 1024, 27 * 1024).map(lambda v: v / 1024), st.integers(-8, 54).map(lambda v: v / 2)
)
POLYGONS = st.lists(COORDINATES, min_size=6, max_size=16).filter(lambda p: len(p) % 2 == 0)


@settings(deadline=None, max_examples=60)
@given(polygon=POLYGONS)
@example(polygon=[0.0, 3.312, 1.5, 1.5, 0.0, 0.0])  # its corner is the centre of a pixel
def test_any_polygon_equals_ray_casting(polygon):
    np.testing.assert_array_equal(rasterize_polygons([polygon], SIZE_HW), ray_cast(polygon, SIZE_HW))


@pytest.mark.parametrize('seed', range(20))
def test_star_shaped_polygons_equal_matplotlib(seed):
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 12))
    points = np.column_stack([11 + np.cos(angles) * rng.uniform(2, 12, 12), 8 + np.sin(angles) * rng.uniform(2, 9, 12)])
    expected = Outline(points).contains_points(centres(SIZE_HW)).reshape(SIZE_HW)
    np.testing.assert_array_equal(rasterize_polygons([points.ravel()], SIZE_HW), expected)


def test_a_rectangle_has_its_own_area():
    mask = rasterize_polygons([[2, 3, 6, 3, 6, 5, 2, 5]], SIZE_HW)
    assert mask.sum() == 8 and mask[3:5, 2:6].all()


def test_area_is_right_on_average():
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(400):
        x, y = rng.uniform(3, 8, 2)
        areas.append(rasterize_polygons([[x, y, x + 3.3, y, x + 3.3, y + 2.7, x, y + 2.7]], SIZE_HW).sum())
    assert np.mean(areas) == pytest.approx(3.3 * 2.7, rel=0.03)


def test_a_hole_behind_a_bridge_stays_open():
    outer, inner = [(1, 1), (13, 1), (13, 13), (1, 13)], [(5, 5), (5, 9), (9, 9), (9, 5)]
    bridged = np.array([*outer, outer[0], *inner, inner[0]]).ravel()
    mask = rasterize_polygons([bridged], SIZE_HW)
    assert mask.sum() == 12 * 12 - 4 * 4 and not mask[5:9, 5:9].any()


def test_union_and_even_odd():
    outer, inner = [1, 1, 13, 1, 13, 13, 1, 13], [5, 5, 9, 5, 9, 9, 5, 9]
    assert rasterize_polygons([outer, inner], SIZE_HW).sum() == 144
    holed = rasterize_polygons([outer, inner], SIZE_HW, 'evenodd')
    assert holed.sum() == 128 and not holed[5:9, 5:9].any()


def test_thin_polygons_leave_their_corners():
    thin = [3.1, 2.1, 9.8, 2.2, 3.1, 2.15]
    assert not rasterize_polygons([thin], SIZE_HW).any()
    mask = touched_pixels([thin], SIZE_HW)
    assert np.argwhere(mask).tolist() == [[2, 3], [2, 9]]
    assert not touched_pixels([[-5, -5, 90, 90, -5, 90]], SIZE_HW).any()


@pytest.mark.parametrize(
    'polygon', [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, float('nan')], [[1, 2], [3, 4]]]
)
def test_bad_polygons(polygon):
    with pytest.raises(ValueError, match='three or more x, y pairs'):
        rasterize_polygons([polygon], SIZE_HW)
    with pytest.raises(ValueError, match='`rule` must be one of'):
        rasterize_polygons([], SIZE_HW, 'nonzero')


def encode_runs(mask):
    flat = mask.ravel(order='F')
    runs, value = [], False
    for pixel in flat:
        if pixel != value or not runs:
            runs += [0] if not runs and pixel else []
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


def compress(runs):
    """Five bits a character, lowest first, signed; from the third run on the difference to the run before the last."""
    text = ''
    for index, run in enumerate(runs):
        value = run - (runs[index - 2] if index > 2 else 0)
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + (bits | (32 if more else 0)))
    return text


@settings(deadline=None, max_examples=60)
@given(mask=hnp.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_run_lengths_come_back(mask):
    runs = encode_runs(mask)
    np.testing.assert_array_equal(decode_rle(runs, mask.shape), mask)
    np.testing.assert_array_equal(decode_rle(compress(runs), mask.shape), mask)


def test_run_lengths_of_pycocotools():
    mask = np.zeros((37, 53), bool)
    mask[4:20, 10:31] = True
    mask[8:12, 15:20] = False
    mask[30, 50] = mask[0, 0] = True
    np.testing.assert_array_equal(decode_rle(CODE, (37, 53)), mask)


@pytest.mark.parametrize('counts', [[3, 4], [400, -9], 'zz', '01'])
def test_bad_run_lengths(counts):
    with pytest.raises(ValueError, match='must (fill|hold)'):
        decode_rle(counts, SIZE_HW)
