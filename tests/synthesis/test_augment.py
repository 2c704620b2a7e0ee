"""Operations on defect and mask: each against another library, gradients against differences, nothing vanishes."""

from __future__ import annotations

import colorsys
import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kornia import enhance
from scipy import ndimage, stats

from mmdefect.synthesis.augment import (
    OPERATIONS,
    VALUES,
    OperationRanges,
    Operations,
    apply_operations,
    augment_defect,
    harden,
    sample_operations,
)
from mmdefect.synthesis.color import adjust_color
from mmdefect.synthesis.warp import inverse_matrix

NOTHING = dict(probability=0, flip_probability=0, elastic_probability=0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def defect(height: int = 31, width: int = 24, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    array = ndimage.gaussian_filter(np.random.default_rng(seed).random((3, height, width)), (0, 1.5, 1.5))
    mask = torch.zeros(1, height, width, dtype=torch.float64)
    mask[:, height // 4 : 3 * height // 4, width // 3 : 2 * width // 3 + 1] = 1
    return torch.from_numpy((array - array.min()) / (array.max() - array.min())), mask


def operations(flips: tuple[float, float] = (1, 1), **values: float) -> Operations:
    row = [
        values.get(name, 1.0 if 'scale' in name or name in ('brightness', 'contrast', 'saturation') else 0.0)
        for name in VALUES
    ]
    return Operations(
        torch.tensor([row], dtype=torch.float64),
        torch.tensor([flips], dtype=torch.float64),
        torch.zeros(1, dtype=torch.float64),
        torch.zeros(1, 2, 6, 6, dtype=torch.float64),
    )


def test_probability_zero_keeps_every_pixel():
    patch, mask = defect()
    drawn = sample_operations(generator(), OperationRanges(**NOTHING))
    new, soft = apply_operations(patch, mask, drawn)
    assert torch.allclose(new[:, 1:-1, 1:-1], patch, atol=1e-12)
    assert torch.allclose(soft[:, 1:-1, 1:-1], mask, atol=1e-12)
    assert soft.sum() == pytest.approx(mask.sum().item())


def forward_matrix(
    rotate: float = 0,
    shear_x: float = 0,
    shear_y: float = 0,
    scale_x: float = 1,
    scale_y: float = 1,
    flips: tuple[float, float] = (1, 1),
) -> np.ndarray:
    """Build the map of offsets (x, y) step by step, as documented."""
    angle = math.radians(rotate)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    along_x = np.array([[1, math.tan(math.radians(shear_x))], [0, 1]])
    along_y = np.array([[1, 0], [math.tan(math.radians(shear_y)), 1]])
    return turn @ along_x @ along_y @ np.diag([scale_x, scale_y]) @ np.diag(flips)


CASES = [
    dict(rotate=30),
    dict(rotate=-75),
    dict(shear_x=20),
    dict(shear_y=-25),
    dict(scale_x=1.7, scale_y=0.8),
    dict(rotate=12, shear_x=-14, shear_y=9, scale_x=1.3, scale_y=1.1),
    dict(rotate=40, flips=(-1, 1)),
    dict(shear_x=10, flips=(1, -1)),
]


@pytest.mark.parametrize('case', CASES)
def test_the_warp_is_scipys(case):
    patch, mask = defect()
    new, soft = apply_operations(patch, mask, operations(**case))
    inverse = np.linalg.inv(forward_matrix(**case))[::-1, ::-1]  # rows first
    centre_in, centre_out = (np.array(patch.shape[1:]) - 1) / 2, (np.array(new.shape[1:]) - 1) / 2
    offset = centre_in - inverse @ centre_out

    def reference(array: np.ndarray, mode: str) -> np.ndarray:
        return ndimage.affine_transform(array, inverse, offset, new.shape[1:], order=1, mode=mode)

    expected_mask = reference(mask[0].numpy(), 'constant')
    assert np.abs(soft[0].numpy() - expected_mask).max() < 1e-9
    for channel, expected in zip(new.numpy(), patch.numpy(), strict=True):
        assert np.abs(channel - reference(expected, 'nearest')).max() < 1e-9


def test_opencv_turns_the_same_way():
    patch, mask = defect(32, 32)
    new, _ = apply_operations(patch.float(), mask, operations(rotate=25))
    size = new.shape[1]
    matrix = cv2.getRotationMatrix2D((15.5, 15.5), 25, 1.0)
    matrix[:, 2] += (size - 1) / 2 - 15.5
    expected = cv2.warpAffine(
        patch.permute(1, 2, 0).float().numpy(),
        matrix,
        (size, size),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    # OpenCV rounds coordinates to 1/32 of a pixel
    assert np.abs(new.permute(1, 2, 0).numpy() - expected).max() < 0.03


@pytest.mark.parametrize('case', CASES)
def test_nothing_is_cut(case):
    """A full mask keeps its area times the determinant."""
    patch = torch.rand(3, 20, 33, dtype=torch.float64, generator=generator())
    _, soft = apply_operations(patch, torch.ones(1, 20, 33, dtype=torch.float64), operations(**case))
    determinant = abs(np.linalg.det(forward_matrix(**case)))
    assert soft.sum().item() == pytest.approx(20 * 33 * determinant, rel=0.02)
    border = torch.cat((soft[0, 0], soft[0, -1], soft[0, :, 0], soft[0, :, -1]))
    assert border.max() < 0.51  # at most the fading edge reaches the outermost pixels


def test_closed_form_of_the_inverse():
    for case in CASES:
        drawn = operations(**case)
        ours = inverse_matrix(drawn.values[:, :5], drawn.flips)[0].numpy()
        assert np.allclose(ours @ forward_matrix(**case), np.eye(2), atol=1e-12)


def colour(patch: torch.Tensor, **values: float) -> torch.Tensor:
    row = [values.get(name, 0.0 if name == 'hue' else 1.0) for name in ('brightness', 'contrast', 'saturation', 'hue')]
    return adjust_color(patch.flatten(1)[None], torch.tensor([row]))[0].view(patch.shape)


def test_colours_against_kornia():
    patch = 0.3 + 0.3 * torch.rand(3, 9, 7, generator=generator())  # far from 0 and 1: libraries clip in between
    assert torch.allclose(colour(patch, brightness=1.3), enhance.adjust_brightness_accumulative(patch, 1.3), atol=1e-6)
    assert torch.allclose(
        colour(patch, contrast=0.6), enhance.adjust_contrast_with_mean_subtraction(patch, 0.6), atol=1e-3
    )
    assert torch.allclose(
        colour(patch, saturation=1.2), enhance.adjust_saturation_with_gray_subtraction(patch, 1.2), atol=1e-3
    )


def test_hue_turns_the_chroma_of_yiq():
    rng = np.random.default_rng(0)
    for pixel in 0.3 + 0.3 * rng.random((20, 3)):
        luma, phase, quadrature = colorsys.rgb_to_yiq(*pixel)
        turned = complex(phase, quadrature) * np.exp(2j * math.pi * 0.1)
        expected = colorsys.yiq_to_rgb(luma, turned.real, turned.imag)
        ours = colour(torch.tensor(pixel).view(3, 1, 1), hue=0.1)
        assert np.abs(ours.flatten().numpy() - expected).max() < 6e-3  # colorsys rounds its weights to two digits


def test_colour_orders_agree_and_numbers_equal_tensors():
    patch = 0.4 + 0.2 * torch.rand(3, 5, 5, dtype=torch.float64, generator=generator())
    names = dict(brightness=1.1, contrast=0.8, saturation=1.3, hue=0.04)
    once = colour(patch, **names)
    for order in (list(names), list(names)[::-1]):
        step = patch
        for name in order:
            step = colour(step, **{name: names[name]})
        assert torch.allclose(step, once, atol=1e-7)
    assert torch.allclose(adjust_color(patch.flatten(1)[None], list(names.values()))[0].view(3, 5, 5), once, atol=1e-6)


def test_contrast_keeps_the_mean_of_the_masked_pixels_only():
    patch, mask = defect()
    new, soft = apply_operations(patch * 0.2 + 0.4, mask, operations(contrast=0.0))
    inside = new[:, soft[0] == 1]
    grey = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64) @ (patch * 0.2 + 0.4)[:, mask[0] == 1]
    assert torch.allclose(inside, grey.mean().expand_as(inside), atol=1e-9)


def test_gradient_of_every_range_matches_differences():
    patch, mask = defect(13, 11)
    start = OperationRanges(isotropic=True)
    base = {name: torch.tensor(getattr(start, name), dtype=torch.float64) for name in OPERATIONS}
    weights = torch.rand(200, 200, dtype=torch.float64, generator=generator(9))

    def loss(name: str, bounds: torch.Tensor) -> torch.Tensor:
        ranges = OperationRanges(**(base | {name: bounds}), probability=1, isotropic=True)
        new, soft = apply_operations(patch, mask, sample_operations(generator(4), ranges))
        height, width = new.shape[1:]
        # sums of smooth weights about the centre do not care by how much the canvas grew
        window = weights[100 - height // 2 : 100 - height // 2 + height, 100 - width // 2 : 100 - width // 2 + width]
        return (new * soft * window).sum() + (soft * window).sum()

    for name in OPERATIONS:
        bounds = base[name].clone().requires_grad_()
        loss(name, bounds).backward()
        step = 1e-6
        for i in range(2):
            moved = torch.zeros(2, dtype=torch.float64)
            moved[i] = step
            slope = (loss(name, base[name] + moved) - loss(name, base[name] - moved)) / (2 * step)
            assert bounds.grad[i].item() == pytest.approx(slope.item(), rel=1e-4, abs=1e-5), name
            assert slope.abs() > 1e-6, name


def test_gradients_reach_patch_and_mask():
    patch, mask = defect(9, 8)
    # one peak: the peak of equals has no gradient
    uneven = torch.rand(mask.shape, dtype=mask.dtype, generator=generator())
    for drawn in (operations(rotate=20, contrast=1.2, brightness=0.9, hue=0.02), operations(scale_x=0.5, scale_y=0.4)):
        assert torch.autograd.gradcheck(
            lambda a, b, drawn=drawn: apply_operations(a, b, drawn),
            ((patch * 0.5 + 0.2).requires_grad_(), uneven.clone().requires_grad_()),
        )


def test_drawn_values_follow_their_ranges():
    ranges = OperationRanges(probability=1)
    drawn = sample_operations([generator(seed) for seed in range(1500)], ranges)
    bounds = ranges.bounds().numpy()
    for i, name in enumerate(VALUES):
        low, high = bounds[i]
        assert stats.kstest(drawn.values[:, i].numpy(), stats.uniform(low, high - low).cdf).pvalue > 1e-3, name
    half = sample_operations([generator(seed) for seed in range(1500)], OperationRanges(probability=0.5))
    for i in (0, 1, 2, 5, 6, 7, 8):
        kept = int((half.values[:, i] == (1 if 5 <= i <= 7 else 0)).sum())
        assert stats.binomtest(kept, 1500, 0.5).pvalue > 1e-3


def test_a_sample_in_a_batch_is_the_sample_alone():
    pairs = [defect(seed=seed) for seed in range(5)]
    patches, masks = (torch.stack(items).float() for items in zip(*pairs, strict=True))
    generators = [generator(seed) for seed in range(5)]
    ranges = OperationRanges(probability=1, elastic_probability=0.5, scale=(0.3, 1.6))
    drawn = sample_operations(generators, ranges)
    new, soft = apply_operations(patches, masks, drawn)
    for i in range(5):
        alone_drawn = sample_operations(generator(i), ranges)
        assert torch.equal(alone_drawn.values[0], drawn.values[i])
        alone, alone_soft = apply_operations(patches[i], masks[i], alone_drawn)
        top, left = ((big - small) // 2 for big, small in zip(new.shape[2:], alone.shape[1:], strict=True))
        window = slice(top, top + alone.shape[1]), slice(left, left + alone.shape[2])
        assert torch.allclose(new[i][:, window[0], window[1]], alone, atol=2e-5)
        assert torch.allclose(soft[i][:, window[0], window[1]], alone_soft, atol=2e-5)
        assert soft[i].sum().item() == pytest.approx(alone_soft.sum().item(), rel=1e-4)


@settings(max_examples=120, deadline=None)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    row=st.floats(0, 0.999),
    column=st.floats(0, 0.999),
    seed=st.integers(0, 2**31),
)
def test_a_defect_of_one_pixel_survives(height, width, row, column, seed):
    patch, mask = torch.rand(3, height, width, generator=generator(seed)), torch.zeros(1, height, width)
    mask[0, int(row * height), int(column * width)] = 1
    ranges = OperationRanges(probability=1, elastic_probability=1)
    found = augment_defect(patch, mask, generator(seed), ranges, attempts=8)
    assert found is not None
    assert harden(found.mask).sum() >= 1 and found.mask.max() == pytest.approx(1, abs=1e-5)
    assert found.mask.max() <= 1 and 0 <= found.patch.min() and found.patch.max() <= 1


def test_what_vanishes_every_time_is_none_and_not_a_hang():
    patch, mask = torch.rand(3, 50, 50, generator=generator()), torch.zeros(1, 50, 50)
    assert augment_defect(patch, mask, generator()) is None
    mask[0, 3, 3] = 1
    tiny = OperationRanges(scale=(0.1, 0.1), probability=1, elastic_probability=0)
    assert augment_defect(patch, mask, generator(), tiny, attempts=5) is None  # a hundredth of a pixel would be left
    either = OperationRanges(scale=(0.1, 0.5), probability=1, elastic_probability=0)
    found = [augment_defect(patch, mask, generator(seed), either, attempts=30) for seed in range(20)]
    assert all(item is not None for item in found) and any(item.redraws for item in found)


def test_a_shrunk_defect_is_averaged_over_its_area():
    patch = torch.rand(3, 40, 40, dtype=torch.float64, generator=generator())
    mask = torch.zeros(1, 40, 40, dtype=torch.float64)
    mask[0, :, 8:24] = 1
    new, soft = apply_operations(patch, mask, operations(scale_x=0.25, scale_y=0.25))
    expected = patch.view(3, 10, 4, 10, 4).mean((2, 4))
    assert torch.allclose(new[:, 1:-1, 1:-1], expected, atol=1e-9)
    assert torch.allclose(soft[0, 2:-2, 1:-1], mask.view(10, 4, 10, 4).mean((1, 3))[1:-1], atol=1e-9)


def test_labels_of_soft_masks():
    soft = torch.tensor([[[0.0, 0.2, 0.6], [0.5, 1.0, 0.49]]])
    assert harden(soft).tolist() == [[[False, False, True], [True, True, False]]]
    assert harden(torch.zeros(1, 2, 2)).sum() == 0


def test_inputs_are_untouched_and_bool_masks_taken():
    patch, mask = defect()
    copies = patch.clone(), mask.bool().clone()
    drawn = sample_operations(generator(3), OperationRanges(probability=1))
    soft = apply_operations(patch, mask.bool(), drawn)[1]
    assert torch.equal(patch, copies[0]) and soft.dtype == patch.dtype
    assert torch.equal(soft, apply_operations(patch, mask, drawn)[1])


def test_learned_ranges_cannot_leave_their_limits():
    scale = torch.tensor([0.2, 0.3], requires_grad=True)
    ranges = OperationRanges(scale=scale, probability=1)
    with torch.no_grad():
        scale.copy_(torch.tensor([-1.0, -0.5]))
    assert (sample_operations(generator(), ranges).values[:, 3:5] >= 0.1).all()


@pytest.mark.parametrize(
    'bad, message',
    [
        (dict(scale=(0.0, 2.0)), '`scale`'),
        (dict(shear_x=(-77.0, 77.0)), 'degrees'),
        (dict(probability=2), 'probability'),
        (dict(elastic=(0.1, 0.3)), 'fold'),
    ],
)
def test_wrong_ranges_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        OperationRanges(**bad)


def test_records_hold_every_value():
    drawn = sample_operations(generator(1), OperationRanges(probability=1, elastic_probability=1))
    record = drawn.parameters()
    assert [record[name] for name in VALUES] == drawn.values[0].tolist()
    assert sum(name.startswith('control_') for name in record) == 72
    assert all(isinstance(value, float) for value in record.values())
    assert len(OperationRanges.published().bounds()) == 9
