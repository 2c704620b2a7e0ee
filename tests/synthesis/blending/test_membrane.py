import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdefect.synthesis.blending.domain import PoissonFactor
from mmdefect.synthesis.blending.membrane import MOST_BESIDE, Membrane


def exact(mask, given_values):
    """Return the membrane by a sparse factorisation in double precision."""
    solver = PoissonFactor(mask, 'sparse').solver
    return solver.extend(torch.from_numpy(given_values.T.astype(np.float64).copy())).numpy().T


def compare(mask, seed, channels=3):
    membrane = Membrane(mask)
    given_values = np.random.default_rng(seed).uniform(-1, 1, (len(membrane.beside), channels)).astype(np.float32)
    expected = exact(mask, given_values)
    for _ in range(2):  # made, and kept
        assert np.abs(membrane.extend(given_values) - expected).max() < 1e-5
    return membrane


@given(st.integers(3, 40), st.integers(3, 40), st.floats(0.05, 0.95), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_random_masks_with_holes(height, width, density, seed):
    mask = np.zeros((height, width), bool)
    mask[1:-1, 1:-1] = np.random.default_rng(seed).random((height - 2, width - 2)) < density
    mask[height // 2, width // 2] = True
    compare(mask, seed)


@pytest.mark.parametrize('edge', [np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]])
def test_masks_at_the_border_of_the_image(edge):
    mask = np.zeros((12, 15), bool)
    mask[3:9, 4:11] = True
    mask[edge][2:7] = True
    compare(mask, 0)


@pytest.mark.parametrize('side', [60, 110])
def test_large_ragged_masks_and_one_channel(side):
    rng = np.random.default_rng(side)
    mask = np.zeros((side, side + 9), bool)
    mask[1:-1, 1:-1] = rng.random((side - 2, side + 7)) < 0.98
    assert len(compare(mask, 1, channels=1).beside) > side


def test_more_boundary_than_a_dense_system_is_for():
    mask = np.zeros((80, 80), bool)
    mask[1:-1:2, 1:-1:2] = True  # alone each: all others are beside
    assert len(compare(mask, 0).beside) > MOST_BESIDE


def test_memory_is_counted():
    mask = np.zeros((20, 20), bool)
    mask[5:15, 5:15] = True
    membrane = Membrane(mask)
    before = membrane.nbytes
    membrane.extend(np.zeros((len(membrane.beside), 3), np.float32))
    assert before <= mask.nbytes * 20 and membrane.nbytes >= before + 4 * len(membrane.beside) ** 2
