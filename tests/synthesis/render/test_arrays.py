"""The renderer of loader workers against pasting written out pixel by pixel, and what it keeps."""

import cv2
import numpy as np
import pytest
import torch

from mmdefect.synthesis.library import CuttingRule
from mmdefect.synthesis.operations import NUM_UNIFORMS, OperationRanges, sample_operations
from mmdefect.synthesis.places import overlap
from mmdefect.synthesis.poisson.blends import spectral_blend
from mmdefect.synthesis.poisson.membrane import Membrane
from mmdefect.synthesis.policy import PolicySpec
from mmdefect.synthesis.render.arrays import VariantCache, canvas_of, compose, feather_weights, warp_donor, write_pastes
from mmdefect.synthesis.sampler import FittedDonor, Paste, uniforms
from tests.helpers.defects import labelled_parts, library_of_parts
from tests.synthesis.render import slow

ALL = OperationRanges(probability=1.0, elastic_probability=1.0)
RANGES = [
    OperationRanges(),
    ALL,
    OperationRanges(scale=(0.15, 0.5), probability=1.0),
    OperationRanges(probability=0.0, elastic_probability=0, flip_probability=1.0),
]


@pytest.fixture(scope='module')
def library(tmp_path_factory):
    return library_of_parts(tmp_path_factory.mktemp('library'), labelled_parts(6, outline=True))


def operations(seed, ranges=ALL):
    return sample_operations(uniforms(torch.Generator().manual_seed(seed), NUM_UNIFORMS), ranges)


@pytest.mark.parametrize('ranges', RANGES)
def test_a_warped_donor_is_that_of_the_slow_way(library, ranges):
    differing = total = 0
    for seed in range(len(library)):
        donor, sampled = library[seed], operations(seed, ranges)
        fitted = warp_donor(donor, (1.0, 1.0), sampled, 1).coloured(sampled)

        canvas_hw = canvas_of(sampled, donor.mask.shape).size_hw
        colours, core = slow.fit_donor(donor.image, donor.mask == 1, sampled, canvas_hw)
        rows, columns = np.flatnonzero(core.any(1)), np.flatnonzero(core.any(0))
        top, left, ring = rows[0] - 2, columns[0] - 2, 2
        assert fitted.core.shape == (np.ptp(rows) + 1 + 2 * ring, np.ptp(columns) + 1 + 2 * ring)
        frame, part = overlap(fitted.core.shape, (top, left), core.shape)
        differing += np.count_nonzero(fitted.core[part] != core[frame])
        total += np.count_nonzero(core)
        np.testing.assert_allclose(fitted.patch[part][..., ::-1], colours[frame], atol=3e-4, rtol=0)
        grown = cv2.dilate(fitted.core.view(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))) > 0
        assert not (fitted.region & ~grown).any() and (fitted.region >= fitted.core).all()
    assert differing <= 2e-3 * total  # a mask value may lie on the threshold


def test_a_vanished_defect_is_empty_and_others_are_not(tmp_path):
    image, label = labelled_parts(1)[0]
    label[:] = 0
    label[40, 60] = 1

    donor = library_of_parts(tmp_path, [(image, label)], CuttingRule(merge_radius=0, min_area=1))[0]
    off = dict.fromkeys(('rotate', 'shear_x', 'shear_y'), (0, 0))
    off |= dict(probability=1.0, elastic_probability=0, flip_probability=0)
    for scale, left in ((0.1, 0), (0.5, 1)):  # a hundredth, and a quarter, of a pixel would be left
        sampled = operations(0, OperationRanges(scale=(scale, scale), **off))
        warped = warp_donor(donor, (1.0, 1.0), sampled, 0)
        assert warped.core.sum() == warped.region.sum() == left


@pytest.mark.parametrize('method', ['alpha', 'feather', 'poisson', 'poisson-mixed', 'spectral'])
@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('at_border', [False, True])
def test_composition_is_that_of_the_slow_way(method, channels, at_border):
    rng = np.random.default_rng(channels)
    target = rng.integers(0, 256, (20, 26, channels), dtype=np.uint8)
    source = rng.random((20, 26, channels), dtype=np.float32)
    mask = np.zeros((20, 26), bool)
    rows = slice(0, 11) if at_border else slice(4, 15)
    mask[rows, 3:20] = rng.random((11, 17)) > 0.3
    policy = PolicySpec(max_boundary_shade=0.1, max_boundary_cast=0.02)
    made, limited = compose(target, source, Membrane(mask), method, policy)
    if method == 'spectral':  # its own oracle is the published formula
        planes = [torch.from_numpy(a.transpose(2, 0, 1).copy()) for a in (target / np.float32(255), source)]
        expected = spectral_blend(*planes, torch.from_numpy(mask)[None]).numpy().transpose(1, 2, 0)
    else:
        expected = slow.compose(target / 255.0, source, mask, method, (0.1, 0.02))
    assert np.abs(made.astype(float) - expected * 255)[mask].max() <= 0.51  # rounding, and solves in float32
    np.testing.assert_array_equal(made[~mask], target[~mask])
    assert (limited > 0) == method.startswith('poisson')


@pytest.mark.parametrize('rule', ['visible', 'mask'])
@pytest.mark.parametrize('blend', ['alpha', 'poisson'])
def test_written_defects_are_those_of_the_slow_way(rule, blend):
    rng = np.random.default_rng(3)
    policy = PolicySpec(label=rule, label_radius=2, tolerance=0.05)
    image, label = rng.integers(90, 130, (40, 50, 3), dtype=np.uint8), np.zeros((40, 50), np.uint8)
    label[:, 20:24] = 255
    for corner in ((3, 5), (-4, 30), (30, 44)):
        core = np.zeros((15, 17), bool)
        core[3:12, 3:14] = rng.random((9, 11)) > 0.2
        region = cv2.dilate(core.view(np.uint8), np.ones((3, 3), np.uint8)) > 0
        patch = (0.4 + 0.1 * rng.random((15, 17, 3))).astype(np.float32)
        frame, part = overlap(core.shape, corner, label.shape)
        mask = np.zeros_like(region)
        mask[part] = region[part] & (label[frame] != 255)
        paste = Paste(0, 'a.png', 2, FittedDonor(core, region, patch), corner, mask, frame, part, blend, {'x': 1.0})
        before, old_label = image.copy(), label.copy()
        (instance,) = write_pastes(image, label, [paste], policy)
        limits = policy.max_boundary_shade, policy.max_boundary_cast
        expected = before / 255.0
        expected[frame] = slow.compose(before[frame] / 255.0, patch[part], mask[part], blend, limits)
        assert np.abs(image - expected * 255).max() <= 0.51
        found = slow.labelled(image[frame] / 255.0, before[frame] / 255.0, mask[part], core[part], policy)
        np.testing.assert_array_equal(label[frame] == 2, found | (old_label[frame] == 2))
        rows, columns = np.nonzero(found)
        top, left = frame[0].start, frame[1].start
        assert instance.box == (top + rows.min(), left + columns.min(), top + rows.max() + 1, left + columns.max() + 1)
        assert instance.area == found.sum() and instance.parameters['x'] == 1.0
    np.testing.assert_array_equal(label[:, 20:24], 255)


class TestFeather:
    def test_it_rises_inwards_by_hand(self):
        mask = np.zeros((7, 9), bool)
        mask[1:6, 1:8] = True
        assert feather_weights(mask)[3].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1, 1, 1, 2 / 3, 1 / 3, 0])

    def test_the_support_stays_the_mask_and_the_edge_of_the_image_is_no_rim(self):
        mask = np.random.default_rng(0).random((30, 30)) < 0.5
        np.testing.assert_array_equal(feather_weights(mask) > 0, mask)
        mask = np.zeros((5, 8), bool)
        mask[:, :4] = True
        assert (feather_weights(mask)[:, 0] == 1).all() and feather_weights(mask)[0, 3] == pytest.approx(1 / 3)
        assert (feather_weights(np.ones((4, 4), bool)) == 1).all()


def test_the_cache_forgets_what_was_used_least_recently(library):
    warped = [warp_donor(library[0], (1.0, 1.0), operations(0), 1) for _ in range(3)]
    cache = VariantCache(int(2.5 * warped[0].nbytes))
    for key, one in zip('ab', warped[:2], strict=True):
        cache.put(key, one)
    cache.get('a')
    cache.put('c', warped[2])
    assert cache.get('b') is None and cache.get('a') is not None and cache.nbytes <= cache.most_bytes
    kept = cache.get('a')
    kept.membrane.extend(np.zeros((len(kept.membrane.beside), 3), np.float32))  # a factor is made
    cache.get('a')
    assert cache.nbytes <= cache.most_bytes
