"""The ignored band along label borders."""

from __future__ import annotations

import numpy as np
import pytest

import mmdefect.registration  # noqa: F401
from mmdefect.datasets.transforms.ignore_band import IgnoreBand, ignore_band
from mmdefect.registry import TRANSFORMS


def slow_band(label, width, min_core):
    """Compare every pixel with every other one."""
    from scipy import ndimage

    result = label.copy()
    points = np.argwhere(label != 255)
    for index in points:
        own = label[tuple(index)]
        others = points[label[tuple(points.T)] != own]
        if len(others) and np.linalg.norm(others - index, axis=1).min() <= width:
            result[tuple(index)] = 255
    for class_id in set(np.unique(label)) - {0, 255}:
        components, count = ndimage.label(label == class_id, np.ones((3, 3)))
        for k in range(1, count + 1):
            own = components == k
            core = (result[own] != 255).sum()
            if core == 0 or core < min_core * own.sum():
                result[own] = class_id
    return result


def test_a_square_loses_its_rim_on_both_sides():
    label = np.zeros((12, 12), np.uint8)
    label[3:9, 3:9] = 1
    found = ignore_band(label, 1)
    assert (found[4:8, 4:8] == 1).all() and (found == 1).sum() == 16
    assert (found[2, 3:9] == 255).all() and found[2, 2] == 0  # the corner is sqrt(2) away
    assert (found[0] == 0).all()


def test_two_pixels_stay_and_their_surroundings_are_ignored():
    label = np.zeros((7, 8), np.uint8)
    label[3, 3:5] = 2
    found = ignore_band(label, 1)
    assert np.argwhere(found == 2).tolist() == [[3, 3], [3, 4]]
    assert (found == 255).sum() == 6


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize(('width', 'min_core'), [(1, 0.25), (1.5, 0.0), (3, 0.5)])
def test_it_is_the_slow_version(seed, width, min_core):
    rng = np.random.default_rng(seed)
    label = np.zeros((20, 24), np.uint8)
    for class_id in (1, 2, 1, 255):
        top, left = rng.integers(0, 14, 2)
        label[top : top + rng.integers(1, 9), left : left + rng.integers(1, 10)] = class_id
    before = label.copy()
    assert np.array_equal(ignore_band(label, width, min_core), slow_band(label, width, min_core))
    assert np.array_equal(label, before)


@pytest.mark.parametrize('value', [0, 1, 255])
def test_one_label_has_no_border(value):
    label = np.full((5, 5), value, np.uint8)
    assert np.array_equal(ignore_band(label, 2), label)


def test_the_transform_changes_the_label_alone():
    label = np.zeros((12, 12), np.uint8)
    label[3:9, 3:9] = 1
    transform = TRANSFORMS.build(dict(type='IgnoreBand', width=1))
    results = transform(dict(gt_seg_map=label, img=0))
    assert np.array_equal(results['gt_seg_map'], ignore_band(label, 1)) and results['img'] == 0
    for kwargs in (dict(width=0), dict(min_core=2)):
        with pytest.raises(ValueError, match='must'):
            IgnoreBand(**kwargs)
