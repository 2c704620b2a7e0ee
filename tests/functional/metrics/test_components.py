"""Component recall and false alarms against scipy.ndimage, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdefect.functional.metrics.components import SIZES, ComponentCounter
from mmdefect.functional.metrics.counting import read_label, read_prediction, regions

TOUCHING = np.ones((3, 3))


def counted(pairs, classes=3, **kwargs):
    counter = ComponentCounter(classes, **kwargs)
    for prediction, label in pairs:
        truth = read_label(torch.as_tensor(label), classes)
        counter.update(read_prediction(torch.as_tensor(prediction), truth), truth)
    return counter


def oracle(pairs, edges, coverage, least):
    found, total = {}, {}
    clean = pixels = alarms = 0
    for prediction, label in pairs:
        valid = label != 255
        for key in (0, 1, 2):
            mask = ((label > 0) & valid) if key == 0 else label == key
            hit = prediction > 0 if key == 0 else prediction == key
            named, number = scipy.ndimage.label(mask, TOUCHING)
            for i in range(1, number + 1):
                area = (named == i).sum()
                size = sum(area >= e for e in edges)
                total[key, size] = total.get((key, size), 0) + 1
                found[key, size] = found.get((key, size), 0) + (hit[named == i].mean() >= coverage)
        if valid.any() and not ((label > 0) & valid).any():
            clean, pixels = clean + 1, pixels + valid.sum()
            named, number = scipy.ndimage.label((prediction > 0) & valid, TOUCHING)
            alarms += sum((named == i).sum() >= least for i in range(1, number + 1))
    return found, total, clean, pixels, alarms


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.25, 0.5, 1.0]), st.integers(1, 4))
def test_equals_scipy(seed, coverage, least):
    rng = np.random.default_rng(seed)
    pairs = []
    for density in (0.05, 0.3, 0.0):
        label = rng.choice(
            [0, 1, 2, 255], (20, 31), p=[0.9 - density, density, 0.05 if density else 0, 0.05 if density else 0.1]
        )
        pairs.append((rng.choice([0, 1, 2], (20, 31), p=[0.8, 0.15, 0.05]), label))
    edges = (3, 6, 12)
    found, total, clean, pixels, alarms = oracle(pairs, edges, coverage, least)
    got = counted(pairs, size_edges=edges, min_coverage=coverage, min_alarm_area=least).compute()
    share = lambda keys: sum(found.get(k, 0) for k in keys) / max(1, sum(total.get(k, 0) for k in keys))  # noqa: E731
    assert got['all'] == pytest.approx(share([(0, s) for s in range(4)]))
    for k in (1, 2):
        assert got[f'class.{k}'] == pytest.approx(share([(k, s) for s in range(4)]), nan_ok=True)
    for i, name in enumerate(SIZES):
        if (0, i) in total:
            assert got[name] == pytest.approx(share([(0, i)]))
        else:
            assert math.isnan(got[name])
    assert got['alarms_per_image'] == pytest.approx(alarms / clean)
    assert got['alarms_per_megapixel'] == pytest.approx(1e6 * alarms / pixels)


def test_by_hand():
    label = np.zeros((4, 12), int)
    label[0, 0:2] = 1  # 2 px, half covered
    label[2:4, 4:10] = 1  # 12 px, one covered
    label[0, 11] = 2  # 1 px, called class 1
    prediction = np.zeros_like(label)
    prediction[0, 1] = prediction[2, 4] = prediction[0, 11] = 1
    got = counted([(prediction, label)]).compute()
    assert (got['class.1'], got['class.2'], got['tiny'], got['small']) == (0.5, 0, 1, 0)
    assert got['all'] == pytest.approx(2 / 3) and math.isnan(got['large']) and math.isnan(got['alarms_per_image'])


def test_false_alarms_by_hand():
    clean, two = np.zeros((10, 10), int), np.zeros((10, 10), int)
    two[0, 0] = two[5, 5] = two[6, 6] = 1  # the last two touch diagonally
    got = counted([(two, clean), (clean, clean)]).compute()
    assert (got['alarms_per_image'], got['alarm_images'], got['alarms_per_megapixel']) == (1, 0.5, 1e4)
    assert counted([(two, clean)], min_alarm_area=2).compute()['alarms_per_image'] == 1
    assert math.isnan(counted([(two, np.full((10, 10), 255))]).compute()['alarms_per_image'])


def test_shards_equal_the_whole():
    rng = np.random.default_rng(0)
    pairs = [
        (rng.choice([0, 1, 2], (9, 9), p=[0.8, 0.1, 0.1]), rng.choice([0, 1, 2], (9, 9), p=[0.8, 0.1, 0.1]))
        for _ in range(6)
    ]
    whole, merged = counted(pairs), counted(pairs[4:])
    merged.merge(counted(pairs[:4]))
    assert all(torch.equal(value, merged.sums[name]) for name, value in whole.sums.items())


def test_regions_touch_diagonally_and_not_around_the_border():
    mask = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]])
    region, area = regions(mask.flatten().nonzero().squeeze(1), (4, 4))
    assert sorted(area.tolist()) == [1, 1, 1, 2] and region[0] == region[2]


@pytest.mark.parametrize(
    ('kwargs', 'words'),
    [(dict(size_edges=(9, 3, 12)), 'three growing areas'), (dict(min_coverage=0), r'share in \(0, 1\]')],
)
def test_bad_settings_are_rejected(kwargs, words):
    with pytest.raises(ValueError, match=words):
        ComponentCounter(3, **kwargs)
