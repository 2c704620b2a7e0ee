"""The batch as tensors against one sample after the other, and its parts against those of one sample."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdefect.synthesis.batch_fitting import SIDES, fit_batch, side_for
from mmdefect.synthesis.blending.batch_membrane import MembraneBatch, boundary_of, limit_steps, touches_border
from mmdefect.synthesis.blending.boundary import limit_step
from mmdefect.synthesis.blending.domain import PoissonFactor
from mmdefect.synthesis.donor_fitting import prepare
from mmdefect.synthesis.engine import Background, PasteEngine
from mmdefect.synthesis.foreground import find_foreground
from mmdefect.synthesis.location import location_codes
from tests.helpers.defects import FRAME_HW, draw_part, labelled_parts, library_of_parts

BLENDS = ('alpha', 'feather', 'poisson', 'poisson-mixed', 'spectral')


@pytest.fixture(scope='module')
def library(tmp_path_factory):
    return library_of_parts(tmp_path_factory.mktemp('library'), labelled_parts(6, outline=True))


def generator(seed):
    return torch.Generator().manual_seed(seed)


def photos(count, size_hw=FRAME_HW, channels=3):
    images = [draw_part(np.random.default_rng(seed), size_hw)[..., :channels] for seed in range(count)]
    codes = [
        location_codes(size_hw, find_foreground(draw_part(np.random.default_rng(seed), size_hw)))
        for seed in range(count)
    ]
    tensors = torch.stack([torch.from_numpy(image.transpose(2, 0, 1).copy()).float() / 255 for image in images])
    return tensors, torch.zeros(count, *size_hw, dtype=torch.int64), codes


def known(labels, codes):
    return [Background(label.numpy().copy(), code, FRAME_HW) for label, code in zip(labels, codes, strict=True)]


def assert_alike(batch, one_by_one, most_differing=2e-3):
    """Pixels agree to rounding; a label may differ where a change lies on the tolerance or a mask on its threshold."""
    differing = total = 0
    for i, alone in enumerate(one_by_one):
        apart = (batch.image[i].cpu() - alone.image).abs().amax(0)
        differing += int((apart > 1e-4).sum()) + int((batch.label[i].cpu() != alone.label).sum())
        total += int((alone.label > 0).sum())
        for one, other in zip(batch.instances[i], alone.instances, strict=True):
            assert (one.class_id, one.source, one.blend) == (other.class_id, other.source, other.blend)
            assert abs(one.area - other.area) <= 2
            assert one.parameters == pytest.approx(other.parameters, abs=0.05)
    assert total and differing <= most_differing * total
    assert Counter(batch.skipped) == sum((Counter(s.skipped) for s in one_by_one), Counter())


@pytest.mark.parametrize('blend', BLENDS)
@pytest.mark.parametrize('rule', ['visible', 'mask'])
def test_the_batch_is_what_one_after_the_other_gives(library, blend, rule):
    engine = PasteEngine(
        library,
        dict(number={3: 1}, places=dict(even=1, source=1), blends={blend: 1}, label=rule, max_existing_overlap=1.0),
    )
    images, labels, codes = photos(5)
    labels[2, 20:40, 20:60], labels[3, 40:] = 1, 255
    made = engine(images, labels, [generator(i) for i in range(5)], known(labels, codes))
    alone = [engine(images[i], labels[i], generator(i), known(labels, codes)[i]) for i in range(5)]
    assert_alike(made, alone)
    untouched = made.image == images
    assert untouched.all(1)[made.label == 255].all()


@pytest.mark.parametrize('channels', [1, 3])
def test_defects_at_the_border_of_the_image(library, channels):
    engine = PasteEngine(
        library,
        dict(
            number={4: 1},
            places=dict(even=1),
            blends=dict(poisson=1),
            min_overlap=0.3,
            max_existing_overlap=1.0,
            max_extent=1.0,
        ),
    )
    images, labels = torch.rand(6, channels, 24, 31, generator=generator(9)), torch.zeros(6, 24, 31, dtype=torch.int64)
    made = engine(images, labels, [generator(i) for i in range(6)])
    assert_alike(made, [engine(images[i], labels[i], generator(i)) for i in range(6)], 0.01)
    changed = (made.image - images).abs().amax(1) > 3 * engine.policy.tolerance
    assert (made.label > 0)[changed].all()
    assert made.label[:, [0, -1]].any() and made.label[:, :, [0, -1]].any()


def test_exact_labels_and_no_change_elsewhere(library):
    engine = PasteEngine(library, dict(places=dict(even=1)))
    images, labels, codes = photos(8)
    before = images.clone()
    made = engine(images, labels, [generator(i) for i in range(8)], known(labels, codes))
    assert torch.equal(images, before) and not labels.any()
    changed = (made.image - images).abs().amax(1)
    assert torch.equal(changed > engine.policy.tolerance, made.label > 0)
    for label, instances in zip(made.label, made.instances, strict=True):
        for instance in instances:
            top, left, bottom, right = instance.box
            assert int((label > 0).sum()) == instance.area == int((label[top:bottom, left:right] > 0).sum())


def test_nothing_to_paste_and_nothing_to_see(library, tmp_path):
    images, labels, codes = photos(2)
    none = PasteEngine(library, dict(number={0: 1}))(images, labels, [generator(0), generator(1)])
    assert torch.equal(none.image, images) and none.instances == [[], []]
    blank, label = np.full((*FRAME_HW, 3), 100, np.uint8), np.zeros(FRAME_HW, np.uint8)
    label[30:40, 30:40] = 1
    unseen = PasteEngine(library_of_parts(tmp_path, [(blank, label)]), dict(places=dict(even=1)))
    flat = torch.full_like(images, 0.4)
    made = unseen(flat, labels, [generator(0), generator(1)])
    assert torch.equal(made.image, flat) and not made.label.any() and made.skipped == {'invisible': 2}
    nowhere = PasteEngine(library)(
        images, labels, [generator(0), generator(1)], known(labels, [np.zeros(FRAME_HW, np.float32)] * 2)
    )
    assert nowhere.skipped == {'no place allowed': 2} and torch.equal(nowhere.image, images)


def test_donors_are_warped_as_alone(library):
    engine = PasteEngine(
        library,
        dict(
            places=dict(even=1, source=1), operations=dict(probability=1.0, elastic_probability=1.0, scale=(0.2, 1.6))
        ),
    )
    _, labels, codes = photos(1)
    (background,) = known(labels, codes)
    plans = [plan for seed in range(24) for plan in engine._plan(background, generator(seed))[1]]
    plans = [plan for plan in plans if not isinstance(plan, str)]
    fitted, store = fit_batch(plans, 2, torch.device('cpu'))
    differing = total = 0
    for plan, one in zip(plans, fitted, strict=True):
        alone = prepare(plan.donor, plan.scale_yx, plan.operations, 2)
        if alone.region.shape != one.region.shape:  # a pixel on the threshold at the rim of the box
            differing += 1
            continue
        differing += np.count_nonzero(alone.region != one.region) + np.count_nonzero(alone.core != one.core)
        total += alone.core.size
        place, (height, width) = one.stored, one.stored.canvas_hw
        rows = np.clip(np.arange(alone.core.shape[0]) + place.top_left_rc[0], 0, height - 1)
        columns = np.clip(np.arange(alone.core.shape[1]) + place.top_left_rc[1], 0, width - 1)
        patch = store[:, place.base + rows[:, None] * place.pitch + columns].permute(1, 2, 0)
        np.testing.assert_allclose(patch, alone.patch, atol=2e-4)
    assert len(plans) > 12 and differing <= 1e-3 * total


@given(st.integers(0, 2**31), st.booleans(), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=25, deadline=None)
def test_membranes_solve_the_equation(seed, at_border, dtype):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(4, 20, 2).tolist()
    masks = []
    while len(masks) < 3:
        mask = rng.random((height, width)) < rng.uniform(0.1, 0.9)
        if not at_border:
            mask[[0, -1]] = mask[:, [0, -1]] = False
        if mask.any() and not mask.all() and touches_border(mask) == at_border:
            masks.append(mask)
    boundaries = [boundary_of(mask) for mask in masks]
    most = max(len(ring) + len(ghosts) for ring, ghosts in boundaries)
    batch = MembraneBatch(boundaries, (height, width), most + 3, torch.empty(0, dtype=dtype))
    given_values = torch.from_numpy(rng.uniform(-1, 1, (3, 2, batch.beside.shape[1]))).to(dtype)
    made = batch.extend(given_values)
    for i, (mask, (ring, _)) in enumerate(zip(masks, boundaries, strict=True)):
        flat = ring[:, 0] * width + ring[:, 1]
        assert int(batch.counts[i]) == len(ring) and (batch.beside[i, : len(ring)].numpy() == flat).all()
        factor = PoissonFactor(mask, 'sparse')
        order = np.argsort(flat)
        expected = factor.solver.extend(given_values[i, :, order].double())
        tolerance = 1e-9 if dtype == torch.float64 else 2e-5
        torch.testing.assert_close(made[i].flatten(1)[:, mask.ravel()].double(), expected, atol=tolerance, rtol=0)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_steps_are_limited_as_one_by_one(counts, seed):
    rng = np.random.default_rng(seed)
    step = rng.normal(0, 0.1, (len(counts), 3, max(counts) + 2))
    limited, share = limit_steps(torch.from_numpy(step), torch.tensor(counts), 0.1, 0.02)
    for i, count in enumerate(counts):
        expected, own_share = limit_step(step[i, :, :count].T.copy(), 0.1, 0.02)
        np.testing.assert_allclose(limited[i, :, :count].T, expected, atol=1e-12)
        assert float(share[i]) == pytest.approx(own_share)


def test_arrays_come_in_few_sizes():
    assert side_for(1) == SIDES[0] and side_for(65) == 128 and side_for(SIDES[-1]) == SIDES[-1]
    with pytest.raises(ValueError, match='max_extent'):
        side_for(SIDES[-1] + 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
@pytest.mark.parametrize('blend', BLENDS)
def test_the_batch_on_cuda(library, blend):
    engine = PasteEngine(library, dict(number={2: 1}, places=dict(even=1, source=1), blends={blend: 1}))
    images, labels, codes = photos(6)
    made = engine(images.cuda(), labels.cuda(), [generator(i) for i in range(6)], known(labels, codes))
    assert made.image.is_cuda and made.label.is_cuda
    alone = [engine(images[i], labels[i], generator(i), known(labels, codes)[i]) for i in range(6)]
    assert_alike(made, alone, 0.01)
