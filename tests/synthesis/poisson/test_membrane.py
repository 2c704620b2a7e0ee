"""Membranes of one mask and of many against dense solves, the limit of the step at the outline, and one BLAS thread."""

import multiprocessing

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits
from torch.utils.data import DataLoader

from mmdefect.synthesis.poisson.membrane import (
    MOST_BESIDE,
    BorderMembrane,
    Membrane,
    MembraneBatch,
    SparseMembrane,
    boundary_of,
    limit_step,
    one_blas_thread,
    touches_border,
)
from mmdefect.synthesis.policy import PolicySpec
from mmdefect.synthesis.render.arrays import compose
from tests.synthesis.render import slow


def exact(mask, given_values):
    """Return the membrane by a dense solve: the mean of the neighbours at every masked pixel, in double precision.

    Args:
        mask: ``(h, w)`` bool; given_values: ``(m, C)`` at the pixels beside it, in the order of the flattened array.
    """
    height, width = mask.shape
    number = {place: i for i, place in enumerate(zip(*np.nonzero(mask), strict=True))}
    neighbours = {
        (r, c): [(r + y, c + x) for y, x in slow.STEPS if 0 <= r + y < height and 0 <= c + x < width] for r, c in number
    }
    ring = {place: i for i, place in enumerate(sorted({p for near in neighbours.values() for p in near} - set(number)))}
    matrix, right = np.zeros((len(number),) * 2), np.zeros((len(number), given_values.shape[1]))
    for place, i in number.items():
        matrix[i, i] = len(neighbours[place])
        for near in neighbours[place]:
            if near in number:
                matrix[i, number[near]] -= 1
            else:
                right[i] += given_values[ring[near]]
    return np.linalg.solve(matrix, right)


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


@pytest.mark.parametrize('side', [44, 60])
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


@given(st.integers(0, 2**31), st.booleans(), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=25, deadline=None)
def test_membranes_solve_the_equation(seed, at_border, dtype):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(4, 20, 2).tolist()
    masks = []
    while len(masks) < 3:
        mask = rng.random((height, width)) < rng.uniform(0.1, 0.9)
        if not at_border:
            mask[[0, -1]] = mask[:, [0, -1]] = False
        if mask.any() and not mask.all() and touches_border(mask) == at_border:
            masks.append(mask)
    boundaries = [boundary_of(mask) for mask in masks]
    most = max(len(ring) + len(ghosts) for ring, ghosts in boundaries)
    batch = MembraneBatch(boundaries, (height, width), most + 3, torch.empty(0, dtype=dtype))
    given_values = torch.from_numpy(rng.uniform(-1, 1, (3, 2, batch.beside.shape[1]))).to(dtype)
    made = batch.extend(given_values)
    for i, (mask, (ring, _)) in enumerate(zip(masks, boundaries, strict=True)):
        flat = ring[:, 0] * width + ring[:, 1]
        assert int(batch.counts[i]) == len(ring) and (batch.beside[i, : len(ring)].numpy() == flat).all()
        order = np.argsort(flat)
        expected = torch.from_numpy(exact(mask, given_values[i, :, order].double().numpy().T).T)
        tolerance = 1e-9 if dtype == torch.float64 else 2e-5
        torch.testing.assert_close(made[i].flatten(1)[:, mask.ravel()].double(), expected, atol=tolerance, rtol=0)


@given(st.integers(3, 25), st.integers(3, 25), st.floats(0.05, 0.95), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_other_solvers_of_one_mask_solve_the_equation_at_the_border(height, width, density, seed):
    mask = np.random.default_rng(seed).random((height, width)) < density
    mask[height // 2, width // 2], mask[0, 0] = True, False
    given_values = np.random.default_rng(seed).uniform(-1, 1, (len(Membrane(mask).beside), 2))
    for solver in (BorderMembrane, SparseMembrane):
        np.testing.assert_allclose(solver(mask).extend(given_values), exact(mask, given_values), atol=1e-9)


@given(st.integers(0, 2**31), st.booleans())
@settings(max_examples=25, deadline=None)
def test_right_hand_sides_are_solved_for(seed, at_border):
    """The Laplacian of the solution, row by row, is the right-hand side; the pixels beside the mask are 0."""
    rng = np.random.default_rng(seed)
    mask = rng.random((9, 12)) < 0.6
    if not at_border:
        mask[[0, -1]] = mask[:, [0, -1]] = False
    mask[4, 5], mask[0, 0] = True, False
    boundary = boundary_of(mask)
    batch = MembraneBatch([boundary], (9, 12), sum(map(len, boundary)) + 2, torch.empty(0, dtype=torch.float64))
    right = torch.from_numpy(rng.normal(size=(1, 2, 9, 12)) * mask)
    solved = (batch.solve(right) * torch.from_numpy(mask)).numpy()[0]
    for row, column in zip(*np.nonzero(mask), strict=True):
        near = [(row + y, column + x) for y, x in slow.STEPS if 0 <= row + y < 9 and 0 <= column + x < 12]
        applied = len(near) * solved[:, row, column] - sum(solved[:, y, x] for y, x in near)
        np.testing.assert_allclose(applied, right[0, :, row, column], atol=1e-9)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(0, 2**31), st.sampled_from([1, 3]))
@settings(max_examples=40, deadline=None)
def test_steps_are_limited_as_the_slow_way(counts, seed, channels):
    rng = np.random.default_rng(seed)
    step = rng.normal(0, 0.1, (len(counts), channels, max(counts) + 2))
    limited, share = limit_step(torch.from_numpy(step), 0.1, 0.02, torch.tensor(counts))
    for i, count in enumerate(counts):
        own = step[i, :, :count].T.copy()
        expected = slow.limited_step(own, 0.1, 0.02)
        alone, own_share = limit_step(own, 0.1, 0.02)
        np.testing.assert_allclose(alone, expected, atol=1e-12)
        np.testing.assert_allclose(limited[i, :, :count].T, expected, atol=1e-12)
        assert float(share[i]) == pytest.approx(own_share) == pytest.approx((expected != own).any(1).mean(), abs=1e-9)


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
        policy = PolicySpec(max_boundary_shade=limits[0], max_boundary_cast=limits[1])
        result, share = compose(target, source, Membrane(mask), 'poisson', policy)
        return np.ptp(result[inside].astype(int), axis=1).max(), share

    before, none = cast((2, 2))
    after, share = cast((0.1, 0.02))
    assert before > 10 and none == 0
    assert after <= 3 and 0 < share < 0.5


def test_limited_steps_pass_on_the_gradient_of_the_limit():
    counts = torch.tensor([17, 12])
    step = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (2, 3, 17))).requires_grad_()
    assert 0 < limit_step(step, 0.1, 0.02, counts)[1].max() <= 1
    assert torch.autograd.gradcheck(lambda s: limit_step(s, 0.1, 0.02, counts)[0], step)


def threads():
    return {library['num_threads'] for library in threadpool_info() if library['user_api'] == 'blas'}


class OneMembrane:
    """A data set whose samples solve one membrane and say how many threads BLAS has afterwards."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        mask = np.zeros((20, 20), bool)
        mask[5:15, 5:15] = True
        membrane = Membrane(mask)
        with one_blas_thread():
            membrane.extend(np.zeros((len(membrane.beside), 3), np.float32))
        return max(threads())


def test_blas_runs_on_one_thread_and_gets_the_others_back():
    with threadpool_limits(2, user_api='blas'):
        with one_blas_thread():
            assert threads() == {1}
        assert threads() == {2}


@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_loader_workers_keep_one_blas_thread(method):
    if method not in multiprocessing.get_all_start_methods():
        method = 'spawn'
    with threadpool_limits(2, user_api='blas'):
        loader = DataLoader(OneMembrane(), batch_size=None, num_workers=1, multiprocessing_context=method)
        assert list(loader) == [1, 1]
        assert threads() == {2}
