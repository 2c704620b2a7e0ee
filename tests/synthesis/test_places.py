import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdefect.synthesis.places import (
    GRID,
    NO_PLACE,
    OFF_OBJECT,
    ON_DEFECT,
    SIDE,
    PlaceSearch,
    code_weights,
    decode,
    empirical_density,
    frame_affine,
    location_codes,
    map_density,
    overlap,
)


def tries(count=30, seed=0):
    return np.random.default_rng(seed).random((count, 3))


def test_codes_name_the_place_in_the_frame():
    allowed = np.ones((50, 80), np.uint8)
    allowed[:10] = 0
    codes = location_codes((50, 80), allowed)
    on_object, rows, columns = decode(codes)
    np.testing.assert_array_equal(on_object, allowed > 0)
    np.testing.assert_allclose(rows[10:, 0] / SIDE, (np.arange(10, 50) + 0.5) / 50, atol=1 / SIDE)
    np.testing.assert_allclose(columns[20] / SIDE, (np.arange(80) + 0.5) / 80, atol=1 / SIDE)
    padded = cv2.copyMakeBorder(codes, 0, 3, 0, 0, cv2.BORDER_CONSTANT, value=255)  # as label maps are padded
    assert not decode(padded)[0][50:].any()


@given(st.integers(90, 300), st.integers(90, 300), st.floats(0.4, 2), st.floats(0.4, 2), st.booleans(), st.booleans())
@settings(max_examples=25, deadline=None)
def test_codes_tell_how_the_frame_was_moved(height, width, scale_y, scale_x, flip_y, flip_x):
    codes = cv2.resize(location_codes((height, width)), None, fx=scale_x, fy=scale_y, interpolation=cv2.INTER_NEAREST)
    new_hw = codes.shape
    codes = codes[5:-3, 4:-6][:: -1 if flip_y else 1, :: -1 if flip_x else 1]
    affine = frame_affine(codes, 2)
    for y, x in ((0.3, 0.4), (0.6, 0.7)):
        row, column = y * new_hw[0] - 0.5 - 5, x * new_hw[1] - 0.5 - 4
        row, column = codes.shape[0] - 1 - row if flip_y else row, codes.shape[1] - 1 - column if flip_x else column
        # Resizing to the nearest pixel moves label maps by up to half a pixel of the smaller raster.
        limit = 0.6 + 0.5 * max(1, scale_x, scale_y)
        np.testing.assert_allclose(affine @ (y * SIDE, x * SIDE, 1), (row, column), atol=limit)


def test_density_follows_the_counts_and_leaves_no_place_out():
    counts = np.zeros((4, GRID, GRID))
    counts[1, 3, 4], counts[2, 20:22, 5] = 400, 9
    density = empirical_density(counts, smoothing=0, floor=0.1)
    assert density.shape == (4, GRID, GRID) and np.allclose(density.mean((1, 2)), 1)
    assert np.unravel_index(density[1].argmax(), (GRID, GRID)) == (3, 4) and density.min() >= 0.1 - 1e-6
    assert density[2, 20, 5] == density[2, 21, 5]
    assert density[3, 3, 4] > density[3, 20, 5] > density[3, 0, 0]  # never seen: like the others together
    assert (empirical_density(np.zeros((2, GRID, GRID))) == 1).all()


def test_map_is_shrunk_to_the_grid():
    image = np.zeros((GRID * 4, GRID * 2))
    image[8:12, 2:4] = 1
    density = map_density(image)
    assert density.argmax() == 2 * GRID + 1 and density.mean() == pytest.approx(1)
    for bad in (np.zeros((4, 4)), np.full((4, 4), np.nan), -np.ones((4, 4)), np.ones(4)):
        with pytest.raises(ValueError, match='location_map'):
            map_density(bad)


def test_places_follow_the_density():
    codes = location_codes((128, 192))
    density = np.zeros((GRID, GRID), np.float32)
    density[8:16, 16:24] = 1
    search = PlaceSearch(codes, np.zeros(codes.shape, np.uint8), {1: density})
    mask = np.ones((3, 3), bool)
    centres = np.array([search.find(mask, 1, tries(1, seed)) for seed in range(300)]) + 1
    assert (centres[:, 0] // 4 >= 8).all() and (centres[:, 0] // 4 < 16).all()
    assert (centres[:, 1] // 6 >= 16).all() and (centres[:, 1] // 6 < 24).all()
    assert np.ptp(centres[:, 0]) > 24 and np.ptp(centres[:, 1]) > 36  # all of the region is used


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31), st.floats(0.3, 1))
@settings(max_examples=40, deadline=None)
def test_enough_of_the_defect_lies_on_the_object(height, width, seed, min_overlap):
    rng = np.random.default_rng(seed)
    allowed = cv2.dilate((rng.random((60, 90)) < 0.004).astype(np.uint8), np.ones((21, 21), np.uint8))
    mask = rng.random((height, width)) < 0.7
    mask[height // 2, width // 2] = True
    search = PlaceSearch(location_codes((60, 90), allowed), np.zeros((60, 90), np.uint8), None, min_overlap, 0.1, 0)
    place = search.find(mask, None, tries(20, seed))
    if isinstance(place, str):
        assert place in (OFF_OBJECT, NO_PLACE)
        return
    on_object = 0  # the slow way, pixel by pixel
    for row, column in zip(*np.nonzero(mask), strict=True):
        y, x = place[0] + row, place[1] + column
        on_object += 0 <= y < 60 and 0 <= x < 90 and allowed[y, x] > 0
    assert on_object >= min_overlap * mask.sum()


def test_no_place_ends_with_a_reason():
    label = np.zeros((40, 40), np.uint8)
    mask = np.ones((9, 9), bool)
    assert PlaceSearch(np.zeros((40, 40), np.float32), label).find(mask, None, tries()) == NO_PLACE
    assert PlaceSearch(location_codes((40, 40)), label + 255).find(mask, None, tries()) == OFF_OBJECT
    assert PlaceSearch(location_codes((40, 40)), label + 1, min_overlap=0.2).find(mask, None, tries()) == ON_DEFECT
    assert PlaceSearch(location_codes((40, 40)), label).find(np.ones((99, 99), bool), None, tries()) == OFF_OBJECT
    search = PlaceSearch(location_codes((40, 40)), label, min_overlap=0.2)
    search.settle(np.ones((40, 40), bool), (0, 0))
    assert search.find(mask, None, tries()) == ON_DEFECT


def test_an_object_thinner_than_the_search_grid_is_found():
    allowed = np.zeros((300, 300), np.uint8)
    allowed[151] = 1
    search = PlaceSearch(location_codes((300, 300), allowed), np.zeros((300, 300), np.uint8), clearance=0)
    assert search.find(np.ones((1, 3), bool), None, tries(5))[0] == 151


def test_clearance_keeps_off_the_outline_but_not_off_the_frame():
    allowed = np.ones((40, 40), np.uint8)
    allowed[:, :20] = 0
    search = PlaceSearch(location_codes((40, 40), allowed), np.zeros((40, 40), np.uint8), min_overlap=1, clearance=3)
    places = [search.find(np.ones((1, 1), bool), None, tries(40, seed)) for seed in range(200)]
    assert min(p[1] for p in places) == 23 and max(p[1] for p in places) == 39


def test_own_place_is_found_after_scaling_and_flipping():
    codes = cv2.resize(location_codes((100, 100)), (200, 200), interpolation=cv2.INTER_NEAREST)[20:, ::-1]
    search = PlaceSearch(codes, np.zeros(codes.shape, np.uint8))
    top, left = search.find_near(np.ones((5, 5), bool), (0.5, 0.25), [(0, 0)])
    assert abs(top + 2 - (100 - 0.5 - 20)) <= 1 and abs(left + 2 - (199 - 49.5)) <= 1


@given(st.integers(1, 9), st.integers(1, 9), st.integers(-12, 12), st.integers(-12, 12))
def test_overlap_agrees_with_painting(height, width, top, left):
    frame, part = overlap((height, width), (top, left), (6, 8))
    canvas = np.zeros((40, 40), int)
    patch = np.arange(1, height * width + 1).reshape(height, width)
    canvas[14 + top : 14 + top + height, 14 + left : 14 + left + width] = patch
    painted = np.zeros((6, 8), int)
    painted[frame] = patch[part]
    np.testing.assert_array_equal(painted, canvas[14:20, 14:22])


def test_weights_are_zero_off_the_object():
    codes = np.array([0, 255, 256, 256 + SIDE * (SIDE - 1) + SIDE - 1], np.float32)
    density = np.full((GRID, GRID), 2.0, np.float32)
    density[-1, -1] = 5
    assert code_weights(codes, density).tolist() == [0, 0, 2, 5]
    assert code_weights(codes, None).tolist() == [0, 0, 1, 1]


def test_what_lies_off_the_object_or_the_frame_is_cut_off():
    allowed = np.ones((20, 20), np.uint8)
    allowed[:, 12:] = 0
    label = np.zeros((20, 20), np.uint8)
    label[5] = 255
    mask = np.ones((8, 8), bool)
    search = PlaceSearch(location_codes((20, 20), allowed), label)
    kept, frame, part = search.settle(mask, (-2, 8))
    expected = np.zeros((8, 8), bool)
    expected[2:, :4] = True  # in the frame and on the object
    expected[7] = False  # ignored
    np.testing.assert_array_equal(kept, expected)
    assert (frame, part) == overlap((8, 8), (-2, 8), (20, 20)) and mask.all()
    assert search.settle(mask, (7, 2))[0] is mask
