import numpy as np
import pytest
import torch

from mmdefect.synthesis.array_fitting import warp_donor
from mmdefect.synthesis.array_operations import sampling_of, warped_mask
from mmdefect.synthesis.array_writing import composed, visible_pixels
from mmdefect.synthesis.augment import OperationRanges, sample_operations
from mmdefect.synthesis.blending import blend
from mmdefect.synthesis.blending.membrane import Membrane
from mmdefect.synthesis.canvas import ArrayCanvas, TensorCanvas
from mmdefect.synthesis.donor_fitting import prepare
from mmdefect.synthesis.drawn_operations import operations_at
from mmdefect.synthesis.engine import Background, PasteEngine
from mmdefect.synthesis.foreground import find_foreground
from mmdefect.synthesis.location import location_codes
from mmdefect.synthesis.policy import PolicySpec
from tests.helpers.defects import draw_part, labelled_parts, library_of_parts

ALL = OperationRanges(probability=1.0, elastic_probability=1.0)


@pytest.fixture(scope='module')
def library(tmp_path_factory):
    return library_of_parts(tmp_path_factory.mktemp('library'), labelled_parts(6, outline=True))


def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    'ranges',
    [
        OperationRanges(),
        ALL,
        OperationRanges(scale=(0.15, 0.5), probability=1.0),
        OperationRanges(probability=0.0, elastic_probability=0, flip_probability=1.0),
    ],
)
def test_a_prepared_donor_is_that_of_the_tensors(library, ranges):
    differing = total = 0
    for seed in range(len(library)):
        operations = operations_at(sample_operations(generator(seed), ranges))
        for scale in ((1.0, 1.0), (-0.6, 1.3)):
            slow = prepare(library[seed], scale, operations, 1)
            fast = warp_donor(library[seed], scale, operations, 1).coloured(operations)
            assert slow.core.shape == fast.core.shape
            differing += np.count_nonzero(slow.core != fast.core) + np.count_nonzero(slow.region != fast.region)
            total += slow.core.size
            np.testing.assert_allclose(fast.patch, slow.patch, atol=1e-4, rtol=0)
    assert differing <= 1e-4 * total  # a mask value may lie on the threshold


def test_a_vanished_defect_is_empty_on_both_routes(library):
    donor = library[0]
    operations = operations_at(sample_operations(generator(0), ALL))
    assert not warped_mask(np.zeros((9, 9), np.float32), sampling_of(operations, (9, 9))).any()
    assert warp_donor(donor, (1, 1), operations, 0).core.any()


@pytest.mark.parametrize('method', ['alpha', 'feather', 'poisson', 'poisson-mixed', 'spectral'])
@pytest.mark.parametrize('channels', [1, 3])
def test_composition_is_that_of_the_tensors(method, channels):
    rng = np.random.default_rng(channels)
    target = rng.integers(0, 256, (20, 26, channels), dtype=np.uint8)
    source = rng.random((20, 26, channels), dtype=np.float32)
    mask = np.zeros((20, 26), bool)
    mask[4:15, 3:20] = rng.random((11, 17)) > 0.3
    planes = [torch.from_numpy(a.transpose(2, 0, 1).copy()) for a in (target / np.float32(255), source)]
    expected = blend(*planes, torch.from_numpy(mask)[None], method).numpy().transpose(1, 2, 0)[mask] * 255
    made = composed(target, source, Membrane(mask), method)[0]
    assert np.abs(made - expected).max() <= 0.51  # rounding, and solves in float32


def test_visible_counts_grey_levels_and_radius():
    mask = np.zeros((5, 9), bool)
    mask[2] = True
    old = np.full((9, 3), 100, np.uint8)
    new = old.copy()
    new[1, 2], new[4, 0], new[5, 1] = 102, 98, 101
    exact = visible_pixels(old, new, Membrane(mask), mask, PolicySpec())
    np.testing.assert_array_equal(np.flatnonzero(exact[2]), [1, 4])
    core = mask.copy()
    core[2, 3] = False
    wide = visible_pixels(old, new, Membrane(mask), core, PolicySpec(label='mask', label_radius=1))
    np.testing.assert_array_equal(np.flatnonzero(wide[2]), [0, 1, 2, 4, 5])


@pytest.mark.parametrize('blend_name', ['feather', 'poisson'])
@pytest.mark.parametrize('label_rule', ['visible', 'mask'])
def test_both_routes_draw_the_same_and_write_the_same(library, blend_name, label_rule):
    policy = dict(
        number={3: 1}, places=dict(even=1, source=1), blends={blend_name: 1}, label=label_rule, max_existing_overlap=1.0
    )
    engine = PasteEngine(library, policy)
    labelled = differing = 0
    for seed in range(12):
        image = draw_part(np.random.default_rng(seed))
        made = []
        for backend in ('torch', 'numpy'):
            new_image, label = image.copy(), np.zeros(image.shape[:2], np.uint8)
            codes = location_codes(image.shape[:2], find_foreground(image))
            draw = engine.draw(Background(label.copy(), codes, image.shape[:2]), generator(seed), backend)
            instances, skipped = engine.apply(ArrayCanvas(new_image, label), draw, backend)
            made.append((new_image, label, instances, skipped))
        (slow, slow_label, slow_found, slow_skipped), (fast, fast_label, fast_found, fast_skipped) = made
        assert slow_skipped == fast_skipped
        for one, other in zip(slow_found, fast_found, strict=True):
            assert (one.source, one.blend) == (other.source, other.blend)
            assert one.parameters == pytest.approx(other.parameters, abs=0.05)
        assert np.abs(slow.astype(int) - fast).max() <= 1
        labelled, differing = labelled + (slow_label > 0).sum(), differing + (slow_label != fast_label).sum()
        assert (fast_label > 0)[np.abs(fast.astype(int) - image).max(2) > 3 * 1.5].all()  # of up to three defects
    assert labelled and differing <= 2e-3 * labelled


def test_grey_images_and_ignored_pixels(library):
    engine = PasteEngine(
        library,
        dict(
            number={6: 1},
            places=dict(even=1),
            max_existing_overlap=1.0,
            min_overlap=0.2,
            min_visible=0,
            blends=dict(alpha=1),
            max_extent=1.0,
        ),
    )
    image, label = np.full((96, 96), 90, np.uint8), np.zeros((96, 96), np.uint8)
    label[:, 40:56] = 255
    instances, skipped = engine.apply(
        ArrayCanvas(image, label), engine.draw(Background(label.copy()), generator(3), 'numpy'), 'numpy'
    )
    assert instances, skipped
    assert (label[:, 40:56] == 255).all() and (label == instances[-1].class_id).any()
    assert (image[:, 40:56] == 90).all()


def test_wrong_backend_and_wrong_canvas_say_so(library):
    with pytest.raises(ValueError, match='`backend` must be one of torch, numpy'):
        PasteEngine(library).draw(Background(np.zeros((96, 96), np.uint8)), generator(0), 'cupy')
    engine = PasteEngine(library, dict(places=dict(even=1)))
    draw = engine.draw(Background(np.zeros((96, 96), np.uint8)), generator(0), 'numpy')
    with pytest.raises(TypeError, match='must be an ArrayCanvas'):
        engine.apply(TensorCanvas(torch.rand(3, 96, 96), torch.zeros(96, 96, dtype=torch.int64)), draw, 'numpy')
