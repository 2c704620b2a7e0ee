"""The system of a mask: choice of solver, agreement of the solvers, and the way into another process."""

from __future__ import annotations

import multiprocessing
import pickle

import numpy as np
import pytest
import torch

from mmdefect.synthesis.poisson.blends import poisson_blend
from mmdefect.synthesis.poisson.system import BACKENDS, LatticeSolver, PoissonSystem, SparseSolver


def disc(side: int) -> torch.Tensor:
    rows, columns = np.mgrid[:side, :side]
    return torch.from_numpy((rows - side / 2) ** 2 + (columns - side / 2) ** 2 < (side / 2 - 2) ** 2)[None]


def paste_in_a_worker(system: PoissonSystem, target: torch.Tensor, source: torch.Tensor) -> np.ndarray:
    return poisson_blend(target, source, torch.from_numpy(system.mask)[None], system).numpy()


@pytest.mark.parametrize('touching', [False, True])
def test_all_solvers_agree_on_a_rectangle(touching):
    generator = torch.Generator().manual_seed(0)
    target, source = torch.rand(2, 3, 30, 40, generator=generator, dtype=torch.float64)
    mask = torch.zeros(1, 30, 40, dtype=torch.bool)
    mask[:, 0 if touching else 3 : 20, 5 : 40 if touching else 33] = True
    results = [poisson_blend(target, source, mask, PoissonSystem(mask, backend), clamp=False) for backend in BACKENDS]
    torch.testing.assert_close(results[0], results[1], atol=1e-10, rtol=0)


def test_the_adjoint_of_the_extension_is_its_transpose():
    generator = torch.Generator().manual_seed(0)
    mask = disc(24)
    mask[0, 0, 5:9] = True
    for backend in BACKENDS:
        system = PoissonSystem(mask, backend)
        boundary = torch.rand(2, system.places(mask.device)[1].numel(), generator=generator, dtype=torch.float64)
        inner = torch.rand(2, system.num_pixels, generator=generator, dtype=torch.float64)
        forward = (system.extend(boundary) * inner).sum()
        backward = (boundary * system.restrict(system.solve(inner))).sum()
        assert forward.item() == pytest.approx(backward.item(), rel=1e-10)


def test_constant_boundary_values_extend_to_the_constant():
    system = PoissonSystem(disc(40))
    extended = system.extend(torch.full((1, system.places(torch.device('cpu'))[1].numel()), 0.75))
    torch.testing.assert_close(extended, torch.full_like(extended, 0.75), atol=1e-6, rtol=0)


def test_compact_masks_go_to_the_lattice_and_thin_long_ones_to_the_sparse_factor():
    assert isinstance(PoissonSystem(disc(120)).solver, LatticeSolver)
    diagonal = torch.zeros(1, 700, 700, dtype=torch.bool)
    steps = torch.arange(2, 698)
    diagonal[0, steps, steps] = diagonal[0, steps, steps + 1] = True
    assert isinstance(PoissonSystem(diagonal).solver, SparseSolver)


def test_a_soft_mask_is_cut_at_one_half():
    soft = torch.tensor([[0.0, 0.49, 0.5, 1.0, 0.0]])
    assert PoissonSystem(soft).mask.tolist() == [[False, False, True, True, False]]


def test_the_system_keeps_its_own_copy_of_the_mask():
    mask = disc(16)
    system = PoissonSystem(mask)
    mask[:] = False
    assert system.mask.any() and system.num_pixels == system.mask.sum()


def test_what_cannot_be_solved_is_rejected():
    with pytest.raises(ValueError, match='one of lattice, sparse'):
        PoissonSystem(disc(12), 'cg')
    with pytest.raises(ValueError, match='a system has one mask'):
        PoissonSystem(torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match='at least one pixel free'):
        PoissonSystem(torch.ones(1, 4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match='empty mask'):
        PoissonSystem(torch.zeros(4, 4)).solver  # noqa: B018 (it is made when it is asked for)


def test_the_pickle_is_the_bare_mask():
    system = PoissonSystem(disc(96))
    assert system.solver is not None and len(pickle.dumps(system)) < 96 * 96 + 1000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(system)).mask, system.mask)


def test_a_spawned_worker_pastes_the_same_pixels():
    generator = torch.Generator().manual_seed(0)
    target, source = torch.rand(2, 3, 20, 20, generator=generator)
    system = PoissonSystem(disc(20))
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        there = pool.apply(paste_in_a_worker, (system, target, source))
    np.testing.assert_allclose(there, paste_in_a_worker(system, target, source), atol=1e-6)
