"""Blends in the gradient domain: Poisson against a dense solve, spectral against the published formula."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdefect.synthesis.poisson.blends import poisson_blend, spectral_blend
from tests.synthesis.poisson.dense_poisson import dense_paste


def images(seed: int, shape: tuple[int, ...], dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))


def random_mask(seed: int, height: int, width: int, density: float) -> torch.Tensor:
    mask = torch.rand(1, height, width, generator=torch.Generator().manual_seed(seed)) < density
    mask[0, seed % height, seed % width] = False
    return mask


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(1, 14),
    width=st.integers(2, 14),
    density=st.sampled_from([0.05, 0.3, 0.6, 0.95]),
    mixed=st.booleans(),
)
def test_equals_a_dense_solve_on_any_mask(seed, height, width, density, mixed):
    target, source = images(seed, (2, height, width))
    mask = random_mask(seed, height, width, density)
    result = poisson_blend(target, source, mask, mixed=mixed, clamp=False)
    expected = dense_paste(target.numpy(), source.numpy(), mask[0].numpy(), mixed)
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-9)
    outside = ~mask.expand_as(target)
    assert torch.equal(result[outside], target[outside])


def test_one_pixel_by_hand():
    target = torch.tensor([[[0.0, 0.4, 0.0], [0.1, 0.9, 0.3], [0.0, 0.2, 0.0]]], dtype=torch.float64)
    source = torch.full_like(target, 0.5)
    source[0, 1, 1] = 0.7
    mask = torch.zeros(1, 3, 3, dtype=torch.bool)
    mask[0, 1, 1] = True
    # Mean of the four neighbours plus the .2 by which the source stands out.
    assert poisson_blend(target, source, mask)[0, 1, 1].item() == pytest.approx(0.25 + 0.2)


def test_one_pixel_in_the_corner_of_the_image_by_hand():
    target = torch.tensor([[[0.9, 0.4], [0.2, 0.0]]], dtype=torch.float64)
    mask = torch.tensor([[[True, False], [False, False]]])
    assert poisson_blend(target, torch.zeros_like(target), mask)[0, 0, 0].item() == pytest.approx(0.3)


@pytest.mark.parametrize('place', [slice(2, 8), slice(0, 5), slice(9, 12)])
def test_a_shifted_copy_of_the_target_returns_the_target(place):
    target, _ = images(3, (3, 12, 12), torch.float32)
    mask = torch.zeros(1, 12, 12, dtype=torch.bool)
    mask[:, place, 3:9] = True
    mask[:, 5, 6] = False
    result = poisson_blend(target * 0.5, target * 0.5 + 0.25, mask)
    torch.testing.assert_close(result, target * 0.5, atol=1e-6, rtol=0)


@pytest.mark.parametrize('mixed', [False, True])
def test_an_empty_mask_returns_the_target(mixed):
    target, source = images(0, (3, 6, 7), torch.float32)
    mask = torch.zeros(1, 6, 7, dtype=torch.bool)
    result = poisson_blend(target, source, mask, mixed=mixed)
    assert torch.equal(result, target) and result.data_ptr() != target.data_ptr()
    batch = poisson_blend(target[None], source[None], mask[None], mixed=mixed)
    assert torch.equal(batch[0], target)


@pytest.mark.parametrize('mixed', [False, True])
def test_batch_mates_do_not_change_a_sample(mixed):
    target, source = images(5, (4, 3, 20, 17), torch.float32)
    mask = torch.stack([random_mask(seed, 20, 17, 0.4) for seed in range(4)])
    together = poisson_blend(target, source, mask, mixed=mixed)
    for sample in range(4):
        alone = poisson_blend(target[sample], source[sample], mask[sample], mixed=mixed)
        torch.testing.assert_close(together[sample], alone, atol=2e-6, rtol=0)


def test_one_mask_serves_a_batch():
    target, source = images(6, (3, 3, 15, 15), torch.float32)
    mask = random_mask(1, 15, 15, 0.5)
    shared = poisson_blend(target, source, mask)
    for other in (poisson_blend(target, source, mask[None]), poisson_blend(target, source, mask.expand(3, 1, 15, 15))):
        torch.testing.assert_close(shared, other, atol=2e-6, rtol=0)


@pytest.mark.parametrize('mixed', [False, True])
def test_the_result_is_limited_and_the_inputs_are_untouched(mixed):
    target, source = images(8, (3, 16, 16), torch.float32)
    source = (source > 0.5).float()
    before = target.clone(), source.clone()
    mask = random_mask(2, 16, 16, 0.8)
    free = poisson_blend(target, source, mask, mixed=mixed, clamp=False)
    limited = poisson_blend(target, source, mask, mixed=mixed)
    assert free.min() < 0 or free.max() > 1
    assert torch.equal(limited, free.clamp(0, 1)) and limited.dtype == torch.float32
    assert torch.equal(target, before[0]) and torch.equal(source, before[1])


def test_float32_stays_within_1e_5_of_the_dense_solve():
    rows, columns = np.mgrid[:60, :60]
    mask = torch.from_numpy((rows - 30) ** 2 + (columns - 30) ** 2 < 27**2)[None]
    mask[0, 25:30, 20:40] = False
    target, source = images(9, (3, 60, 60), torch.float32)
    exact = dense_paste(target.double().numpy(), source.double().numpy(), mask[0].numpy())
    result = poisson_blend(target, source, mask, clamp=False)
    assert result.dtype == torch.float32 and np.abs(result.numpy() - exact).max() < 1e-5


def test_images_in_channels_last_order_give_the_same():
    target, source = images(10, (12, 14, 3), torch.float32)
    mask = random_mask(5, 12, 14, 0.4)
    views = target.permute(2, 0, 1), source.permute(2, 0, 1)
    for mixed in (False, True):
        result = poisson_blend(*views, mask, mixed=mixed)
        expected = poisson_blend(*(view.contiguous() for view in views), mask, mixed=mixed)
        torch.testing.assert_close(result, expected, atol=2e-6, rtol=0)
        assert torch.equal(result[:, ~mask[0]], views[0][:, ~mask[0]])


class TestDerivatives:
    @pytest.mark.parametrize('mixed', [False, True])
    def test_of_both_images(self, mixed):
        target, source = (0.4 + 0.2 * image for image in images(11, (2, 6, 7)))
        mask = random_mask(4, 6, 7, 0.6)
        assert torch.autograd.gradcheck(
            lambda t, s: poisson_blend(t, s, mask, mixed=mixed, clamp=False),
            (target.requires_grad_(), source.requires_grad_()),
        )

    def test_limited_values_pass_none(self):
        target, source = images(14, (1, 8, 8))
        source = 4 * source
        mask = random_mask(3, 8, 8, 0.7)
        target.requires_grad_(), source.requires_grad_()
        result = poisson_blend(target, source, mask)
        free = poisson_blend(target, source, mask, clamp=False)
        inside = ((free > 0) & (free < 1)).double().detach()
        assert inside.min() == 0
        weight = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        got = torch.autograd.grad((result * weight).sum(), (target, source))
        expected = torch.autograd.grad((free * weight * inside).sum(), (target, source))
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other)


class TestErrors:
    def test_bytes(self):
        image = torch.zeros(3, 4, 4, dtype=torch.uint8)
        with pytest.raises(ValueError, match='255'):
            poisson_blend(image, image, torch.zeros(1, 4, 4))

    def test_a_mask_of_another_size(self):
        target, source = images(0, (3, 4, 4))
        with pytest.raises(ValueError, match='`mask`'):
            poisson_blend(target, source, torch.zeros(1, 5, 4))

    def test_a_mask_that_leaves_nothing_free(self):
        target, source = images(0, (3, 4, 4))
        with pytest.raises(ValueError, match='leave a pixel free'):
            poisson_blend(target, source, torch.ones(1, 4, 4, dtype=torch.bool))

    def test_a_soft_mask_is_cut_at_one_half(self):
        target, source = images(0, (1, 1, 5))
        soft = torch.tensor([[[0.0, 0.49, 0.5, 1.0, 0.0]]])
        assert torch.equal(poisson_blend(target, source, soft), poisson_blend(target, source, soft >= 0.5))


def scene(dtype=torch.float64, size=(13, 18)) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target, source = torch.rand(2, 3, *size, generator=generator, dtype=torch.float64).to(dtype)
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[:, 3:9, 4:12] = True
    mask[:, 5, 6] = False
    return target, source, mask


def literal_spectral(target: np.ndarray, source: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The formula as published, one channel, complex transforms, gradients of both images mixed explicitly."""
    height, width = target.shape
    mirrored = [cv2.copyMakeBorder(plane, 0, height, 0, width, cv2.BORDER_REFLECT) for plane in (target, source, mask)]
    down = 2j * np.pi * np.fft.fftfreq(2 * height)[:, None]
    across = 2j * np.pi * np.fft.fftfreq(2 * width)[None]
    flows = []
    for factor in (down, across):
        first, second = (np.fft.ifft2(factor * np.fft.fft2(plane)).real for plane in mirrored[:2])
        flows.append(np.fft.fft2((1 - mirrored[2]) * first + mirrored[2] * second))
    power = down**2 + across**2 + 1e-10
    spectrum = (down * flows[0] + across * flows[1]) / power
    spectrum[0, 0] = 0
    result = np.fft.ifft2(spectrum).real[:height, :width]
    outside = mask < 0.5
    return result + target[outside].mean() - result[outside].mean()


class TestSpectral:
    def test_equals_the_published_formula(self):
        target, source, mask = scene()
        result = spectral_blend(target, source, mask, clamp=False)
        for channel in range(3):
            expected = literal_spectral(target[channel].numpy(), source[channel].numpy(), mask[0].double().numpy())
            # The published 1e-10 in the denominator shifts the lowest frequencies by about 1e-8.
            np.testing.assert_allclose(result[channel].numpy(), expected, atol=1e-6)

    def test_the_unmasked_mean_is_kept_for_every_sample(self):
        target, source, mask = scene()
        targets = torch.stack([target * 0.3 + 0.3, target * 0.1 + 0.6])
        result = spectral_blend(targets, source.expand(2, -1, -1, -1), mask[None], clamp=False)
        outside = ~mask[0]
        torch.testing.assert_close(result[..., outside].mean(-1), targets[..., outside].mean(-1))

    def test_shape_dtype_range_and_an_empty_mask(self):
        target, source, mask = scene(torch.float32)
        result = spectral_blend(target, source, mask)
        assert result.shape == target.shape and result.dtype == torch.float32
        assert result.min() >= 0 and result.max() <= 1
        target, source, mask = scene()
        result = spectral_blend(target, source, torch.zeros_like(mask))
        torch.testing.assert_close(result, target, atol=1e-12, rtol=0)

    def test_derivative_with_respect_to_both_images(self):
        target, source, mask = scene(size=(9, 12))
        target, source = 0.4 + 0.05 * target, 0.4 + 0.05 * source
        leaves = target.requires_grad_(), source.requires_grad_()
        assert torch.autograd.gradcheck(lambda t, s: spectral_blend(t, s, mask), leaves)

    def test_derivative_with_respect_to_the_mask(self):
        target, source = torch.rand(2, 3, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        mask = torch.rand(1, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda m: spectral_blend(target, source, m, clamp=False), mask)
