"""The table of defects against SciPy's labelling and hand-made shapes; bands change nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from mmdefect.deployment.defects import DefectGatherer, find_defects

CLASSES = ('good', 'pit', 'scratch')


def flat(label, score=0.75):
    probability = np.full((3, *label.shape), (1 - score) / 2, np.float32)
    for k in range(3):
        probability[k][label == k] = score
    return probability


def noise(seed, shape=(60, 80), rate=0.45):
    rng = np.random.default_rng(seed)
    label = (rng.random(shape) < rate).astype(np.uint8) * rng.integers(1, 3, shape).astype(np.uint8)
    probability = rng.random((3, *shape)).astype(np.float32)
    return label, probability / probability.sum(0)


def by_scipy(label, probability, class_id, min_area):
    marks, count = ndimage.label(label == class_id, np.ones((3, 3)))
    rows = []
    for mark in range(1, count + 1):
        y, x = np.nonzero(marks == mark)
        if len(y) >= min_area:
            rows.append(
                (
                    len(y),
                    int(x.min()),
                    int(y.min()),
                    int(x.max()) + 1,
                    int(y.max()) + 1,
                    x.mean(),
                    y.mean(),
                    probability[class_id][marks == mark].mean(),
                )
            )
    return sorted(rows)


def row(defect):
    return (defect.area_px, *defect.box_xyxy, *defect.centroid_xy, defect.score)


@pytest.mark.parametrize('bands', [(60,), (1,) * 60, (7, 13, 1, 1, 20, 18)])
@pytest.mark.parametrize('rate, min_area', [(0.45, 0), (0.2, 4), (0.8, 10)])
def test_regions_are_those_of_scipy_whatever_the_bands(bands, rate, min_area):
    label, probability = noise(1, rate=rate)
    gatherer, top, kept = DefectGatherer(CLASSES, label.shape, min_area), 0, label.copy()
    for height in bands:
        gatherer.add(top, kept[top : top + height], probability[:, top : top + height])
        top += height
    defects = gatherer.finish(kept)
    remaining = np.zeros_like(label)
    for class_id in (1, 2):
        expected = by_scipy(label, probability, class_id, min_area)
        got = sorted(row(d) for d in defects if d.class_id == class_id)
        assert len(got) == len(expected) > 0
        np.testing.assert_allclose(got, expected, rtol=1e-5)
        marks, count = ndimage.label(label == class_id, np.ones((3, 3)))
        sizes = ndimage.sum(marks > 0, marks, range(count + 1))
        remaining[(sizes[marks] >= max(1, min_area)) & (marks > 0)] = class_id
    np.testing.assert_array_equal(kept, remaining)


def test_a_turned_rectangle_has_its_sides():
    angle, length, width = math.radians(30), 80.0, 24.0
    y, x = np.mgrid[:140, :140] - 70.0
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    label = ((abs(along) <= length / 2) & (abs(across) <= width / 2)).astype(np.uint8) * 2
    defect = find_defects(label, flat(label), CLASSES, mm_per_pixel=0.1)[0]
    # pixels are squares: up to a pixel's diagonal more on each side
    assert length <= defect.length_px <= length + 2 * math.sqrt(
        2
    ) and width <= defect.width_px <= width + 2 * math.sqrt(2)
    assert defect.length_mm == pytest.approx(defect.length_px / 10) and defect.score == pytest.approx(0.75)
    assert defect.area_mm2 == pytest.approx(label.astype(bool).sum() / 100)
    assert defect.centroid_xy == pytest.approx((70, 70), abs=0.5) and defect.class_name == 'scratch'


def test_small_shapes_read_off_by_hand():
    label = np.zeros((10, 20), np.uint8)
    label[2, 3] = 1
    label[5:7, 10:15] = 2
    label[9, 19] = 2
    one, two, three = sorted(find_defects(label, flat(label), CLASSES), key=lambda d: d.box_xyxy)
    assert (one.length_px, one.width_px, one.area_px, one.area_percent) == pytest.approx((1, 1, 1, 0.5))
    assert one.box_xyxy == (3, 2, 4, 3) and one.centroid_xy == (3, 2) and one.length_mm is None
    assert (two.length_px, two.width_px, two.box_xyxy) == (5, 2, (10, 5, 15, 7)) and two.centroid_xy == (12, 5.5)
    assert three.box_xyxy == (19, 9, 20, 10)
    assert not find_defects(np.zeros((4, 5), np.uint8), flat(np.zeros((4, 5), np.uint8)), CLASSES)


def test_nonsense_is_rejected():
    label = np.zeros((4, 5), np.uint8)
    with pytest.raises(ValueError, match='min_area_px'):
        find_defects(label, flat(label), CLASSES, min_area_px=-1)
    with pytest.raises(ValueError, match='mm_per_pixel'):
        find_defects(label, flat(label), CLASSES, mm_per_pixel=0.0)
