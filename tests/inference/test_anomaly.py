"""A fitted detector goes the way of every model: open, predict, tile, export, ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import mmdefect.registration  # noqa: F401
from mmdefect.apis.anomaly import localize_anomaly, predict_anomaly
from mmdefect.apis.anomaly_eval import run_test
from mmdefect.apis.anomaly_fit import fit_detector
from mmdefect.apis.inference import export
from mmdefect.datasets.samples import Sample, list_images
from mmdefect.deployment import load_predictor
from mmdefect.deployment.decoding import read_image
from mmdefect.deployment.tiling import TiledPredictor, TilePlan
from mmdefect.functional.density import ScoreScale, fit_gaussian
from mmdefect.functional.heat_maps import decide_heat
from mmdefect.inference.export import compare_predictors
from mmdefect.models.anomaly_detector import AnomalyDetector, DetectorSettings, build_backbone
from tests.helpers.data import save
from tests.helpers.deployment import make_images
from tests.helpers.small import TINY_RESNET

BACKBONE = TINY_RESNET


def fit(path, **settings):
    """Write a detector of a small random backbone, fitted on smooth images."""
    settings = DetectorSettings(backbone=BACKBONE, size_hw=(64, 64), patch=16, score='heat', **settings)
    empty = AnomalyDetector(settings, build_backbone(BACKBONE, seed=1))
    images = torch.from_numpy(make_images(12, 64, 64)).permute(0, 3, 1, 2).contiguous()
    densities = {space: fit_gaussian(empty.embeddings(images, space).flatten(0, -2)) for space in ('image', 'fast')}
    detector = AnomalyDetector(settings, empty.features.backbone, densities, {})
    low, high = (float(v) for v in detector.heat_maps(images).quantile(torch.tensor([0.1, 0.8])))
    scale = ScoreScale(low, high)  # so that some pixels are above 1
    detector.scales = dict(score=scale, heat=scale)
    detector.save(path)
    return detector


@pytest.fixture(scope='module', params=[dict(), dict(layers=('layer1', 'layer3'), normalize=False)], ids=str)
def fitted(request, tmp_path_factory):
    path = tmp_path_factory.mktemp('detector') / 'screw.pth'
    return path, fit(path, **request.param)


def strange(seed=3):
    """Images with a square of noise that none of the normal ones has."""
    images = make_images(3, 64, 64, seed)
    images[:, 20:44, 30:54] = np.random.default_rng(seed).choice([0, 255], (3, 24, 24, 3)).astype(np.uint8)
    return images


def test_probabilities_are_the_heat_of_the_detector(fitted):
    path, detector = fitted
    predictor = load_predictor(path)
    assert predictor.info.kind == 'anomaly' and predictor.info.classes == ('normal', 'anomaly')
    images = strange()
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    heat = detector.scales['heat'].normalize(detector.heat_maps(tensors)).clamp(min=0).numpy()
    labels, probabilities = predictor.infer(images, predictor.info.thresholds)
    np.testing.assert_allclose(probabilities[:, 1], heat / (1 + heat), atol=1e-4)
    assert (labels == (heat > 1)).mean() > 0.999 and 0 < labels.mean() < 1
    prediction = predictor.predict_batch([images[0]], min_area_px=5)[0]
    assert prediction.is_defective and prediction.defects[0].class_name == 'anomaly'


def test_it_exports_and_tiles(fitted, tmp_path):
    path, _ = fitted
    text = export(path, tmp_path / 'screw.onnx')
    assert '100.0000 % of the labels' in text or '99.9' in text
    predictor, exported = load_predictor(path), load_predictor(tmp_path / 'screw.onnx')
    assert exported.info == predictor.info and exported.info.kind == 'anomaly'
    others = [strange(), make_images(1, 128, 128), make_images(2, 90, 70)]
    parity = compare_predictors(predictor, exported, others)
    assert parity.holds, parity
    large = np.tile(strange()[0], (3, 2, 1))
    plan = TilePlan(tile_hw=(64, 64), overlap_px=0)
    tiled = TiledPredictor(exported, plan).predict_batch([large])[0]
    alone = exported.predict_batch([strange()[0]])[0]
    np.testing.assert_array_equal(tiled.label_map, np.tile(alone.label_map, (3, 2)))


SETTINGS = {
    'pooled image': (dict(), None),
    'pooled image, fast map': (dict(), 'fast'),
    'hottest pixel, kernel density': (dict(density='kde', score='heat'), 'fast'),
    'kernel density, no map': (dict(density='kde'), None),
    'bank, four turns': (dict(density='bank', turns=4, layers=('layer2', 'layer3')), 'fast'),
    'exact patches, two turns': (dict(turns=2, stride=16, normalize=False), 'exact'),
}


@pytest.mark.parametrize('name', SETTINGS)
def test_tests_predictions_and_files_decide_alike(name, tmp_path):
    """Image by image: the scores of the test, the predictions of the tool, the deployed and the exported model."""
    settings, localize = SETTINGS[name]
    for index, image in enumerate(make_images(16, 80, 72, seed=5)):
        save(tmp_path / 'good' / f'{index:02d}.png', image)
    photos = [*make_images(6, 80, 72, seed=6), *strange(7), *make_images(3, 64, 64, seed=8), *strange(9)]
    photos += [np.tile(image, (2, 3, 1)) for image in make_images(3, 50, 60, seed=10)]
    for index, image in enumerate(photos):
        save(tmp_path / 'photos' / f'{index:02d}.png', image)
    empty = AnomalyDetector(
        DetectorSettings(backbone=BACKBONE, size_hw=(64, 64), patch=32, **settings), build_backbone(BACKBONE, seed=1)
    )
    detector = fit_detector(empty, list_images(tmp_path / 'good'), localize, folds=4, max_points=64, progress=None)
    paths = list_images(tmp_path / 'photos')
    samples = [Sample(p, None, 'good' if i % 2 else 'dent') for i, p in enumerate(paths)]
    values = np.sort(run_test(detector, samples, 'part', 'arm').scores)
    gap = int(np.diff(values)[5:12].argmax()) + 5  # so that about half are anomalies
    threshold = float(values[gap : gap + 2].mean())
    detector.scales = {key: replace(scale, threshold=threshold) for key, scale in detector.scales.items()}
    detector.save(tmp_path / 'part.pth')

    tested = run_test(AnomalyDetector.load(tmp_path / 'part.pth'), samples, 'part', 'arm')
    anomalies = tested.scores > tested.threshold
    assert 5 < anomalies.sum() < 13 and tested.threshold == threshold
    predicted = predict_anomaly(tmp_path / 'part.pth', [tmp_path / 'photos'], tmp_path / 'predicted')
    assert [row['anomaly'] for row in predicted] == anomalies.tolist()
    if localize:
        located = localize_anomaly(tmp_path / 'part.pth', [tmp_path / 'photos'], tmp_path / 'located')
        assert [row['defect_pixels'] > 0 for row in located] == anomalies.tolist()
    export(tmp_path / 'part.pth', tmp_path / 'part.onnx', check=tmp_path / 'photos')
    for model in ('part.pth', 'part.onnx'):
        with load_predictor(tmp_path / model) as predictor:
            assert predictor.info.extra['facts']['score'] == detector.settings.score
            found = [predictor.predict_batch([read_image(path).pixels])[0] for path in paths]
        assert [one.is_defective for one in found] == anomalies.tolist(), model
        scores = tested.scores.clip(min=0)
        np.testing.assert_allclose([one.image_score for one in found], scores / (1 + scores), atol=1e-4)
        for one, row in zip(found, located if localize else [], strict=False):
            assert abs(int((one.label_map > 0).sum()) - row['defect_pixels']) <= 0.001 * one.label_map.size + 1
        if not localize:
            assert {len(np.unique(one.label_map)) for one in found} == {1}  # all of the image, or nothing


def test_the_maximum_of_a_decided_map_is_the_score():
    heat = torch.tensor([[[0.2, 1.5], [3.0, 0.9]], [[0.2, 0.4], [0.1, 0.0]], [[-1.0, -2.0], [0.0, -1.0]]])
    torch.testing.assert_close(
        decide_heat(heat, torch.tensor([1.2, 2.0, 1.5]).view(3, 1, 1)),
        torch.tensor([[[0.2, 1.2], [1.2, 0.9]], [[1.0, 2.0], [0.5, 5e-5]], [[1.5, 1.5], [1.5, 1.5]]]),
    )
    heat, scores = torch.rand(500, 5, 5), 3 * torch.rand(500)
    assert torch.equal(decide_heat(heat, scores[:, None, None]).amax((1, 2)), scores)  # to the bit: no decision flips


def test_a_threshold_that_no_file_could_hold_is_rejected_in_the_fit(fitted):
    with pytest.raises(ValueError, match='must be above 0'):
        fit_detector(fitted[1], [], threshold=0)
