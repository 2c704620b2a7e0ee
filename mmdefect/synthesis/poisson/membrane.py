"""Membranes: values given on the pixels beside a mask, continued harmonically over the mask.

A Poisson paste adds to the donor a membrane that carries the step from donor to image along the outline. The five-point
Laplacian on a torus is diagonal under the FFT, so a membrane is written as the field of unknown sources on the pixels
around the mask, and the only system to factorise is one over that ring: a few hundred unknowns where the mask has tens
of thousands. Exact up to rounding, see ``docs/derivations/poisson.md``; A is the Laplacian on the mask there.

One mask in numpy (:class:`Membrane`) is what a worker spends its time on: the tables come in few sizes, half of the
system is filled, and everything is float32. The condition of the system is about the number of pixels along the mask's
side (18 to 130 were measured for masks of 16 to 96 pixels), so five digits of the membrane are right. Many masks as
tensors (:class:`MembraneBatch`) are padded to one size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial

import cv2
import numpy as np
import scipy.fft
import torch
import torch.nn.functional as F
from numpy import ndarray
from scipy.linalg import lapack
from scipy.sparse import csc_matrix, diags
from scipy.sparse.linalg import splu
from threadpoolctl import ThreadpoolController
from torch import Tensor
from torch.utils.data import get_worker_info

#: Masks with more pixels beside them than this go to a sparse factorisation.
MOST_BESIDE = 1200
#: Up to this many pairs of a masked pixel and one beside it the field is summed; above it goes through a transform.
MOST_DIRECT = 40_000
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
#: Sides of the torus, the few that all masks share the tables of; from 32 on each is about an eighth above the last.
_SIDES_TEXT = """8 10 12 15 16 18 20 24 27 30 32 36 40 45 50 54 60 64 72 80 90 100 108 120 128 144 160 180 200 216 240
256 288 320 360 400 432 480 512 576 640 720 800 900 1024"""
_SIDES = np.array(_SIDES_TEXT.split(), int)


@lru_cache(maxsize=1)
def _blas() -> list:
    return ThreadpoolController().select(user_api='blas').lib_controllers


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Run BLAS and LAPACK on one thread inside; in a loader worker they stay so.

    The systems are too small to share, and LAPACK would start as many threads in every worker as the machine has cores:
    a paste of 2 ms took 70 to 160.
    """
    wide = [(library, count) for library in _blas() if (count := library.get_num_threads()) > 1]
    for library, _ in wide:
        library.set_num_threads(1)
    try:
        yield
    finally:
        if wide and get_worker_info() is None:
            for library, count in wide:
                library.set_num_threads(count)


@lru_cache(maxsize=64)
def green_table(rows: int, columns: int) -> ndarray:
    """Return the field of a unit source on a torus, with mean zero, ``(2 * rows - 1, 2 * columns - 1)`` float64.

    The entry at ``(rows - 1 + dy, columns - 1 + dx)`` is the field at distance ``(dy, dx)``.
    """
    table = scipy.fft.irfft2(inverse_eigenvalues(rows, columns), s=(rows, columns))
    dy, dx = np.arange(1 - rows, rows) % rows, np.arange(1 - columns, columns) % columns
    return np.ascontiguousarray(table[dy[:, None], dx])


@lru_cache(maxsize=64)
def inverse_eigenvalues(rows: int, columns: int) -> ndarray:
    """Return reciprocal eigenvalues of the torus Laplacian in the layout of ``rfft2``; 0 for the constant."""
    along = 2 - 2 * np.cos(2 * np.pi * np.arange(rows) / rows)
    across = 2 - 2 * np.cos(2 * np.pi * np.arange(columns // 2 + 1) / columns)
    eigenvalues = along[:, None] + across
    eigenvalues[0, 0] = np.inf
    return 1 / eigenvalues


@lru_cache(maxsize=256)
def _table(rows: int, columns: int) -> ndarray:
    return green_table(rows, columns).astype(np.float32).ravel()


@lru_cache(maxsize=256)
def _weights(rows: int, columns: int) -> ndarray:
    return inverse_eigenvalues(rows, columns).astype(np.float32)


@lru_cache(maxsize=32)
def _tensor_table(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.from_numpy(green_table(rows, columns).ravel()).to(device, dtype)


@lru_cache(maxsize=32)
def _tensor_weights(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.from_numpy(inverse_eigenvalues(rows, columns)).to(device, dtype)


def touches_border(mask: ndarray) -> bool:
    """Return whether a mask has pixels on the edge of its array, which is then the border of the image."""
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


@dataclass
class Membrane:
    """Interpolates values given on the pixels beside a mask, ``(h, w)`` bool, over the mask, harmonically.

    Mask pixels on the edge of the array are taken to lie on the border of the image.
    """

    mask: ndarray
    _factor: ndarray | None = None

    @cached_property
    def inside(self) -> ndarray:
        """Positions of the mask in the flattened array, ``(n,)``."""
        return np.flatnonzero(self.mask)

    @cached_property
    def beside(self) -> ndarray:
        """Positions of its four-neighbours outside of it, ``(m,)``."""
        around = cv2.dilate(self.mask.view(np.uint8), _CROSS)
        around -= self.mask.view(np.uint8)
        return np.flatnonzero(around)

    @cached_property
    def _general(self) -> BorderMembrane | SparseMembrane | None:
        if len(self.beside) > MOST_BESIDE:
            return SparseMembrane(self.mask)
        return BorderMembrane(self.mask) if touches_border(self.mask) else None

    @property
    def nbytes(self) -> int:
        """Memory of what is kept for the next paste; that of a general solver is not counted."""
        return sum(array.nbytes for array in vars(self).values() if isinstance(array, ndarray))

    def extend(self, given: ndarray) -> ndarray:
        """Return the membrane: ``(m, C)`` float32 values beside the mask -> ``(n, C)`` float32 inside."""
        if self._general is not None:
            return self._general.extend(given).astype(np.float32)
        if self._factor is None:
            self._factorize()
        columns = np.empty((len(given), given.shape[1] + 1), np.float32, order='F')
        columns[:, :-1], columns[:, -1] = given, 1
        sources = lapack.spotrs(self._factor, columns, lower=1, overwrite_b=1)[0]
        # The sources must have no sum: a constant makes up for what the torus takes away.
        sums = sources.sum(0)
        constant = sums[:-1] / sums[-1]
        sources = sources[:, :-1] - sources[:, -1:] * constant
        small = len(self.inside) * len(given) <= MOST_DIRECT
        return (self._green(self.inside, self.beside) @ sources if small else self._field(sources)) + constant

    def _green(self, here: ndarray, there: ndarray) -> ndarray:
        """Return the field at some pixels of unit sources at others, ``(len(here), len(there))`` float32."""
        rows, columns = self._torus
        pitch = 2 * columns - 1
        first, second = (_places(flat, self.mask.shape[1], pitch) for flat in (here, there))
        return _table(rows, columns)[np.subtract.outer(first + ((rows - 1) * pitch + columns - 1), second)]

    def _factorize(self) -> None:
        count = len(self.beside)
        matrix = np.empty((count, count), np.float32)
        step = -(-count // 4) if count > 128 else count
        for start in range(0, count, step):  # LAPACK reads one triangle only
            matrix[start : start + step, start:] = self._green(self.beside[start : start + step], self.beside[start:])
        self._factor, info = lapack.spotrf(matrix.T, lower=1, clean=0, overwrite_a=1)
        if info:
            raise np.linalg.LinAlgError(
                f'the system of {count} pixels beside a mask must be positive definite, LAPACK reports {info}; '
                'leave a pixel of the crop free.'
            )

    @cached_property
    def _torus(self) -> tuple[int, int]:
        return tuple(
            int(_SIDES[np.searchsorted(_SIDES, n)]) if n <= _SIDES[-1] else scipy.fft.next_fast_len(n, real=True)
            for n in self.mask.shape
        )

    def _field(self, sources: ndarray) -> ndarray:
        rows, columns = self._torus
        width = self.mask.shape[1]
        grid = np.zeros((sources.shape[1], rows * columns), np.float32)
        grid[:, _places(self.beside, width, columns)] = sources.T
        spectrum = scipy.fft.rfft2(grid.reshape(-1, rows, columns), overwrite_x=True)
        spectrum *= _weights(rows, columns)
        field = scipy.fft.irfft2(spectrum, s=(rows, columns), overwrite_x=True)
        return field.reshape(len(grid), -1)[:, _places(self.inside, width, columns)].T


def _places(flat: ndarray, width: int, columns: int) -> ndarray:
    """Return positions in an array of another width."""
    return flat if width == columns else flat + (flat // width) * (columns - width)


def limit_step(
    step: ndarray | Tensor, max_shade: float, max_cast: float, counts: Tensor | None = None
) -> tuple[ndarray | Tensor, float | Tensor]:
    """Limit how far the step at a pixel of an outline departs from the median of all.

    A step that is the same everywhere is a difference of light, and right. Where the defect itself reaches its outline,
    the step is the colour of the defect instead, and the membrane spreads its opposite over the inside: a yellow rim
    makes it blue.

    Args:
        step: image minus donor at the pixels beside the mask, in [-1, 1]: one outline, ``(m, C)`` array, or many,
            ``(N, C, m)`` tensor.
        max_shade: largest departure of the mean over the channels.
        max_cast: largest departure, in any channel, of what remains without that mean.
        counts: ``(N,)`` int64, with tensors: how many of the m pixels are real.

    Returns:
        The limited step, shape and dtype of ``step``, bit-identical at pixels within the limits; and the share of
        pixels that were limited, ``(N,)`` for many.
    """
    many = isinstance(step, Tensor)
    if step.shape[0] == 0 or min(max_shade, max_cast) >= 2:
        return step, step.new_zeros(len(step)) if many else 0.0
    library, given, step = torch if many else np, step, step if many else step.T
    shade = step.mean(-2, keepdims=True)
    parts = library.concatenate((shade, step - shade), -2)
    if many:
        real = torch.arange(step.shape[-1], device=step.device) < counts[:, None]
        middle = ((counts - 1) // 2).clamp_min(0)[:, None, None].expand(-1, parts.shape[1], 1)
        medians = parts.masked_fill(~real[:, None], torch.inf).sort(2).values.gather(2, middle)
    else:
        middle = (step.shape[1] - 1) // 2
        medians = np.partition(parts, middle, axis=1)[:, middle : middle + 1]
    off = parts - medians
    far = abs(off)
    beyond = (far[..., 0, :] > max_shade) | (library.amax(far[..., 1:, :], -2) > max_cast)
    if many:
        beyond = beyond & real
    elif not beyond.any():
        return given, 0.0
    limits = step.new_full if many else partial(np.full, dtype=step.dtype)
    limits = limits((parts.shape[-2], 1), max_cast)
    limits[0] = max_shade
    limited = library.minimum(library.maximum(off, -limits), limits) + medians
    limited = library.where(beyond[..., None, :], limited[..., 1:, :] + limited[..., :1, :], step)
    if many:
        return limited, beyond.sum(1) / counts.clamp_min(1)
    return limited.T, np.count_nonzero(beyond) / step.shape[1]


def boundary_of(mask: ndarray) -> tuple[ndarray, ndarray]:
    """Return the pixels beside a mask, ``(m, 2)``, and the places beyond the array beside it, ``(k, 2)``, int64.

    Places beyond the array are ghosts: they have the value of the mask pixel straight inwards, which makes its row of
    the Laplacian one-sided, as at the border of the image.
    """
    wide = np.pad(mask, 1).view(np.uint8)
    places = np.argwhere(cv2.dilate(wide, _CROSS) - wide) - 1
    within = ((places >= 0) & (places < mask.shape)).all(1)
    return places[within], places[~within]


class BorderMembrane:
    """The membrane of one mask that touches the border of the image, in float64; see :func:`boundary_of`."""

    def __init__(self, mask: ndarray) -> None:
        wide = np.pad(mask, 1).view(np.uint8)
        self.mask, size_hw = mask, np.array(wide.shape)
        self._sources = np.argwhere(cv2.dilate(wide, _CROSS) - wide)
        ghosts = ((self._sources == 0) | (self._sources == size_hw - 1)).any(1)
        self._torus, self._given = tuple(scipy.fft.next_fast_len(int(n), real=True) for n in size_hw), ~ghosts
        bordered = np.zeros((len(ghosts) + 1,) * 2, order='F')
        bordered[:-1, :-1] = self._green(self._sources)
        bordered[:-1][ghosts, :-1] -= self._green(np.clip(self._sources[ghosts], 1, size_hw - 2))
        bordered[:-1, -1], bordered[-1, :-1] = self._given, 1
        self._factor, self._pivots, _ = lapack.dgetrf(bordered, overwrite_a=1)

    def _green(self, points: ndarray) -> ndarray:
        table = green_table(*self._torus)
        pitch, (rows, columns) = table.shape[1], self._torus
        first, second = (at[:, 0] * pitch + at[:, 1] for at in (points, self._sources))
        return table.ravel().take(np.subtract.outer(first + ((rows - 1) * pitch + columns - 1), second))

    def extend(self, given: ndarray) -> ndarray:
        """Return the membrane: ``(m, C)`` values beside the mask -> ``(n, C)`` float64 inside."""
        columns = np.zeros((len(self._sources) + 1, given.shape[1]), order='F')
        columns[:-1][self._given] = given
        solved = lapack.dgetrs(self._factor, self._pivots, columns)[0]
        grid = np.zeros((given.shape[1], *self._torus))
        grid[:, self._sources[:, 0], self._sources[:, 1]] = solved[:-1].T
        field = scipy.fft.irfft2(scipy.fft.rfft2(grid) * inverse_eigenvalues(*self._torus), s=self._torus)
        height, width = self.mask.shape
        return field[:, 1 : height + 1, 1 : width + 1][:, self.mask].T + solved[-1]


class SparseMembrane:
    """The membrane of one mask by sparse LU over its pixels, in float64: for masks with a long outline."""

    def __init__(self, mask: ndarray) -> None:
        number = np.pad(np.where(mask, np.cumsum(mask).reshape(mask.shape) - 1, -1), 1, constant_values=-2)
        rows, columns = np.nonzero(number >= 0)
        near = np.stack([number[rows + dy, columns + dx] for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1))], 1)
        here, side = np.nonzero(near >= 0)
        laplacian = csc_matrix((np.full(len(here), -1.0), (here, near[here, side])), shape=(len(rows),) * 2)
        laplacian += diags((near >= -1).sum(1).astype(float))  # neighbours beyond the array do not exist
        # Positive definite, so no pivoting is needed and the ordering may exploit symmetry.
        options = dict(permc_spec='MMD_AT_PLUS_A', diag_pivot_thresh=0.0, options={'SymmetricMode': True})
        self.mask, self._factor = mask, splu(laplacian.tocsc(), **options)

    def extend(self, given: ndarray) -> ndarray:
        """Return the membrane: ``(m, C)`` values beside the mask -> ``(n, C)`` float64 inside."""
        beside = cv2.dilate(self.mask.view(np.uint8), _CROSS) > self.mask
        frame = np.zeros((given.shape[1], *(n + 2 for n in self.mask.shape)))
        frame[:, 1:-1, 1:-1][:, beside] = given.T
        sums = frame[:, :-2, 1:-1] + frame[:, 2:, 1:-1] + frame[:, 1:-1, :-2] + frame[:, 1:-1, 2:]
        return self._factor.solve(np.ascontiguousarray(sums[:, self.mask].T))


class MembraneBatch:
    """The membranes of many masks as tensors: one dense system for each, solved together; differentiable.

    The sources of a mask are followed by dummies that stand alone, so a sample's result does not depend on its mates.
    Without pixels at the border of the image the systems are positive definite (Cholesky); with them they are not (LU),
    so keep the two kinds apart.

    Args:
        boundaries: :func:`boundary_of` each mask; all of them with, or all of them without places beyond the array.
        size_hw: height and width of the arrays of the masks.
        capacity: number of sources that each system is padded to.
        like: dtype and device.

    Attributes:
        beside: ``(N, m)`` int64 places of the given values in the flattened array; dummies point at the first pixel.
        counts: ``(N,)`` int64, how many of them are real.
    """

    def __init__(
        self, boundaries: Sequence[tuple[ndarray, ndarray]], size_hw: tuple[int, int], capacity: int, like: Tensor
    ) -> None:
        device, (height, width) = like.device, size_hw
        self.torus = tuple(scipy.fft.next_fast_len(side + 2, real=True) for side in size_hw)
        self.closed = not any(len(ghosts) for _, ghosts in boundaries)
        most = max(len(ring) for ring, _ in boundaries) if not self.closed else capacity
        sources = np.zeros((len(boundaries), capacity, 2), np.int64)
        inwards, kind = np.zeros_like(sources), np.zeros((len(boundaries), capacity), np.int64)
        for place, (ring, ghosts) in enumerate(boundaries):
            given, every = len(ring), len(ring) + len(ghosts)
            sources[place, :given], sources[place, given:every] = ring, ghosts
            inwards[place, given:every] = np.clip(ghosts, 0, (height - 1, width - 1))
            kind[place, :given], kind[place, given:every] = 1, 2
        ring = np.where(kind[..., None] == 1, sources, 0)
        self.beside = torch.from_numpy(ring[:, :most, 0] * width + ring[:, :most, 1]).to(device)
        self.counts = torch.from_numpy((kind == 1).sum(1)).to(device)
        kinds = torch.from_numpy(kind).to(device)
        self._is_given, self._is_ghost, self._is_real = kinds == 1, kinds == 2, kinds > 0
        self._size_hw = size_hw
        # One row and one column beyond the array belong to the torus as well.
        self._sources = torch.from_numpy(sources + 1).to(device)
        self._inwards = torch.from_numpy(inwards + 1).to(device)
        self._factorize(like)

    def _green(self, first: Tensor, second: Tensor, like: Tensor) -> Tensor:
        rows, columns = self.torus
        pitch = 2 * columns - 1
        here, there = (points[..., 0] * pitch + points[..., 1] for points in (first, second))
        origin = (rows - 1) * pitch + columns - 1
        return _tensor_table(rows, columns, like.dtype, like.device)[here[:, :, None] - there[:, None] + origin]

    def _factorize(self, like: Tensor) -> None:
        matrix = self._green(self._sources, self._sources, like)
        if not self.closed:
            matrix = matrix - self._green(self._inwards, self._sources, like) * self._is_ghost[:, :, None]
        real = self._is_real[:, :, None] & self._is_real[:, None]
        matrix = torch.where(real, matrix, torch.eye(matrix.shape[1], dtype=like.dtype, device=like.device))
        self._gauge = self._is_given.to(like.dtype)[..., None]
        if self.closed:
            self._factor = torch.linalg.cholesky_ex(matrix)[0]
            return
        size = matrix.shape[1] + 1
        bordered = matrix.new_zeros(len(matrix), size, size)
        bordered[:, :-1, :-1], bordered[:, :-1, -1:] = matrix, self._gauge
        bordered[:, -1, :-1] = self._is_real.to(like.dtype)
        self._factor, self._pivots, _ = torch.linalg.lu_factor_ex(bordered)

    def extend(self, given: Tensor) -> Tensor:
        """Return the membranes: ``(N, C, m)`` values beside the masks -> ``(N, C, h, w)``, right inside the masks."""
        padding = self._sources.shape[1] - given.shape[2]
        columns = F.pad(given, (0, padding)).transpose(1, 2) * self._gauge
        sources, constant = self._solve(columns, columns.new_zeros(len(columns), 1, columns.shape[2]))
        return self._field(self._spread(sources)) + constant

    def solve(self, right: Tensor) -> Tensor:
        """Solve ``A w = right`` with 0 beside the masks: ``(N, C, h, w)``, 0 off the masks -> right inside them."""
        grid = F.pad(right, (1, self.torus[1] - right.shape[3] - 1, 1, self.torus[0] - right.shape[2] - 1))
        field = self._field(grid, whole=True).flatten(2)
        here, inwards = (self._places(points, right.shape[1]) for points in (self._sources, self._inwards))
        values = -field.gather(2, here) + field.gather(2, inwards) * self._is_ghost[:, None]
        columns = (values * self._is_real[:, None]).transpose(1, 2)
        sources, constant = self._solve(columns, -right.sum((2, 3))[:, None])
        return self._field(grid + self._spread(sources)) + constant

    def _solve(self, columns: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        """Return sources ``(N, C, k)`` with a given sum ``(N, 1, C)``, and constants ``(N, C, 1, 1)``."""
        if self.closed:
            solved = torch.cholesky_solve(torch.cat([columns, self._gauge], 2), self._factor)
            sums = solved.sum(1, keepdim=True)
            constant = (sums[..., :-1] - total) / sums[..., -1:]
            sources = solved[..., :-1] - solved[..., -1:] * constant
        else:
            solved = torch.linalg.lu_solve(self._factor, self._pivots, torch.cat([columns, total], 1))
            sources, constant = solved[:, :-1], solved[:, -1:]
        return (sources * self._is_real[..., None]).transpose(1, 2), constant.transpose(1, 2)[..., None]

    def _places(self, points: Tensor, channels: int) -> Tensor:
        return (points[..., 0] * self.torus[1] + points[..., 1])[:, None].expand(-1, channels, -1)

    def _spread(self, sources: Tensor) -> Tensor:
        grid = sources.new_zeros(*sources.shape[:2], self.torus[0] * self.torus[1])
        return grid.scatter_add(2, self._places(self._sources, sources.shape[1]), sources).unflatten(2, self.torus)

    def _field(self, grid: Tensor, whole: bool = False) -> Tensor:
        weights = _tensor_weights(*self.torus, grid.dtype, grid.device)
        field = torch.fft.irfft2(torch.fft.rfft2(grid) * weights, s=self.torus)
        return field if whole else field[..., 1 : self._size_hw[0] + 1, 1 : self._size_hw[1] + 1]
