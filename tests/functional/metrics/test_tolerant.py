"""Tolerant IoU and F1 against distances between all pairs of pixels, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdefect.functional.metrics.label_map import read_label, read_prediction
from mmdefect.functional.metrics.tolerant import TolerantCounter


def counted(pairs, radius, classes=3):
    counter = TolerantCounter(classes, radius)
    for prediction, label in pairs:
        truth = read_label(torch.as_tensor(label), classes)
        counter.update(read_prediction(torch.as_tensor(prediction), truth), truth)
    return counter


def brute_force(pairs, radius, select):
    matched = total = 0
    for prediction, label in pairs:
        a = np.argwhere(select(prediction) & (label != 255)).astype(float)
        b = np.argwhere(select(label) & (label != 255)).astype(float)
        total += len(a) + len(b)
        if len(a) and len(b):
            distance = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
            matched += (distance.min(1) <= radius).sum() + (distance.min(0) <= radius).sum()
    f1 = matched / total
    return f1 / (2 - f1), f1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0, 1, 1.5, 2, 3, 4.3]))
def test_equals_all_pairs(seed, radius):
    rng = np.random.default_rng(seed)
    draw = lambda values, p: rng.choice(values, (17, 23), p=p)  # noqa: E731
    pairs = [(draw([0, 1, 2], [0.95, 0.03, 0.02]), draw([0, 1, 2, 255], [0.93, 0.03, 0.02, 0.02])) for _ in range(3)]
    pairs.append((np.zeros((5, 5), int), np.eye(5, dtype=int)))
    iou, f1 = counted(pairs, radius).compute()
    for row, select in enumerate([lambda m: m > 0, lambda m: m == 1, lambda m: m == 2]):
        assert (iou[row], f1[row]) == pytest.approx(brute_force(pairs, radius, select))


def test_radius_0_is_the_plain_iou():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 2, (9, 9)), rng.integers(0, 2, (9, 9))
    iou, f1 = counted([(a, b)], 0, classes=2).compute()
    assert iou[1] == pytest.approx((a & b).sum() / (a | b).sum())
    assert f1[1] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_a_line_drawn_two_pixels_off_is_right_within_two():
    label, prediction = np.zeros((9, 9), int), np.zeros((9, 9), int)
    label[2, :], prediction[4, :] = 1, 1
    assert counted([(prediction, label)], 2).compute()[0][1] == 1
    assert counted([(prediction, label)], 1.9).compute()[0][1] == 0


def test_nothing_is_nan_and_a_bad_radius_is_refused():
    assert all(math.isnan(v) for v in counted([(np.zeros((3, 3), int), np.zeros((3, 3), int))], 2).compute()[0])
    with pytest.raises(ValueError, match='0 or more pixels'):
        TolerantCounter(3, -1)
