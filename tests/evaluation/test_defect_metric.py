"""DefectMetric against mmseg's IoUMetric and against the published tables of the golden runs."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest
import torch

from mmdefect.evaluation import DefectMetric
from tests.helpers.realdata import real_data

META = dict(classes=('normal', 'attached', 'broken'))
GOLDEN = [f'{model}_{arm}' for model in ('bisenetv1', 'deeplabv3', 'fastfcn') for arm in ('aug', 'origin')]


def sample(prediction, label, path='a.png'):
    as_data = lambda array: dict(data=torch.as_tensor(array)[None])  # noqa: E731
    return dict(pred_sem_seg=as_data(prediction), gt_sem_seg=as_data(label), img_path=path)


def metric(**kwargs):
    built = DefectMetric(**kwargs)
    built.dataset_meta = META
    return built


def test_equals_the_metric_of_mmseg():
    from mmseg.evaluation import IoUMetric
    rng = np.random.default_rng(0)
    ours, theirs = metric(), IoUMetric(iou_metrics=['mIoU'])
    theirs.dataset_meta = META
    for _ in range(5):
        label = rng.choice([0, 0, 0, 0, 1, 2, 255], (17, 23))
        prediction = rng.choice([0, 0, 0, 1, 2], (17, 23))
        for m in (ours, theirs):
            m.process({}, [sample(prediction, label)])
    got, expected = ours.evaluate(5), theirs.evaluate(5)
    for key in ('aAcc', 'mIoU', 'mAcc'):
        assert round(got[key], 2) == pytest.approx(float(expected[key]), abs=0.0101)  # mmseg counts in float32


@pytest.mark.parametrize('run', GOLDEN)
def test_golden_run_comes_out_to_the_second_decimal(run):
    real_data('wta512')
    root = real_data('wta512_golden').parent
    text = (root / 'wta512_golden' / run / 'test_log.txt').read_text()
    table = {name: (float(iou), float(acc)) for name, iou, acc in
             re.findall(r'\|\s+(\w+)\s+\|\s+([\d.]+)\s+\|\s+([\d.]+)\s+\|', text)}
    ours = metric()
    for label_path in sorted((root / 'wta512' / 'ann_dir' / 'test').glob('*.png')):
        prediction = cv2.imread(str(root / 'wta512_golden' / run / 'pred' / label_path.name), cv2.IMREAD_UNCHANGED)
        ours.process({}, [sample(prediction, cv2.imread(str(label_path), cv2.IMREAD_UNCHANGED))])
    got = ours.evaluate(60)
    for theirs, name in (('defect', 'normal'), ('attached', 'attached'), ('broken', 'broken')):
        assert (round(got[f'IoU.{name}'], 2), round(got[f'Acc.{name}'], 2)) == table[theirs]
    for key in ('aAcc', 'mIoU', 'mAcc'):
        # mmseg rounds its mean before printing
        assert round(got[key], 2) == float(re.findall(rf'{key}: ([\d.]+)', text)[-1])
    assert got['fg_mIoU'] == pytest.approx((got['IoU.attached'] + got['IoU.broken']) / 2)


def test_predictions_of_equal_names_stay_apart(tmp_path):
    ours = metric(output_dir=str(tmp_path / 'out'), output_root='/data/test')
    label = np.zeros((4, 5), np.int64)
    for kind, value in (('scratch', 1), ('hole', 2)):
        ours.process({}, [sample(np.full_like(label, value), label, f'/data/test/{kind}/000.jpg')])
    for kind, value in (('scratch', 1), ('hole', 2)):
        written = cv2.imread(str(tmp_path / 'out' / kind / '000.png'), cv2.IMREAD_UNCHANGED)
        assert written.shape == (4, 5) and (written == value).all()


def test_a_label_outside_the_classes_names_the_image():
    with pytest.raises(ValueError, match='bad.png: `label` must lie in 0..2'):
        metric().process({}, [sample(np.zeros((2, 2), np.int64), np.full((2, 2), 3), 'bad.png')])


def test_evaluating_resets_the_counts():
    ours = metric()
    ours.process({}, [sample(np.array([[1]]), np.array([[1]]))])
    assert ours.evaluate(1)['IoU.attached'] == 100
    ours.process({}, [sample(np.array([[0]]), np.array([[1]]))])
    assert ours.evaluate(1)['IoU.attached'] == 0
