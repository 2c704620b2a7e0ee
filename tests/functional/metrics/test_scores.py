"""Log-odds against softmax in float64, for logits and probabilities, with one channel and many."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdefect.functional.metrics.scores import log_odds, log_scores


def oracle(logits):
    p = logits.double().softmax(0).reshape(len(logits), -1)
    return torch.stack([(p[k] / (p.sum(0) - p[k])).log() for k in range(1, len(p))] + [(p[1:].sum(0) / p[0]).log()])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 7))
def test_log_odds_equal_those_of_softmax(seed, classes):
    logits = torch.from_numpy(np.random.default_rng(seed).normal(0, 4, (classes, 5, 6)).astype(np.float32))
    expected = oracle(logits)
    got = log_odds(log_scores(logits, 'logits'))
    assert len(got) == (1 if classes == 2 else classes)
    assert torch.allclose(got.double(), expected[: len(got)], atol=1e-4)
    from_probabilities = log_odds(log_scores(logits.double().softmax(0).float(), 'probabilities'))
    assert torch.allclose(from_probabilities.double(), expected[: len(got)], atol=1e-3)


def test_scores_far_beyond_float32_probabilities_stay_apart():
    logits = torch.tensor([0.0, 40.0, 60.0, 5.0]).reshape(1, 1, 4)
    assert log_odds(log_scores(logits, 'logits'))[0].tolist() == [0, 40, 60, 5]
    three = torch.tensor([[-50.0, 0.0], [60.0, -70.0], [-300.0, 0.0]]).reshape(3, 1, 2)
    odds = log_odds(log_scores(three, 'logits'))
    assert torch.isfinite(odds).all() and odds[0, 0] == pytest.approx(110) and odds[2, 1] == pytest.approx(0, abs=1e-4)


def test_one_channel_is_the_defect():
    p = torch.tensor([[[0.25, 0.5]]])
    assert log_odds(log_scores(p, 'probabilities'))[0].tolist() == pytest.approx([np.log(1 / 3), 0], abs=1e-6)
    assert log_odds(log_scores(p, 'logits'))[0].tolist() == [0.25, 0.5]


def test_bad_scores_are_refused():
    with pytest.raises(ValueError, match=r'must lie in \[0, 1\] as probabilities, got -3'):
        log_scores(torch.tensor([[[-3.0, 2.0]]]), 'probabilities')
    with pytest.raises(ValueError, match="got 'softmax'"):
        log_scores(torch.zeros(2, 1, 1), 'softmax')
    with pytest.raises(ValueError, match=r'\(C, H, W\)'):
        log_scores(torch.zeros(2, 1), 'logits')
