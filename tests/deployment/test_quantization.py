"""Quantising keeps metadata, thresholds as an input, and most of what the model says."""

from __future__ import annotations

import cv2
import numpy as np
import onnx
import pytest

from mmdefect.deployment import load_predictor
from mmdefect.deployment.quantization import quantize
from mmdefect.inference.export import export_model
from tests.helpers.deployment import make_images, write_exported


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return write_exported(tmp_path_factory.mktemp('model'))


def test_eight_bits_predict_nearly_the_same(model, tmp_path):
    for index, image in enumerate(make_images(12, 96, 80)):
        (tmp_path / 'line').mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / 'line' / f'{index}.png'), image[..., ::-1])
    assert quantize(model, tmp_path / 'int8.onnx', tmp_path / 'line', limit=8) == 8
    floating, small = load_predictor(model), load_predictor(tmp_path / 'int8.onnx')
    assert small.info == floating.info
    assert (tmp_path / 'int8.onnx').stat().st_size < 0.5 * model.stat().st_size
    kinds = {node.op_type for node in onnx.load(tmp_path / 'int8.onnx').graph.node}
    assert 'QuantizeLinear' in kinds
    images = make_images(3, 96, 80, seed=5)
    for thresholds in (floating.info.thresholds, (0.9, 0.2)):
        labels, probabilities = floating.infer(images, thresholds)
        other, approximate = small.infer(images, thresholds)
        # a random network is a harder case than a trained one, whose probabilities lie near 0 and 1
        assert (labels == other).mean() > 0.85 and np.abs(probabilities - approximate).mean() < 0.1


def test_the_folder_must_hold_images_that_the_model_takes(tmp_path, model):
    predictor = load_predictor(model.parent / 'iter_7.pth')
    fixed = export_model(predictor.network, predictor.info, tmp_path / 'fixed.onnx', 'onnx', 'none', (96, 80))
    (tmp_path / 'line').mkdir()
    cv2.imwrite(str(tmp_path / 'line' / 'a.png'), make_images(1, 64, 64)[0])
    with pytest.raises(ValueError, match='must hold images of 80 x 96'):
        quantize(fixed, tmp_path / 'int8.onnx', tmp_path / 'line')
    assert not (tmp_path / 'int8.onnx').exists()
