"""The batch as tensors against pasting written out pixel by pixel, against the arrays of workers, and its gradients."""

import cv2
import numpy as np
import pytest
import torch

from mmdefect.synthesis.engine import PasteEngine
from mmdefect.synthesis.foreground import find_foreground
from mmdefect.synthesis.operations import OPERATIONS, OperationRanges
from mmdefect.synthesis.places import location_codes, overlap
from mmdefect.synthesis.poisson.blends import spectral_blend
from mmdefect.synthesis.policy import PolicySpec
from mmdefect.synthesis.render import arrays
from mmdefect.synthesis.render.tensors import SIDES, _Stored, fit_donors, side_for, write_pastes
from mmdefect.synthesis.sampler import Background, FittedDonor, Paste
from tests.helpers.defects import FRAME_HW, draw_part, labelled_parts, library_of_parts
from tests.synthesis.noise import generator
from tests.synthesis.render import slow

BLENDS = ('alpha', 'feather', 'poisson', 'poisson-mixed', 'spectral')


@pytest.fixture(scope='module')
def library(tmp_path_factory):
    return library_of_parts(tmp_path_factory.mktemp('library'), labelled_parts(6, outline=True))


def images_of(count, size_hw=FRAME_HW, channels=3):
    images = [draw_part(np.random.default_rng(seed), size_hw)[..., :channels] for seed in range(count)]
    codes = [
        location_codes(size_hw, find_foreground(draw_part(np.random.default_rng(seed), size_hw)))
        for seed in range(count)
    ]
    tensors = torch.stack([torch.from_numpy(image.transpose(2, 0, 1).copy()).float() / 255 for image in images])
    return tensors, torch.zeros(count, *size_hw, dtype=torch.int64), codes


def known(labels, codes):
    return [Background(label.numpy().copy(), code, FRAME_HW) for label, code in zip(labels, codes, strict=True)]


def stored(donor, store):
    """Return the patch of a fitted donor, ``(h, w, 3)`` RGB."""
    place, (height, width) = donor.stored, donor.stored.canvas_hw
    rows = np.clip(np.arange(donor.core.shape[0]) + place.top_left_rc[0], 0, height - 1)
    columns = np.clip(np.arange(donor.core.shape[1]) + place.top_left_rc[1], 0, width - 1)
    return store[:, place.base + rows[:, None] * place.pitch + columns].permute(1, 2, 0)


def plans_of(library, count=24, **policy):
    engine = PasteEngine(library, policy)
    _, labels, codes = images_of(1)
    (background,) = known(labels, codes)
    plans = [plan for seed in range(count) for plan in engine.sampler.plan(background, generator(seed))[1]]
    return [plan for plan in plans if not isinstance(plan, str)]


def test_donors_are_warped_as_the_slow_way_and_as_arrays(library):
    operations = dict(probability=1.0, elastic_probability=1.0, scale=(0.2, 1.6))
    plans = plans_of(library, places=dict(even=1, source=1), operations=operations)
    fitted, store = fit_donors(plans, torch.empty(0))
    differing = total = 0
    for number, (plan, one) in enumerate(zip(plans, fitted, strict=True)):
        alone = arrays.warp_donor(plan.donor, plan.scale_yx, plan.operations, plan.grow).coloured(plan.operations)
        if alone.region.shape != one.region.shape:  # a pixel on the threshold at the rim of the box
            differing += 1
            continue
        differing += np.count_nonzero(alone.region != one.region) + np.count_nonzero(alone.core != one.core)
        total += alone.core.size
        np.testing.assert_allclose(stored(one, store)[..., [2, 1, 0]], alone.patch, atol=3e-4)
        if number < 8:
            image, core, _ = arrays.fit(plan.donor, plan.scale_yx)  # scaled and flipped as its own tests say
            size_hw = arrays.canvas_of(plan.operations, core.shape).size_hw
            colours, core = slow.fit_donor(image, core == 1, plan.operations, size_hw)
            box = one.stored.top_left_rc
            frame, part = overlap(one.core.shape, box, core.shape)
            assert np.count_nonzero(one.core[part] != core[frame]) <= 1
            np.testing.assert_allclose(stored(one, store)[part], colours[frame], atol=3e-4)
    assert len(plans) > 12 and differing <= 1e-3 * total


@pytest.mark.parametrize('rule', ['visible', 'mask'])
@pytest.mark.parametrize('blend', BLENDS)
def test_written_defects_are_those_of_the_slow_way(rule, blend):
    """Three images at once, the second defect of each over the first, one across the border of the image."""
    rng = np.random.default_rng(5)
    policy = PolicySpec(label=rule, label_radius=2, tolerance=0.05)
    before = 0.35 + 0.15 * torch.from_numpy(rng.random((3, 3, 40, 50))).float()
    labels = torch.zeros(3, 40, 50, dtype=torch.int64)
    labels[1, :, 20:24] = 255
    pastes, patches = [[], [], []], []
    for number, (row, corner) in enumerate([(0, (3, 5)), (0, (6, 9)), (1, (10, 12)), (1, (-4, 30)), (2, (30, 44))]):
        core = np.zeros((15, 17), bool)
        core[3:12, 3:14] = rng.random((9, 11)) > 0.2
        region = cv2.dilate(core.view(np.uint8), np.ones((3, 3), np.uint8)) > 0
        patch = (0.3 + 0.4 * rng.random((15, 17, 3))).astype(np.float32)
        patches.append(patch.transpose(2, 0, 1).reshape(3, -1))
        frame, part = overlap(core.shape, corner, (40, 50))
        mask = np.zeros_like(region)
        mask[part] = region[part] & (labels[row][frame].numpy() != 255)
        donor = FittedDonor(core, region, patch, stored=_Stored(number * core.size, 17, core.shape, (0, 0)))
        pastes[row].append(Paste(0, f'{number}.png', 1 + number % 2, donor, corner, mask, frame, part, blend, {}))
    images, new_labels = before.clone(), labels.clone()
    store = torch.from_numpy(np.concatenate(patches, 1))
    records, unseen = write_pastes(images, new_labels, pastes, store, policy)
    assert unseen == 0
    limits = policy.max_boundary_shade, policy.max_boundary_cast
    for row, own in enumerate(pastes):
        expected, expected_label = before[row].permute(1, 2, 0).double().numpy(), labels[row].numpy().copy()
        for paste, record in zip(own, records[row], strict=True):
            frame, part, mask = paste.frame, paste.part, paste.mask[paste.part]
            old, patch = expected[frame].copy(), paste.fitted.patch[part]
            if blend == 'spectral':  # its own oracle is the published formula
                planes = [torch.from_numpy(a.transpose(2, 0, 1).astype(float).copy()) for a in (old, patch)]
                new = spectral_blend(*planes, torch.from_numpy(mask)[None]).numpy().transpose(1, 2, 0)
                new = np.where(mask[..., None], new, old)
            else:
                new = slow.compose(old, patch, mask, blend, limits)
            found = slow.labelled(new, old, mask, paste.fitted.core[part], policy)
            expected[frame] = new
            expected_label[frame][found] = paste.class_id
            rows, columns = np.nonzero(found)
            top, left = frame[0].start, frame[1].start
            bottom_right = top + rows.max() + 1, left + columns.max() + 1
            assert record.box == (top + rows.min(), left + columns.min(), *bottom_right)
            assert record.area == found.sum() and record.source == paste.source
        np.testing.assert_allclose(images[row].permute(1, 2, 0), expected, atol=2e-5)
        np.testing.assert_array_equal(new_labels[row], expected_label)


def eight_bit(engine, image, label, seed, background):
    """Return what workers make of a float image: 8-bit RGB pixels, label, instances and skips."""
    pixels = np.ascontiguousarray((image * 255).round().byte().numpy().transpose(1, 2, 0)[..., ::-1])
    label = label.numpy().astype(np.uint8)
    instances, skipped = engine.paste(pixels, label, background, generator(seed))
    return pixels[..., ::-1], label, instances, skipped


@pytest.mark.parametrize('blend', BLENDS)
@pytest.mark.parametrize('rule', ['visible', 'mask'])
def test_the_batch_is_what_workers_make(library, blend, rule):
    # Which of two gradients is the stronger flips where the first defect was rounded, so mixed ones come alone.
    number = {1: 1} if blend == 'poisson-mixed' else {3: 1}
    policy = dict(number=number, places=dict(even=1, source=1), blends={blend: 1}, label=rule, max_existing_overlap=1.0)
    engine = PasteEngine(library, policy)
    images, labels, codes = images_of(5)
    labels[2, 20:40, 20:60], labels[3, 40:] = 1, 255
    backgrounds = known(labels, codes)
    made = engine(images, labels, [generator(i) for i in range(5)], backgrounds)
    labelled = differing = 0
    skips = {}
    for i in range(5):
        pixels, label, instances, skipped = eight_bit(engine, images[i], labels[i], i, backgrounds[i])
        # Rounding after the first defect moves what the second one is blended with by half a grey level.
        assert np.abs((made.image[i] * 255).round().numpy().transpose(1, 2, 0) - pixels).max() <= 1
        differing += int((made.label[i].numpy() != label).sum())
        labelled += int((label > 0).sum())
        for one, other in zip(made.instances[i], instances, strict=True):
            assert (one.class_id, one.source, one.blend) == (other.class_id, other.source, other.blend)
            assert one.parameters == pytest.approx(other.parameters, abs=0.05)
        skips = {k: skips.get(k, 0) + skipped.get(k, 0) for k in {*skips, *skipped}}
    assert labelled and differing <= 2e-3 * labelled and made.skipped == skips  # a change may lie on the tolerance
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
    changed = (made.image - images).abs().amax(1) > 3 * engine.policy.tolerance
    assert (made.label > 0)[changed].all()
    assert made.label[:, [0, -1]].any() and made.label[:, :, [0, -1]].any()


def test_exact_labels_and_no_change_elsewhere(library):
    engine = PasteEngine(library, dict(places=dict(even=1)))
    images, labels, codes = images_of(8)
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
    images, labels, _ = images_of(2)
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


def test_learned_ranges_get_their_gradient_through_the_whole_paste(library):
    """Low and high of every operation, through warp, colours, limited outline and membrane, against differences."""
    engine = PasteEngine(library, dict(places=dict(even=1), blends=dict(poisson=1)))
    images, labels, codes = images_of(2)
    images, backgrounds = images.double(), known(labels, codes)
    weights = torch.rand(images.shape, dtype=images.dtype, generator=generator(7))
    colours = [[0.8, 1.2]] * 3 + [[-0.03, 0.02]]
    start = torch.tensor([[-20, 25], [-8, 9], [-9, 7], [0.8, 1.3], *colours], dtype=torch.float64)

    def value(bounds):
        ranges = OperationRanges(**dict(zip(OPERATIONS, bounds, strict=True)), probability=1.0, elastic_probability=1.0)
        sampled = engine.sample_batch(backgrounds, [generator(i) for i in range(2)], images, [ranges] * 2)
        # Places, masks and labels are fixed in the derivative; a change of 1e-7 of a range does not move them here.
        return (engine.write_batch(images, labels, sampled).image * weights).sum()

    leaf = start.clone().requires_grad_()
    value(leaf).backward()
    for place in np.ndindex(8, 2):
        sides = []
        for step in (1e-7, -1e-7):
            moved = start.clone()
            moved[place] += step
            sides.append(value(moved).item())
        slope = (sides[0] - sides[1]) / 2e-7
        assert leaf.grad[place].item() == pytest.approx(slope, rel=1e-3, abs=1e-4), (OPERATIONS[place[0]], place[1])
    assert (leaf.grad.abs().amax(1) > 1e-5).all()


def test_arrays_come_in_few_sizes():
    assert side_for(1) == SIDES[0] and side_for(65) == 128 and side_for(SIDES[-1]) == SIDES[-1]
    with pytest.raises(ValueError, match='max_extent'):
        side_for(SIDES[-1] + 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
@pytest.mark.parametrize('blend', BLENDS)
def test_the_batch_on_cuda(library, blend):
    engine = PasteEngine(library, dict(number={2: 1}, places=dict(even=1, source=1), blends={blend: 1}))
    images, labels, codes = images_of(6)
    made = engine(images.cuda(), labels.cuda(), [generator(i) for i in range(6)], known(labels, codes))
    assert made.image.is_cuda and made.label.is_cuda
    here = engine(images, labels, [generator(i) for i in range(6)], known(labels, codes))
    assert ((made.image.cpu() - here.image).abs().amax(1) > 1e-4).sum() <= 0.01 * (here.label > 0).sum()
    assert (made.label.cpu() != here.label).sum() <= 0.01 * (here.label > 0).sum() and made.skipped == here.skipped
