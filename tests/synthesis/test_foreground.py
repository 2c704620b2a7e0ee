import cv2
import numpy as np
import pytest

from mmdefect.synthesis.foreground import find_foreground, otsu_split
from tests.helpers.defects import OBJECT, draw_part
from tests.helpers.realdata import real_data


def test_split_agrees_with_opencv():
    rng = np.random.default_rng(0)
    for _ in range(10):
        low, high = rng.integers(10, 100), rng.integers(140, 250)
        values = np.concatenate([rng.normal(low, 8, 3000), rng.normal(high, 8, rng.integers(500, 4000))]).clip(0, 255)
        values = (values.astype(np.uint8) >> 2) << 2  # in the steps of its bins
        threshold, separation = otsu_split(values)
        expected, _ = cv2.threshold(values[None], 0, 255, cv2.THRESH_OTSU)
        np.testing.assert_array_equal(values > threshold, values > expected)
        assert separation > 0.9


def test_even_image_cannot_be_split():
    assert otsu_split(np.full((4, 4), 77, np.uint8)) == (77, 0.0)


@pytest.mark.parametrize('bright', [False, True])
def test_part_before_a_screen(bright):
    image = draw_part(np.random.default_rng(1))
    image = 255 - image if bright else image
    mask = find_foreground(image)
    truth = np.zeros(image.shape[:2], np.uint8)
    truth[OBJECT] = 1
    np.testing.assert_array_equal(mask, truth)


def test_small_holes_are_filled_and_drilled_ones_are_not():
    image = draw_part(np.random.default_rng(2))
    image[30:33, 30:33] = 240
    image[40:65, 50:75] = 165
    mask = find_foreground(image)
    assert mask[31, 31] == 1 and mask[50, 60] == 0 and mask[20, 20] == 1


def test_a_surface_is_all_object():
    rng = np.random.default_rng(3)
    assert find_foreground(np.clip(rng.normal(120, 30, (80, 90, 3)), 0, 255).astype(np.uint8)).all()
    assert find_foreground(np.full((40, 50), 9, np.uint8)).all()


def test_real_inserts_have_no_screen_and_no_hole():
    paths = sorted(real_data('wta512', 'img_dir', 'train').glob('*.png'))[::40]
    for path in paths:
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
        mask = find_foreground(image, 384)
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        assert 0.45 < mask.mean() < 0.55
        assert (grey[cv2.erode(mask, np.ones((5, 5))) > 0] > 200).mean() < 0.001  # the screen is 255
        assert mask[256, 256] == 0  # the drilled hole
