"""All groups together: keys, odd cases, shards, and the values that several groups must agree on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, precision_score, roc_auc_score

from mmdefect.functional.metrics.counting import pack, unpack
from mmdefect.functional.metrics.defect import GROUPS, DefectCounters
from tests.functional.metrics.maps import flatten, random_maps

CLASSES = ('normal', 'attached', 'broken')


def counted(maps, classes=CLASSES, groups=GROUPS, **kwargs):
    counters = DefectCounters(classes, groups, **kwargs)
    for prediction, label, logits in maps:
        counters.update(prediction, label, logits)
    return counters


def test_pixel_values_equal_scikit_learn():
    maps = random_maps(0, ignore=True)
    got = counted(maps).compute()
    labels = np.concatenate([label[label != 255].numpy() for _, label, _ in maps])
    predicted = np.concatenate([p[label != 255].numpy() for p, label, _ in maps])
    for k, name in enumerate(CLASSES):
        for key, score in (('IoU', jaccard_score), ('F1', f1_score), ('Precision', precision_score)):
            assert got[f'{key}.{name}'] == pytest.approx(100 * score(labels == k, predicted == k))
    assert got['any_F1'] == pytest.approx(100 * f1_score(labels > 0, predicted > 0))
    assert got['fg_mF1'] == pytest.approx((got['F1.attached'] + got['F1.broken']) / 2)
    truth, score = flatten(maps, None)
    assert got['any_AP'] == pytest.approx(100 * average_precision_score(truth, score), abs=0.01)
    assert got['fg_AP'] == pytest.approx((got['AP.attached'] + got['AP.broken']) / 2)


def test_image_means_skip_images_without_the_class():
    maps = random_maps(4, 6)
    got = counted(maps).compute()
    for k, name in enumerate(CLASSES[1:], start=1):
        values = [
            ((p == k) & (label == k)).sum() / ((p == k) | (label == k)).sum()
            for p, label, _ in maps
            if ((p == k) | (label == k)).any()
        ]
        assert got[f'iIoU.{name}'] == pytest.approx(100 * float(np.mean(values)))
        recalls = [float((p[label == k] == k).float().mean()) for p, label, _ in maps if (label == k).any()]
        assert got[f'iAcc.{name}'] == pytest.approx(100 * np.mean(recalls), abs=1e-4)


def test_image_level_values_equal_scikit_learn():
    maps = random_maps(5, 12, separation=1)
    got = counted(maps, groups=('image',)).compute()
    truth = [bool((label > 0).any()) for _, label, _ in maps]
    score = [float((1 - logits.double().softmax(0)[0]).max()) for _, _, logits in maps]
    assert got['image_AUROC'] == pytest.approx(100 * roc_auc_score(truth, score))
    assert got['image_AP'] == pytest.approx(100 * average_precision_score(truth, score))
    best = max(f1_score(truth, np.array(score) >= t) for t in score)
    assert got['image_F1max'] == pytest.approx(100 * best)


def test_shards_in_any_order_equal_the_whole_exactly():
    maps = random_maps(6, 7, ignore=True)
    whole, merged = counted(maps, fit='IoU'), counted(maps[5:], fit='IoU')
    merged.merge(counted(maps[2:5], fit='IoU'))
    merged.merge(counted(maps[:2], fit='IoU'))
    assert merged.compute() == pytest.approx(whole.compute(), rel=0, abs=0, nan_ok=True)


def test_packed_sums_of_two_ranks_add_up():
    maps = random_maps(8, 6)
    one, two, whole = counted(maps[:2], fit='IoU'), counted(maps[2:], fit='IoU'), counted(maps, fit='IoU')
    unpack(pack(one.counters()) + pack(two.counters()), one.counters())
    one.images += two.images
    assert one.compute() == pytest.approx(whole.compute(), rel=0, abs=0, nan_ok=True)


def test_the_size_of_the_state_does_not_grow():
    small, large = (counted(random_maps(0, n), fit='IoU') for n in (1, 9))
    assert pack(small.counters()).numel() == pack(large.counters()).numel()
    assert len(large.images) == 9 and set(large.images[0]) == {
        *('defective', 'score', 'regions', 'rejected', 'labelled')
    }


def test_probabilities_give_what_logits_give():
    maps = random_maps(9, ignore=True)
    as_probabilities = [(p, label, logits.double().softmax(0).float()) for p, label, logits in maps]
    expected = counted(maps, fit='IoU').compute()
    got = counted(as_probabilities, fit='IoU', kind='probabilities').compute()
    assert got == pytest.approx(expected, abs=0.3, nan_ok=True)  # a pixel on the edge of a bin may change sides


def test_one_channel_equals_two():
    maps = random_maps(10, classes=2)
    one = [(p, label, (logits[1] - logits[0]).sigmoid()[None]) for p, label, logits in maps]
    expected = counted(maps, ('normal', 'defect'), fit='IoU').compute()
    got = counted(one, ('normal', 'defect'), fit='IoU', kind='probabilities').compute()
    assert got == pytest.approx(expected, abs=0.3, nan_ok=True)
    assert got['AP.defect'] == got['any_AP'] == got['fg_AP']


def test_applied_offsets_give_the_values_of_the_fit():
    maps = [(logits.argmax(0), label, logits) for _, label, logits in random_maps(11, 6, separation=6)]
    shifted = [(p, label, logits + torch.tensor([0.0, 3.0, 2.0])[:, None, None]) for p, label, logits in maps]
    fitting = counted(shifted, fit='IoU')
    fitted = fitting.compute()
    applied = counted(shifted, offsets=fitting.calibration.offsets).compute()
    assert applied['cal_fg_mIoU'] == pytest.approx(fitted['cal_fg_mIoU'], abs=2)  # the width of a bin
    assert applied['offset.broken'] == fitted['offset.broken'] == fitting.calibration.offsets[2]
    assert applied['fg_mIoU'] == fitted['fg_mIoU']


@pytest.mark.parametrize('exact', [False, True])
@pytest.mark.parametrize('what', ['clean', 'ignored', 'absent', 'nothing'])
def test_odd_sets_give_nan_and_no_warning(what, exact, recwarn):
    maps = random_maps(12)
    change = dict(
        clean=lambda label: label * 0,
        ignored=lambda label: label * 0 + 255,
        absent=lambda label: torch.where(label == 2, 0, label),
        nothing=None,
    )[what]
    maps = [(p, change(label), logits) for p, label, logits in maps] if change else []
    got = counted(maps, exact=exact, fit='IoU').compute()
    if what == 'absent':
        assert math.isnan(got['AP.broken']) and got['fg_AP'] == got['AP.attached'] and got['offset.broken'] == 0
    else:
        for key in ('fg_AP', 'any_AUROC', 'AUPRO30', 'image_AUROC', 'cRecall'):
            assert math.isnan(got[key]), key
    if what == 'clean':
        assert got['FA_per_image'] > 0 and got['IoU.attached'] == 0
    assert not [w for w in recwarn.list if issubclass(w.category, RuntimeWarning)]


def test_keys_do_not_depend_on_the_data():
    full, empty = counted(random_maps(0), fit='IoU').compute(), counted([], fit='IoU').compute()
    assert list(full) == list(empty)


@pytest.mark.parametrize(
    ('spoil', 'words'),
    [
        (
            lambda p, t, s: (p, t, s.index_fill(0, torch.tensor([1]), np.nan)),
            'must be finite, but 3072 of 9216 are not',
        ),
        (lambda p, t, s: (p, t, s / 0), 'must be finite'),
        (lambda p, t, s: (p, t, None), 'need scores, got none'),
        (lambda p, t, s: (p, t, s[:2]), 'must have 3 channels'),
        (lambda p, t, s: (p, t, s[:, ::2]), 'must have the size of the label'),
        (lambda p, t, s: (p[::2], t, s), 'must have one shape'),
        (lambda p, t, s: (p + 5, t, s), r'`prediction` must lie in 0\.\.2, got 5'),
        (lambda p, t, s: (p, t + 7, s), r'`label` must lie in 0\.\.2, got 7'),
    ],
)
def test_bad_input_is_said(spoil, words):
    with pytest.raises(ValueError, match=words):
        DefectCounters(CLASSES, GROUPS).update(*spoil(*random_maps(0, 1)[0]))


def test_large_finite_scores_pass():
    prediction, label, logits = random_maps(0, 1)[0]
    counters = DefectCounters(CLASSES, GROUPS, fit='IoU')
    counters.update(prediction, label, logits * 1e35)  # their sum overflows
    assert math.isfinite(counters.compute()['fg_AP'])


def test_an_unknown_group_is_rejected():
    with pytest.raises(ValueError, match='must be some of'):
        DefectCounters(CLASSES, ('pixels',))
