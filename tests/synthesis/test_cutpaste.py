"""CutPaste: exact labels, never out of the frame, the distributions of the paper, replay, batches, arrays and views."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from mmdefect.synthesis.cutpaste import (
    VARIANTS,
    CutPasteParameters,
    CutPasteRanges,
    class_names,
    cut_paste,
    cut_paste_3way,
    make_views,
    render_array,
    render_tensor,
    sample_cutpaste,
)
from mmdefect.synthesis.places import rotated_size
from mmdefect.synthesis.records import VISIBLE_TOLERANCE
from tests.synthesis.noise import generator, noise_image


@pytest.mark.parametrize('kind', ['normal', 'scar', 'union'])
@pytest.mark.parametrize('size', [(64, 64), (40, 130), (130, 40)])
def test_label_is_exactly_what_changed(kind, size):
    image = noise_image(*size)
    before = image.clone()
    for seed in range(20):
        result = cut_paste(image, generator(seed), kind=kind, class_id=3)
        changed = ((result.image - image).abs() > VISIBLE_TOLERANCE).any(0)
        assert torch.equal(result.label == 3, changed) and set(result.label.unique().tolist()) == {0, 3}
        (instance,) = result.instances
        rows, columns = np.nonzero(changed.numpy())
        assert instance.box == (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
        assert instance.area == changed.sum() and instance.class_id == 3
        assert 0 <= result.image.min() and result.image.max() <= 1 and result.image.dtype == image.dtype
    assert torch.equal(image, before)


def test_a_rectangle_is_copied_as_it_is_without_jitter():
    image = noise_image(50, 70)
    paste = CutPasteParameters(False, 3, 5, 10, 20, 30, 41, 0.0, 1.0, 1.0, 1.0, 0.0)
    part, alpha = render_tensor(image, paste)
    assert torch.allclose(part, image[:, 3:13, 5:25], atol=1e-6) and alpha.shape == (10, 20) and alpha.min() == 1


def test_all_pasted_pixels_are_labelled_when_asked():
    image = noise_image(64, 64)
    result = cut_paste(image, generator(1), tolerance=None)
    sampled = result.instances[0].parameters
    assert result.instances[0].area == sampled['height'] * sampled['width']


@pytest.mark.parametrize('degrees', [0.0, 45.0, -30.0, 90.0])
def test_a_scar_turns_as_scipy_turns_it(degrees):
    """Interior pixels: the outline depends on how a library fades it."""
    image = torch.from_numpy(ndimage.gaussian_filter(np.random.default_rng(0).random((3, 60, 60)), (0, 2, 2)))
    paste = CutPasteParameters(True, 10, 12, 21, 15, 20, 20, degrees, 1.0, 1.0, 1.0, 0.0)
    part, alpha = render_tensor(image, paste)
    source = image[:, 10:31, 12:27].numpy()
    expected = np.stack([ndimage.rotate(channel, degrees, order=1, reshape=True, mode='nearest') for channel in source])
    top, left = ((a - b) // 2 for a, b in zip(part.shape[1:], expected.shape[1:], strict=True))
    # SciPy may choose a canvas one pixel smaller: compare about the common centre when the parities agree
    if (part.shape[1] - expected.shape[1]) % 2 or (part.shape[2] - expected.shape[2]) % 2:
        reference = ndimage.affine_transform
        angle = math.radians(degrees)
        matrix = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        centre_in, centre_out = (np.array(source.shape[1:]) - 1) / 2, (np.array(part.shape[1:]) - 1) / 2
        expected = np.stack(
            [
                reference(channel, matrix, centre_in - matrix @ centre_out, part.shape[1:], order=1, mode='nearest')
                for channel in source
            ]
        )
        top = left = 0
    inner = alpha.numpy() >= 1 - 1e-6
    inner &= ndimage.binary_erosion(inner)
    assert inner.sum() > 60
    pad_h, pad_w = expected.shape[1:]
    inner = inner[top : top + pad_h, left : left + pad_w]
    ours = part[:, top : top + pad_h, left : left + pad_w].numpy()
    assert np.abs(ours - expected)[:, inner].max() < 2e-3


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(['normal', 'scar', 'union']),
)
def test_never_out_of_the_frame(height, width, seed, kind):
    paste = sample_cutpaste((height, width), generator(seed), kind)
    canvas_h, canvas_w = paste.canvas_hw
    assert paste.height >= 1 and paste.width >= 1
    assert 0 <= paste.source_top <= height - paste.height and 0 <= paste.source_left <= width - paste.width
    assert 0 <= paste.target_top <= height - canvas_h and 0 <= paste.target_left <= width - canvas_w


@settings(max_examples=25, deadline=None)
@given(height=st.integers(3, 60), width=st.integers(3, 60), seed=st.integers(0, 2**31))
def test_any_size_pastes_or_says_why_not(height, width, seed):
    image = noise_image(height, width, seed)
    result = cut_paste(image, generator(seed), kind='union')
    assert bool(result.instances) != bool(result.skipped)
    assert ((result.image != image).any(0) | (result.label == 0)).all()


def test_a_paste_for_another_size_is_rejected():
    paste = sample_cutpaste((200, 200), generator(2))
    with pytest.raises(ValueError, match='must lie inside'):
        render_tensor(noise_image(20, 20), paste)


def test_area_is_uniform_and_aspect_log_uniform():
    pastes = [sample_cutpaste((2000, 2000), generator(seed)) for seed in range(1500)]
    area = np.array([paste.height * paste.width for paste in pastes]) / 2000**2
    aspect = np.array([paste.width / paste.height for paste in pastes])
    assert stats.kstest(area, stats.uniform(0.02, 0.13).cdf).pvalue > 1e-3
    assert stats.kstest(aspect, stats.loguniform(0.3, 1 / 0.3).cdf).pvalue > 1e-3


def test_wide_images_keep_area_and_what_fits_of_the_aspects():
    pastes = [sample_cutpaste((500, 3000), generator(seed)) for seed in range(1000)]
    area = np.array([paste.height * paste.width for paste in pastes]) / (500 * 3000)
    assert stats.kstest(area, stats.uniform(0.02, 0.13).cdf).pvalue > 1e-3
    assert max(paste.height for paste in pastes) <= 500


@pytest.mark.parametrize('size', [256, 1024])
def test_scars_grow_with_the_image(size):
    pastes = [sample_cutpaste((size, size), generator(seed), 'scar') for seed in range(1500)]
    grow = size / 256
    # sides are whole pixels: half a pixel of noise undoes the rounding for the test
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 1500))
    width = np.array([paste.width for paste in pastes]) + noise[0]
    length = np.array([paste.height for paste in pastes]) + noise[1]
    inside = (width > 2 * grow + 1) & (width < 16 * grow - 1)
    assert stats.kstest(width[inside], stats.uniform(2 * grow + 1, 14 * grow - 2).cdf).pvalue > 1e-3
    inside = (length > 10 * grow + 1) & (length < 25 * grow - 1)
    assert stats.kstest(length[inside], stats.uniform(10 * grow + 1, 15 * grow - 2).cdf).pvalue > 1e-3
    degrees = np.array([paste.degrees for paste in pastes])
    assert stats.kstest(degrees, stats.uniform(-45, 90).cdf).pvalue > 1e-3


def test_places_reach_every_border():
    pastes = [sample_cutpaste((16, 16), generator(seed)) for seed in range(600)]
    assert (
        min(paste.target_top for paste in pastes) == 0
        and max(paste.target_top + paste.height for paste in pastes) == 16
    )
    assert (
        min(paste.target_left for paste in pastes) == 0
        and max(paste.target_left + paste.width for paste in pastes) == 16
    )


def test_union_is_half_and_half():
    scars = sum(sample_cutpaste((64, 64), generator(seed), 'union').scar for seed in range(1000))
    assert stats.binomtest(scars, 1000, 0.5).pvalue > 1e-3


def test_same_seed_same_pixels_and_a_record_replays():
    image = noise_image(80, 60)
    first, second = (cut_paste(image, generator(7), kind='scar') for _ in range(2))
    assert torch.equal(first.image, second.image) and torch.equal(first.label, second.label)
    record = first.instances[0].parameters
    whole = ('source_top', 'source_left', 'height', 'width', 'target_top', 'target_left')
    paste = CutPasteParameters(**{name: int(value) if name in whole else value for name, value in record.items()})
    part, _ = render_tensor(image, paste)
    top, left = paste.target_top, paste.target_left
    assert torch.equal(part, first.image[:, top : top + part.shape[1], left : left + part.shape[2]])


def test_batch_mates_change_nothing():
    images = torch.stack([noise_image(48, 64, seed) for seed in range(4)])
    labels = torch.randint(0, 3, (4, 48, 64), generator=generator())
    batch = cut_paste(images, [generator(seed) for seed in range(4)], labels, kind='union', class_id=4)
    for i in range(4):
        alone = cut_paste(images[i], generator(i), labels[i], kind='union', class_id=4)
        assert torch.equal(alone.image, batch.image[i]) and torch.equal(alone.label, batch.label[i])
        assert alone.instances == batch.instances[i]
    with pytest.raises(ValueError, match='one per sample'):
        cut_paste(images, generator())


def test_pasted_pixels_win_over_classes_but_not_over_ignored_ones():
    image, label = noise_image(64, 64), torch.zeros(64, 64, dtype=torch.int64)
    label[:, :32], label[:, 32:] = 2, 255
    kept = cut_paste(image, generator(3), label, class_id=1)
    changed = ((kept.image - image).abs() > VISIBLE_TOLERANCE).any(0)
    assert torch.equal(kept.label == 1, changed & (label != 255)) and torch.equal(kept.label == 255, label == 255)
    over = cut_paste(image, generator(3), label, class_id=1, overwrite_ignore=True)
    assert torch.equal(over.label == 1, changed)
    none = cut_paste(image, generator(3), torch.full_like(label, 255))
    assert none.skipped == {'ignored': 1} and torch.equal(none.image, image)


def test_an_even_image_shows_nothing_and_is_counted():
    image = torch.full((3, 32, 32), 0.5)
    result = cut_paste(image, generator(), ranges=CutPasteRanges(jitter=0))
    assert result.skipped == {'invisible': 1} and not result.instances
    assert torch.equal(result.image, image) and not result.label.any()


def test_three_views():
    image = noise_image(64, 96)
    same, normal, scar = cut_paste_3way(image, generator(5))
    assert same.image is image and not same.label.any() and same.instances == []
    assert normal.instances[0].generator == 'cutpaste-normal' and set(normal.label.unique().tolist()) == {0, 1}
    assert scar.instances[0].generator == 'cutpaste-scar' and set(scar.label.unique().tolist()) == {0, 2}


def test_one_channel_and_double_precision():
    image = noise_image(40, 40, channels=1).double()
    result = cut_paste(image, generator(1), kind='scar')
    assert result.image.dtype == torch.float64 and result.image.shape == (1, 40, 40) and result.instances


def test_the_image_gets_a_gradient():
    image = noise_image(32, 32).requires_grad_()
    cut_paste(image, generator(1)).image.sum().backward()
    assert image.grad is not None and image.grad.abs().sum() > 0


@pytest.mark.parametrize(
    'bad, message',
    [
        (dict(area_fraction_range=(0.5, 0.1)), 'area_fraction_range'),
        (dict(area_fraction_range=(20, 40)), 'number of pixels'),
        (dict(jitter=2), 'jitter'),
        (dict(scar_rotation_range=(0, 400)), 'degrees'),
    ],
)
def test_wrong_ranges_are_rejected(bad, message):
    with pytest.raises(ValueError, match=message):
        CutPasteRanges(**bad)


def test_wrong_calls_are_rejected():
    with pytest.raises(ValueError, match='normal, scar, union'):
        cut_paste(noise_image(8, 8), generator(), kind='scars')
    with pytest.raises(TypeError, match='255'):
        cut_paste(torch.zeros(3, 8, 8, dtype=torch.uint8), generator())
    with pytest.raises(ValueError, match='like the image'):
        cut_paste(noise_image(8, 8), generator(), torch.zeros(8, 9, dtype=torch.int64))


def test_rotated_size_holds_the_corners():
    for degrees in (0, 13, 45, 90, -77):
        height, width = rotated_size((10, 30), degrees)
        angle = math.radians(degrees)
        corners = np.array([[5, 15], [5, -15]]) @ np.array(
            [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
        )
        assert np.abs(corners[:, 0]).max() <= height / 2 + 1e-6 < np.abs(corners[:, 0]).max() + 1
        assert np.abs(corners[:, 1]).max() <= width / 2 + 1e-6 < np.abs(corners[:, 1]).max() + 1


def array_image(height, width, seed=0, channels=3):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def as_tensor(image, is_bgr):
    order = -1 if is_bgr else 1
    return torch.from_numpy(image[..., ::order].transpose(2, 0, 1).copy()).float() / 255


@pytest.mark.parametrize('kind', ['normal', 'scar'])
@pytest.mark.parametrize('is_bgr', [True, False])
@pytest.mark.parametrize('channels', [1, 3])
def test_pixels_of_arrays_are_those_of_tensors(kind, is_bgr, channels):
    for seed in range(8):
        image = array_image(61, 90, seed, channels)
        paste = sample_cutpaste((61, 90), generator(seed), kind)
        part, alpha = render_array(image, paste, is_bgr)
        expected, share = render_tensor(as_tensor(image, is_bgr), paste)
        order = -1 if is_bgr else 1
        expected = expected.numpy().transpose(1, 2, 0)[..., ::order] * 255
        assert np.abs(part - expected).max() <= 0.75  # rounding to 8 bits, and OpenCV's fixed point before it
        np.testing.assert_allclose(alpha, share, atol=1e-5)


@given(st.integers(3, 80), st.integers(3, 80), st.integers(0, 2**31), st.sampled_from(['normal', 'scar', 'union']))
@settings(max_examples=40, deadline=None)
def test_labels_are_exact_on_arrays_of_any_shape(height, width, seed, kind):
    image = array_image(height, width, seed % 1000)
    before = image.copy()
    made = cut_paste(image, generator(seed), kind=kind)
    np.testing.assert_array_equal(image, before)
    changed = np.abs(made.image.astype(int) - image).max(2) > VISIBLE_TOLERANCE * 255
    np.testing.assert_array_equal(changed, made.label > 0)
    if made.instances:
        top, left, bottom, right = made.instances[0].box
        assert made.label[top:bottom, left:right].sum() == made.label.sum() == made.instances[0].area
    else:
        assert made.skipped and not changed.any()


def test_arrays_get_the_same_parameters_as_tensors():
    image = array_image(64, 64)
    fast = cut_paste(image, generator(5), kind='union', is_bgr=False)
    slow = cut_paste(as_tensor(image, False), generator(5), kind='union')
    assert fast.instances[0].parameters == slow.instances[0].parameters


def test_existing_labels_of_an_array_yield_and_ignored_ones_stay():
    image, label = array_image(64, 64), np.zeros((64, 64), np.uint8)
    label[:, :32], label[:32] = 7, 255
    for seed in range(10):
        made = cut_paste(image, generator(seed), label, class_id=3)
        assert (made.label[:32] == 255).all() and set(np.unique(made.label)) <= {0, 3, 7, 255}


def test_even_arrays_get_no_label_and_are_counted():
    image = np.full((64, 64, 3), 90, np.uint8)
    made = cut_paste(image, generator(), kind='normal', ranges=None, tolerance=0.9)
    assert not made.label.any() and made.skipped == {'invisible': 1}
    np.testing.assert_array_equal(made.image, image)


def test_three_views_of_an_array():
    image = array_image(64, 48)
    same, normal, scar = cut_paste_3way(image, generator())
    assert same.image is image and not same.label.any()
    assert set(np.unique(normal.label)) == {0, 1} and set(np.unique(scar.label)) == {0, 2}
    with pytest.raises(ValueError, match='must lie inside'):
        render_array(image[:20, :20], sample_cutpaste((64, 48), generator(3), 'normal'))


def smooth_image(side: int = 96, seed: int = 0) -> torch.Tensor:
    """Smooth and coloured, so that every place differs from every other."""
    rows = torch.linspace(0, 1, side)
    noise = torch.rand(3, side, side, generator=torch.Generator().manual_seed(seed))
    return (
        0.2
        + 0.4 * torch.stack([rows[:, None].expand(side, side), rows[None].expand(side, side), noise[0]])
        + 0.1 * noise
    )


@pytest.mark.parametrize(
    'variant, labels', [('normal', [0, 1]), ('scar', [0, 1]), ('union', [0, 1]), ('3way', [0, 1, 2])]
)
@pytest.mark.parametrize('patch', [None, 64])
def test_labels_of_every_view(variant, labels, patch):
    for seed in range(20):
        views = make_views(smooth_image(), generator(seed), variant, patch)
        assert views.labels.tolist() == labels
        assert views.masks.flatten(1).any(1).tolist() == [label > 0 for label in labels]
        assert len(class_names(variant)) == max(labels) + 1 and len(VARIANTS[variant]) == len(labels) - 1


@pytest.mark.parametrize('patch', [None, 48])
def test_views_show_one_place_and_differ_in_the_paste_alone(patch):
    """The crops are compared with the image itself at the place they claim to show."""
    image = smooth_image()
    for seed in range(10):
        views = make_views(image, generator(seed), '3way', patch, jitter=0.0)
        top, left = views.crop_top_left
        side = patch or image.shape[1]
        assert torch.equal(views.images[0], image[:, top : top + side, left : left + side])
        for index in (1, 2):
            changed = (views.images[index] - views.images[0]).abs().amax(0) > 1.5 / 255
            assert torch.equal(changed, views.masks[index])
            assert 0 < changed.sum() < 0.5 * side**2, 'the paste lies in the crop and does not fill it'


def test_scars_of_a_crop_have_the_size_they_have_in_the_whole_image():
    """2-16 px wide and 10-25 px long at 256: their boxes are far beyond a quarter of that, and never above 30 px."""
    boxes = []
    for seed in range(40):
        mask = make_views(smooth_image(256), generator(seed), 'scar', 64).masks[1]
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        boxes.append(max(int(rows[-1] - rows[0]), int(columns[-1] - columns[0])) + 1)
    assert 12 < sum(boxes) / len(boxes) and max(boxes) <= 31


def test_colour_jitter_is_the_same_in_all_views():
    views = make_views(smooth_image(), generator(3), '3way', jitter=0.1)
    assert not torch.equal(views.images[0], smooth_image())
    outside = ~views.masks[1]
    assert (views.images[1] - views.images[0]).abs().amax(0)[outside].max() <= 1.5 / 255


def test_the_same_seed_gives_the_same_views():
    first, second, other = (make_views(smooth_image(), generator(seed), '3way', 64) for seed in (1, 1, 2))
    assert torch.equal(first.images, second.images) and first.crop_top_left == second.crop_top_left
    assert not torch.equal(first.images, other.images)


def test_a_view_in_which_nothing_can_be_seen_is_untouched():
    views = make_views(torch.zeros(3, 32, 32), generator(3), '3way', jitter=0.0, attempts=2)
    assert views.labels.tolist() == [0, 0, 0] and not views.masks.any()


def test_errors_name_the_choices():
    with pytest.raises(ValueError, match='normal, scar, union, 3way'):
        make_views(smooth_image(), generator(3), '4way')
    with pytest.raises(ValueError, match='`patch` must fit the image of 96x96'):
        make_views(smooth_image(), generator(3), patch=128)
