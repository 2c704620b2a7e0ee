"""What fits goes whole, what does not goes in tiles, and the order stays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmdefect.deployment.decision import decide_labels
from mmdefect.deployment.defects import TooManyRegions
from mmdefect.deployment.predictor import BatchPredictor
from mmdefect.deployment.server.sizes import SizedPredictor
from tests.deployment.server.stand_in import INFO, class_probabilities
from tests.deployment.server.upload_cases import scene


class Pixelwise(BatchPredictor):
    """Sees one pixel at a time, so that tiles change nothing; remembers the sizes it was given."""

    def __init__(self, image_size_hw=None, input_size_hw=None):
        self.info, self.image_size_hw = replace(INFO, input_size_hw=input_size_hw), image_size_hw
        self.shapes = []

    def infer(self, images, thresholds):
        self.shapes.append(images.shape[:3])
        probabilities = np.stack([class_probabilities(image) for image in images])
        return np.stack([decide_labels(p, thresholds) for p in probabilities]), probabilities


@pytest.mark.parametrize(
    'model, tile_hw, largest',
    [
        (Pixelwise(), (64, 64), 64 * 64),
        (Pixelwise(), None, 200 * 150),
        (Pixelwise(image_size_hw=(64, 96)), None, 64 * 96),
        (Pixelwise(input_size_hw=(64, 64)), (32, 32), 200 * 150),
    ],
)
def test_predictions_are_those_of_whole_images(model, tile_hw, largest):
    images = [scene(k, *size) for k, size in enumerate([(64, 64), (200, 150), (64, 96), (50, 81), (64, 64)])]
    expected = Pixelwise().predict_batch(images, (0.4, 0.5), 20, 0.1, True)
    got = SizedPredictor(model, tile_hw).predict_batch(images, (0.4, 0.5), 20, 0.1, True)
    assert max(h * w for _, h, w in model.shapes) <= largest
    if model.image_size_hw:
        assert {shape[1:] for shape in model.shapes} == {model.image_size_hw}
    for one, two in zip(got, expected, strict=True):
        assert np.abs(one.probabilities - two.probabilities).max() < 1e-6  # weights of tiles sum to 1 in float32
        assert np.array_equal(one.label_map, two.label_map)
        assert [d.box_xyxy for d in one.defects] == [d.box_xyxy for d in two.defects]


@pytest.mark.parametrize('tile_hw', [(64, 64), None])
def test_noise_is_refused_before_it_is_measured(tile_hw):
    image = np.full((120, 120, 3), 220, np.uint8)
    image[::3, ::3] = 0
    begin = SizedPredictor(Pixelwise(), tile_hw, 1600).predict_batch([image])[0]
    assert len(begin.defects) == 1600
    with pytest.raises(TooManyRegions, match='at most 1599 regions'):
        SizedPredictor(Pixelwise(), tile_hw, 1599).predict_batch([image])


def test_equal_sizes_still_share_a_batch():
    model = Pixelwise()
    SizedPredictor(model, (200, 200)).predict_batch([scene(k, 64, 64) for k in range(5)])
    assert model.shapes == [(5, 64, 64)]


def test_batches_are_no_larger_than_a_tile():
    model = Pixelwise()
    predictor = SizedPredictor(model, (100, 100))
    images = [scene(k, 64, 64) for k in range(3)] + [scene(3, 100, 100)] + [scene(k, 64, 64) for k in range(4, 7)]
    expected = Pixelwise().predict_batch(images)
    got = predictor.predict_batch(images)
    assert model.shapes == [(2, 64, 64), (1, 64, 64), (1, 100, 100), (2, 64, 64), (1, 64, 64)]
    assert [p.defects for p in got] == [p.defects for p in expected]
