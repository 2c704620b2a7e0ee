"""Poisson composition against a dense solve, and what must hold for any mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdefect.synthesis.blending import factorize, poisson_blend
from mmdefect.synthesis.blending.domain import PoissonFactor
from tests.synthesis.blending.dense_poisson import dense_paste


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
    backend=st.sampled_from(['lattice', 'sparse', None]),
    prepared=st.booleans(),
)
def test_equals_a_dense_solve_on_any_mask(seed, height, width, density, mixed, backend, prepared):
    target, source = images(seed, (2, height, width))
    mask = random_mask(seed, height, width, density)
    factor = PoissonFactor(mask, backend)
    result = poisson_blend(target, source, mask, factor.prepare() if prepared else factor, mixed=mixed, clamp=False)
    expected = dense_paste(target.numpy(), source.numpy(), mask[0].numpy(), mixed)
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-9)
    outside = ~mask.expand_as(target)
    assert torch.equal(result[outside], target[outside])


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(3, 10),
    width=st.integers(3, 10),
    mixed=st.booleans(),
    edges=st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()).filter(lambda e: not all(e)),
)
def test_the_rectangle_domain_equals_a_dense_solve(seed, height, width, mixed, edges):
    target, source = images(seed, (2, height, width))
    soft = torch.rand(1, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    unknown = np.ones((height, width), dtype=bool)
    top, left, bottom, right = edges
    unknown[0] &= top
    unknown[-1] &= bottom
    unknown[:, 0] &= left
    unknown[:, -1] &= right
    result = poisson_blend(target, source, soft, mixed=mixed, domain='rectangle', edges=edges, clamp=False)
    expected = dense_paste(target.numpy(), source.numpy(), unknown, mixed, soft[0].numpy())
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-9)


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


@pytest.mark.parametrize('backend', ['lattice', 'sparse'])
@pytest.mark.parametrize('place', [slice(2, 8), slice(0, 5), slice(9, 12)])
def test_a_shifted_copy_of_the_target_returns_the_target(backend, place):
    target, _ = images(3, (3, 12, 12), torch.float32)
    mask = torch.zeros(1, 12, 12, dtype=torch.bool)
    mask[:, place, 3:9] = True
    mask[:, 5, 6] = False
    result = poisson_blend(target * 0.5, target * 0.5 + 0.25, mask, factorize(mask, backend))
    torch.testing.assert_close(result, target * 0.5, atol=1e-6, rtol=0)


@pytest.mark.parametrize('mixed', [False, True])
def test_an_empty_mask_returns_the_target(mixed):
    target, source = images(0, (3, 6, 7), torch.float32)
    mask = torch.zeros(1, 6, 7, dtype=torch.bool)
    result = poisson_blend(target, source, mask, factorize(mask), mixed=mixed)
    assert torch.equal(result, target) and result.data_ptr() != target.data_ptr()
    batch = poisson_blend(target[None], source[None], mask[None], mixed=mixed)
    assert torch.equal(batch[0], target)


@pytest.mark.parametrize('mixed', [False, True])
@pytest.mark.parametrize('domain', ['mask', 'rectangle'])
def test_batch_mates_do_not_change_a_sample(mixed, domain):
    target, source = images(5, (4, 3, 20, 17), torch.float32)
    mask = torch.stack([random_mask(seed, 20, 17, 0.4) for seed in range(4)])
    together = poisson_blend(target, source, mask, mixed=mixed, domain=domain)
    for sample in range(4):
        alone = poisson_blend(target[sample], source[sample], mask[sample], mixed=mixed, domain=domain)
        torch.testing.assert_close(together[sample], alone, atol=2e-6, rtol=0)


def test_one_factor_serves_a_batch_and_equals_one_factor_each():
    target, source = images(6, (3, 3, 15, 15), torch.float32)
    mask = random_mask(1, 15, 15, 0.5)
    factor = factorize(mask)
    shared = poisson_blend(target, source, mask, factor)
    each = poisson_blend(target, source, mask.expand(3, 1, 15, 15), [factor] * 3)
    without = poisson_blend(target, source, mask[None])
    torch.testing.assert_close(shared, each, atol=2e-6, rtol=0)
    torch.testing.assert_close(shared, without, atol=2e-6, rtol=0)


@pytest.mark.parametrize('mixed', [False, True])
@pytest.mark.parametrize('domain', ['mask', 'rectangle'])
def test_the_result_is_limited_and_the_inputs_are_untouched(mixed, domain):
    target, source = images(8, (3, 16, 16), torch.float32)
    source = (source > 0.5).float()
    before = target.clone(), source.clone()
    mask = random_mask(2, 16, 16, 0.8)
    free = poisson_blend(target, source, mask, mixed=mixed, domain=domain, clamp=False)
    limited = poisson_blend(target, source, mask, mixed=mixed, domain=domain)
    assert free.min() < 0 or free.max() > 1
    assert torch.equal(limited, free.clamp(0, 1)) and limited.dtype == torch.float32
    assert torch.equal(target, before[0]) and torch.equal(source, before[1])


def test_float32_stays_within_1e_4_of_the_float64_sparse_solve():
    rows, columns = np.mgrid[:120, :120]
    mask = torch.from_numpy((rows - 60) ** 2 + (columns - 60) ** 2 < 57**2)[None]
    mask[0, 50:60, 40:80] = False
    target, source = images(9, (3, 120, 120))
    exact = poisson_blend(target, source, mask, factorize(mask, 'sparse'), clamp=False)
    for factor in (factorize(mask, 'lattice'), PoissonFactor(mask, 'lattice')):
        result = poisson_blend(target.float(), source.float(), mask, factor, clamp=False)
        assert (result.double() - exact).abs().max() < 1e-5


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
    @pytest.mark.parametrize('backend', ['lattice', 'sparse'])
    @pytest.mark.parametrize('mixed', [False, True])
    @pytest.mark.parametrize('prepared', [False, True])
    def test_of_the_mask_domain(self, backend, mixed, prepared):
        target, source = (0.4 + 0.2 * image for image in images(11, (2, 6, 7)))
        mask = random_mask(4, 6, 7, 0.6)
        factor = PoissonFactor(mask, backend)
        if prepared:
            factor.prepare()
        assert torch.autograd.gradcheck(
            lambda t, s: poisson_blend(t, s, mask, factor, mixed=mixed, clamp=False),
            (target.requires_grad_(), source.requires_grad_()),
        )

    def test_of_a_filled_rectangle_without_factor(self):
        target, source = images(12, (1, 6, 7))
        mask = torch.zeros(1, 6, 7, dtype=torch.bool)
        mask[:, 0:4, 2:5] = True
        assert PoissonFactor(mask).backend == 'rectangle'
        assert torch.autograd.gradcheck(
            lambda t, s: poisson_blend(t, s, mask, clamp=False), (target.requires_grad_(), source.requires_grad_())
        )

    @pytest.mark.parametrize('mixed', [False, True])
    @pytest.mark.parametrize('edges', [(False,) * 4, (True, False, True, True)])
    def test_of_the_rectangle_domain_with_its_mask(self, mixed, edges):
        target, source = images(13, (2, 5, 6))
        mask = torch.rand(1, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        assert torch.autograd.gradcheck(
            lambda t, s, m: poisson_blend(t, s, m, mixed=mixed, domain='rectangle', edges=edges, clamp=False),
            (target.requires_grad_(), source.requires_grad_(), mask.requires_grad_()),
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


class TestRefusals:
    def test_a_mask_that_leaves_nothing_free(self):
        with pytest.raises(ValueError, match='at least one pixel free'):
            factorize(torch.ones(1, 4, 4, dtype=torch.bool))

    def test_bytes(self):
        image = torch.zeros(3, 4, 4, dtype=torch.uint8)
        with pytest.raises(ValueError, match='255'):
            poisson_blend(image, image, torch.zeros(1, 4, 4))

    def test_a_mask_of_another_size(self):
        target, source = images(0, (3, 4, 4))
        with pytest.raises(ValueError, match='`mask`'):
            poisson_blend(target, source, torch.zeros(1, 5, 4))

    def test_a_factor_of_another_size(self):
        target, source = images(0, (3, 4, 4))
        mask = torch.zeros(1, 6, 6)
        mask[0, 2, 2] = 1
        with pytest.raises(ValueError, match='`factor`'):
            poisson_blend(target, source, torch.zeros(1, 4, 4), factorize(mask))

    def test_an_unknown_domain_and_a_factor_for_the_rectangle(self):
        target, source = images(0, (3, 4, 4))
        with pytest.raises(ValueError, match='mask, rectangle'):
            poisson_blend(target, source, torch.zeros(1, 4, 4), domain='disc')
        with pytest.raises(ValueError, match='must be None'):
            poisson_blend(target, source, torch.zeros(1, 4, 4), factorize(torch.zeros(4, 4)), domain='rectangle')

    def test_a_rectangle_open_on_all_sides(self):
        target, source = images(0, (3, 4, 4))
        with pytest.raises(ValueError, match='one side'):
            poisson_blend(target, source, torch.ones(1, 4, 4), domain='rectangle', edges=(True,) * 4)
