"""Labels on images, checked by hand and against a loop over pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mmdefect.visualization.overlay import default_palette, difference, draw_boxes, outline_mask, overlay_labels

PALETTE = [(0, 0, 0), (255, 0, 0), (0, 255, 0)]


def noise_image(height: int = 20, width: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_overlay_by_hand():
    image = np.full((3, 3, 3), 100, np.uint8)
    label = np.array([[0, 1, 0], [0, 0, 0], [2, 0, 255]])
    out = overlay_labels(image, label, PALETTE, alpha=0.5, outline=0)
    assert out[0, 1].tolist() == [178, 50, 50]  # (100 + 255) / 2 rounds to even
    assert out[2, 0].tolist() == [50, 178, 50]
    assert out[2, 2].tolist() == [114, 114, 114]  # ignored pixels are grey
    assert (out[label == 0] == 100).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), alpha=st.floats(0, 1))
def test_overlay_equals_a_loop_over_pixels(seed, alpha):
    rng = np.random.default_rng(seed)
    image, label = noise_image(7, 9, seed), rng.integers(0, 3, (7, 9))
    out = overlay_labels(image, label, PALETTE, alpha, outline=0)
    for r in range(7):
        for c in range(9):
            expected = image[r, c].astype(float)
            if label[r, c]:
                expected = (1 - alpha) * expected + alpha * np.array(PALETTE[label[r, c]])
            np.testing.assert_allclose(out[r, c], expected, atol=0.5 + 1e-6)


def test_clean_label_and_zero_alpha_change_nothing():
    image = noise_image()
    before = image.copy()
    np.testing.assert_array_equal(overlay_labels(image, np.zeros((20, 24), int), PALETTE), image)
    label = np.zeros((20, 24), int)
    label[4:6, 4:6] = 1
    np.testing.assert_array_equal(overlay_labels(image, label, PALETTE, alpha=0.0, outline=0), image)
    overlay_labels(image, label, PALETTE)
    np.testing.assert_array_equal(image, before)


def test_outline_lies_outside_and_keeps_other_classes():
    label = np.zeros((12, 12), int)
    label[4:6, 4:6], label[4:6, 6:8] = 1, 2
    out = overlay_labels(np.full((12, 12, 3), 100, np.uint8), label, PALETTE, alpha=0.0, outline=1)
    assert (out[label > 0] == 100).all()  # nothing of the defect is covered
    assert out[3, 4].tolist() == [255, 0, 0] and out[3, 7].tolist() == [0, 255, 0]


@pytest.mark.parametrize('width', [1, 2])
def test_outline_mask_against_scipy(width):
    mask = np.random.default_rng(3).random((15, 17)) < 0.15
    y, x = np.mgrid[-width : width + 1, -width : width + 1]
    disc = np.hypot(x, y) <= width + 0.2
    expected = ndimage.binary_dilation(mask, disc) & ~mask
    out = outline_mask(mask, width)
    assert not (out & mask).any()
    if width == 1:
        np.testing.assert_array_equal(out, expected)
    assert not (expected & ~out).any()


def test_difference_by_hand():
    a, b = np.full((2, 2, 3), 100, np.uint8), np.full((2, 2, 3), 100, np.uint8)
    b[0, 0], b[1, 1] = (110, 100, 90), (255, 0, 100)
    out = difference(a, b, gain=4.0)
    assert out[0, 0].tolist() == [168, 128, 88]
    assert out[1, 1].tolist() == [255, 0, 128]
    assert (out[0, 1] == 128).all()


def test_boxes_leave_their_inside_free():
    image = np.full((40, 40, 3), 90, np.uint8)
    out = draw_boxes(image, np.array([[10, 12, 20, 18]]), [1], PALETTE)
    assert (out[12:18, 10:20] == 90).all()
    assert (out == (255, 0, 0)).all(axis=2).sum() > 20
    named = draw_boxes(image, np.array([[10, 18, 20, 24]]), [1], PALETTE, ['normal', 'attached', 'broken'])
    assert (named[:16] != 90).any()
    np.testing.assert_array_equal(draw_boxes(image, np.zeros((0, 4)), [], PALETTE), image)


def test_palette_colours_differ():
    colours = default_palette(11)
    assert len(set(colours)) == 11 and colours[0] == (0, 0, 0) and len(default_palette(40)) == 40


def test_errors_say_what_to_do():
    image, label = noise_image(), np.zeros((20, 24), int)
    with pytest.raises(ValueError, match='nearest neighbour'):
        overlay_labels(image, label[:10], PALETTE)
    label[0, 0] = 7
    with pytest.raises(ValueError, match=r'below 3 .* got \[7\]'):
        overlay_labels(image, label, PALETTE)
    with pytest.raises(ValueError, match='`alpha`'):
        overlay_labels(image, np.zeros((20, 24), int), PALETTE, alpha=2)
    with pytest.raises(ValueError, match=r'uint8 RGB, got shape \(20, 24, 3\) of float64'):
        overlay_labels(image / 255.0, label, PALETTE)
    with pytest.raises(ValueError, match='one size'):
        difference(image, image[:5])
    with pytest.raises(ValueError, match='equally many'):
        draw_boxes(image, np.zeros((2, 4)), [1], PALETTE)
    with pytest.raises(ValueError, match='at least one pixel'):
        outline_mask(label > 0, 0)
