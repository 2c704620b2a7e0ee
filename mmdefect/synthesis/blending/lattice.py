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

# Up to this many entries (1.5 MiB of float32) the whole map from boundary to domain is kept as one matrix: one product of
# 25 us for a mask of 32 x 32 pixels and 80 us for 48 x 48, where the two FFTs and their surroundings cost 67 and 103 us.
MAX_EXTENSION_ENTRIES = 3 * 2**17


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
    eigenvalues = (
        (2 - 2 * np.cos(2 * np.pi * np.arange(rows) / rows))[:, None]
        + 2
        - 2 * np.cos(2 * np.pi * np.arange(columns // 2 + 1) / columns)
    )
    eigenvalues[0, 0] = np.inf
    return 1 / eigenvalues


@lru_cache(maxsize=64)
def _spectral_weights(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    # Complex, for a product of complex and real numbers converts the second at every call.
    return torch.from_numpy(inverse_eigenvalues(rows, columns)).to(device, dtype.to_complex())


class LatticeSolver:
    """Solves the Poisson equation on the pixels of a mask.

    Args:
        mask: ``(h, w)`` bool; True on the pixels to solve for.
        ring: ``(m, 2)`` int64 rows and columns of the pixels beside the mask, whose values are given.
        ghosts: ``(k, 2)`` int64 rows and columns of places beyond the image edge beside a mask pixel. A ghost has the
            value of the mask pixel straight inwards, which makes the row of that pixel one-sided.
    """

    name = 'lattice'

    def __init__(self, mask: np.ndarray, ring: np.ndarray, ghosts: np.ndarray) -> None:
        sources = np.concatenate([ring, ghosts]) if len(ghosts) else ring
        (top, left), (bottom, right) = sources.min(axis=0).tolist(), sources.max(axis=0).tolist()
        self.rows = scipy.fft.next_fast_len(bottom - top + 1, real=True)
        self.columns = scipy.fft.next_fast_len(right - left + 1, real=True)
        self.num_given, self.num_sources = len(ring), len(sources)
        self._points = {'sources': sources - (top, left)}
        if len(ghosts):
            self._points['inwards'] = np.clip(ghosts, 0, np.array(mask.shape) - 1) - (top, left)
        window = np.zeros((self.rows, self.columns), dtype=bool)
        rows, columns = slice(max(top, 0), bottom + 1), slice(max(left, 0), right + 1)
        part = mask[rows, columns]
        window[
            rows.start - top : rows.start - top + part.shape[0],
            columns.start - left : columns.start - left + part.shape[1],
        ] = part
        self._domain = np.flatnonzero(window)
        self._cache: dict[tuple, Tensor] = {}
        self._prepared = False
        self._factorize()

    def _factorize(self) -> None:
        matrix = self._green(self._points['sources'])
        self._gauge = np.ones(self.num_sources)
        if self.num_given == self.num_sources:
            # Green's function is positive on every proper subset of the torus, so Cholesky applies.
            self._factor, info = lapack.dpotrf(matrix.T, lower=1, clean=0, overwrite_a=1)
            self._unit = lapack.dpotrs(self._factor, self._gauge, lower=1)[0]
        else:
            matrix[self.num_given :] -= self._green(self._points['inwards'])
            self._gauge[self.num_given :] = 0
            bordered = np.zeros((self.num_sources + 1, self.num_sources + 1), order='F')
            bordered[:-1, :-1] = matrix
            bordered[:-1, -1] = self._gauge
            bordered[-1, :-1] = 1
            self._factor, self._pivots, info = lapack.dgetrf(bordered, overwrite_a=1)
        if info:
            raise np.linalg.LinAlgError(
                f'The source matrix of {self.num_sources} pixels must be regular, '
                f'LAPACK reports {info}. Check that the mask leaves a pixel free.'
            )

    def _green(self, points: np.ndarray) -> np.ndarray:
        """``(len(points), num_sources)`` field at each point, in rows and columns, of a unit source at each source."""
        table = green_table(self.rows, self.columns)
        width = table.shape[1]
        sources = self._points['sources']
        first = points[:, 0] * width + points[:, 1] + ((self.rows - 1) * width + self.columns - 1)
        return table.ravel().take(first[:, None] - (sources[:, 0] * width + sources[:, 1]))

    def _bordered_solve(self, right: np.ndarray, transpose: bool = False) -> np.ndarray:
        """Solve for sources and constant; ``right`` is ``(num_sources + 1, columns)`` float64."""
        if self.num_given != self.num_sources:
            return lapack.dgetrs(self._factor, self._pivots, right, trans=int(transpose))[0]
        free = lapack.dpotrs(self._factor, right[:-1], lower=1)[0]
        constant = (self._gauge @ free - right[-1:]) / self._unit.sum()
        return np.concatenate([free - self._unit[:, None] * constant, constant])

    def prepare(self) -> None:
        """Form the matrix that makes every later paste a plain product; worth it from the second paste on."""
        self._prepared = True
        self._matrix('extension' if self.keeps_extension else 'inverse', torch.empty(0))

    @property
    def keeps_extension(self) -> bool:
        """Whether a prepared solver keeps the map from boundary to domain as one matrix."""
        return len(self._domain) * self.num_given <= MAX_EXTENSION_ENTRIES

    def _matrix(self, name: str, like: Tensor) -> Tensor:
        """'inverse' or 'extension' in the dtype and on the device of ``like``; float64 is not kept unless asked for."""
        key = (name, like.dtype, like.device)
        if key not in self._cache:
            matrix = self._bordered_solve(np.eye(self.num_sources + 1))
            if name == 'extension':
                field = self._green(np.stack(np.divmod(self._domain, self.columns), axis=1))
                # Boundary first: a product with three rows reads this layout a quarter faster.
                matrix = (field @ matrix[:-1, : self.num_given] + matrix[-1, : self.num_given]).T
            self._cache[key] = torch.from_numpy(np.ascontiguousarray(matrix)).to(like)
        return self._cache[key]

    def _places(self, name: str, device: torch.device) -> Tensor:
        """Positions of 'domain', 'sources' or 'inwards' in the flattened torus."""
        key = (name, device)
        if key not in self._cache:
            places = self._domain
            if name != 'domain':
                places = self._points[name][:, 0] * self.columns + self._points[name][:, 1]
            self._cache[key] = torch.from_numpy(places).to(device)
        return self._cache[key]

    def _solve_sources(self, right: Tensor) -> Tensor:
        """Sources and constant, ``(N, num_sources + 1)``, for as many columns or only the first ``num_given``."""
        if self._prepared:
            return right @ self._matrix('inverse', right)[:, : right.shape[1]].T
        columns = np.zeros((self.num_sources + 1, len(right)), order='F')
        columns[: right.shape[1]] = right.cpu().numpy().T
        return torch.from_numpy(self._bordered_solve(columns).T).to(right)

    def _solve_sources_adjoint(self, right: Tensor) -> Tensor:
        """Transpose of the second form: ``(N, num_sources + 1)`` -> ``(N, num_given)``."""
        if self._prepared:
            return right @ self._matrix('inverse', right)[:, : self.num_given]
        columns = right.cpu().numpy().T.astype(np.float64, order='F')
        return torch.from_numpy(self._bordered_solve(columns, transpose=True)[: self.num_given].T).to(right)

    def _spread(self, values: Tensor, at: str) -> Tensor:
        grid = values.new_zeros(len(values), self.rows * self.columns)
        grid.index_copy_(1, self._places(at, values.device), values)
        return torch.fft.rfft2(grid.view(len(values), self.rows, self.columns))

    def _field(self, spectrum: Tensor, like: Tensor) -> Tensor:
        weights = _spectral_weights(self.rows, self.columns, like.dtype, like.device)
        return torch.fft.irfft2(spectrum * weights, s=(self.rows, self.columns)).view(len(spectrum), -1)

    def extend(self, boundary: Tensor) -> Tensor:
        """Harmonic function on the domain with the given values on the ring: ``(N, m)`` -> ``(N, n)``."""
        if self._prepared and self.keeps_extension:
            return boundary @ self._matrix('extension', boundary)
        sources = self._solve_sources(boundary)
        field = self._field(self._spread(sources[:, :-1], 'sources'), boundary)
        return field.index_select(1, self._places('domain', boundary.device)).add_(sources[:, -1:])

    def extend_adjoint(self, gradient: Tensor) -> Tensor:
        """Transpose of :meth:`extend`: ``(N, n)`` -> ``(N, m)``."""
        if self._prepared and self.keeps_extension:
            return gradient @ self._matrix('extension', gradient).T
        field = self._field(self._spread(gradient, 'domain'), gradient)
        right = gradient.new_empty(len(gradient), self.num_sources + 1)
        right[:, :-1] = field.index_select(1, self._places('sources', gradient.device))
        right[:, -1] = gradient.sum(1)
        return self._solve_sources_adjoint(right)

    def solve(self, right: Tensor) -> Tensor:
        """Solve ``A w = right`` with 0 on the ring; symmetric, so its own adjoint: ``(N, n)`` -> ``(N, n)``."""
        spectrum = self._spread(right, 'domain')
        field = self._field(spectrum, right)
        target = right.new_empty(len(right), self.num_sources + 1)
        target[:, :-1] = -field.index_select(1, self._places('sources', right.device))
        if self.num_given != self.num_sources:
            target[:, self.num_given : -1] += field.index_select(1, self._places('inwards', right.device))
        target[:, -1] = -right.sum(1)
        sources = self._solve_sources(target)
        field = self._field(spectrum + self._spread(sources[:, :-1], 'sources'), right)
        return field.index_select(1, self._places('domain', right.device)).add_(sources[:, -1:])
