"""Pixel counts against a per-pixel loop, scikit-learn-free, and hand-made cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdefect.functional.metrics.pixel import confusion_matrix, iou_and_accuracy, nan_mean, summarize


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
    assert confusion_matrix(prediction, label, classes).numpy().tolist() == expected.tolist()


def test_hand_made_means():
    # 10 normal pixels (9 right, 1 called class 1), 2 of class 1 (1 right), class 2 absent everywhere
    confusion = torch.tensor([[9, 1, 0], [1, 1, 0], [0, 0, 0]])
    iou, accuracy = iou_and_accuracy(confusion)
    assert iou[:2] == pytest.approx([9 / 11, 1 / 3]) and math.isnan(iou[2])
    assert accuracy[:2] == pytest.approx([0.9, 0.5]) and math.isnan(accuracy[2])
    means = summarize(confusion)
    assert means['aAcc'] == pytest.approx(100 * 10 / 12)
    assert means['mIoU'] == pytest.approx(100 * (9 / 11 + 1 / 3) / 2)
    assert means['fg_mIoU'] == pytest.approx(100 / 3)
    assert means['fg_mAcc'] == pytest.approx(50)


def test_nothing_counted_gives_nan_without_a_warning(recwarn):
    means = summarize(torch.zeros(2, 2, dtype=torch.int64))
    assert all(math.isnan(v) for v in means.values())
    assert not recwarn.list
    assert math.isnan(nan_mean(np.array([np.nan])))


@pytest.mark.parametrize(
    ('prediction', 'label', 'word'),
    [
        (torch.tensor([[0, 2]]), torch.tensor([[0, 1]]), '`prediction` must lie in 0..1'),
        (torch.tensor([[0, 1]]), torch.tensor([[0, 7]]), '`label` must lie in 0..1, got 0..7'),
        (torch.tensor([[0, 1]]), torch.tensor([[0, 1, 1]]), 'must have one shape'),
    ],
)
def test_bad_input_is_said(prediction, label, word):
    with pytest.raises(ValueError, match=word.replace('.', r'\.')):
        confusion_matrix(prediction, label, 2)
