"""Tiles give what the whole image gives, where the receptive field allows it; memory does not grow with the height."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from mmdefect.deployment.decision import decide_labels
from mmdefect.deployment.defects import TooManyRegions
from mmdefect.deployment.predictor import BatchPredictor
from mmdefect.deployment.tiling import SizedPredictor, TiledPredictor, TilePlan, place_tiles
from mmdefect.deployment.types import ModelInfo
from mmdefect.functional.parts import PartRule
from tests.deployment.server import stand_in
from tests.deployment.server.upload_cases import scene

INFO = ModelInfo(('good', 'dark', 'bright'), ((0, 0, 0), (255, 0, 0), (0, 255, 0)), (0.5, 0.3))


class Filter(BatchPredictor):
    """A "network" whose receptive field is known: two blurs of 9 x 9 see 8 pixels around a pixel."""

    radius = 8

    def __init__(self, image_size_hw=None):
        self.info, self.image_size_hw, self.calls = INFO, image_size_hw, []

    def infer(self, images, thresholds):
        self.calls.append(images.shape)
        assert self.image_size_hw in (None, images.shape[1:3])
        probabilities = np.stack([self._one(image) for image in images])
        return np.stack([decide_labels(p, thresholds) for p in probabilities]), probabilities

    def _one(self, image):
        grey = image.mean(2).astype(np.float32)
        for _ in range(2):
            grey = cv2.blur(grey, (9, 9), borderType=cv2.BORDER_CONSTANT)
        logits = np.stack([np.zeros_like(grey), (100 - grey) / 4, (grey - 130) / 4])
        e = np.exp(logits - logits.max(0))
        return (e / e.sum(0)).astype(np.float32)


def make_image(height, width, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 12 + 2, width // 12 + 2, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST)


def same(got, expected, atol):
    # tolerance: sums of weights in float32
    np.testing.assert_allclose(got.probabilities, expected.probabilities, atol=atol)
    assert (got.label_map != expected.label_map).mean() < 1e-4
    assert got.image_score == pytest.approx(expected.image_score, abs=1e-5)


@pytest.mark.parametrize(
    'plan',
    [
        TilePlan(tile_hw=(64, 64), overlap_px=16, margin_px=8),
        TilePlan(tile_hw=(48, 80), overlap_px=30, margin_px=8, batch=3),
        TilePlan(tile_hw=(64, 96), overlap_px=24, margin_px=8, multiple_px=8),
        TilePlan(split=2, overlap_px=16, margin_px=8),
        TilePlan(split=3, overlap_px=20, margin_px=9),
        TilePlan(tile_hw=(500, 64), overlap_px=16, margin_px=8),
    ],
    ids=str,
)
@pytest.mark.parametrize('size_hw', [(150, 201), (64, 64), (131, 333)])
def test_tiles_equal_the_whole_image(plan, size_hw):
    image = make_image(*size_hw)
    whole = Filter().predict_batch([image], return_probabilities=True)[0]
    tiled = TiledPredictor(Filter(), plan).predict_batch([image], return_probabilities=True)[0]
    same(tiled, whole, 1e-6)
    assert whole.is_defective and [d.box_xyxy for d in whole.defects] == [d.box_xyxy for d in tiled.defects]
    np.testing.assert_allclose([d.score for d in tiled.defects], [d.score for d in whole.defects], atol=1e-5)


def test_the_part_rule_of_the_model_gives_the_verdict_on_whole_images_and_on_tiles():
    image, plan = make_image(150, 201), TilePlan(tile_hw=(64, 64), overlap_px=16, margin_px=8)
    largest = {k: max(d.area_px for d in Filter().predict_batch([image])[0].defects if d.class_id == k) for k in (1, 2)}
    for more, defective in ((0, True), (1, False)):
        one = Filter()
        one.info = replace(one.info, part_rule=PartRule((largest[1] + more, largest[2] + more)))
        for predictor in (one, TiledPredictor(one, plan)):
            prediction = predictor.predict_batch([image])[0]
            assert prediction.is_defective == defective and prediction.defects  # they are listed all the same
        assert ModelInfo.from_json(one.info.to_json()) == one.info
    with pytest.raises(ValueError, match='`part_rule` must have an area for each of'):
        replace(one.info, part_rule=PartRule((1,)))


def test_a_margin_below_the_receptive_field_is_not_enough():
    """So that the equality above says something."""
    image = make_image(150, 201)
    whole = Filter().predict_batch([image], return_probabilities=True)[0]
    tiled = TiledPredictor(Filter(), TilePlan(tile_hw=(64, 64), overlap_px=16)).predict_batch(
        [image], return_probabilities=True
    )[0]
    assert np.abs(tiled.probabilities - whole.probabilities).max() > 1e-2


def test_split_without_overlap_is_stitching():
    """n x n parts, each predicted alone and put side by side."""
    image, model = make_image(96, 144), Filter()
    got = TiledPredictor(model, TilePlan(split=3)).predict_batch([image], return_probabilities=True)[0]
    stitched = np.zeros((3, 96, 144), np.float32)
    for y in range(0, 96, 32):
        for x in range(0, 144, 48):
            stitched[:, y : y + 32, x : x + 48] = Filter()._one(image[y : y + 32, x : x + 48])
    np.testing.assert_array_equal(got.probabilities, stitched)


def test_a_model_of_fixed_size_takes_its_tiles_and_small_images():
    model = Filter(image_size_hw=(64, 64))
    tiled = TiledPredictor(model, TilePlan(tile_hw=(64, 64), overlap_px=16, margin_px=8))
    for size_hw in ((150, 201), (64, 64), (40, 90), (20, 30)):
        image = make_image(*size_hw)
        got = tiled.predict_batch([image])[0]
        assert got.label_map.shape == size_hw
        inner = Filter()._one(image).argmax(0) if size_hw[0] >= 64 else None
        if inner is not None:
            expected = Filter().predict_batch([image])[0].label_map
            assert (got.label_map == expected).mean() > 0.9999
    assert {shape[1:3] for shape in model.calls} == {(64, 64)}


@pytest.mark.parametrize(
    'length, size, overlap, margin, multiple',
    [
        (100, 30, 0, 0, 1),
        (100, 30, 10, 5, 1),
        (101, 30, 10, 3, 8),
        (64, 64, 5, 2, 1),
        (1000, 128, 40, 12, 32),
        (7, 3, 2, 1, 1),
    ],
)
def test_weights_sum_to_one_and_tiles_cover(length, size, overlap, margin, multiple):
    tiles = place_tiles(length, size, overlap, margin, multiple)
    total = np.zeros(length)
    for start, weights in zip(tiles.starts, tiles.weights, strict=True):
        total[start : start + size] += weights
    np.testing.assert_allclose(total, 1, atol=1e-6)
    shared = [a + size - b for a, b in zip(tiles.starts, tiles.starts[1:], strict=False)]
    assert all(s >= overlap for s in shared) and tiles.starts[0] == 0 and tiles.starts[-1] == length - size
    assert all(s % multiple == 0 for s in tiles.starts[:-1]) and tiles.finished[-1] == length
    for i, weights in enumerate(tiles.weights):
        assert i == 0 or (weights[:margin] == 0).all()
        assert i == len(tiles.starts) - 1 or margin == 0 or (weights[-margin:] == 0).all()


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(), 'either'),
        (dict(tile_hw=(8, 8), split=2), 'either'),
        (dict(split=0), 'at least 1'),
        (dict(tile_hw=(64, 64), overlap_px=64), 'smaller than the tile'),
        (dict(tile_hw=(64, 64), overlap_px=10, margin_px=6), 'fit into the overlap twice'),
        (dict(tile_hw=(64, 64), overlap_px=40, multiple_px=32), 'advance by at least 32'),
    ],
)
def test_plans_that_cannot_be(kwargs, message):
    with pytest.raises(ValueError, match=message):
        TiledPredictor(Filter(), TilePlan(**kwargs)).predict_batch([make_image(100, 120)])


def test_progress_counts_tiles():
    seen = []
    TiledPredictor(Filter(), TilePlan(tile_hw=(50, 50), batch=2), lambda *a: seen.append(a)).predict_batch(
        [make_image(100, 150)]
    )
    assert seen[-1] == (6, 6) and seen == sorted(seen)


class Pixelwise(BatchPredictor):
    """Sees one pixel at a time, so that tiles change nothing; remembers the sizes it was given."""

    def __init__(self, image_size_hw=None, input_size_hw=None):
        self.info, self.image_size_hw = replace(stand_in.INFO, input_size_hw=input_size_hw), image_size_hw
        self.shapes = []

    def infer(self, images, thresholds):
        self.shapes.append(images.shape[:3])
        probabilities = np.stack([stand_in.class_probabilities(image) for image in images])
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
def test_noise_is_rejected_before_it_is_measured(tile_hw):
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
