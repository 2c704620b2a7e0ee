"""Kernel density of normal embeddings: how far from the nearest ones, softly.

With a small bandwidth the score follows the nearest normal embeddings, with a large one the distance from their mean.
The log-density is that of scikit-learn's ``KernelDensity`` with a Gaussian kernel, in batches of matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

_ROWS = 1024


def reduce_squares(points: Tensor, embeddings: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """Reduce the squared distances of each embedding to all points, some rows at a time.

    float64 is computed in float64, anything else in float32.

    Args:
        points: ``(M, D)``.
        embeddings: ``(N, D)``.
        reduce: ``(n, M)`` squares, which it may overwrite, to ``(n,)``.

    Returns:
        ``(N,)``.

    Raises:
        ValueError: if the widths differ.
    """
    if embeddings.ndim != 2 or embeddings.shape[1] != points.shape[1]:
        raise ValueError(
            f'`embeddings` must be (N, {points.shape[1]}) like those the density was fitted on, got '
            f'{tuple(embeddings.shape)}; take features of the same layers.'
        )
    dtype = torch.float64 if embeddings.dtype == torch.float64 else torch.float32
    points = points.to(embeddings.device, dtype)
    norms = points.square().sum(1)
    result = torch.empty(len(embeddings), dtype=dtype, device=embeddings.device)
    for start in range(0, len(embeddings), _ROWS):
        x = embeddings[start : start + _ROWS].to(dtype)
        squares = torch.addmm(norms, x, points.T, alpha=-2).add_(x.square().sum(1, keepdim=True)).clamp_min_(0)
        result[start : start + _ROWS] = reduce(squares)
    return result


@dataclass(frozen=True)
class KernelDensity:
    """Normal embeddings with a Gaussian kernel on each.

    Attributes:
        points: ``(M, D)`` float32.
        bandwidth: standard deviation of the kernel.
    """

    points: Tensor
    bandwidth: float

    def log_density(self, embeddings: Tensor) -> Tensor:
        """Return the logarithm of the density at each row of ``(N, D)``, ``(N,)``.

        float64 is computed in float64, anything else in float32.
        """
        width = self.points.shape[1]
        constant = math.log(len(self.points)) + width * math.log(self.bandwidth) + 0.5 * width * math.log(2 * math.pi)
        scale = -0.5 / self.bandwidth**2
        return reduce_squares(
            self.points, embeddings, lambda squares: torch.logsumexp(squares.mul_(scale), 1) - constant
        )

    def distance(self, embeddings: Tensor) -> Tensor:
        """Return a score that grows with the distance from the normal embeddings, in units of the space, ``(N,)``.

        ``sqrt(-2 h^2 log(mean kernel))``: the distance from a single point; the soft minimum of several.
        """
        width = self.points.shape[1]
        peak = -width * math.log(self.bandwidth) - 0.5 * width * math.log(2 * math.pi)
        return (2 * self.bandwidth**2 * (peak - self.log_density(embeddings))).clamp_min_(0).sqrt_()

    def state(self) -> dict[str, Tensor | float]:
        """Return what :meth:`from_state` makes the same density of."""
        return dict(points=self.points.cpu(), bandwidth=self.bandwidth)

    @classmethod
    def from_state(cls, state: dict) -> KernelDensity:
        """Make the density of a saved state."""
        return cls(state['points'].float(), float(state['bandwidth']))


def fit_kernel_density(
    embeddings: Tensor, bandwidth: float | None = None, max_points: int = 4096, generator: Generator | None = None
) -> KernelDensity:
    """Put a kernel on normal embeddings.

    Args:
        embeddings: ``(N, D)`` float.
        bandwidth: standard deviation of the kernel; None takes half of the median distance to the nearest neighbour.
        max_points: of more embeddings than this so many are drawn.
        generator: draws them; needed then.
    """
    if embeddings.ndim != 2 or len(embeddings) < 2:
        raise ValueError(
            f'`embeddings` must be (N, D) with at least two rows, got {tuple(embeddings.shape)}; add normal images.'
        )
    if bandwidth is not None and not bandwidth > 0:
        raise ValueError(f'`bandwidth` must be positive, got {bandwidth}; None chooses one from the data.')
    points = embeddings.float()
    if len(points) > max_points:
        if generator is None:
            raise ValueError(f'`generator` must be given to draw {max_points} of {len(points)} embeddings, got None.')
        points = points[torch.randperm(len(points), generator=generator)[:max_points].to(points.device)]
    if bandwidth is None:
        bandwidth = max(0.5 * _median_nearest(points), 1e-6)
    return KernelDensity(points.contiguous(), float(bandwidth))


def _median_nearest(points: Tensor, most: int = 512) -> float:
    """Return the median distance of some points to their nearest neighbour."""
    some = points[:most]
    distances = torch.cdist(some, points)
    distances[torch.arange(len(some)), torch.arange(len(some))] = math.inf
    return float(distances.amin(1).median())
