"""Operations: what is sampled, and the formulas behind warp and colours, each against another library."""

from __future__ import annotations

import colorsys
import math

import cv2
import numpy as np
import pytest
import torch
from kornia import enhance
from scipy import ndimage, stats
from scipy.interpolate import BSpline

from mmdefect.synthesis.library import Donor
from mmdefect.synthesis.operations import (
    CONTROLS,
    NEUTRAL,
    NUM_UNIFORMS,
    OPERATIONS,
    VALUES,
    OperationRanges,
    Operations,
    adjust_color,
    color_shares,
    inverse_matrix,
    sample_operations,
)
from mmdefect.synthesis.render.arrays import _sampling_of, canvas_of, color_matrix, spline_basis, warp_donor
from mmdefect.synthesis.render.tensors import displacement
from mmdefect.synthesis.sampler import uniforms
from tests.synthesis.noise import generator
from tests.synthesis.render.slow import forward_matrix


def sampled(seed: int, **ranges) -> Operations:
    return sample_operations(uniforms(generator(seed), NUM_UNIFORMS), OperationRanges(**ranges))


def operations(flips: tuple[float, float] = (1, 1), **values: float) -> Operations:
    row = tuple(values.get(name, neutral) for name, neutral in zip(VALUES, NEUTRAL, strict=True))
    return Operations(row, flips, 0.0, None)


def donor_of(image: np.ndarray, core: np.ndarray) -> Donor:
    mask = np.where(core, 1, 2).astype(np.uint8)
    return Donor(image, mask, 1, int(core.sum()), 'a.png', (0, 0), core.shape, 1.0)


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
def test_closed_form_of_the_inverse_with_numbers_and_tensors(case):
    drawn = operations(**case)
    ours = np.array(inverse_matrix(drawn.values, drawn.flips)).reshape(2, 2)
    assert np.allclose(ours @ forward_matrix(**case), np.eye(2), atol=1e-12)
    tensors = inverse_matrix(
        torch.tensor([drawn.values]).double().unbind(1), torch.tensor([drawn.flips]).unbind(1), torch
    )
    assert np.allclose(torch.cat(tensors), ours.ravel(), atol=1e-12)


@pytest.mark.parametrize('case', CASES)
def test_nothing_is_cut(case):
    """The canvas holds all of a full patch, and is odd or even as the patch is."""
    canvas = canvas_of(operations(**case), (20, 33))
    corners = np.array([[x, y] for x in (-16.5, 16.5) for y in (-10, 10)]) @ forward_matrix(**case).T
    assert (np.abs(corners).max(0) <= (canvas.half_x, canvas.half_y)).all()
    assert canvas.size_hw[0] % 2 == 0 and canvas.size_hw[1] % 2 == 1
    soft = _sampling_of(operations(**case), (20, 33)).read(np.ones((20, 33), np.float32), cv2.BORDER_CONSTANT)
    determinant = abs(np.linalg.det(forward_matrix(**case)))
    assert soft.shape == canvas.size_hw and soft.sum() == pytest.approx(20 * 33 * determinant, rel=0.02)
    border = np.concatenate((soft[0], soft[-1], soft[:, 0], soft[:, -1]))
    assert border.max() < 0.51  # at most the fading edge reaches the outermost pixels


def test_opencv_turns_the_same_way():
    array = ndimage.gaussian_filter(np.random.default_rng(0).random((32, 32, 3)), (1.5, 1.5, 0))
    image = (255 * (array - array.min()) / np.ptp(array)).astype(np.uint8)
    core = np.zeros((32, 32), bool)
    core[10:22, 10:22] = True
    turned = warp_donor(donor_of(image, core), (1, 1), operations(rotate=25), 0)
    expected = cv2.warpAffine(image, cv2.getRotationMatrix2D((15.5, 15.5), 25, 1.0), (32, 32), flags=cv2.INTER_LINEAR)
    # OpenCV rounds the result, and before version 5 coordinates to 1/32 of a pixel; both keep their middle
    height, width = turned.patch.shape[:2]
    top, left = (32 - height) // 2, (32 - width) // 2
    assert np.abs(turned.patch - expected[top : top + height, left : left + width]).max() < 8


def test_nothing_applied_keeps_every_pixel():
    rng = np.random.default_rng(0)
    image, core = rng.integers(0, 256, (31, 24, 3), dtype=np.uint8), np.zeros((31, 24), bool)
    core[8:20, 9:14] = True
    nothing = sampled(0, probability=0, flip_probability=0, elastic_probability=0)
    assert nothing.values == NEUTRAL and nothing.control is None
    fitted = warp_donor(donor_of(image, core), (1, 1), nothing, 0).coloured(nothing)
    np.testing.assert_allclose(fitted.patch[..., ::-1], image[7:21, 8:15] / 255, atol=1e-6)
    np.testing.assert_array_equal(fitted.core[1:-1, 1:-1], core[8:20, 9:14])


def test_a_shrunk_defect_is_averaged_over_its_area():
    rng = np.random.default_rng(0)
    image, core = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8), np.zeros((40, 40), bool)
    core[8:32, 8:24] = True
    small = operations(scale_x=0.25, scale_y=0.25)
    warped = warp_donor(donor_of(image, core), (1, 1), small, 0)
    expected = image.reshape(10, 4, 10, 4, 3).mean((1, 3))
    np.testing.assert_allclose(warped.patch[1:-1, 1:-1], expected[2:8, 2:6], atol=1e-3)
    np.testing.assert_array_equal(warped.core[1:-1, 1:-1], True)


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
    patch = 0.4 + 0.2 * torch.rand(1, 3, 12, dtype=torch.float64, generator=generator())
    mask = torch.zeros(1, 12, dtype=torch.float64)
    mask[0, 3:7] = 1
    values = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    grey = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64) @ patch[0, :, 3:7]
    made = adjust_color(patch, values, mask)
    assert torch.allclose(made, grey.mean().expand_as(made), atol=1e-9)
    matrix = color_matrix(color_shares((1.0, 0.0, 1.0, 0.0)), patch[0, :, 3:7].mean(1).numpy())
    np.testing.assert_allclose(matrix @ [0.3, 0.5, 0.7, 1.0], grey.mean(), atol=1e-12)


def test_gradients_of_colours():
    patch = 0.3 + 0.4 * torch.rand(2, 3, 5, dtype=torch.float64, generator=generator())
    mask = torch.rand(2, 5, dtype=torch.float64, generator=generator(1))
    values = torch.tensor([[1.1, 0.8, 1.2, 0.02], [0.9, 1.2, 0.8, -0.03]], dtype=torch.float64)
    leaves = [tensor.requires_grad_() for tensor in (patch, values, mask)]
    assert torch.autograd.gradcheck(adjust_color, leaves)


def test_sampled_values_follow_their_ranges():
    ranges = OperationRanges(probability=1)
    rows = np.array([sampled(seed, probability=1).values for seed in range(1500)])
    for i, (name, (low, high)) in enumerate(zip(VALUES, ranges.plain_bounds, strict=True)):
        assert stats.kstest(rows[:, i], stats.uniform(low, high - low).cdf).pvalue > 1e-3, name
    half = np.array([sampled(seed, probability=0.5).values for seed in range(1500)])
    for i in (0, 1, 2, 5, 6, 7, 8):
        kept = int((half[:, i] == NEUTRAL[i]).sum())
        assert stats.binomtest(kept, 1500, 0.5).pvalue > 1e-3
    assert (half[:, 3] == 1).tolist() == (half[:, 4] == 1).tolist()  # one switch for both scales
    even = np.array([sampled(seed, isotropic=True).values for seed in range(20)])
    assert (even[:, 3] == even[:, 4]).all()


def test_learned_values_follow_their_ranges_with_the_gradient_of_their_share():
    bounds = {name: torch.tensor(getattr(OperationRanges(), name), dtype=torch.float64) for name in OPERATIONS}
    leaves = {name: value.clone().requires_grad_() for name, value in bounds.items()}
    ranges = OperationRanges(**leaves, probability=[1, 1, 0, 1, 1, 1, 1, 0])
    assert ranges.is_learned and not OperationRanges(**bounds).is_learned
    drawn = sample_operations(uniforms(generator(2), NUM_UNIFORMS), ranges)
    followed = ranges.follow(torch.tensor(drawn.values, dtype=torch.float64))
    assert followed.tolist() == pytest.approx(drawn.values)
    followed.sum().backward()
    for name, columns in (('rotate', [0]), ('scale', [3, 4]), ('contrast', [6])):
        low, high = bounds[name].tolist()
        shares = [(drawn.values[column] - low) / (high - low) for column in columns]
        expected = [sum(1 - share for share in shares), sum(shares)]
        assert leaves[name].grad.tolist() == pytest.approx(expected)
    assert leaves['shear_y'].grad.abs().sum() == leaves['hue'].grad.abs().sum() == 0  # not applied


def test_learned_ranges_cannot_leave_their_limits():
    scale = torch.tensor([0.2, 0.3], requires_grad=True)
    ranges = OperationRanges(scale=scale, probability=1)
    with torch.no_grad():
        scale.copy_(torch.tensor([-1.0, -0.5]))
    assert min(sample_operations(uniforms(generator(), NUM_UNIFORMS), ranges).values[3:5]) >= 0.1


@pytest.mark.parametrize(
    'bad, message',
    [
        (dict(scale=(0.0, 2.0)), '`scale`'),
        (dict(shear_x=(-77.0, 77.0)), 'degrees'),
        (dict(probability=2), 'probability'),
        (dict(elastic=(0.1, 0.3)), 'fold'),
        (dict(elastic=(0.0, 0.25)), '0.25'),
        (dict(rotate=(1.0, 2.0, 3.0)), '`rotate`'),
    ],
)
def test_wrong_ranges_are_rejected(bad, message):
    with pytest.raises(ValueError, match=message):
        OperationRanges(**bad)


def test_records_hold_every_value():
    drawn = sampled(1, probability=1, elastic_probability=1)
    record = drawn.parameters()
    assert [record[name] for name in VALUES] == list(drawn.values)
    assert sum(name.startswith('control_') for name in record) == 72
    assert all(isinstance(value, float) for value in record.values())
    again = Operations.from_parameters(record)
    assert again.parameters() == record and np.array_equal(again.control, drawn.control)


def test_basis_is_scipys_uniform_cubic_spline():
    positions = torch.linspace(0, 1, 41, dtype=torch.float64)
    ours = spline_basis(positions, torch.arange(CONTROLS), torch.clamp_min).numpy()
    np.testing.assert_allclose(ours, spline_basis(positions.numpy(), np.arange(CONTROLS)), atol=1e-15)
    knots = np.arange(-3, CONTROLS + 1)
    place = positions.numpy() * (CONTROLS - 3)
    for i in range(CONTROLS):
        expected = BSpline.basis_element(knots[i : i + 5], extrapolate=False)(place)
        inside = (place > knots[i]) & (place < knots[i + 4])
        assert np.allclose(ours[inside, i], expected[inside], atol=1e-12)
        assert np.allclose(ours[~inside, i], 0, atol=1e-12)
    assert np.allclose(ours.sum(1), 1)


def test_displacement_is_the_double_sum():
    control = torch.rand(2, 2, CONTROLS, CONTROLS, dtype=torch.float64, generator=generator())
    rows, columns = torch.rand(2, 5, dtype=torch.float64), torch.rand(2, 7, dtype=torch.float64)
    down, across = (spline_basis(line, torch.arange(CONTROLS), torch.clamp_min) for line in (rows, columns))
    expected = torch.einsum('bhi,bcij,bwj->bhwc', down, control, across)
    assert torch.allclose(displacement(control, rows, columns), expected, atol=1e-12)


def test_the_strongest_deformation_does_not_fold():
    fraction, size = 0.249, 121
    places = torch.linspace(0, 1, size, dtype=torch.float64)[None]
    spacing = (size - 1) / (CONTROLS - 3)
    for seed in range(30):
        signs = torch.rand(1, 2, CONTROLS, CONTROLS, generator=torch.Generator().manual_seed(seed)).round() * 2 - 1
        field = displacement(signs.double() * fraction * spacing, places, places)[0].numpy()
        xy, yy = np.gradient(field[..., 0], axis=0), np.gradient(field[..., 1], axis=0)
        xx, yx = np.gradient(field[..., 0], axis=1), np.gradient(field[..., 1], axis=1)
        assert ((1 + xx) * (1 + yy) - xy * yx).min() > 0


def test_a_ring_stays_a_ring():
    rows, columns = np.mgrid[:61, :61] - 30
    radius = np.hypot(rows, columns)
    donor = donor_of(np.full((61, 61, 3), 90, np.uint8), (radius > 12) & (radius < 22))
    for seed in range(15):
        drawn = sampled(seed, probability=0, flip_probability=0, elastic_probability=1, elastic=(0.2, 0.24))
        label = warp_donor(donor, (1, 1), drawn, 0).core
        assert ndimage.label(label)[1] == 1 and ndimage.label(~label)[1] == 2
        assert label[0].sum() + label[-1].sum() + label[:, 0].sum() + label[:, -1].sum() == 0
