"""A fitted detector goes the way of every model: open, predict, tile, export, ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mmdefect.registration  # noqa: F401
from mmdefect.apis.inference import export
from mmdefect.deployment import load_predictor
from mmdefect.deployment.tiling import TiledPredictor, TilePlan
from mmdefect.functional.density import ScoreScale, fit_gaussian
from mmdefect.inference.export import compare_predictors
from mmdefect.models.anomaly_detector import AnomalyDetector, DetectorSettings, build_backbone
from tests.helpers.deployment import make_images
from tests.helpers.small import TINY_RESNET

BACKBONE = TINY_RESNET


def fit(path, **settings):
    """Write a detector of a small random backbone, fitted on smooth images."""
    settings = DetectorSettings(backbone=BACKBONE, size_hw=(64, 64), patch=16, **settings)
    empty = AnomalyDetector(settings, build_backbone(BACKBONE, seed=1))
    images = torch.from_numpy(make_images(12, 64, 64)).permute(0, 3, 1, 2).contiguous()
    densities = {space: fit_gaussian(empty.embeddings(images, space).flatten(0, -2)) for space in ('image', 'fast')}
    detector = AnomalyDetector(settings, empty.features.backbone, densities, {})
    low, high = (float(v) for v in detector.heat_maps(images).quantile(torch.tensor([0.1, 0.8])))
    detector.scales = dict(score=ScoreScale(0.0, 1.0), heat=ScoreScale(low, high))  # so that some pixels are above 1
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


def test_a_detector_without_heat_map_is_rejected(fitted, tmp_path):
    _, detector = fitted
    AnomalyDetector(
        detector.settings, detector.features.backbone, {'image': detector.densities['image']}, detector.scales
    ).save(tmp_path / 'pooled.pth')
    with pytest.raises(ValueError, match='must have a fast heat map'):
        load_predictor(tmp_path / 'pooled.pth')


def test_a_detector_of_turned_images_is_rejected(tmp_path):
    from mmdefect.inference.anomaly import HeatCore

    with pytest.raises(ValueError, match='--turns 1'):
        HeatCore(fit(tmp_path / 'turned.pth', turns=4))
