"""DefectMetric against mmseg's IoUMetric and against the published tables of the golden runs."""

from __future__ import annotations

import csv
import re

import cv2
import numpy as np
import pytest
import torch

from mmdefect.evaluation import DefectMetric
from tests.functional.metrics.maps import random_maps
from tests.helpers.realdata import real_data

META = dict(classes=('normal', 'attached', 'broken'))
GOLDEN = [f'{model}_{arm}' for model in ('bisenetv1', 'deeplabv3', 'fastfcn') for arm in ('aug', 'origin')]


def sample(prediction, label, path='a.png', logits=None):
    as_data = lambda array: dict(data=torch.as_tensor(array)[None])  # noqa: E731
    scores = {} if logits is None else dict(seg_logits=dict(data=logits))
    return dict(pred_sem_seg=as_data(prediction), gt_sem_seg=as_data(label), img_path=path, **scores)


def samples(seed, count=5, **kwargs):
    return [sample(*item[:2], f'{i}.png', item[2]) for i, item in enumerate(random_maps(seed, count, **kwargs))]


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
    table = {
        name: (float(iou), float(acc))
        for name, iou, acc in re.findall(r'\|\s+(\w+)\s+\|\s+([\d.]+)\s+\|\s+([\d.]+)\s+\|', text)
    }
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


def test_all_groups_and_a_fit_at_once():
    ours = metric(groups='all', calibration='fit')
    for item in samples(0):
        ours.process({}, [item])
    got = ours.evaluate(5)
    for key in (
        'fg_AP',
        'AUPRO30',
        'AUPRO5.broken',
        'tIoU.attached',
        'cRecall_tiny',
        'FA_per_Mpx',
        'image_AUROC',
        'cal_fg_mIoU',
    ):
        assert 0 <= got[key], key
    assert list(got) == ours.keys() and ours.calibration['classes'] == list(META['classes'])
    assert ours.calibration['offsets'][1] == got['offset.attached']


def test_scores_that_are_no_numbers_name_the_image():
    item = samples(0, 1)[0]
    item['seg_logits']['data'][1, 3, 4] = float('nan')
    with pytest.raises(ValueError, match=r'0\.png: `scores` must be finite, but 1 of'):
        metric(groups=('ranking',)).process({}, [item])


def test_one_channel_of_mmseg_is_a_probability():
    built = metric(groups=('ranking',), calibration='fit')
    built.dataset_meta = dict(classes=('normal', 'defect'))
    other = metric(groups=('ranking',), calibration='fit')
    other.dataset_meta = dict(classes=('normal', 'defect'))
    for prediction, label, logits in random_maps(3, classes=2):
        built.process({}, [sample(prediction.float(), label, logits=(logits[1] - logits[0]).sigmoid()[None])])
        other.process({}, [sample(prediction, label, logits=logits)])
    got, expected = built.evaluate(4), other.evaluate(4)
    assert got['AP.defect'] == pytest.approx(expected['AP.defect'], abs=0.01)
    assert got['threshold.defect'] == pytest.approx(expected['threshold.defect'], abs=0.01)


def test_the_calibrated_decision_is_what_is_written(tmp_path):
    items = samples(1, 2)
    ours = metric(calibration='apply', offsets=dict(attached=-2.0), decision='calibrated', output_dir=str(tmp_path))
    for item in items:
        ours.process({}, [item])
    got = ours.evaluate(2)
    offsets = torch.tensor([0.0, -2.0, 0.0])[:, None, None]
    for item in items:
        written = cv2.imread(str(tmp_path / item['img_path']), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(written, (item['seg_logits']['data'] + offsets).argmax(0).numpy())
    assert (
        got['offset.attached'] == -2
        and got['offset.broken'] == 0
        and (got['IoU.attached'] == got['cal_IoU.attached'] != got['argmax_IoU.attached'])
    )


def test_one_line_an_image_from_which_the_totals_follow(tmp_path):
    ours = metric(groups='all', calibration='apply', offsets={}, per_image=str(tmp_path / 'images.csv'))
    for item in reversed(samples(2)):
        ours.process({}, [item])
    got = ours.evaluate(5)
    rows = list(csv.DictReader((tmp_path / 'images.csv').open()))
    assert [row['image'] for row in rows] == [f'{i}.png' for i in range(5)]
    total = {key: sum(int(row[f'{key}.broken']) for row in rows) for key in ('hit', 'predicted', 'labelled', 'cal_hit')}
    iou = total['hit'] / (total['predicted'] + total['labelled'] - total['hit'])
    assert got['IoU.broken'] == pytest.approx(100 * iou) and total['cal_hit'] == total['hit']
    assert [row['defective'] for row in rows] == ['True', 'True', 'False', 'True', 'True'] and float(rows[0]['score'])


@pytest.mark.parametrize(
    ('kwargs', 'words'),
    [
        (dict(groups=('pixels',)), '`groups` must be some of'),
        (dict(calibration='yes'), '`calibration` must be one of'),
        (dict(scores='softmax'), '`scores` must be one of'),
        (dict(decision='best'), '`decision` must be one of'),
        (dict(calibration='fit', decision='calibrated'), 'only when all images are seen'),
    ],
)
def test_a_bad_option_shows_the_valid_ones(kwargs, words):
    with pytest.raises(ValueError, match=words):
        DefectMetric(**kwargs)


def test_offsets_of_unknown_classes_are_rejected():
    with pytest.raises(ValueError, match=r"must name defect classes, some of \['attached', 'broken'\], got \['dent'\]"):
        metric(calibration='apply', offsets=dict(dent=1.0)).process({}, samples(0, 1))


def _rank(rank, store, out):
    torch.distributed.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)
    torch.set_num_threads(1)
    results = []
    for kwargs in (dict(), dict(exact=True)):
        ours = metric(groups='all', calibration='fit', per_image=f'{out}/images.csv', **kwargs)
        for item in samples(7, 6)[:5][rank * 4 : rank * 4 + 4]:  # 4 images and 1
            ours.process({}, [item])
        results.append(ours.evaluate(5))
    empty = metric(groups='all', calibration='fit')
    if rank == 0:
        empty.process({}, samples(7, 6)[:1])
    results.append(empty.evaluate(1))
    torch.save(results, f'{out}/{rank}.pt')
    torch.distributed.destroy_process_group()


def test_two_ranks_equal_one_process(tmp_path):
    torch.multiprocessing.spawn(_rank, (str(tmp_path / 'store'), str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f'{rank}.pt', weights_only=False) for rank in (0, 1)]
    for index, (kwargs, count) in enumerate([(dict(), 5), (dict(exact=True), 5), (dict(), 1)]):
        ours = metric(groups='all', calibration='fit', **kwargs)
        for item in samples(7, 6)[:count]:
            ours.process({}, [item])
        expected = ours.evaluate(count)
        for got in ranks:
            assert got[index] == pytest.approx(expected, rel=1e-12, nan_ok=True)
    assert len((tmp_path / 'images.csv').read_text().splitlines()) == 6


def test_test_time_augmentation_judges_the_average():
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    from mmdefect.models.tta import DefectTTAModel

    views = []
    for seed in (0, 1):
        view = SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, 5, 7, dtype=torch.long)))
        view.set_metainfo(dict(img_path='a.png'))
        view.seg_logits = PixelData(data=torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(seed)))
        views.append(view)
    merged = DefectTTAModel.merge_preds(None, [views])[0]
    mean = (views[0].seg_logits.data.softmax(0) + views[1].seg_logits.data.softmax(0)) / 2
    assert torch.allclose(merged.seg_logits.data, mean) and merged.img_path == 'a.png'
    assert torch.equal(merged.pred_sem_seg.data[0], mean.argmax(0)) and 'gt_sem_seg' in merged
