"""Poisson solver for a masked domain by boundary sources on a periodic lattice.

The five-point Laplacian on a torus is diagonal under the FFT. A membrane over the mask is written as the field of
unknown sources that sit on the pixels around the mask, so the only system to factorise is one over that ring: a few
hundred unknowns where the mask has tens of thousands. Exact up to rounding, see ``docs/derivations/poisson.md``.
Symbols follow the derivation: g is the Green table, C the source matrix, sigma the sources, c the constant.
"""
from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy.fft
import torch
from scipy.linalg import lapack
from torch import Tensor

# Up to this many entries the whole map from boundary to domain is kept as one matrix: one product of 12 us for a mask
# of 32 x 32 pixels, where the two FFTs and their surroundings cost 45 us.
MAX_EXTENSION_ENTRIES = 2**17


@lru_cache(maxsize=64)
def green_table(rows: int, columns: int) -> np.ndarray:
    """Field of a unit source at (0, 0) on a torus, with mean zero.

    Returns:
        ``(2 * rows - 1, 2 * columns - 1)`` float64; the entry at ``(rows - 1 + dy, columns - 1 + dx)`` is the field at
        distance ``(dy, dx)``.
    """
    table = scipy.fft.irfft2(inverse_eigenvalues(rows, columns), s=(rows, columns))
    dy, dx = np.arange(1 - rows, rows) % rows, np.arange(1 - columns, columns) % columns
    return np.ascontiguousarray(table[dy[:, None], dx])


@lru_cache(maxsize=64)
def inverse_eigenvalues(rows: int, columns: int) -> np.ndarray:
    """Reciprocal eigenvalues of the torus Laplacian in the layout of ``rfft2``; 0 for the constant."""
    eigenvalues = ((2 - 2 * np.cos(2 * np.pi * np.arange(rows) / rows))[:, None]
                   + 2 - 2 * np.cos(2 * np.pi * np.arange(columns // 2 + 1) / columns))
    eigenvalues[0, 0] = np.inf
    return 1 / eigenvalues


class LatticeSolver:
    """Solves the Poisson equation on the pixels of a mask.

    Args:
        domain: ``(n, 2)`` int64 rows and columns of the mask pixels.
        ring: ``(m, 2)`` int64 rows and columns of the pixels beside the mask whose values are given.
        ghosts: ``(k, 2)`` int64 rows and columns of pixels beyond the image edge, beside a mask pixel.
        ghost_neighbours: ``(k, 2)`` int64 the mask pixel beside each ghost; the two have equal values.
    """

    def __init__(self, domain: np.ndarray, ring: np.ndarray, ghosts: np.ndarray, ghost_neighbours: np.ndarray) -> None:
        sources = np.concatenate([ring, ghosts])
        corner = sources.min(axis=0)
        extent = sources.max(axis=0) - corner + 1
        self.rows, self.columns = (scipy.fft.next_fast_len(int(length), real=True) for length in extent)
        self.num_given, self.num_sources = len(ring), len(sources)
        self._domain, self._sources = domain - corner, sources - corner
        self._ghost_neighbours = ghost_neighbours - corner
        self._cache: dict[tuple, Tensor] = {}
        self._uses = 0
        self._factorize()

    def _factorize(self) -> None:
        matrix = self._green(self._sources, self._sources)
        self._gauge = np.ones(self.num_sources)
        if self.num_given == self.num_sources:
            # Green's function is positive on every proper subset of the torus, so Cholesky applies.
            self._factor, info = lapack.dpotrf(matrix, lower=1, clean=0, overwrite_a=1)
            self._unit = lapack.dpotrs(self._factor, self._gauge, lower=1)[0]
        else:
            matrix[self.num_given:] -= self._green(self._ghost_neighbours, self._sources)
            self._gauge[self.num_given:] = 0
            bordered = np.zeros((self.num_sources + 1, self.num_sources + 1), order='F')
            bordered[:-1, :-1] = matrix
            bordered[:-1, -1] = self._gauge
            bordered[-1, :-1] = 1
            self._factor, self._pivots, info = lapack.dgetrf(bordered, overwrite_a=1)
        if info:
            raise np.linalg.LinAlgError(f'The source matrix of {self.num_sources} pixels must be regular, '
                                        f'LAPACK reports {info}. Check that the mask leaves a pixel free.')

    def _green(self, points: np.ndarray, sources: np.ndarray) -> np.ndarray:
        """``(len(points), len(sources))`` field at each point of a unit source at each source."""
        table = green_table(self.rows, self.columns)
        width = table.shape[1]
        offset = (self.rows - 1) * width + self.columns - 1
        index = (points @ (width, 1) + offset)[:, None] - sources @ (width, 1)
        return table.ravel().take(index)

    def _bordered_solve(self, right: np.ndarray, transpose: bool = False) -> np.ndarray:
        """Solve for sources and constant; ``right`` is ``(num_sources + 1, columns)`` float64."""
        if self.num_given != self.num_sources:
            return lapack.dgetrs(self._factor, self._pivots, right, trans=int(transpose))[0]
        free = lapack.dpotrs(self._factor, right[:-1], lower=1)[0]
        constant = (self._gauge @ free - right[-1:]) / self._unit.sum()
        return np.concatenate([free - self._unit[:, None] * constant, constant])

    def prepare(self) -> None:
        """Form the matrices that make every later paste a plain product; worth it from the second paste on."""
        if 'inverse' not in self._cache:
            inverse = torch.from_numpy(self._bordered_solve(np.eye(self.num_sources + 1)))
            self._cache['inverse'] = inverse.contiguous()
        if self.has_extension and 'extension' not in self._cache:
            field = torch.from_numpy(self._green(self._domain, self._sources))
            inverse = self._cache['inverse'][:, :self.num_given]
            self._cache['extension'] = field @ inverse[:-1] + inverse[-1]

    @property
    def has_extension(self) -> bool:
        return len(self._domain) * self.num_given <= MAX_EXTENSION_ENTRIES

    def _tensor(self, name: str, like: Tensor) -> Tensor:
        """A cached array in the dtype and on the device of ``like``; float32 is what a paste usually asks for."""
        key = (name, like.dtype, like.device)
        if key not in self._cache:
            if name in ('inverse', 'extension'):
                value = self._cache[name]
            elif name == 'eigenvalues':
                value = torch.from_numpy(inverse_eigenvalues(self.rows, self.columns))
            else:
                points = {'sources': self._sources, 'domain': self._domain, 'ghosts': self._ghost_neighbours}[name]
                value = torch.from_numpy(points @ (self.columns, 1))
                self._cache[key] = value.to(like.device)
                return self._cache[key]
            self._cache[key] = value.to(like)
        return self._cache[key]

    def _solve_sources(self, right: Tensor, transpose: bool = False) -> Tensor:
        """``right`` and result are ``(N, num_sources + 1)``."""
        self._uses += 1
        if 'inverse' not in self._cache:
            if self._uses < 4 and right.device.type == 'cpu':
                columns = np.asfortranarray(right.numpy().T, dtype=np.float64)
                return torch.from_numpy(self._bordered_solve(columns, transpose).T).to(right.dtype)
            self.prepare()
        inverse = self._tensor('inverse', right)
        return right @ (inverse if transpose else inverse.T)

    def _spread(self, values: Tensor, at: str) -> Tensor:
        grid = values.new_zeros(len(values), self.rows * self.columns)
        grid.index_copy_(1, self._tensor(at, values), values)
        return torch.fft.rfft2(grid.view(len(values), self.rows, self.columns))

    def _field(self, spectrum: Tensor, like: Tensor) -> Tensor:
        field = torch.fft.irfft2(spectrum * self._tensor('eigenvalues', like), s=(self.rows, self.columns))
        return field.view(len(spectrum), -1)

    def extend(self, boundary: Tensor) -> Tensor:
        """Harmonic function on the domain with the given values on the ring: ``(N, m)`` -> ``(N, n)``."""
        if 'extension' in self._cache:
            return boundary @ self._tensor('extension', boundary).T
        right = boundary.new_zeros(len(boundary), self.num_sources + 1)
        right[:, :self.num_given] = boundary
        sources = self._solve_sources(right)
        field = self._field(self._spread(sources[:, :-1], 'sources'), boundary)
        return field.index_select(1, self._tensor('domain', boundary)).add_(sources[:, -1:])

    def extend_adjoint(self, gradient: Tensor) -> Tensor:
        """Transpose of :meth:`extend`: ``(N, n)`` -> ``(N, m)``."""
        if 'extension' in self._cache:
            return gradient @ self._tensor('extension', gradient)
        field = self._field(self._spread(gradient, 'domain'), gradient)
        right = gradient.new_empty(len(gradient), self.num_sources + 1)
        right[:, :-1] = field.index_select(1, self._tensor('sources', gradient))
        right[:, -1] = gradient.sum(1)
        return self._solve_sources(right, transpose=True)[:, :self.num_given]

    def solve(self, right: Tensor) -> Tensor:
        """Solve ``A w = right`` with value 0 on the ring; symmetric, hence its own adjoint: ``(N, n)`` -> ``(N, n)``."""
        spectrum = self._spread(right, 'domain')
        field = self._field(spectrum, right)
        target = right.new_empty(len(right), self.num_sources + 1)
        target[:, :-1] = -field.index_select(1, self._tensor('sources', right))
        if self.num_given != self.num_sources:
            target[:, self.num_given:-1] += field.index_select(1, self._tensor('ghosts', right))
        target[:, -1] = -right.sum(1)
        sources = self._solve_sources(target)
        field = self._field(spectrum + self._spread(sources[:, :-1], 'sources'), right)
        return field.index_select(1, self._tensor('domain', right)).add_(sources[:, -1:])
