"""Poisson solver for a rectangle: sine and cosine transforms, as matrix products or through the FFT.

Nothing is factorised, and any batch is a handful of large operations, so this is the solver for masks that move while
gradients flow through them and for a whole batch on a GPU.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy.fft
import torch
from torch import Tensor

# Below, four matrix products of n^3 beat the FFT of the odd extension, which has four times the area; measured with
# `benchmarks/poisson.py`. On a GPU the products win to about a thousand pixels.
FFT_FROM_PIXELS = 176

CLOSED = (False, False, False, False)


@lru_cache(maxsize=128)
def side_basis(length: int, open_start: bool, open_end: bool) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvectors and eigenvalues of the second difference on a line.

    Args:
        length: number of unknowns.
        open_start: the line ends at the image edge: no neighbour before the first unknown. Otherwise there is one, and
            its value is given.
        open_end: likewise after the last unknown.

    Returns:
        ``(length, length)`` float64, orthonormal columns, and ``(length,)`` float64 eigenvalues in [0, 4].
    """
    place, order = np.arange(length)[:, None], np.arange(length)[None]
    if open_start and open_end:
        angle = np.pi * order / length
        vectors = np.cos(angle * (place + 0.5))
    elif open_start or open_end:
        angle = np.pi * (order + 0.5) / (length + 0.5)
        vectors = np.sin(angle * (place + 1))
        if open_start:
            vectors = vectors[::-1]
    else:
        angle = np.pi * (order + 1) / (length + 1)
        vectors = np.sin(angle * (place + 1))
    vectors = vectors / np.linalg.norm(vectors, axis=0)
    return np.ascontiguousarray(vectors), (2 - 2 * np.cos(angle[0]))


class RectangleSolver:
    """Solves ``A w = b`` on all unknowns of a rectangle, A being the symmetric five-point Laplacian.

    Args:
        height: rows of unknowns.
        width: columns of unknowns.
        edges: top, left, bottom, right; True where the rectangle ends at the image edge (one-sided rows), False where
            it is closed by a line of pixels with given values.
        backend: 'matrix', 'fft' (closed rectangles only), or None for the faster one.
    """

    def __init__(
        self, height: int, width: int, edges: tuple[bool, bool, bool, bool] = CLOSED, backend: str | None = None
    ) -> None:
        if all(edges):
            raise ValueError(
                '`edges` must leave one side of the rectangle closed, got four open sides. '
                'Without a given value the result is known only up to a constant.'
            )
        if backend not in (None, 'matrix', 'fft') or (backend == 'fft' and any(edges)):
            raise ValueError(
                "`backend` must be None, 'matrix', or, for a rectangle closed on all sides, 'fft'; "
                f'got {backend!r} with edges {edges}.'
            )
        self.height, self.width, self.edges = height, width, tuple(edges)
        self.backend = backend
        self._cache: dict[tuple, tuple[Tensor, ...]] = {}

    def _uses_fft(self, right: Tensor) -> bool:
        if self.backend is not None:
            return self.backend == 'fft'
        lengths = (2 * self.height + 2, 2 * self.width + 2)
        return (
            right.device.type == 'cpu'
            and not any(self.edges)
            and min(self.height, self.width) >= FFT_FROM_PIXELS
            and all(scipy.fft.next_fast_len(length) == length for length in lengths)
        )

    def solve(self, right: Tensor) -> Tensor:
        """Solve for any number of right-hand sides: ``(..., height, width)`` -> same shape; its own adjoint."""
        if self._uses_fft(right):
            return self._solve_by_fft(right)
        down, across, scale = self._constants('matrix', right)
        return down @ ((down.T @ right @ across) * scale) @ across.T

    def _solve_by_fft(self, right: Tensor) -> Tensor:
        (scale,) = self._constants('fft', right)
        rows, columns = 2 * self.height + 2, 2 * self.width + 2
        odd = right.new_zeros(*right.shape[:-2], rows, columns)
        odd[..., 1 : self.height + 1, 1 : self.width + 1] = right
        odd[..., self.height + 2 :, 1 : self.width + 1] = -right.flip(-2)
        odd[..., self.width + 2 :] = -odd[..., 1 : self.width + 1].flip(-1)
        solved = torch.fft.irfft2(torch.fft.rfft2(odd) * scale, s=(rows, columns))
        return solved[..., 1 : self.height + 1, 1 : self.width + 1]

    def _constants(self, kind: str, like: Tensor) -> tuple[Tensor, ...]:
        key = (kind, like.dtype, like.device)
        if key not in self._cache:
            if kind == 'matrix':
                top, left, bottom, right = self.edges
                down, down_values = side_basis(self.height, top, bottom)
                across, across_values = side_basis(self.width, left, right)
                arrays = (down, across, 1 / (down_values[:, None] + across_values))
            else:
                rows, columns = 2 * self.height + 2, 2 * self.width + 2
                values = (
                    (2 - 2 * np.cos(2 * np.pi * np.arange(rows) / rows))[:, None]
                    + 2
                    - 2 * np.cos(2 * np.pi * np.arange(columns // 2 + 1) / columns)
                )
                values[0, 0] = np.inf
                arrays = (1 / values,)
            self._cache[key] = tuple(torch.from_numpy(array).to(like) for array in arrays)
        return self._cache[key]


@lru_cache(maxsize=64)
def rectangle_solver(height: int, width: int, edges: tuple[bool, bool, bool, bool] = CLOSED) -> RectangleSolver:
    """The shared solver of a rectangle; its matrices are made once per size, dtype and device."""
    return RectangleSolver(height, width, edges)


class FilledRectangleSolver:
    """Solves the Poisson equation on the pixels of a mask that is one full rectangle.

    Args:
        crop: height and width of the crop.
        top_left: first row and column of the rectangle.
        extent: height and width of the rectangle.
        ring: ``(m, 2)`` int64 rows and columns of the pixels beside it, whose values are given.
    """

    name = 'rectangle'

    def __init__(
        self, crop: tuple[int, int], top_left: tuple[int, int], extent: tuple[int, int], ring: np.ndarray
    ) -> None:
        (top, left), (self.height, self.width) = top_left, extent
        edges = (top == 0, left == 0, top + self.height == crop[0], left + self.width == crop[1])
        self._solver = rectangle_solver(self.height, self.width, edges)
        inwards = np.clip(ring - top_left, 0, (self.height - 1, self.width - 1))
        self._inwards = inwards[:, 0] * self.width + inwards[:, 1]
        self._places: dict[torch.device, Tensor] = {}

    def prepare(self) -> None:
        """Nothing is left to prepare: the matrices are made at the first use of a size."""

    def _beside(self, device: torch.device) -> Tensor:
        if device not in self._places:
            self._places[device] = torch.from_numpy(self._inwards).to(device)
        return self._places[device]

    def extend(self, boundary: Tensor) -> Tensor:
        """Harmonic function on the domain with the given values on the ring: ``(N, m)`` -> ``(N, n)``."""
        right = boundary.new_zeros(len(boundary), self.height * self.width)
        return self.solve(right.index_add_(1, self._beside(boundary.device), boundary))

    def extend_adjoint(self, gradient: Tensor) -> Tensor:
        """Transpose of :meth:`extend`: ``(N, n)`` -> ``(N, m)``."""
        return self.solve(gradient).index_select(1, self._beside(gradient.device))

    def solve(self, right: Tensor) -> Tensor:
        """Solve ``A w = right`` with 0 on the ring; symmetric, so its own adjoint: ``(N, n)`` -> ``(N, n)``."""
        return self._solver.solve(right.view(-1, self.height, self.width)).reshape(right.shape)
