"""Thresholds and fitted offsets are one decision; 0.5 is argmax."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmdefect.deployment.decision import decide_labels, thresholds_from_offsets
from mmdefect.functional.calibration import decide


def probabilities(classes, seed=0):
    logits = np.random.default_rng(seed).normal(0, 2, (classes, 40, 50)).astype(np.float32)
    return logits, (np.exp(logits) / np.exp(logits).sum(0)).astype(np.float32)


@pytest.mark.parametrize('classes', [2, 3, 7])
def test_half_is_argmax(classes):
    _, p = probabilities(classes)
    np.testing.assert_array_equal(decide_labels(p, [0.5] * (classes - 1)), p.argmax(0))


def test_with_one_class_it_is_the_threshold_on_its_probability():
    _, p = probabilities(2)
    for threshold in (0.05, 0.5, 0.9):
        np.testing.assert_array_equal(decide_labels(p, [threshold]), p[1] > threshold)


def test_offsets_of_a_validation_decide_the_same():
    logits, p = probabilities(4)
    offsets = (0.0, 1.3, -2.0, -11.5)
    expected = decide(torch.from_numpy(logits), torch.tensor(offsets)).numpy()
    got = decide_labels(p, thresholds_from_offsets(offsets))
    assert (got != expected).mean() <= 1e-3  # float32 ties
    assert thresholds_from_offsets((0.0, 0.0)) == (0.5,)


def test_against_normal_alone_each_threshold_reads_as_a_probability():
    p = np.array([[0.3, 0.3], [0.2, 0.4], [0.5, 0.3]], np.float32)[:, :, None]
    # class 1 against normal: 0.4 and 0.57; class 2: 0.625 and 0.5
    np.testing.assert_array_equal(decide_labels(p, (0.99, 0.6))[:, 0], [2, 0])
    np.testing.assert_array_equal(decide_labels(p, (0.55, 0.7))[:, 0], [0, 1])
