"""The Poisson equation on any mask: domain, boundary and solver, in double precision; also for given right-hand sides.

Symbols follow ``docs/derivations/poisson.md``: A is the Laplacian on the mask with one-sided rows at the border of the
image, g the Green table of the torus, sigma the sources, c the constant.
"""

from __future__ import annotations

import math
from functools import cached_property, lru_cache

import numpy as np
import scipy.fft
import torch
from numpy import ndarray
from scipy.linalg import lapack
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import splu
from torch import Tensor

from mmdefect.synthesis.poisson.membrane import boundary_of, green_table, inverse_eigenvalues

BACKENDS = ('lattice', 'sparse')


class PoissonSystem:
    """Domain, boundary and solver of one mask; translation-invariant. It pickles as the bare mask.

    Args:
        mask: ``(h, w)`` or ``(1, h, w)``, bool, or number in [0, 1] of which values >= 0.5 belong to the domain. Mask
            pixels on the edge of the array are taken to lie on the edge of the image: they get one-sided rows. Leave a
            ring of one pixel elsewhere.
        backend: one of ``BACKENDS``; None takes the one that the measured cost model calls faster.

    Raises:
        ValueError: if no pixel of the array is left outside the mask, or the backend is unknown.
    """

    def __init__(self, mask: Tensor | ndarray, backend: str | None = None) -> None:
        mask = torch.as_tensor(mask).detach().cpu()
        if mask.dim() == 3 and len(mask) == 1:
            mask = mask[0]
        if mask.dim() != 2:
            raise ValueError(
                f'`mask` must have shape (h, w) or (1, h, w), got {tuple(mask.shape)}; a system has one mask.'
            )
        if backend is not None and backend not in BACKENDS:
            raise ValueError(f'`backend` must be one of {", ".join(BACKENDS)} or None, got {backend!r}.')
        self.mask = (mask if mask.dtype == torch.bool else mask >= 0.5).numpy().copy()
        if self.mask.size and self.mask.all():
            raise ValueError(
                f'`mask` of shape {self.mask.shape} must leave at least one pixel free, whose value is the boundary '
                'condition; cut the crop one pixel larger.'
            )
        self._backend = backend
        self._ring, self._ghosts = boundary_of(self.mask)
        self._flat = np.flatnonzero(self.mask), self._ring[:, 0] * self.mask.shape[1] + self._ring[:, 1]

    def __reduce__(self) -> tuple:
        return PoissonSystem, (self.mask, self._backend)

    @property
    def num_pixels(self) -> int:
        """Number of unknowns: pixels of the mask."""
        return len(self._flat[0])

    def places(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return positions of domain and boundary in the flattened crop: ``(n,)`` and ``(m,)`` int64."""
        return tuple(torch.from_numpy(flat).to(device) for flat in self._flat)

    @cached_property
    def solver(self) -> LatticeSolver | SparseSolver:
        """The solver, made when it is first needed; there is none for an empty mask."""
        if not self.num_pixels:
            raise ValueError('`mask` must have a pixel to be solved for, got an empty mask; skip this defect.')
        (top, left), (bottom, right) = self._ring.min(0).tolist(), self._ring.max(0).tolist()
        area, around = (bottom - top + 1) * (right - left + 1), len(self._ring) + len(self._ghosts)
        backend = self._backend or choose_backend(self.num_pixels, around, area)
        if backend == 'lattice':
            return LatticeSolver(self.mask, self._ring, self._ghosts)
        return SparseSolver(self.mask)

    @cached_property
    def _pairs(self) -> tuple[Tensor, Tensor]:
        """Index of the domain and of the boundary for every pair of neighbours of the two."""
        number = np.full((self.mask.shape[0] + 2, self.mask.shape[1] + 2), -1)
        number[self._ring[:, 0] + 1, self._ring[:, 1] + 1] = np.arange(len(self._ring))
        rows, columns = np.nonzero(self.mask)
        beside = np.stack([number[rows + 1 + dy, columns + 1 + dx] for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1))])
        side, inside = np.nonzero(beside >= 0)
        return torch.from_numpy(inside), torch.from_numpy(beside[side, inside])

    def extend(self, boundary: Tensor) -> Tensor:
        """Return the harmonic function on the domain with given values on the boundary: ``(N, m)`` -> ``(N, n)``."""
        if isinstance(self.solver, LatticeSolver):
            return self.solver.extend(boundary)
        inside, beside = (index.to(boundary.device) for index in self._pairs)
        right = boundary.new_zeros(len(boundary), self.num_pixels)
        return self.solve(right.index_add_(1, inside, boundary[:, beside]))

    def restrict(self, solved: Tensor) -> Tensor:
        """Sum what lies beside each boundary pixel, ``(N, n)`` -> ``(N, m)``; after a solve, ``extend`` transposed."""
        inside, beside = (index.to(solved.device) for index in self._pairs)
        return solved.new_zeros(len(solved), len(self._ring)).index_add(1, beside, solved[:, inside])

    def solve(self, right: Tensor) -> Tensor:
        """Solve ``A w = right`` with 0 on the boundary; symmetric, so its own adjoint: ``(N, n)`` -> ``(N, n)``."""
        return self.solver.solve(right)


def choose_backend(num_pixels: int, num_boundary: int, box_area: int) -> str:
    """Return the backend with the lowest cost of one paste of three channels on one CPU thread, its factor included.

    The constants are microseconds, fitted to measurements of one thread of a CPU.

    Args:
        num_pixels: pixels of the mask.
        num_boundary: places around the mask.
        box_area: pixels of the bounding box with its ring.
    """
    lattice = 145 + 7.7e-4 * num_boundary**2 + 8e-6 * num_boundary**3 + 7e-2 * box_area
    sparse = 375 + 3.6e-3 * num_pixels * max(4.0, 2.45 * math.log2(num_pixels) - 11.2)
    sparse += num_pixels * (0.5 + 0.012 * math.sqrt(num_pixels))
    return 'lattice' if lattice <= sparse else 'sparse'


class SparseSolver:
    """Solves the Poisson equation on a mask by sparse LU; float64 on the CPU, whatever comes in."""

    def __init__(self, mask: ndarray) -> None:
        number = np.full((mask.shape[0] + 2, mask.shape[1] + 2), -1)
        rows, columns = np.nonzero(mask)
        count = np.arange(len(rows))
        number[rows + 1, columns + 1] = count
        exists = np.pad(np.ones(mask.shape, bool), 1)  # neighbours beyond the array do not exist
        steps = ((-1, 0), (1, 0), (0, -1), (0, 1))
        degree = sum(exists[rows + 1 + dy, columns + 1 + dx].astype(float) for dy, dx in steps)
        there = np.concatenate([number[rows + 1 + dy, columns + 1 + dx] for dy, dx in steps])
        here, there = np.tile(count, 4)[there >= 0], there[there >= 0]
        values = np.concatenate([degree, np.full(len(here), -1.0)])
        places = np.concatenate([count, here]), np.concatenate([count, there])
        laplacian = csc_matrix((values, places), shape=(len(rows), len(rows)))
        # Positive definite, so no pivoting is needed and the ordering may exploit symmetry.
        options = dict(permc_spec='MMD_AT_PLUS_A', diag_pivot_thresh=0.0, options={'SymmetricMode': True})
        self._factor = splu(laplacian, **options)

    def solve(self, right: Tensor) -> Tensor:
        """See :meth:`PoissonSystem.solve`."""
        columns = right.detach().cpu().numpy().T.astype(np.float64, order='F')
        return torch.from_numpy(self._factor.solve(columns).T).to(right)


class LatticeSolver:
    """Solves the Poisson equation on a mask by sources around it on a periodic lattice; factors in float64.

    Args:
        mask: ``(h, w)`` bool; True on the pixels to solve for.
        ring: ``(m, 2)`` int64 rows and columns of the pixels beside the mask, whose values are given.
        ghosts: ``(k, 2)`` int64 rows and columns of places beyond the image edge beside a mask pixel, see
            :func:`~mmdefect.synthesis.poisson.membrane.boundary_of`.
    """

    def __init__(self, mask: ndarray, ring: ndarray, ghosts: ndarray) -> None:
        sources = np.concatenate([ring, ghosts])
        corner = top, left = sources.min(axis=0)
        self.rows, self.columns = (scipy.fft.next_fast_len(int(n) + 1, real=True) for n in sources.max(axis=0) - corner)
        self.num_given, self.num_sources = len(ring), len(sources)
        self._points, self._inwards = sources - corner, np.clip(ghosts, 0, np.array(mask.shape) - 1) - corner
        rows, columns = np.nonzero(mask)
        places = dict(domain=np.stack([rows - top, columns - left], 1), sources=self._points, inwards=self._inwards)
        self._places = {name: torch.from_numpy(at[:, 0] * self.columns + at[:, 1]) for name, at in places.items()}
        matrix, self._gauge = self._green(self._points), np.ones(self.num_sources)
        if not len(ghosts):
            # Green's function is positive on every proper subset of the torus, so Cholesky applies.
            self._factor, info = lapack.dpotrf(matrix.T, lower=1, clean=0, overwrite_a=1)
            self._unit = lapack.dpotrs(self._factor, self._gauge, lower=1)[0]
        else:
            matrix[self.num_given :] -= self._green(self._inwards)
            self._gauge[self.num_given :] = 0
            bordered = np.zeros((self.num_sources + 1, self.num_sources + 1), order='F')
            bordered[:-1, :-1], bordered[:-1, -1], bordered[-1, :-1] = matrix, self._gauge, 1
            self._factor, self._pivots, info = lapack.dgetrf(bordered, overwrite_a=1)
        if info:
            raise np.linalg.LinAlgError(
                f'the system of {self.num_sources} places around a mask must be regular, LAPACK reports {info}; leave '
                'a pixel of the crop free.'
            )

    def _green(self, points: ndarray) -> ndarray:
        """Return the field at each point of a unit source at each source, ``(len(points), num_sources)``."""
        table = green_table(self.rows, self.columns)
        width = table.shape[1]
        first = points[:, 0] * width + points[:, 1] + ((self.rows - 1) * width + self.columns - 1)
        return table.ravel().take(first[:, None] - (self._points[:, 0] * width + self._points[:, 1]))

    def _solve_sources(self, right: Tensor) -> Tensor:
        """Return sources and constant, ``(N, num_sources + 1)``, for as many columns or only the first."""
        columns = np.zeros((self.num_sources + 1, len(right)), order='F')
        columns[: right.shape[1]] = right.cpu().numpy().T
        if self.num_given != self.num_sources:
            solved = lapack.dgetrs(self._factor, self._pivots, columns)[0]
        else:
            free = lapack.dpotrs(self._factor, columns[:-1], lower=1)[0]
            constant = (self._gauge @ free - columns[-1:]) / self._unit.sum()
            solved = np.concatenate([free - self._unit[:, None] * constant, constant])
        return torch.from_numpy(solved.T).to(right)

    def _spread(self, values: Tensor, at: str) -> Tensor:
        grid = values.new_zeros(len(values), self.rows * self.columns)
        grid.index_copy_(1, self._places[at].to(values.device), values)
        return torch.fft.rfft2(grid.view(len(values), self.rows, self.columns))

    def _field(self, spectrum: Tensor, like: Tensor) -> Tensor:
        weights = _weights(self.rows, self.columns, like.dtype, like.device)
        return torch.fft.irfft2(spectrum * weights, s=(self.rows, self.columns)).view(len(spectrum), -1)

    def _at(self, field: Tensor, at: str) -> Tensor:
        return field.index_select(1, self._places[at].to(field.device))

    def extend(self, boundary: Tensor) -> Tensor:
        """See :meth:`PoissonSystem.extend`."""
        sources = self._solve_sources(boundary)
        return self._at(self._field(self._spread(sources[:, :-1], 'sources'), boundary), 'domain') + sources[:, -1:]

    def solve(self, right: Tensor) -> Tensor:
        """See :meth:`PoissonSystem.solve`."""
        spectrum = self._spread(right, 'domain')
        field = self._field(spectrum, right)
        target = torch.cat([-self._at(field, 'sources'), -right.sum(1, keepdim=True)], 1)
        target[:, self.num_given : -1] += self._at(field, 'inwards')
        sources = self._solve_sources(target)
        field = self._field(spectrum + self._spread(sources[:, :-1], 'sources'), right)
        return self._at(field, 'domain') + sources[:, -1:]


@lru_cache(maxsize=64)
def _weights(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    # Complex, for a product of complex and real numbers converts the second at every call.
    return torch.from_numpy(inverse_eigenvalues(rows, columns)).to(device, dtype.to_complex())
