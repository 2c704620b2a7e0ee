"""The limit of the step at the outline, where ranges are learned through the pixels."""

import numpy as np
import pytest
import torch

from mmdefect.synthesis.blending import PoissonFactor
from mmdefect.synthesis.tensor_writing import limit_on_device

LIMITS = (0.1, 0.02)


@pytest.fixture
def crop():
    rng = np.random.default_rng(0)
    mask = np.zeros((9, 11), bool)
    mask[2:7, 3:8] = True
    mask[4, 8] = True
    target, source = (torch.from_numpy(rng.uniform(0.2, 0.8, (3, 9, 11))).requires_grad_() for _ in range(2))
    return target, source, PoissonFactor(mask)


def test_limited_pixels_pass_on_the_gradient_of_the_limit(crop):
    target, source, factor = crop
    assert 0 < limit_on_device(target, source, factor, LIMITS)[1] <= 1
    weights = torch.from_numpy(np.random.default_rng(1).normal(size=source.shape))

    # The bits are those of the arrays, which have no derivative: differences of them against the derivative.
    def value(*images):
        return float((limit_on_device(*images, factor, LIMITS)[0] * weights).sum())

    made = (limit_on_device(target, source, factor, LIMITS)[0] * weights).sum()
    for number, slopes in enumerate(torch.autograd.grad(made, (target, source))):
        plain = [target.detach(), source.detach()]
        for place in np.ndindex(*source.shape):
            sides = []
            for step in (1e-6, -1e-6):
                images = [p.clone() for p in plain]
                images[number][place] += step
                sides.append(value(*images))
            assert float(slopes[place]) == pytest.approx((sides[0] - sides[1]) / 2e-6, abs=1e-6), (number, place)


def test_the_image_is_the_same_with_and_without_a_gradient(crop):
    target, source, factor = crop
    with_gradient, share = limit_on_device(target, source, factor, LIMITS)
    without, own = limit_on_device(target.detach(), source.detach(), factor, LIMITS)
    assert share == own and torch.equal(with_gradient.detach(), without)
    inside = ~torch.isin(torch.arange(99), torch.from_numpy(factor.places[1])).view(9, 11)
    assert torch.equal(without[:, inside], source.detach()[:, inside])
