"""The membranes of many masks at once, on any device: one dense system for each, solved together.

The method of :mod:`~mmdefect.synthesis.blending.lattice` with everything padded to one size: the sources of a mask are
followed by dummies that stand alone, so a sample's result does not depend on its mates. Without pixels at the border of
the image the systems are positive definite (Cholesky); with them they are not (LU), so keep the two kinds apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
import scipy.fft
import torch
from numpy import ndarray
from torch import Tensor

from mmdefect.synthesis.blending.lattice import green_table, inverse_eigenvalues

_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def touches_border(mask: ndarray) -> bool:
    """Return whether a mask has pixels on the edge of its array, which is then the border of the image."""
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def boundary_of(mask: ndarray) -> tuple[ndarray, ndarray]:
    """Return the pixels beside a mask, ``(m, 2)``, and the places beyond the array beside it, ``(k, 2)``, int64.

    Args:
        mask: ``(h, w)`` bool.
    """
    wide = np.pad(mask, 1).view(np.uint8)
    rows, columns = np.nonzero(cv2.dilate(wide, _CROSS) - wide)
    rows, columns = rows - 1, columns - 1
    within = (rows >= 0) & (columns >= 0) & (rows < mask.shape[0]) & (columns < mask.shape[1])
    places = np.stack([rows, columns], 1)
    return places[within], places[~within]


class MembraneBatch:
    """Interpolates values given beside masks over the masks, harmonically.

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
        return _table(rows, columns, like.dtype, like.device)[here[:, :, None] - there[:, None] + origin]

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
        columns = given.new_zeros(len(given), self._sources.shape[1], given.shape[1])
        columns[:, : given.shape[2]] = given.transpose(1, 2)
        columns = columns * self._gauge
        if self.closed:
            solved = torch.cholesky_solve(torch.cat([columns, self._gauge], 2), self._factor)
            sums = solved.sum(1, keepdim=True)
            constant = sums[..., :-1] / sums[..., -1:]
            sources = solved[..., :-1] - solved[..., -1:] * constant
        else:
            solved = torch.linalg.lu_solve(self._factor, self._pivots, torch.nn.functional.pad(columns, (0, 0, 0, 1)))
            sources, constant = solved[:, :-1], solved[:, -1:]
        return self._field((sources * self._is_real[..., None]).transpose(1, 2)) + constant.transpose(1, 2)[..., None]

    def _field(self, sources: Tensor) -> Tensor:
        rows, columns = self.torus
        batch, channels, _ = sources.shape
        places = (self._sources[..., 0] * columns + self._sources[..., 1])[:, None].expand(-1, channels, -1)
        grid = sources.new_zeros(batch, channels, rows * columns).scatter_add_(2, places, sources)
        spectrum = torch.fft.rfft2(grid.view(batch, channels, rows, columns))
        field = torch.fft.irfft2(spectrum * _weights(rows, columns, sources.dtype, sources.device), s=(rows, columns))
        return field[..., 1 : self._size_hw[0] + 1, 1 : self._size_hw[1] + 1]


def limit_steps(step: Tensor, counts: Tensor, max_shade: float, max_cast: float) -> tuple[Tensor, Tensor]:
    """Limit the steps of many boundaries as :func:`~mmdefect.synthesis.blending.boundary.limit_step` does one.

    Args:
        step: ``(N, C, m)`` float, image minus donor.
        counts: ``(N,)`` int64, so many of the m are real.
        max_shade, max_cast: see there.

    Returns:
        The limited steps, and the share of limited pixels of each boundary, ``(N,)`` float.
    """
    if min(max_shade, max_cast) >= 2:
        return step, step.new_zeros(len(step))
    real = torch.arange(step.shape[2], device=step.device) < counts[:, None]
    shade = step.mean(1, keepdim=True)
    parts = torch.cat([shade, step - shade], 1)
    ordered = parts.masked_fill(~real[:, None], torch.inf).sort(2).values
    middle = ((counts - 1) // 2).clamp_min(0)[:, None, None].expand(-1, parts.shape[1], 1)
    medians = ordered.gather(2, middle)
    off = parts - medians
    far = off.abs()
    beyond = ((far[:, 0] > max_shade) | (far[:, 1:].amax(1) > max_cast)) & real
    limits = step.new_full((1, parts.shape[1], 1), max_cast)
    limits[:, 0] = max_shade
    limited = off.clamp(-limits, limits) + medians
    limited = torch.where(beyond[:, None], limited[:, 1:] + limited[:, :1], step)
    return limited, beyond.sum(1) / counts.clamp_min(1)


@lru_cache(maxsize=32)
def _table(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.from_numpy(green_table(rows, columns).ravel()).to(device, dtype)


@lru_cache(maxsize=32)
def _weights(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.from_numpy(inverse_eigenvalues(rows, columns)).to(device, dtype)
