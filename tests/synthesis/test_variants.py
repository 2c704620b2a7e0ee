import pickle

import numpy as np
import pytest
import torch

from mmdefect.synthesis.array_fitting import VariantCache, warp_donor
from mmdefect.synthesis.augment import OperationRanges, sample_operations
from mmdefect.synthesis.canvas import ArrayCanvas
from mmdefect.synthesis.drawn_operations import OPERATION_DRAWS, draw_operations, operations_at, operations_from
from mmdefect.synthesis.engine import Background, PasteEngine
from mmdefect.synthesis.policy import uniforms
from tests.helpers.defects import FRAME_HW, draw_part, labelled_parts, library_of_parts

SHAPE = ('rotate', 'shear_x', 'shear_y', 'scale_x', 'scale_y', 'flip_x', 'flip_y', 'elastic')


@pytest.fixture(scope='module')
def library(tmp_path_factory):
    return library_of_parts(tmp_path_factory.mktemp('library'), labelled_parts(6))


def generator(seed):
    return torch.Generator().manual_seed(seed)


def paste(engine, seed, backend='numpy'):
    image, label = draw_part(np.random.default_rng(seed)), np.zeros(FRAME_HW, np.uint8)
    instances, _ = engine.apply(
        ArrayCanvas(image, label), engine.draw(Background(label.copy()), generator(seed), backend), backend
    )
    return image, label, instances


@pytest.mark.parametrize('ranges', [OperationRanges(), OperationRanges(isotropic=True, elastic_probability=1.0)])
def test_plain_draws_are_those_of_the_tensors(ranges):
    for seed in range(20):
        slow = operations_at(sample_operations(generator(seed), ranges))
        fast = draw_operations(uniforms(generator(seed), OPERATION_DRAWS), ranges)
        assert fast.values == pytest.approx(slow.values, abs=1e-12) and fast.flips == slow.flips
        assert fast.elastic == pytest.approx(slow.elastic) and fast.parameters() == pytest.approx(slow.parameters())
        again = operations_from(fast.parameters())
        assert again.parameters() == fast.parameters()
        for one, other in zip(vars(again.as_tensors()).values(), vars(slow.as_tensors()).values(), strict=True):
            torch.testing.assert_close(one, other)


def test_each_donor_has_so_many_shapes_and_fresh_colours(library):
    engine = PasteEngine(library, dict(places=dict(even=1), variants=3))
    shapes, colours = {}, set()
    for seed in range(150):
        for instance in paste(engine, seed)[2]:
            numbers = instance.parameters
            shapes.setdefault(numbers['donor'], set()).add(tuple(numbers[name] for name in SHAPE))
            colours.add(tuple(numbers[name] for name in ('brightness', 'contrast', 'saturation', 'hue')))
    assert {len(found) for found in shapes.values()} == {3}
    assert len(colours) > 100
    assert engine.planner.cache.hits > 100


def test_what_is_kept_does_not_change_pixels(library):
    """Any order of samples, any process and any size of the cache gives the same image for the same seed."""
    policy = dict(places=dict(even=1), variants=2, number={2: 1})
    warm, cold = PasteEngine(library, policy), PasteEngine(library, policy | dict(variant_megabytes=0))
    for seed in range(60):
        paste(warm, seed)
    sent = pickle.loads(pickle.dumps(warm))
    assert len(warm.planner.cache) and not len(sent.planner.cache)
    for seed in (7, 3, 41):
        image, label, instances = paste(warm, seed)
        for engine in (cold, sent):
            other = paste(engine, seed)
            np.testing.assert_array_equal(image, other[0])
            np.testing.assert_array_equal(label, other[1])
            assert instances == other[2]
        slow = paste(warm, seed, 'torch')
        assert np.abs(image.astype(int) - slow[0]).max() <= 1
    assert len(cold.planner.cache) == 0


def test_shapes_follow_the_content_and_not_the_folder(tmp_path):
    one, other = (library_of_parts(tmp_path / name, labelled_parts(2)) for name in ('a', 'b'))
    engines = [PasteEngine(lib, dict(places=dict(even=1), variants=2)) for lib in (one, other)]
    np.testing.assert_array_equal(paste(engines[0], 1)[0], paste(engines[1], 1)[0])


def test_the_cache_forgets_what_was_used_least_recently(library):
    operations = draw_operations(uniforms(generator(0), OPERATION_DRAWS), OperationRanges())
    warped = warp_donor(library[0], (1.0, 1.0), operations, 1)
    cache = VariantCache(int(2.5 * warped.nbytes))
    for key in 'ab':
        cache.put(key, warp_donor(library[0], (1.0, 1.0), operations, 1))
    cache.get('a')
    cache.put('c', warp_donor(library[0], (1.0, 1.0), operations, 1))
    assert cache.get('b') is None and cache.get('a') is not None and cache.nbytes <= cache.most_bytes
    kept = cache.get('a')
    kept.membrane.extend(np.zeros((len(kept.membrane.beside), 3), np.float32))  # a factor is made
    cache.get('a')
    assert cache.nbytes <= cache.most_bytes


def test_mistakes_are_said():
    with pytest.raises(ValueError, match='`variants`'):
        PasteEngine.__init__(object.__new__(PasteEngine), None, dict(variants=-1))
