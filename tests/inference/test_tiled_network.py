"""A real network, exported, in tiles: equal to the whole image, and memory that does not grow with it."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from mmdefect.deployment import ModelInfo, load_predictor
from mmdefect.deployment.decision import decide_labels
from mmdefect.deployment.predictor import BatchPredictor
from mmdefect.deployment.tiling import TiledPredictor, TilePlan
from mmdefect.inference.export import export_model
from mmdefect.inference.network import DeployedNetwork, Preparation
from tests.helpers.deployment import make_images

INFO = ModelInfo(('good', 'pit', 'scratch'), ((0, 0, 0), (255, 0, 0), (0, 255, 0)), (0.5, 0.4))
STRIDE = 4
#: Two convolutions of 3 with stride 2 and one of 3 see 1 + 2 + 4 = 7 pixels to a side; the upsampling by 4 reaches over
#: one more feature, and another stride covers where in its cell a pixel lies.
MARGIN = 7 + 2 * STRIDE


class StridedNetwork(nn.Module):
    """Convolutions of stride 4 in all, and a linear upsampling."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 3, 3, 1, 1)
        )
        for parameter in self.parameters():
            parameter.data.mul_(3)

    def forward(self, inputs):
        return functional.interpolate(self.layers(inputs), inputs.shape[2:], mode='bilinear', align_corners=False)


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    network = DeployedNetwork(StridedNetwork(), Preparation(None, False, (120,) * 3, (60,) * 3)).eval()
    return load_predictor(export_model(network, INFO, tmp_path_factory.mktemp('model') / 'strided.onnx'))


@pytest.mark.parametrize(
    'plan',
    [
        TilePlan(tile_hw=(96, 96), overlap_px=2 * MARGIN, margin_px=MARGIN, multiple_px=STRIDE),
        TilePlan(tile_hw=(128, 80), overlap_px=48, margin_px=MARGIN, multiple_px=STRIDE, batch=3),
        TilePlan(split=2, overlap_px=32, margin_px=MARGIN, multiple_px=STRIDE),
    ],
    ids=str,
)
def test_tiles_of_an_exported_network_equal_the_whole_image(exported, plan):
    image = make_images(1, 256, 320)[0]
    whole = exported.predict_batch([image], return_probabilities=True)[0]
    tiled = TiledPredictor(exported, plan).predict_batch([image], return_probabilities=True)[0]
    assert min(np.bincount(whole.label_map.ravel(), minlength=3)) > 0.02 * whole.label_map.size
    # tolerance: the runtime may sum in another order for another size
    np.testing.assert_allclose(tiled.probabilities, whole.probabilities, atol=1e-5)
    assert (tiled.label_map == whole.label_map).mean() > 0.9999
    shifted = TilePlan(tile_hw=(97, 97), overlap_px=2 * MARGIN, margin_px=MARGIN)  # starts off the grid of the network
    other = TiledPredictor(exported, shifted).predict_batch([image], return_probabilities=True)[0]
    assert np.abs(other.probabilities - whole.probabilities).max() > 1e-3


class Brightness(BatchPredictor):
    """Nothing but memory is measured."""

    info, image_size_hw = INFO, None

    def infer(self, images, thresholds):
        bright = images[..., 0].astype(np.float32) / 255
        probabilities = np.stack([1 - bright, bright / 2, bright / 2], 1)
        return np.stack([decide_labels(p, thresholds) for p in probabilities]), probabilities


def test_memory_does_not_grow_beyond_the_label_map():
    tiled = TiledPredictor(Brightness(), TilePlan(tile_hw=(128, 128), overlap_px=16))
    peaks = {}
    for height in (1000, 8000):
        image = np.zeros((height, 1000, 3), np.uint8)
        image[50::200, 100:120] = 255
        tracemalloc.start()
        prediction = tiled.predict_batch([image], min_area_px=3)[0]
        peaks[height] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(prediction.defects) == height // 200
    grown = (peaks[8000] - peaks[1000]) / (7000 * 1000)
    assert grown < 1.1, f'{grown} bytes a pixel'  # one is the label map
