"""The factor of a mask: choice of solver, agreement of the solvers, and the way into another process."""

from __future__ import annotations

import multiprocessing
import pickle

import numpy as np
import pytest
import torch

from mmdefect.synthesis.blending import factorize, poisson_blend
from mmdefect.synthesis.blending.domain import BACKENDS, PoissonFactor, choose_backend
from mmdefect.synthesis.blending.lattice import LatticeSolver
from mmdefect.synthesis.blending.sine import RectangleSolver, side_basis


def disc(side: int) -> torch.Tensor:
    rows, columns = np.mgrid[:side, :side]
    return torch.from_numpy((rows - side / 2) ** 2 + (columns - side / 2) ** 2 < (side / 2 - 2) ** 2)[None]


def paste_in_a_worker(factor: PoissonFactor, target: torch.Tensor, source: torch.Tensor) -> np.ndarray:
    return poisson_blend(target, source, torch.from_numpy(factor.mask)[None], factor).numpy()


@pytest.mark.parametrize('touching', [False, True])
def test_all_solvers_agree_on_a_rectangle(touching):
    generator = torch.Generator().manual_seed(0)
    target, source = torch.rand(2, 3, 30, 40, generator=generator, dtype=torch.float64)
    mask = torch.zeros(1, 30, 40, dtype=torch.bool)
    mask[:, 0 if touching else 3 : 20, 5 : 40 if touching else 33] = True
    results = [poisson_blend(target, source, mask, PoissonFactor(mask, backend), clamp=False) for backend in BACKENDS]
    torch.testing.assert_close(results[0], results[1], atol=1e-10, rtol=0)
    torch.testing.assert_close(results[1], results[2], atol=1e-10, rtol=0)


@pytest.mark.parametrize('size', [(7, 12), (31, 8)])
def test_sine_transform_by_matrix_and_by_fft_invert_the_laplacian(size):
    right = torch.rand(2, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    solutions = [RectangleSolver(*size, backend=backend).solve(right) for backend in ('matrix', 'fft')]
    torch.testing.assert_close(*solutions, atol=1e-12, rtol=0)
    padded = torch.nn.functional.pad(solutions[0], (1, 1, 1, 1))
    neighbours = padded[:, 2:, 1:-1] + padded[:, :-2, 1:-1] + padded[:, 1:-1, 2:] + padded[:, 1:-1, :-2]
    applied = 4 * solutions[0] - neighbours
    torch.testing.assert_close(applied, right, atol=1e-12, rtol=0)


@pytest.mark.parametrize('open_start', [False, True])
@pytest.mark.parametrize('open_end', [False, True])
def test_side_bases_diagonalise_the_second_difference(open_start, open_end):
    vectors, values = side_basis(6, open_start, open_end)
    difference = 2 * np.eye(6) - np.eye(6, k=1) - np.eye(6, k=-1)
    difference[0, 0] -= open_start
    difference[-1, -1] -= open_end
    np.testing.assert_allclose(vectors.T @ difference @ vectors, np.diag(values), atol=1e-12)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(6), atol=1e-12)


def test_the_adjoint_of_the_extension_is_its_transpose():
    generator = torch.Generator().manual_seed(0)
    mask = disc(24)
    mask[0, 0, 5:9] = True
    for backend in ('lattice', 'sparse'):
        for factor in (PoissonFactor(mask, backend), factorize(mask, backend)):
            boundary = torch.rand(2, factor.num_boundary, generator=generator, dtype=torch.float64)
            inner = torch.rand(2, factor.num_pixels, generator=generator, dtype=torch.float64)
            forward = (factor.solver.extend(boundary) * inner).sum()
            backward = (boundary * factor.solver.extend_adjoint(inner)).sum()
            assert forward.item() == pytest.approx(backward.item(), rel=1e-10)


def test_constant_boundary_values_extend_to_the_constant():
    factor = factorize(disc(40))
    extended = factor.solver.extend(torch.full((1, factor.num_boundary), 0.75))
    torch.testing.assert_close(extended, torch.full_like(extended, 0.75), atol=1e-6, rtol=0)


def test_compact_masks_go_to_the_lattice_and_thin_long_ones_to_the_sparse_factor():
    assert factorize(disc(120)).backend == 'lattice'
    diagonal = torch.zeros(1, 700, 700, dtype=torch.bool)
    steps = torch.arange(2, 698)
    diagonal[0, steps, steps] = diagonal[0, steps, steps + 1] = True
    assert factorize(diagonal).backend == 'sparse'
    assert choose_backend(900, 120, 1024, is_rectangle=True, prepared=False) == 'rectangle'


def test_small_masks_keep_the_whole_map():
    small, large = factorize(disc(24), 'lattice').solver, factorize(disc(80), 'lattice').solver
    assert isinstance(small, LatticeSolver) and small.keeps_extension and not large.keeps_extension


def test_a_soft_mask_is_cut_at_one_half():
    soft = torch.tensor([[0.0, 0.49, 0.5, 1.0, 0.0]])
    assert PoissonFactor(soft).mask.tolist() == [[False, False, True, True, False]]


def test_the_factor_keeps_its_own_copy_of_the_mask():
    mask = disc(16)
    factor = factorize(mask)
    mask[:] = False
    assert factor.mask.any() and factor.num_pixels == factor.mask.sum()


@pytest.mark.parametrize(
    'backend, message', [('cg', 'one of lattice, rectangle, sparse'), ('rectangle', 'full rectangle')]
)
def test_unknown_and_unfit_backends_are_refused(backend, message):
    with pytest.raises(ValueError, match=message):
        factorize(disc(12), backend)


def test_a_batch_of_masks_is_refused():
    with pytest.raises(ValueError, match='one factor per mask'):
        factorize(torch.zeros(2, 1, 4, 4))


def test_the_pickle_is_the_bare_mask():
    factor = factorize(disc(96))
    assert len(pickle.dumps(factor)) < 96 * 96 + 1000
    assert pickle.loads(pickle.dumps(factor)).prepared


def test_a_spawned_worker_pastes_the_same_pixels():
    generator = torch.Generator().manual_seed(0)
    target, source = torch.rand(2, 3, 20, 20, generator=generator)
    factor = factorize(disc(20))
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        there = pool.apply(paste_in_a_worker, (factor, target, source))
    np.testing.assert_allclose(there, paste_in_a_worker(factor, target, source), atol=1e-6)
