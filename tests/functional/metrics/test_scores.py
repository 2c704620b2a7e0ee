"""Threshold-free metrics from bins against scikit-learn, and AUPRO against brute force over all thresholds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from mmdefect.functional.metrics.counting import read_label
from mmdefect.functional.metrics.ranking import aupro, auroc, average_precision, best_f1
from mmdefect.functional.metrics.scores import ScoreBins, ScoreCounter, ScoreKeeper, log_odds, log_scores
from tests.functional.metrics.maps import flatten, random_maps

TOLERANCE = 1e-4  # promised


def count(maps, classes, counter):
    for _, label, logits in maps:
        counter.update(log_odds(log_scores(logits, 'logits')), read_label(label, classes))
    return counter


def brute_force_aupro(maps, class_id, limit):
    """Every distinct score is a threshold; the mean over regions of the covered share; trapezoids up to the limit."""
    regions, normal, values = [], [], []
    for _, label, logits in maps:
        score = logits.double().softmax(0)
        score = (1 - score[0] if class_id is None else score[class_id]).numpy()
        label = label.numpy()
        mask = ((label > 0) & (label != 255)) if class_id is None else label == class_id
        named, number = scipy.ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [np.sort(score[named == i]) for i in range(1, number + 1)]
        normal.append(score[~mask & (label != 255)])
        values.append(score[label != 255])
    normal = np.sort(np.concatenate(normal))
    x, y = [0.0], [0.0]
    for threshold in np.unique(np.concatenate(values))[::-1]:
        x.append((len(normal) - np.searchsorted(normal, threshold)) / len(normal))
        y.append(np.mean([(len(r) - np.searchsorted(r, threshold)) / len(r) for r in regions]))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(zip(x, y, strict=True)):
        if x0 >= limit:
            break
        if x1 > limit:
            y1, x1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0), limit
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


@pytest.mark.parametrize('class_id', [1, 2, None])
@pytest.mark.parametrize(
    ('seed', 'separation', 'ignore', 'bins', 'images'),
    [
        (0, 3, False, 32768, 12),
        (1, 6, True, 32768, 12),
        (2, 1, False, 32768, 12),
        (0, 3, False, 4096, 80),
        (1, 6, True, 4096, 80),
        (3, 12, False, 4096, 80),
    ],
)
def test_bins_agree_with_scikit_learn(seed, separation, ignore, bins, images, class_id):
    """With 4096 bins this needs a thousand positives or so: two pixels that share a bin swap ranks by chance."""
    maps = random_maps(seed, images, (96, 128), ignore=ignore, separation=separation)
    truth, score = flatten(maps, class_id)
    got = count(maps, 3, ScoreCounter(3, ScoreBins(bins))).curve(class_id).ranking()
    precision, recall, _ = precision_recall_curve(truth, score)
    f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
    assert got['AP'] == pytest.approx(average_precision_score(truth, score), abs=TOLERANCE)
    assert got['AUROC'] == pytest.approx(roc_auc_score(truth, score), abs=TOLERANCE)
    # The best of all thresholds is searched among the edges of the bins: it may be missed by a pixel or two.
    assert f1 - 1e-3 < got['F1max'] < f1 + 1e-6
    assert got['IoUmax'] == pytest.approx(got['F1max'] / (2 - got['F1max']))
    chosen = score >= got['threshold']
    again = 2 * (chosen & truth).sum() / (chosen.sum() + truth.sum())
    assert got['F1max'] == pytest.approx(again, abs=3e-4)  # a pixel on the edge may fall on either side in float32


@pytest.mark.parametrize('limit', [0.3, 0.05])
@pytest.mark.parametrize('class_id', [1, None])
@pytest.mark.parametrize(('seed', 'ignore'), [(0, False), (5, True)])
def test_aupro_agrees_with_brute_force(seed, ignore, class_id, limit):
    maps = random_maps(seed, 5, (64, 80), ignore=ignore)
    expected = brute_force_aupro(maps, class_id, limit)
    for bins in (4096, 32768):
        binned = count(maps, 3, ScoreCounter(3, ScoreBins(bins))).curve(class_id).aupro(limit)
        assert binned == pytest.approx(expected, abs=TOLERANCE)
    assert count(maps, 3, ScoreKeeper(3)).curve(class_id).aupro(limit) == pytest.approx(expected, abs=1e-6)


def test_the_exact_mode_equals_scikit_learn():
    maps = random_maps(7, 4, ignore=True)
    keeper = count(maps, 3, ScoreKeeper(3))
    for class_id in (1, 2, None):
        truth, score = flatten(maps, class_id)
        got = keeper.curve(class_id).ranking()
        assert got['AP'] == pytest.approx(average_precision_score(truth, score), abs=1e-6)  # float32 log-odds
        assert got['AUROC'] == pytest.approx(roc_auc_score(truth, score), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 40))
def test_equal_scores_count_at_once_as_in_scikit_learn(seed, levels):
    """Scores of few levels, as of 8-bit maps: every level is one threshold."""
    rng = np.random.default_rng(seed)
    label = torch.from_numpy((rng.random((40, 50)) < 0.2).astype(np.int64))
    probability = np.clip(rng.normal(0.4 + 0.2 * label.numpy(), 0.2), 0, 1)
    probability = torch.from_numpy((np.round(probability * levels) / levels).astype(np.float32))
    if not label.any():
        return
    counter = ScoreCounter(2)
    counter.update(log_odds(log_scores(probability[None], 'probabilities')), read_label(label, 2))
    got, truth, score = counter.curve(1).ranking(), label.numpy().ravel(), probability.numpy().ravel()
    assert got['AP'] == pytest.approx(average_precision_score(truth, score), abs=TOLERANCE)
    assert got['AUROC'] == pytest.approx(roc_auc_score(truth, score), abs=TOLERANCE)


def test_saturated_probabilities_of_exactly_0_and_1():
    label = torch.tensor([[0, 0, 1, 1, 0, 1]])
    counter = ScoreCounter(2)
    counter.update(
        log_odds(log_scores(torch.tensor([[[0.0, 1.0, 1.0, 1.0, 0.5, 0.0]]]), 'probabilities')), read_label(label, 2)
    )
    got = counter.curve(1).ranking()
    score = [0, 1, 1, 1, 0.5, 0]
    assert got['AP'] == pytest.approx(average_precision_score(label[0].numpy(), score))
    assert got['AUROC'] == pytest.approx(roc_auc_score(label[0].numpy(), score))


@pytest.mark.parametrize('make', [lambda: ScoreCounter(3), lambda: ScoreKeeper(3)])
def test_shards_in_any_order_equal_the_whole_exactly(make):
    maps = random_maps(3, 6, ignore=True)
    whole, parts = count(maps, 3, make()), [count(maps[i::3], 3, make()) for i in range(3)]
    merged = make()
    for part in reversed(parts):
        merged.merge(part)
    for class_id in (1, 2, None):
        for name in ('positive', 'negative', 'overlap'):
            same = np.array_equal if isinstance(whole, ScoreCounter) else np.allclose
            assert same(getattr(whole.curve(class_id), name), getattr(merged.curve(class_id), name))
        assert whole.curve(class_id).ranking() == pytest.approx(merged.curve(class_id).ranking(), rel=0, abs=0)


def test_hand_made_aupro():
    """One region of 2 pixels, 4 normal pixels; scores 9 8 | 7, then 6 5 4: PRO is 1/2 at rate 0, 1/2 at 1/4, then 1."""
    overlap, negative = np.array([0.5, 0, 0.5, 0, 0, 0]), np.array([0.0, 1, 0, 1, 1, 1])
    assert aupro(overlap, 1, negative, 0.25) == pytest.approx(0.5)
    assert aupro(overlap, 1, negative, 0.5) == pytest.approx((0.25 * 0.5 + 0.25 * 1) / 0.5)
    assert aupro(overlap, 1, negative, 1.0) == pytest.approx(0.25 * 0.5 + 0.75)


def test_hand_made_ranking():
    positive, negative = np.array([1.0, 0, 1]), np.array([0.0, 1, 0])
    assert average_precision(positive, negative) == pytest.approx((1 + 2 / 3) / 2)
    assert auroc(positive, negative) == pytest.approx(0.5)
    assert best_f1(positive, negative) == (pytest.approx(0.8), 2)


def test_what_cannot_be_had_is_nan():
    nothing, some = np.zeros(4), np.ones(4)
    assert math.isnan(average_precision(nothing, some)) and math.isnan(auroc(nothing, some))
    assert math.isnan(best_f1(nothing, some)[0]) and math.isnan(aupro(nothing, 0, some, 0.3))
    assert math.isnan(auroc(some, nothing)) and math.isnan(aupro(some, 2, nothing, 0.3))
    assert average_precision(some, nothing) == 1
    for counter in (ScoreCounter(3), ScoreKeeper(3)):
        assert all(math.isnan(v) for v in counter.curve(None).ranking().values())
        assert math.isnan(counter.curve(1).aupro(0.3))


def test_evenly_mixed_bins_have_the_expected_precision():
    """The closed form of a large bin against the mean over random orders."""
    rng = np.random.default_rng(0)
    positive, negative = np.array([60.0, 40.0]), np.array([80.0, 90.0])
    orders = np.array([True] * 40 + [False] * 90)
    values = []
    for _ in range(3000):
        rng.shuffle(orders)
        ranks = np.cumsum(orders)
        values.append(((60 + ranks) / (140 + np.arange(1, 131)))[orders].sum())
    got = average_precision(positive, negative, np.array([True, False]))
    assert got == pytest.approx((60 * 60 / 140 + np.mean(values)) / 100, abs=1e-3)


@pytest.mark.parametrize('bins', [0, 7, 32770])
def test_a_bad_number_of_bins_is_rejected(bins):
    with pytest.raises(ValueError, match='even number in 2..32768'):
        ScoreBins(bins)


def test_threshold_axis_is_its_own_inverse():
    bins = ScoreBins()
    odds = torch.tensor([-30.0, -5.0, -0.01, 0.0, 2.0, 19.0])
    assert bins.log_odds_at(bins.position(odds).double().numpy()) == pytest.approx(odds.numpy(), rel=1e-2, abs=1e-4)
    assert float(bins.position(torch.tensor([0.0]))) == bins.count / 2


@pytest.mark.parametrize('class_id', [1, 2])
def test_the_points_to_draw_lie_on_the_curves(class_id):
    maps = random_maps(4, count=6)
    points = count(maps, 3, ScoreKeeper(3)).curve(class_id).points(count=50)
    labels, scores = flatten(maps, class_id)
    precision, recall, _ = precision_recall_curve(labels, scores)
    known = {(round(float(r), 6), round(float(p), 6)) for r, p in zip(recall, precision, strict=True)}
    points_to_draw = list(zip(points['recall'], points['precision'], strict=True))
    assert set(points_to_draw) <= known and 20 < len(points_to_draw) <= 60 and points_to_draw[-1][0] == 1
    area = np.trapezoid(points['pro'], points['fpr']) / 0.3
    assert points['fpr'][-1] <= 0.3 and area == pytest.approx(brute_force_aupro(maps, class_id, 0.3), abs=0.03)


def test_a_class_without_pixels_has_no_points():
    assert ScoreCounter(3).curve(1).points() == {}


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


def test_bad_scores_are_rejected():
    with pytest.raises(ValueError, match=r'must lie in \[0, 1\] as probabilities, got -3'):
        log_scores(torch.tensor([[[-3.0, 2.0]]]), 'probabilities')
    with pytest.raises(ValueError, match="got 'softmax'"):
        log_scores(torch.zeros(2, 1, 1), 'softmax')
    with pytest.raises(ValueError, match=r'\(C, H, W\)'):
        log_scores(torch.zeros(2, 1), 'logits')
