"""CutPaste: exact labels, never out of the frame, the distributions of the paper, replay and batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from mmdefect.synthesis.cutpaste import (
    CutPasteDraw,
    CutPasteRanges,
    apply_cutpaste,
    cut_paste,
    cut_paste_3way,
    sample_cutpaste,
)
from mmdefect.synthesis.shapes import VISIBLE_TOLERANCE, rotated_size


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photo(height: int, width: int, seed: int = 0, channels: int = 3) -> torch.Tensor:
    return torch.rand(channels, height, width, generator=generator(seed))


@pytest.mark.parametrize('kind', ['normal', 'scar', 'union'])
@pytest.mark.parametrize('size', [(64, 64), (40, 130), (130, 40)])
def test_label_is_exactly_what_changed(kind, size):
    image = photo(*size)
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
    image = photo(50, 70)
    draw = CutPasteDraw(False, 3, 5, 10, 20, 30, 41, 0.0, 1.0, 1.0, 1.0, 0.0)
    part, alpha = apply_cutpaste(image, draw)
    assert torch.allclose(part, image[:, 3:13, 5:25], atol=1e-6) and alpha.shape == (10, 20) and alpha.min() == 1


def test_all_pasted_pixels_are_labelled_when_asked():
    image = photo(64, 64)
    result = cut_paste(image, generator(1), tolerance=None)
    drawn = result.instances[0].parameters
    assert result.instances[0].area == drawn['height'] * drawn['width']


@pytest.mark.parametrize('degrees', [0.0, 45.0, -30.0, 90.0])
def test_a_scar_turns_as_scipy_turns_it(degrees):
    """Interior pixels: the outline depends on how a library fades it."""
    image = torch.from_numpy(ndimage.gaussian_filter(np.random.default_rng(0).random((3, 60, 60)), (0, 2, 2)))
    draw = CutPasteDraw(True, 10, 12, 21, 15, 20, 20, degrees, 1.0, 1.0, 1.0, 0.0)
    part, alpha = apply_cutpaste(image, draw)
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
    draw = sample_cutpaste((height, width), generator(seed), kind)
    canvas_h, canvas_w = draw.canvas_hw
    assert draw.height >= 1 and draw.width >= 1
    assert 0 <= draw.source_top <= height - draw.height and 0 <= draw.source_left <= width - draw.width
    assert 0 <= draw.target_top <= height - canvas_h and 0 <= draw.target_left <= width - canvas_w


@settings(max_examples=25, deadline=None)
@given(height=st.integers(3, 60), width=st.integers(3, 60), seed=st.integers(0, 2**31))
def test_any_size_pastes_or_says_why_not(height, width, seed):
    image = photo(height, width, seed)
    result = cut_paste(image, generator(seed), kind='union')
    assert bool(result.instances) != bool(result.skipped)
    assert ((result.image != image).any(0) | (result.label == 0)).all()


def test_a_draw_for_another_size_is_refused():
    draw = sample_cutpaste((200, 200), generator(2))
    with pytest.raises(ValueError, match='must lie inside'):
        apply_cutpaste(photo(20, 20), draw)


def test_area_is_uniform_and_aspect_log_uniform():
    draws = [sample_cutpaste((2000, 2000), generator(seed)) for seed in range(1500)]
    area = np.array([draw.height * draw.width for draw in draws]) / 2000**2
    aspect = np.array([draw.width / draw.height for draw in draws])
    assert stats.kstest(area, stats.uniform(0.02, 0.13).cdf).pvalue > 1e-3
    assert stats.kstest(aspect, stats.loguniform(0.3, 1 / 0.3).cdf).pvalue > 1e-3


def test_wide_images_keep_area_and_what_fits_of_the_aspects():
    draws = [sample_cutpaste((500, 3000), generator(seed)) for seed in range(1000)]
    area = np.array([draw.height * draw.width for draw in draws]) / (500 * 3000)
    assert stats.kstest(area, stats.uniform(0.02, 0.13).cdf).pvalue > 1e-3
    assert max(draw.height for draw in draws) <= 500


@pytest.mark.parametrize('size', [256, 1024])
def test_scars_grow_with_the_image(size):
    draws = [sample_cutpaste((size, size), generator(seed), 'scar') for seed in range(1500)]
    grow = size / 256
    # sides are whole pixels: half a pixel of noise undoes the rounding for the test
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 1500))
    width = np.array([draw.width for draw in draws]) + noise[0]
    length = np.array([draw.height for draw in draws]) + noise[1]
    inside = (width > 2 * grow + 1) & (width < 16 * grow - 1)
    assert stats.kstest(width[inside], stats.uniform(2 * grow + 1, 14 * grow - 2).cdf).pvalue > 1e-3
    inside = (length > 10 * grow + 1) & (length < 25 * grow - 1)
    assert stats.kstest(length[inside], stats.uniform(10 * grow + 1, 15 * grow - 2).cdf).pvalue > 1e-3
    degrees = np.array([draw.degrees for draw in draws])
    assert stats.kstest(degrees, stats.uniform(-45, 90).cdf).pvalue > 1e-3


def test_places_reach_every_border():
    draws = [sample_cutpaste((16, 16), generator(seed)) for seed in range(600)]
    assert min(draw.target_top for draw in draws) == 0 and max(draw.target_top + draw.height for draw in draws) == 16
    assert min(draw.target_left for draw in draws) == 0 and max(draw.target_left + draw.width for draw in draws) == 16


def test_union_is_half_and_half():
    scars = sum(sample_cutpaste((64, 64), generator(seed), 'union').scar for seed in range(1000))
    assert stats.binomtest(scars, 1000, 0.5).pvalue > 1e-3


def test_same_seed_same_pixels_and_a_record_replays():
    image = photo(80, 60)
    first, second = (cut_paste(image, generator(7), kind='scar') for _ in range(2))
    assert torch.equal(first.image, second.image) and torch.equal(first.label, second.label)
    record = first.instances[0].parameters
    whole = ('source_top', 'source_left', 'height', 'width', 'target_top', 'target_left')
    draw = CutPasteDraw(**{name: int(value) if name in whole else value for name, value in record.items()})
    part, _ = apply_cutpaste(image, draw)
    top, left = draw.target_top, draw.target_left
    assert torch.equal(part, first.image[:, top : top + part.shape[1], left : left + part.shape[2]])


def test_batch_mates_change_nothing():
    images = torch.stack([photo(48, 64, seed) for seed in range(4)])
    labels = torch.randint(0, 3, (4, 48, 64), generator=generator())
    batch = cut_paste(images, [generator(seed) for seed in range(4)], labels, kind='union', class_id=4)
    for i in range(4):
        alone = cut_paste(images[i], generator(i), labels[i], kind='union', class_id=4)
        assert torch.equal(alone.image, batch.image[i]) and torch.equal(alone.label, batch.label[i])
        assert alone.instances == batch.instances[i]
    with pytest.raises(ValueError, match='one per sample'):
        cut_paste(images, generator())


def test_pasted_pixels_win_over_classes_but_not_over_ignored_ones():
    image, label = photo(64, 64), torch.zeros(64, 64, dtype=torch.int64)
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
    image = photo(64, 96)
    same, normal, scar = cut_paste_3way(image, generator(5))
    assert same.image is image and not same.label.any() and same.instances == []
    assert normal.instances[0].generator == 'cutpaste-normal' and set(normal.label.unique().tolist()) == {0, 1}
    assert scar.instances[0].generator == 'cutpaste-scar' and set(scar.label.unique().tolist()) == {0, 2}


def test_one_channel_and_double_precision():
    image = photo(40, 40, channels=1).double()
    result = cut_paste(image, generator(1), kind='scar')
    assert result.image.dtype == torch.float64 and result.image.shape == (1, 40, 40) and result.instances


def test_the_image_gets_a_gradient():
    image = photo(32, 32).requires_grad_()
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
def test_wrong_ranges_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        CutPasteRanges(**bad)


def test_wrong_calls_are_refused():
    with pytest.raises(ValueError, match='normal, scar, union'):
        cut_paste(photo(8, 8), generator(), kind='scars')
    with pytest.raises(TypeError, match='255'):
        cut_paste(torch.zeros(3, 8, 8, dtype=torch.uint8), generator())
    with pytest.raises(ValueError, match='like the image'):
        cut_paste(photo(8, 8), generator(), torch.zeros(8, 9, dtype=torch.int64))


def test_rotated_size_holds_the_corners():
    for degrees in (0, 13, 45, 90, -77):
        height, width = rotated_size((10, 30), degrees)
        angle = math.radians(degrees)
        corners = np.array([[5, 15], [5, -15]]) @ np.array(
            [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
        )
        assert np.abs(corners[:, 0]).max() <= height / 2 + 1e-6 < np.abs(corners[:, 0]).max() + 1
        assert np.abs(corners[:, 1]).max() <= width / 2 + 1e-6 < np.abs(corners[:, 1]).max() + 1
