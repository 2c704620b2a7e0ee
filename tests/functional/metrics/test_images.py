"""What each image adds: metrics from it against those of all scores, and against counting again without the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmdefect.functional.metrics import images as im
from mmdefect.functional.metrics.defect import DefectCounters

CLASSES = ('normal', 'a', 'b')
NAMES = ('any_AP', 'any_AUROC', 'any_F1max', 'AUPRO30', 'AUPRO5', 'image_AUROC', 'image_AP', 'cRecall', 'FA_per_image')
EXACT = ('FA_images', 'any_IoU', 'fg_mIoU', 'cal_any_IoU', 'cal_fg_mIoU', 'cRecall', 'FA_per_image', 'image_AUROC')

GROUPS = ('pixel', 'components', 'ranking', 'pro', 'image')


def scenes(count=12, side=48):
    rng = np.random.default_rng(0)
    for k in range(count):
        label = np.zeros((side, side), np.int64)
        if k % 3:
            label[5 : 9 + k, 7:20] = k % 3
            label[40:44, 30 : 33 + k] = 3 - k % 3
        logits = rng.normal(0, 1.2, (3, side, side)).astype(np.float32)
        logits[0] += 2
        for c in (1, 2):
            logits[c] += 3.0 * (label == c) * rng.random()
        yield f'part/{k}', torch.from_numpy(logits), torch.from_numpy(label)


def counted(leave_out=None, **options):
    counters = DefectCounters(CLASSES, GROUPS, offsets=(0.0, 0.4, -0.2), keep_images=True, **options)
    seen = []
    for name, logits, label in scenes():
        if name != leave_out:
            seen.append({**(image := counters.update(logits.argmax(0), label, logits)), **image['added'], 'name': name})
    return counters.compute(), seen


@pytest.fixture(scope='module')
def evidence(tmp_path_factory):
    path = tmp_path_factory.mktemp('test') / im.EVIDENCE_NAME
    metrics, seen = counted()
    im.write_evidence(path, seen)
    return metrics, im.unpack_evidence(im.pack_evidence(path))


def test_metrics_of_all_images_are_those_of_the_test(evidence):
    metrics, table = evidence
    for name in {*NAMES, *EXACT}:
        value, without = im.without_each(table, name)
        # 160 bins instead of 32,768; what needs no scores of pixels is exact
        assert value == pytest.approx(metrics[name], abs=1e-4 if name in EXACT else 0.1), name
        assert without.shape == (12,)
    assert im.without_each(table, 'AP.a') is None


def test_without_an_image_is_counting_again_without_it(evidence):
    _, table = evidence
    for k, left in ((4, 'part/4'), (3, 'part/3')):
        again, _ = counted(left)
        place = table['names'].tolist().index(left)
        for name in {*NAMES, *EXACT}:
            tolerance = 1e-4 if name in EXACT else 0.15
            assert im.without_each(table, name)[1][place] == pytest.approx(again[name], abs=tolerance), (k, name)
    assert table['positives'].shape[1] < 170
