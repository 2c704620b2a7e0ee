"""Alpha, feather, spectral, visibility, and what holds for every method."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from mmdefect.synthesis.blending import alpha_blend, blend, feather, feathered_blend, spectral_blend, visible_mask
from mmdefect.synthesis.types import BLENDS

EXACT = [method for method in BLENDS if method != 'spectral']


def scene(dtype=torch.float64, size=(13, 18)) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target, source = torch.rand(2, 3, *size, generator=generator, dtype=torch.float64).to(dtype)
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[:, 3:9, 4:12] = True
    mask[:, 5, 6] = False
    return target, source, mask


@pytest.mark.parametrize('method', BLENDS)
class TestEveryMethod:
    @pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
    def test_shape_dtype_and_range(self, method, dtype):
        target, source, mask = scene(dtype)
        result = blend(target, source, mask, method)
        assert result.shape == target.shape and result.dtype == dtype
        assert result.min() >= 0 and result.max() <= 1
        assert result.data_ptr() != target.data_ptr()

    def test_batch_mates_do_not_change_a_sample(self, method):
        target, source, mask = scene()
        batch = [torch.stack([image, image.flip(-1)]) for image in (target, source, mask)]
        together = blend(*batch, method)
        torch.testing.assert_close(together[0], blend(target, source, mask, method), atol=1e-9, rtol=0)
        flipped = [image.flip(-1) for image in (target, source, mask)]
        torch.testing.assert_close(together[1], blend(*flipped, method), atol=1e-9, rtol=0)

    def test_an_empty_mask_changes_nothing(self, method):
        target, source, mask = scene()
        result = blend(target, source, torch.zeros_like(mask), method)
        torch.testing.assert_close(result, target, atol=0 if method in EXACT else 1e-12, rtol=0)

    def test_derivative(self, method):
        target, source, mask = scene(size=(9, 12))
        target, source = 0.4 + 0.05 * target, 0.4 + 0.05 * source
        assert torch.autograd.gradcheck(
            lambda t, s: blend(t, s, mask, method), (target.requires_grad_(), source.requires_grad_())
        )


@pytest.mark.parametrize('method', EXACT)
def test_pixels_outside_the_mask_keep_their_bits(method):
    target, source, mask = scene(torch.float32)
    outside = ~mask.expand_as(target)
    assert torch.equal(blend(target, source, mask, method)[outside], target[outside])


def test_an_unknown_method_is_refused_with_the_list():
    with pytest.raises(ValueError, match='alpha, feather, poisson, poisson-mixed, spectral'):
        blend(*scene(), 'glue')


class TestAlpha:
    def test_a_hard_mask_copies_bits(self):
        target, source, mask = scene(torch.float32)
        inside = mask.expand_as(target)
        assert torch.equal(alpha_blend(target, source, mask)[inside], source[inside])

    def test_by_hand(self):
        target, source = torch.tensor([[[0.2, 0.2]]]), torch.tensor([[[0.6, 0.6]]])
        result = alpha_blend(target, source, torch.tensor([[[0.25, 0.75]]]))
        torch.testing.assert_close(result, torch.tensor([[[0.3, 0.5]]]))

    def test_derivative_with_respect_to_the_mask(self):
        target, source = torch.rand(2, 3, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        mask = torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda m: alpha_blend(target, source, m), mask)


class TestFeather:
    def test_it_rises_inwards_by_hand(self):
        mask = torch.zeros(1, 7, 9, dtype=torch.bool)
        mask[:, 1:6, 1:8] = True
        weight = feather(mask, 2)[0]
        assert weight[3].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1, 1, 1, 2 / 3, 1 / 3, 0])

    def test_the_support_stays_the_mask(self):
        generator = torch.Generator().manual_seed(0)
        mask = torch.rand(2, 1, 30, 30, generator=generator) < 0.5
        assert torch.equal(feather(mask, 3) > 0, mask)

    def test_width_zero_is_a_hard_mask(self):
        mask = scene()[2]
        assert torch.equal(feather(mask, 0), mask.float())

    def test_the_edge_of_the_image_is_no_rim(self):
        mask = torch.zeros(1, 5, 8, dtype=torch.bool)
        mask[:, :, :4] = True
        weight = feather(mask, 2)[0]
        assert torch.equal(weight[:, 0], torch.ones(5)) and weight[0, 3].item() == pytest.approx(1 / 3)
        assert torch.equal(feather(torch.ones(1, 4, 4, dtype=torch.bool), 2), torch.ones(1, 4, 4))

    def test_a_single_pixel_stays_visible(self):
        target, source = torch.zeros(1, 3, 3), torch.ones(1, 3, 3)
        mask = torch.zeros(1, 3, 3, dtype=torch.bool)
        mask[0, 1, 1] = True
        assert feathered_blend(target, source, mask, 1)[0, 1, 1].item() == pytest.approx(0.5)

    def test_a_negative_width_is_refused(self):
        with pytest.raises(ValueError, match='`width`'):
            feather(scene()[2], -1)

    def test_derivative_with_respect_to_the_mask(self):
        target, source, hard = scene(size=(12, 14))
        mask = (hard.double() * 0.8 + 0.1).requires_grad_()
        assert torch.autograd.gradcheck(lambda m: feathered_blend(target, source, m), mask)


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

    def test_derivative_with_respect_to_the_mask(self):
        target, source = torch.rand(2, 3, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        mask = torch.rand(1, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda m: spectral_blend(target, source, m, clamp=False), mask)


class TestVisibleMask:
    def test_by_hand(self):
        target = torch.zeros(3, 1, 4)
        result = target.clone()
        result[1, 0, 0], result[2, 0, 1], result[0, 0, 2] = 0.5, 0.001, -0.5
        mask = torch.tensor([[[True, True, True, False]]])
        assert visible_mask(result, target, mask).tolist() == [[[True, False, True, False]]]

    def test_an_invisible_poisson_paste_has_no_visible_pixel(self):
        target, _, mask = scene()
        result = blend(target * 0.5, target * 0.5 + 0.3, mask, 'poisson')
        assert not visible_mask(result, target * 0.5, mask).any()

    def test_labels_are_exact(self):
        target, source, mask = scene(torch.float32)
        for method in EXACT:
            result = blend(target, source, mask, method)
            changed = (result - target).abs().amax(0, keepdim=True) > 2 / 255
            assert torch.equal(visible_mask(result, target, mask), changed)
