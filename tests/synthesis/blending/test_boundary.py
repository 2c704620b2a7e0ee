import numpy as np
import pytest
import torch

from mmdefect.synthesis.array_writing import composed, limit_source
from mmdefect.synthesis.blending import PoissonFactor, blend
from mmdefect.synthesis.blending.boundary import limit_step
from mmdefect.synthesis.blending.membrane import Membrane


def test_an_even_step_is_kept_bit_by_bit_whatever_its_colour():
    step = np.full((40, 3), (0.5, -0.2, 0.1), np.float32)
    step += np.random.default_rng(0).normal(0, 0.002, step.shape).astype(np.float32)
    limited, share = limit_step(step, 0.1, 0.02)
    assert share == 0 and limited is step


def test_outliers_are_limited_and_the_others_kept():
    step = np.zeros((10, 3), np.float32)
    step[0], step[1] = -0.5, (0.3, 0.0, -0.3)
    limited, share = limit_step(step, 0.1, 0.02)
    np.testing.assert_allclose(limited[:2], [[-0.1] * 3, [0.02, 0, -0.02]], atol=1e-6)
    assert share == pytest.approx(0.2) and not limited[2:].any()
    assert limit_step(step, 2, 2)[1] == 0 and limit_step(step[:0], 0, 0)[1] == 0


def yellow_rim():
    """A grey disc with a yellow spot on its outline, on a surface of the same grey."""
    target = np.full((31, 31, 3), 80, np.uint8)
    rows, columns = np.mgrid[:31, :31] - 15
    mask = rows**2 + columns**2 <= 12**2
    source = target / np.float32(255)
    source[(rows > 8) & (np.abs(columns) < 6)] = 0.9, 0.7, 0.2
    return target, source, mask, (np.abs(rows) < 6) & (np.abs(columns) < 6)


def test_a_yellow_spot_on_the_outline_does_not_turn_the_inside_blue():
    target, source, mask, inside = yellow_rim()

    def cast(limits):
        values, share = composed(target, source, Membrane(mask), 'poisson', limits)
        result = target.copy()
        result[mask] = values
        return np.ptp(result[inside].astype(int), axis=1).max(), share

    before, none = cast((2, 2))
    after, share = cast((0.1, 0.02))
    assert before > 10 and none == 0
    assert after <= 3 and 0 < share < 0.5


@pytest.mark.parametrize('method', ['poisson', 'poisson-mixed'])
def test_both_routes_limit_alike(method):
    target, source, mask, _ = yellow_rim()
    values, _ = composed(target, source, Membrane(mask), method, (0.1, 0.02))
    factor = PoissonFactor(mask)
    limited, _ = limit_source(target / np.float32(255), source, factor, (0.1, 0.02))
    planes = [torch.from_numpy(a.transpose(2, 0, 1).copy()) for a in (target / np.float32(255), limited)]
    expected = blend(*planes, torch.from_numpy(mask)[None], method, factor=factor).numpy().transpose(1, 2, 0)[mask]
    assert np.abs(values - expected * 255).max() <= 0.51
