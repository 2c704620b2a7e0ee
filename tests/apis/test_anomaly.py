"""Pretraining, fitting, testing, prediction, localisation and explanation, end to end on the demo data."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from urllib.error import URLError

import cv2
import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from mmdefect.apis import train
from mmdefect.apis.anomaly import (
    UNTRAINED,
    evaluate_anomaly,
    explain_anomaly,
    fit_anomaly,
    list_inputs,
    localize_anomaly,
    predict_anomaly,
)
from mmdefect.apis.anomaly_eval import (
    CATEGORIES,
    PUBLISHED,
    DetectorResult,
    pixel_metrics,
    roc_points,
    rows_of,
    table_text,
)
from mmdefect.apis.anomaly_fit import candidates_of, compare_candidates, detector_of_config, fit_detector
from mmdefect.apis.config import load_config
from mmdefect.datasets.mvtec import find_categories
from mmdefect.datasets.samples import Sample, list_images
from mmdefect.demo.write import write_demo_dataset
from mmdefect.models.anomaly_detector import AnomalyDetector

CONFIG = Path(__file__).resolve().parents[2] / 'configs' / 'cutpaste' / 'resnet18-l3_3way-scratch_256_mvtec-256.py'
SMALL = {'image_scale': (64, 64), 'model.backbone.base_channels': 8, 'model.backbone.stem_channels': 8}
QUICK = {
    **SMALL,
    'train_dataloader.batch_size': 4,
    'train_dataloader.num_workers': 0,
    'val_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'val_dataloader.persistent_workers': False,
    'train_cfg.max_iters': 4,
    'train_cfg.val_interval': 4,
    'default_hooks.checkpoint.interval': 4,
    'default_hooks.logger.interval': 1,
    'vis_backends': [dict(type='LocalVisBackend')],
    'visualizer.vis_backends': [dict(type='LocalVisBackend')],
}


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp('demo')
    write_demo_dataset(root, ('mvtec',), 60, (128, 128), 0, False)
    return root / 'mvtec'


@pytest.fixture(scope='module')
def category(data_root):
    return next(iter(find_categories(str(data_root))))


def pretrain(work_dir, data_root, category, **options):
    train(CONFIG, work_dir, cfg_options={**QUICK, 'data_root': str(data_root), 'category': category, **options})
    return torch.load(work_dir / 'iter_4.pth', map_location='cpu', weights_only=False)['state_dict']


@pytest.mark.slow
@pytest.mark.parametrize('patch', [None, 32])
def test_pretraining_is_deterministic(tmp_path, data_root, category, patch):
    first, second = (pretrain(tmp_path / name, data_root, category, patch=patch) for name in 'ab')
    assert first.keys() == second.keys() and all(torch.equal(v, second[n]) for n, v in first.items())
    log = next((tmp_path / 'a').rglob('*.log')).read_text()
    assert 'views/AUROC' in log and re.search(r'Iter\(train\) \[4/4\]', log)


@pytest.mark.slow
def test_from_pretraining_to_pseudo_labels(tmp_path, data_root, category):
    pretrain(tmp_path / category, data_root, category)
    rows = evaluate_anomaly(
        CONFIG,
        data_root,
        [category],
        tmp_path / 'eval',
        str(tmp_path / '{category}' / 'iter_4.pth'),
        layer='layer2',
        localize='fast',
        cfg_options=SMALL,
    )
    assert [(r['category'], r['arm']) for r in rows] == [
        (category, UNTRAINED),
        (category, 'CutPaste'),
        ('average', UNTRAINED),
        ('average', 'CutPaste'),
    ]
    assert all(0 <= r[m] <= 100 for r in rows for m in ('AUROC', 'AP', 'pixel_AUROC', 'pixel_AP', 'AUPRO'))
    page = (tmp_path / 'eval' / 'report.html').read_text()
    assert not re.search(r'(?:src|href)="(?!data:|#)', page) and page.count('data:image/') > 8
    assert {p.name for p in (tmp_path / 'eval' / 'figures').iterdir()} == {
        f'{category}_{name}.png' for name in ('roc', 'scores_0', 'scores_1', 'tsne')
    }
    assert (tmp_path / 'eval' / 'table.md').read_text() == table_text(rows)

    model = tmp_path / 'eval' / 'models' / f'{category}_cutpaste.pth'
    test = data_root / category / 'test'
    found = sorted(test.glob('*/*.png'))
    photos = [str(p) for p in (*found[:2], found[-1])]  # of two folders, so the folders are kept
    predicted = predict_anomaly(model, photos, tmp_path / 'predicted')
    with open(tmp_path / 'eval' / 'scores.csv', newline='') as file:
        tested = {r['image']: float(r['score']) for r in csv.DictReader(file) if r['arm'] == 'CutPaste'}
    for row in predicted:
        assert row['normalized'] == pytest.approx(tested[row['image']], abs=1e-3)
        assert row['anomaly'] == int(row['normalized'] > 1) and (tmp_path / 'predicted' / row['heat_map']).is_file()

    localized = localize_anomaly(model, photos, tmp_path / 'labels', threshold=0.5)
    for row in localized:
        name = Path(row['image']).relative_to(test)
        label, heat = (cv2.imread(str(tmp_path / 'labels' / part / name), -1) for part in ('ann_dir', 'heat'))
        assert label.shape == (128, 128) and set(np.unique(label)) <= {0, 1} and label.sum() == row['defect_pixels']
        assert heat.dtype == np.uint16 and ((heat > 5000) == (label == 1)).mean() > 0.999
    written = explain_anomaly(model, photos[:1], 'layer2', tmp_path / 'cams')
    assert [Path(f).is_file() for f in written] == [True]


def test_detectors_and_choice_without_training(data_root, category):
    fitted = fit_anomaly(
        CONFIG,
        data_root,
        category,
        cfg_options=SMALL,
        localize='exact',
        progress=None,
        calibrate=6,
        settings=dict(stride=16),
    )
    assert fitted.mode == 'exact' and fitted.scales['score'].count == 6 and fitted.scales['heat'].maximum > 0
    assert fitted.settings.facts['arm'] == UNTRAINED
    candidates = candidates_of([('layer3',)], ['ledoit_wolf', 'kde'], ['image', 'heat'])
    rows = compare_candidates(CONFIG, str(data_root), category, None, candidates, cfg_options=SMALL)
    assert len(rows) == 4 and [r['AUROC'] for r in rows] == sorted((r['AUROC'] for r in rows), reverse=True)


@pytest.mark.parametrize('density', ['ledoit_wolf', 'bank', 'kde'])
def test_turns_fit_on_turned_images(density, data_root, category, tmp_path):
    """The same as fitting on a folder that holds the turned images as files."""
    paths = list_images(str(data_root / category / 'train' / 'good'))[:8]
    for path in paths:
        image = cv2.resize(cv2.imread(path), (64, 64))
        for k in (0, 1, 2, 3):
            cv2.imwrite(str(tmp_path / f'{Path(path).stem}_{k}.png'), np.rot90(image, k))
    cfg = load_config(CONFIG, SMALL)
    cfg.model.backbone.update(init_cfg=None)

    def fitted(files, **settings):
        return fit_detector(
            detector_of_config(cfg, layers=('layer2', 'layer3'), density=density, **settings),
            files,
            'fast',
            folds=0,
            max_points=300,
            progress=None,
        )

    turned, written = fitted(paths, turns=4), fitted(list_images(str(tmp_path)))
    for space in ('image', 'fast'):
        if density == 'ledoit_wolf':
            torch.testing.assert_close(turned.densities[space].covariance, written.densities[space].covariance)
        else:
            assert turned.densities[space].points.shape == written.densities[space].points.shape
    if density == 'bank':
        rows = torch.cat([written.densities['image'].points, turned.densities['image'].points])
        assert (
            len(torch.unique((1e4 * rows).round(), dim=0)) <= 32
        )  # the pooled rows of 8 images in 4 turns, both times


def test_pixel_metrics_equal_scikit_learn(tmp_path):
    rng = np.random.default_rng(0)
    heat, samples, masks = rng.random((3, 16, 16)).astype(np.float32), [], []
    for index in range(3):
        mask = np.zeros((16, 16), np.uint8)
        if index:
            mask[3 * index : 3 * index + 4, 2:9] = 255
            cv2.imwrite(str(tmp_path / f'{index}.png'), mask)
        heat[index][mask > 0] += 0.4
        masks.append(mask > 0)
        samples.append(
            Sample(f'{index}.png', str(tmp_path / f'{index}.png') if index else None, 'scratch' if index else 'good')
        )
    found = pixel_metrics(heat, samples)
    truth = np.stack(masks).ravel()
    assert found['pixel_AUROC'] == pytest.approx(100 * roc_auc_score(truth, heat.ravel()))
    assert found['pixel_AP'] == pytest.approx(100 * average_precision_score(truth, heat.ravel()))
    assert 0 < found['AUPRO'] < 100


def test_roc_points_equal_scikit_learn():
    rng = np.random.default_rng(1)
    scores, defective = rng.integers(0, 6, 40).astype(float), rng.random(40) < 0.4
    fpr, tpr, _ = roc_curve(defective, scores, drop_intermediate=False)
    np.testing.assert_allclose(roc_points(scores, defective), np.stack([fpr, tpr], 1))


def test_table_ends_with_the_average_of_each_arm():
    samples = [Sample('a', None, 'good'), Sample('b', None, 'crack')]
    results = [
        DetectorResult(c, arm, samples, np.zeros(2), None, dict(AUROC=value))
        for c, arm, value in (('bottle', 'x', 90.0), ('bottle', 'y', 80.0), ('screw', 'x', 70.0), ('screw', 'y', 60.0))
    ]
    rows = rows_of(results)
    assert [(r['category'], r['arm'], r['AUROC']) for r in rows[-2:]] == [
        ('average', 'x', 80.0),
        ('average', 'y', 70.0),
    ]
    assert rows[-1]['paper'] == pytest.approx((98.3 + 86.3) / 2)
    assert '| average  | x' in table_text(rows)


def test_errors_come_before_the_work(tmp_path, data_root, category):
    with pytest.raises(FileNotFoundError, match='must exist for each category'):
        evaluate_anomaly(CONFIG, data_root, ['all'], tmp_path, str(tmp_path / '{category}.pth'))
    with pytest.raises(ValueError, match='nut'):
        evaluate_anomaly(CONFIG, data_root, ['nut'], tmp_path)
    with pytest.raises(ValueError, match='none was found'):
        list_inputs([tmp_path])
    assert not list(tmp_path.iterdir())


PRETRAINED = CONFIG.with_name('resnet18-l3_3way_256_mvtec-256.py')
IMAGENET = {**SMALL, 'model.backbone.init_cfg.checkpoint': 'torchvision://resnet18'}


def test_a_checkpoint_needs_no_network(tmp_path, data_root, category, monkeypatch):
    """Weights that a checkpoint replaces are not fetched; the untrained backbone is left out, and the page says so."""

    def offline(*_, **__):
        raise URLError('no network')

    monkeypatch.setattr('torch.hub.urlopen', offline)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'empty'))
    network = detector_of_config(load_config(CONFIG, SMALL)).features.backbone
    torch.save(dict(state_dict={f'backbone.{n}': v for n, v in network.state_dict().items()}), tmp_path / 'iter_4.pth')
    fitted = fit_anomaly(
        PRETRAINED, data_root, category, str(tmp_path / 'iter_4.pth'), cfg_options=IMAGENET, progress=None
    )
    fitted.save(tmp_path / 'part.pth')
    loaded = AnomalyDetector.load(tmp_path / 'part.pth').features.backbone.state_dict()
    assert all(torch.equal(loaded[n], v) for n, v in network.state_dict().items())
    checkpoint = str(tmp_path / 'iter_4.pth')
    rows = evaluate_anomaly(PRETRAINED, data_root, [category], tmp_path / 'eval', checkpoint, cfg_options=IMAGENET)
    assert [row['arm'] for row in rows] == ['CutPaste', 'CutPaste']
    assert 'There is no row of the untrained backbone' in (tmp_path / 'eval' / 'report.html').read_text()
    with pytest.raises(FileNotFoundError, match='they cannot be had'):
        fit_anomaly(PRETRAINED, data_root, category, cfg_options=IMAGENET, progress=None)


def test_a_backbone_by_name_on_the_command_line():
    cfg = load_config(CONFIG, {'model.backbone': 'efficientnet_b4'})
    assert cfg.model.backbone.type == 'TorchvisionBackbone' and cfg.model.backbone.name == 'efficientnet_b4'
    assert cfg.model.backbone.init_cfg.checkpoint == 'torchvision://efficientnet_b4'
    with pytest.raises(ValueError, match='similar'):
        load_config(CONFIG, {'model.backbone': 'efficientnet_44'})


def test_published_averages():
    """The averages that the sources print with their tables."""
    averages = {name: float(np.mean(values)) for name, values in PUBLISHED.items()}
    printed = {'paper': 95.2, 'paddle': 96.7, 'Lieberk': 95.7, 'pytorch-cutpaste': 91.0}
    assert averages == pytest.approx(printed, abs=0.1)  # one cuts what others round
    assert all(len(values) == len(CATEGORIES) == 15 for values in PUBLISHED.values())
