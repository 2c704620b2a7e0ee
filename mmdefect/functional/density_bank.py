"""Distance to the nearest of a bank of normal embeddings that lie far apart.

Source: Roth et al., Towards total recall in industrial anomaly detection, CVPR 2022: a greedy core set of the cells of
feature maps, and the distance to its nearest point. Points drawn at random are mostly background, because most cells
are; points far apart keep what is rare among the normal ones, such as the tip of a screw. The weighting of the score by
the neighbours of the nearest point is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from mmdefect.functional.density_kernel import reduce_squares

_WIDTH = 128  # of the random projection on which distances are compared while points are chosen


@dataclass(frozen=True)
class Bank:
    """Normal embeddings to compare with.

    Attributes:
        points: ``(M, D)`` float32.
    """

    points: Tensor

    def distance(self, embeddings: Tensor) -> Tensor:
        """Return the Euclidean distance of each row of ``(N, D)`` to the nearest point, ``(N,)``.

        float64 is computed in float64, anything else in float32.
        """
        return reduce_squares(self.points, embeddings, lambda squares: squares.amin(1).sqrt())

    def state(self) -> dict[str, Tensor]:
        """Return what :meth:`from_state` makes the same density of."""
        return dict(points=self.points.cpu())

    @classmethod
    def from_state(cls, state: dict) -> Bank:
        """Make the density of a saved state."""
        return cls(state['points'].float())


def fit_bank(embeddings: Tensor, max_points: int = 4096, generator: Generator | None = None) -> Bank:
    """Keep embeddings that lie far apart.

    Args:
        embeddings: ``(N, D)`` float.
        max_points: of more embeddings than this so many are kept.
        generator: of the projection that distances are compared on; see :func:`far_apart`.
    """
    if embeddings.ndim != 2 or not len(embeddings):
        raise ValueError(
            f'`embeddings` must be (N, D) with at least one row, got {tuple(embeddings.shape)}; add normal images.'
        )
    if max_points < 1:
        raise ValueError(f'`max_points` must be at least 1, got {max_points}.')
    points = embeddings.float()
    return Bank(points[far_apart(points, max_points, generator)].contiguous())


def far_apart(embeddings: Tensor, count: int, generator: Generator | None = None) -> Tensor:
    """Return which embeddings to keep so that every other one has a kept one near it: greedily, the farthest next.

    The first is the one farthest from the mean.

    Args:
        embeddings: ``(N, D)`` float.
        count: how many to keep; fewer embeddings are all kept.
        generator: draws a random projection to 128 dimensions for wider embeddings, which keeps distances to about a
            tenth; None compares them as they are.

    Returns:
        ``(count,)`` int64 numbers of rows, in the order of choice; all rows in their order if there are not more.
    """
    if len(embeddings) <= count:
        return torch.arange(len(embeddings), device=embeddings.device)
    z = embeddings - embeddings.mean(0)
    if generator is not None and z.shape[1] > _WIDTH:
        mix = torch.randn(z.shape[1], _WIDTH, generator=generator).to(z.device, z.dtype)
        z = z @ (mix / _WIDTH**0.5)
    squares = z.square().sum(1)
    chosen = torch.empty(count, dtype=torch.int64, device=z.device)
    gap = torch.full_like(squares, torch.inf)  # of each row to the nearest chosen one, without its own square
    following = squares.argmax()
    for number in range(count):
        chosen[number] = following
        own = z[following]
        gap = torch.minimum(gap, own.square().sum() - 2 * (z @ own))
        gap[following] = -torch.inf
        following = (gap + squares).argmax()
    return chosen
