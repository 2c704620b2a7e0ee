"""Counts of single images against scikit-learn and the published tables."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import jaccard_score, precision_score, recall_score

from mmdefect.experiments.evidence.counts import (
    Counts,
    confusion,
    count_predictions,
    counts_of,
    metrics,
    paired_folders,
    read_labels,
)
from tests.experiments import study_helpers as helpers
from tests.helpers.realdata import real_data


def test_metrics_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    label, prediction = rng.integers(0, 3, (2, 8, 20, 30))
    values = np.stack([counts_of(confusion(p, t, 3)) for p, t in zip(prediction, label, strict=True)])
    got = metrics(values.sum(0), ('a', 'b', 'c'))
    y, p = label.ravel(), prediction.ravel()
    for key, score in (('IoU', jaccard_score), ('Acc', recall_score), ('Precision', precision_score)):
        expected = 100 * score(y, p, average=None)
        assert [got[f'{key}.{name}'] for name in 'abc'] == pytest.approx(list(expected))
    assert got['fg_mIoU'] == pytest.approx(100 * jaccard_score(y, p, average=None)[1:].mean())
    assert got['aAcc'] == pytest.approx(100 * (y == p).mean())


def test_ignored_pixels_and_absent_classes():
    label, prediction = np.array([[0, 255, 1]]), np.array([[0, 2, 1]])
    values = counts_of(confusion(prediction, label, 3))
    assert values.tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]
    got = metrics(values, ('a', 'b', 'c'))
    assert np.isnan(got['IoU.c']) and got['fg_mIoU'] == 100


def test_a_leading_axis_of_resamples_is_kept():
    values = np.arange(2 * 3 * 3).reshape(2, 3, 3) + 1.0
    got = metrics(values, ('a', 'b', 'c'))
    assert got['fg_mIoU'].shape == (2,) and got['fg_mIoU'][1] == metrics(values[1], ('a', 'b', 'c'))['fg_mIoU']


def test_counts_survive_json():
    counts = Counts(('x', 'y/z'), ('a', 'b'), np.arange(12).reshape(2, 2, 3))
    again = Counts.from_json(counts.to_json())
    assert (again.names, again.classes) == (counts.names, counts.classes) and (again.values == counts.values).all()


@pytest.mark.parametrize(
    ('prediction', 'label', 'words'),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), 'one size'),
        (np.full((1, 1), 2), np.zeros((1, 1), int), 'below 2'),
        (np.zeros((1, 1), int), np.full((1, 1), 7), 'below 2'),
    ],
)
def test_wrong_maps_are_refused(prediction, label, words):
    with pytest.raises(ValueError, match=words):
        confusion(prediction, label, 2)


def test_a_missing_prediction_and_a_coloured_one_are_named(tmp_path):
    helpers.write_data(tmp_path)
    truth = helpers.truth(tmp_path)
    with pytest.raises(FileNotFoundError, match=r'6 are missing, the first is part\.0\.png'):
        count_predictions(tmp_path / 'none', truth)
    with pytest.raises(ValueError, match='one channel'):
        read_labels(tmp_path / 'img_dir' / 'test' / 'part.0.png')


PUBLISHED = {  # IoU and Acc of attached and broken in the logs of the six runs
    'bisenetv1_origin': (30.84, 50.58, 22.94, 23.94),
    'fastfcn_origin': (43.96, 56.81, 27.42, 30.12),
    'deeplabv3_aug': (41.44, 50.54, 22.28, 23.61),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_the_published_runs_come_out_to_the_second_decimal(name):
    root, golden = real_data('wta512'), real_data('wta512_golden', name)
    truth = paired_folders(root / 'img_dir' / 'test', root / 'ann_dir' / 'test', helpers.CLASSES, helpers.PALETTE)
    counts, _ = count_predictions(golden / 'pred', truth)
    got = metrics(counts.values.sum(0), truth.classes)
    keys = ('IoU.attached', 'Acc.attached', 'IoU.broken', 'Acc.broken')
    assert tuple(round(float(got[key]), 2) for key in keys) == PUBLISHED[name]
