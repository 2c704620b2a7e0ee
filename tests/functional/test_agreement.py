"""Agreement of two label maps, by hand and against a brute-force oracle."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmdefect.functional.agreement import Agreement, compare_labels, total

maps = arrays(np.uint8, (7, 6), elements=st.sampled_from([0, 0, 0, 1, 2, 255]))


def blank():
    return np.zeros((20, 20), np.uint8)


def oracle(first, second, tolerance):
    """Double loop over all pixels: defect pixels of the first with one of the second within the distance."""
    known = (first != 255) & (second != 255)
    points = [np.argwhere((m > 0) & known) for m in (first, second)]
    covered = [sum(any(math.dist(p, q) <= tolerance for q in points[1 - k]) for p in points[k]) for k in (0, 1)]
    return len(points[0]), len(points[1]), *covered


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(maps, maps, st.sampled_from([0.0, 1.0, 1.5, 3.0]))
def test_agrees_with_a_double_loop(first, second, tolerance):
    got = compare_labels(first, second, tolerance)
    assert (got.first, got.second, got.first_covered, got.second_covered) == oracle(first, second, tolerance)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(maps, maps)
def test_swapping_swaps_and_more_tolerance_confirms_more(first, second):
    one, other = compare_labels(first, second, 2), compare_labels(second, first, 2)
    assert (one.first, one.first_covered, one.first_alone) == (other.second, other.second_covered, other.second_alone)
    assert one.both == other.both and one.unconfirmed == other.unconfirmed
    assert (
        compare_labels(first, second, 3).unconfirmed <= one.unconfirmed <= compare_labels(first, second, 0).unconfirmed
    )
    assert compare_labels(first, first, 0).unconfirmed == 0


def test_a_shifted_outline_by_hand():
    first, second = blank(), blank()
    first[5, 2:12], second[6, 2:12] = 1, 1
    got = compare_labels(first, second, 1)
    assert got.iou == 0 and got.coverage_first == got.coverage_second == 1.0 and got.kind() == 'within tolerance'
    assert compare_labels(first, second, 0).kind() == 'regions differ'


@pytest.mark.parametrize(
    ('boxes', 'kind'),
    [
        (([], []), 'both clean'),
        (([(2, 6, 1)], []), 'only in first'),
        (([], [(2, 6, 1)]), 'only in second'),
        (([(2, 6, 1)], [(2, 6, 1)]), 'agree'),
        (([(2, 6, 1)], [(2, 6, 2)]), 'other class'),
        (([(2, 6, 1), (14, 16, 1)], [(2, 6, 1)]), 'regions differ'),
        (([(2, 12, 1)], [(2, 6, 1)]), 'outline differs'),
    ],
)
def test_kinds(boxes, kind):
    labels = [blank(), blank()]
    for label, found in zip(labels, boxes, strict=True):
        for low, high, value in found:
            label[low:high, low:high] = value
    assert compare_labels(*labels, 2).kind() == kind


def test_lonely_regions_are_counted():
    first, second = blank(), blank()
    first[2:4, 2:4] = first[2:4, 10:12] = first[12:14, 2:4] = 1
    second[2:4, 2:4] = 1
    got = compare_labels(first, second, 2)
    assert (got.first_alone, got.second_alone) == (2, 0)


def test_the_total_adds_pixels():
    whole = total([Agreement(10, 5, 5, 4, 6, 5, 1, 0), Agreement(0, 5, 0, 0, 0, 0, 0, 1)])
    assert whole.iou == 5 / 15 and whole.coverage_second == 0.5 and whole.class_agreement == 0.8
    assert math.isnan(total([]).iou)


def test_wrong_input():
    with pytest.raises(ValueError, match='one size'):
        compare_labels(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match='tolerance'):
        compare_labels(blank(), blank(), -1)
