"""Pixel counts against a per-pixel loop, tolerant ones against distances of all pairs of pixels, hand-made cases."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdefect.functional.metrics.counting import read_label, read_prediction
from mmdefect.functional.metrics.pixel import TolerantCounter, measures, nan_mean, summarize
from tests.functional.metrics.maps import confusion


def loop_confusion(prediction, label, classes, ignore):
    counts = np.zeros((classes, classes), dtype=np.int64)
    for p, t in zip(prediction.flatten().tolist(), label.flatten().tolist(), strict=True):
        if t != ignore:
            counts[t, p] += 1
    return counts


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 6), st.integers(1, 12), st.integers(1, 12))
def test_confusion_equals_a_loop(seed, classes, height, width):
    rng = np.random.default_rng(seed)
    prediction = torch.from_numpy(rng.integers(0, classes, (height, width)))
    label = torch.from_numpy(rng.choice([*range(classes), 255], (height, width)))
    expected = loop_confusion(prediction, label, classes, 255)
    assert confusion(prediction, label, classes).tolist() == expected.tolist()


def test_hand_made_means():
    # 10 normal pixels (9 right, 1 called class 1), 2 of class 1 (1 right), class 2 absent everywhere
    counts = np.array([[9, 1, 0], [1, 1, 0], [0, 0, 0]])
    iou, accuracy = (measures(counts)[name] for name in ('IoU', 'Acc'))
    assert iou[:2] == pytest.approx([9 / 11, 1 / 3]) and math.isnan(iou[2])
    assert accuracy[:2] == pytest.approx([0.9, 0.5]) and math.isnan(accuracy[2])
    means = summarize(counts)
    assert means['aAcc'] == pytest.approx(100 * 10 / 12)
    assert means['mIoU'] == pytest.approx(100 * (9 / 11 + 1 / 3) / 2)
    assert means['fg_mIoU'] == pytest.approx(100 / 3)
    assert means['fg_mAcc'] == pytest.approx(50)


def test_nothing_counted_gives_nan_without_a_warning(recwarn):
    means = summarize(np.zeros((2, 2), np.int64))
    assert all(math.isnan(v) for v in means.values())
    assert not recwarn.list
    assert math.isnan(nan_mean(np.array([np.nan])))


@pytest.mark.parametrize(
    ('prediction', 'label', 'word'),
    [
        (torch.tensor([[0, 2]]), torch.tensor([[0, 1]]), '`prediction` must lie in 0..1'),
        (torch.tensor([[0, 1]]), torch.tensor([[0, 7]]), '`label` must lie in 0..1, got 7..7'),
        (torch.tensor([[0, 1]]), torch.tensor([[0, 1, 1]]), 'must have one shape'),
    ],
)
def test_bad_input_is_said(prediction, label, word):
    with pytest.raises(ValueError, match=word.replace('.', r'\.')):
        confusion(prediction, label, 2)


def counted(pairs, radius, classes=3):
    counter = TolerantCounter(classes, radius)
    for prediction, label in pairs:
        truth = read_label(torch.as_tensor(label), classes)
        counter.update(read_prediction(torch.as_tensor(prediction), truth), truth)
    return counter


def brute_force(pairs, radius, select):
    near, total = [0, 0], [0, 0]
    for prediction, label in pairs:
        a = np.argwhere(select(prediction) & (label != 255)).astype(float)
        b = np.argwhere(select(label) & (label != 255)).astype(float)
        total = [total[0] + len(a), total[1] + len(b)]
        if len(a) and len(b):
            distance = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
            near = [near[k] + int((distance.min(1 - k) <= radius).sum()) for k in (0, 1)]
    precision, recall = (n / t for n, t in zip(near, total, strict=True))
    f1 = statistics.harmonic_mean([precision, recall]) if precision or recall else 0.0
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


def test_f1_is_the_harmonic_mean_of_tolerant_precision_and_recall():
    """One pixel near a line of nine and far from none: precision 1, recall 3/9; one side without the other: 0."""
    label, prediction, none = np.zeros((5, 9), int), np.zeros((5, 9), int), np.zeros((5, 9), int)
    label[2, :], prediction[2, 4] = 1, 1
    assert counted([(prediction, label)], 1).compute()[1][1] == pytest.approx(2 * 1 * (1 / 3) / (1 + 1 / 3))
    assert counted([(none, label)], 1).compute()[1][1] == counted([(prediction, none)], 1).compute()[1][1] == 0


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


def test_nothing_is_nan_and_a_bad_radius_is_rejected():
    assert all(math.isnan(v) for v in counted([(np.zeros((3, 3), int), np.zeros((3, 3), int))], 2).compute()[0])
    with pytest.raises(ValueError, match='0 or more pixels'):
        TolerantCounter(3, -1)
