"""Fitted offsets against a grid search, the streaming table against all pixels, and the odd cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdefect.functional import calibration
from mmdefect.functional.calibration import LIMIT, MarginCounter, binned_confusion, cross_fit, decide, fit_offsets
from mmdefect.functional.metrics.counting import read_label
from mmdefect.functional.metrics.pixel import measures
from tests.functional.metrics.maps import confusion, random_maps


def shifted_maps(seed, classes=3, shift=(0.0, 4.0, 2.5), **kwargs):
    """Maps whose network over-predicts the defects, as after training with pasted ones."""
    maps = random_maps(seed, classes=classes, **kwargs)
    shift = torch.tensor([*shift, *[1.0] * classes][:classes])[:, None, None]
    return [((logits + shift).argmax(0), label, logits + shift) for _, label, logits in maps]


def counted(maps, classes=3):
    counter = MarginCounter(classes)
    for _, label, logits in maps:
        counter.update(logits, read_label(label, classes))
    return counter


def mean_iou(maps, offsets, classes=3):
    total = sum(
        confusion((logits + torch.tensor(offsets)[:, None, None]).argmax(0), label, classes)
        for _, label, logits in maps
    )
    return float(np.nanmean(measures(total)['IoU'][1:]))


@pytest.mark.parametrize('seed', range(5))
def test_the_fit_is_as_good_as_a_grid_search_and_beats_argmax(seed):
    maps = shifted_maps(seed, count=6, separation=7)
    fit = fit_offsets(*counted(maps).table())
    plain = mean_iou(maps, [0.0, 0.0, 0.0])
    grid = max(mean_iou(maps, [0.0, a, b]) for a, b in itertools.product(np.arange(-8, 2, 0.5), repeat=2))
    got = mean_iou(maps, list(fit.offsets))
    # The bins are up to .2 wide where the offsets lie; the fit may end in a local optimum beside the best.
    assert got > plain + 0.05 and got > grid - 0.01
    assert fit.value == pytest.approx(got, abs=0.02) and fit.argmax_value == pytest.approx(plain, abs=0.02)
    assert fit.offsets[0] == 0 and fit.offsets[1] < 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(['IoU', 'F1', 'recall']), st.integers(2, 4))
def test_never_below_argmax_on_the_binned_set(seed, objective, classes):
    rng = np.random.default_rng(seed)
    margins = np.round(rng.normal(-1, 3, (60, classes - 1)), 1)
    counts = rng.integers(0, 5, (60, classes)) * (rng.random((60, classes)) < 0.5)
    fit = fit_offsets(margins, counts, objective)
    if counts.sum(0)[1:].any():
        assert fit.value >= fit.argmax_value
    binned = binned_confusion(margins, counts, fit.offsets)
    assert binned.sum() == counts.sum() and (binned.sum(1) == counts.sum(0)).all()
    assert all(abs(o) <= LIMIT for o in fit.offsets)


def test_one_threshold_by_hand():
    """Defects at margins 1 and 3, normal at 2, 0 and -1: taking all from 1 on has IoU 2/3, from 3 on 1/2."""
    margins, counts = np.array([[1.0], [3], [2], [0], [-1]]), np.array([[0, 1], [0, 1], [1, 0], [1, 0], [1, 0]])
    fit = fit_offsets(margins, counts)
    assert fit.value == pytest.approx(2 / 3) and fit.argmax_value == pytest.approx(2 / 3) and fit.offsets == (0, 0)
    fit = fit_offsets(margins + 2, counts)  # now argmax takes all but one: the cut belongs between 2 and 3
    assert fit.offsets[1] == pytest.approx(-2.5) and fit.argmax_value == pytest.approx(2 / 5)
    fit = fit_offsets(margins - 2, counts, 'recall', recall_floor=1.0)  # both must be found
    assert binned_confusion(margins - 2, counts, fit.offsets)[1].tolist() == [0, 2]
    assert fit.value == pytest.approx(2 / 3)


def test_a_class_without_a_label_keeps_its_offset_and_is_named():
    maps = [(p, torch.where(label == 2, 0, label), logits) for p, label, logits in shifted_maps(0)]
    fit = fit_offsets(*counted(maps).table())
    assert fit.unfitted == (2,) and fit.offsets[2] == 0
    clean = [(p, torch.zeros_like(label), logits) for p, label, logits in maps]
    fit = fit_offsets(*counted(clean).table())
    assert fit.offsets == (0, 0, 0) and fit.unfitted == (1, 2) and np.isnan(fit.value)
    assert fit_offsets(*MarginCounter(3).table()).offsets == (0, 0, 0)


@pytest.mark.parametrize('classes', [2, 3, 4, 6])
def test_the_table_counts_every_pixel_that_counts(classes):
    maps = random_maps(1, classes=classes, ignore=True)
    margins, counts = counted(maps, classes).table()
    assert margins.shape == (len(counts), classes - 1)
    for k in range(classes):
        assert counts[:, k].sum() == sum(int((label == k).sum()) for _, label, _ in maps)
    binned = binned_confusion(margins, counts, (0.0,) * classes)
    exact = sum(confusion(p, label, classes) for p, label, _ in maps)
    # Background against defect is exact (0 is an edge), defect against defect as fine as the bins.
    assert binned[0, 0] == exact[0, 0] and np.abs(binned - exact).sum() < 0.05 * exact[:, 1:].sum() + 4


@pytest.mark.parametrize('classes', [2, 3, 6])
def test_shards_equal_the_whole(classes, monkeypatch):
    monkeypatch.setattr(calibration, 'MOST_CELLS', 500)  # so that six classes have to coarsen their bins
    maps = random_maps(2, 6, classes=classes, ignore=True)
    whole, merged = counted(maps, classes), counted(maps[4:], classes)
    merged.merge(counted(maps[:4], classes))
    for ours, theirs in zip(whole.table(), merged.table(), strict=True):
        assert np.array_equal(ours, theirs)
    assert classes < 5 or whole.bins < calibration.SPARSE_BINS


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 6))
def test_decide_is_argmax_with_offsets_and_ties_go_to_the_lowest(seed, classes):
    rng = np.random.default_rng(seed)
    scores, offsets = rng.integers(-3, 4, (classes, 5, 7)).astype(np.float32), rng.integers(-2, 3, classes)
    expected = (scores + offsets[:, None, None]).argmax(0)
    assert np.array_equal(decide(torch.from_numpy(scores), torch.from_numpy(offsets)).numpy(), expected)


@pytest.mark.parametrize(('classes', 'step'), [(2, 0.375), (3, 0.375), (3, 0.5), (5, 0.5), (5, 1.0)])
def test_on_scores_of_coarse_steps_the_fit_says_what_its_offsets_give(classes, step):
    """As of half precision or of integers: many margins are equal, and no offset may part what is equal."""
    maps = shifted_maps(3, classes=classes, count=6, separation=5)
    maps = [(p, label, (logits / step).round() * step) for p, label, logits in maps]
    fit = fit_offsets(*counted(maps, classes).table())
    assert fit.value == pytest.approx(mean_iou(maps, list(fit.offsets), classes), abs=1e-9)
    assert fit.argmax_value == pytest.approx(mean_iou(maps, [0.0] * classes, classes), abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 4), st.sampled_from([0.01, 0.0625, 0.1, 0.25, 1 / 3, 0.5, 1.0, 2.0]))
def test_what_is_delivered_gives_what_the_fit_says(seed, classes, step):
    """Exact where a bin holds one value, also where a mean of offsets falls on one; with more in it, nearly."""
    maps = shifted_maps(seed, classes=classes, count=4, separation=5)
    maps = [(p, label, (logits / step).round() * step) for p, label, logits in maps]
    fit = cross_fit(*folded(maps, classes).fold_table())
    if not len(fit.unfitted) < classes - 1:
        return  # no class has a label
    exact = (classes == 2 and step >= 0.0625) or (classes == 3 and step >= 0.5) or step >= 2
    total = sum(confusion(decide(logits, torch.tensor(fit.offsets)), label, classes) for _, label, logits in maps)
    ious = measures(total)['IoU'][[k for k in range(1, classes) if k not in fit.unfitted]]
    assert fit.value == pytest.approx(ious.mean(), abs=1e-9 if exact else 0.02)


def folded(maps, classes=3, folds=5):
    counter = MarginCounter(classes, folds)
    for number, (_, label, logits) in enumerate(maps):
        counter.update(logits, read_label(label, classes), number % folds)
    return counter


@pytest.mark.parametrize('classes', [2, 3, 5])
def test_the_cross_fit_equals_one_that_judges_image_by_image(classes):
    maps = shifted_maps(4, classes=classes, count=10, separation=6)
    maps = [(p, label, logits.round().clamp(-4, 2)) for p, label, logits in maps]  # a bin holds one value then
    got = cross_fit(*folded(maps, classes).fold_table())
    each = [
        fit_offsets(*counted([m for n, m in enumerate(maps) if n % 5 != k], classes).table()).offsets for k in range(5)
    ]

    def value(share):
        total = sum(
            confusion((logits + share * torch.tensor(each[n % 5])[:, None, None]).argmax(0), label, classes)
            for n, (_, label, logits) in enumerate(maps)
        )
        return float(np.nanmean(measures(total)['IoU'][1:]))

    values = {share: value(share) for share in calibration.SHRINKS}
    assert got.crossed_value == pytest.approx(max(values.values()), abs=1e-6)
    assert got.offsets == pytest.approx(got.shrink * np.mean(each, 0), abs=1e-6)
    assert values[got.shrink] == pytest.approx(max(values.values()), abs=1e-6) and got.decision == 'calibrated'


def test_where_offsets_fit_noise_argmax_is_delivered():
    """Defects score alike in all images but one, which lures: what is fitted with it loses on the others."""
    rng, folds, margins = np.random.default_rng(0), np.zeros((5, 40, 2), np.int64), np.linspace(-3, 3, 40)[:, None]
    for fold in range(5):
        cut = (-2.2, 1.9, -1.0, 2.4, 0.3)[fold]  # the best cut of a fold says nothing of that of the next
        folds[fold, :, 1] = rng.integers(0, 4, 40) * (margins[:, 0] > cut)
        folds[fold, :, 0] = rng.integers(0, 4, 40) * (margins[:, 0] <= cut)
    fit = cross_fit(margins, folds)
    plain = fit_offsets(margins, folds.sum(0))
    assert plain.value > plain.argmax_value and plain.offsets[1] != 0
    assert fit.shrink < 1 and abs(fit.offsets[1]) < abs(plain.offsets[1])
    one = cross_fit(margins, folds[:1])  # a single fold cannot be judged by others
    assert one.decision == 'argmax' and one.offsets == (0, 0) and one.value == one.argmax_value


def test_bad_settings_are_rejected():
    with pytest.raises(ValueError, match="got 'mIoU'"):
        fit_offsets(np.zeros((1, 1)), np.ones((1, 2)), 'mIoU')
    with pytest.raises(ValueError, match='2 to 16 classes, got 17'):
        MarginCounter(17)
