"""Poisson solver for a masked domain by sparse LU factorisation (SuperLU with minimum degree ordering)."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csc_matrix, csr_matrix
from scipy.sparse.linalg import splu
from torch import Tensor

NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1))


def assemble(domain_mask: np.ndarray, ring: np.ndarray) -> tuple[csc_matrix, csr_matrix]:
    """The Laplacian on the mask and its coupling to the pixels beside the mask.

    Args:
        domain_mask: ``(h, w)`` bool; True inside the domain. Neighbours beyond the array do not exist: those rows are
            one-sided.
        ring: ``(m, 2)`` int64 rows and columns of the pixels beside the mask.

    Returns:
        ``(n, n)`` symmetric Laplacian with the number of existing neighbours on its diagonal, and ``(n, m)`` coupling
        with a one for each pair of neighbours, both float64.
    """
    height, width = domain_mask.shape
    index = np.full((height + 2, width + 2), -1, dtype=np.int64)
    rows, columns = np.nonzero(domain_mask)
    count = len(rows)
    index[rows + 1, columns + 1] = np.arange(count)
    index[ring[:, 0] + 1, ring[:, 1] + 1] = count + np.arange(len(ring))
    here, there = [], []
    for dy, dx in NEIGHBOURS:
        neighbour = index[rows + 1 + dy, columns + 1 + dx]
        exists = neighbour >= 0
        here.append(np.nonzero(exists)[0])
        there.append(neighbour[exists])
    here, there = np.concatenate(here), np.concatenate(there)
    inner = there < count
    diagonal = np.arange(count)
    laplacian = csc_matrix(
        (
            np.concatenate([np.bincount(here, minlength=count).astype(float), np.full(inner.sum(), -1.0)]),
            (np.concatenate([diagonal, here[inner]]), np.concatenate([diagonal, there[inner]])),
        ),
        shape=(count, count),
    )
    coupling = csr_matrix((np.ones((~inner).sum()), (here[~inner], there[~inner] - count)), shape=(count, len(ring)))
    return laplacian, coupling


class SparseSolver:
    """Solves the Poisson equation on the pixels of a mask; the arithmetic is float64 on the CPU, whatever comes in.

    Args:
        domain_mask: ``(h, w)`` bool; True inside the domain.
        ring: ``(m, 2)`` int64 rows and columns of the pixels beside the mask.
    """

    name = 'sparse'

    def __init__(self, domain_mask: np.ndarray, ring: np.ndarray) -> None:
        laplacian, self._coupling = assemble(domain_mask, ring)
        # Positive definite, so no pivoting is needed and the ordering may exploit symmetry.
        self._factor = splu(
            laplacian, permc_spec='MMD_AT_PLUS_A', diag_pivot_thresh=0.0, options={'SymmetricMode': True}
        )
        self._coupling_adjoint = self._coupling.T.tocsr()

    def prepare(self) -> None:
        """Nothing is left to prepare: the factor is complete."""

    @staticmethod
    def _columns(rows: Tensor) -> np.ndarray:
        return rows.detach().cpu().numpy().T.astype(np.float64, order='F')

    def extend(self, boundary: Tensor) -> Tensor:
        """Harmonic function on the domain with the given values on the ring: ``(N, m)`` -> ``(N, n)``."""
        return torch.from_numpy(self._factor.solve(self._coupling @ self._columns(boundary)).T).to(boundary)

    def extend_adjoint(self, gradient: Tensor) -> Tensor:
        """Transpose of :meth:`extend`: ``(N, n)`` -> ``(N, m)``."""
        solved = self._factor.solve(self._columns(gradient))
        return torch.from_numpy((self._coupling_adjoint @ solved).T).to(gradient)

    def solve(self, right: Tensor) -> Tensor:
        """Solve ``A w = right`` with 0 on the ring; symmetric, so its own adjoint: ``(N, n)`` -> ``(N, n)``."""
        return torch.from_numpy(self._factor.solve(self._columns(right)).T).to(right)
