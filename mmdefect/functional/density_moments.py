"""Mean, scatter and the fourth moment that shrinkage needs, in one pass over any number of embeddings.

Ledoit-Wolf needs the sum of the fourth powers of the distances from the mean, which is not known before the last
sample. Kept beside it are the third-order sums that move it to another mean, so that batches, folds and ranks add up
exactly; the derivation is in docs/derivations/density.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

_BLOCK = 128  # columns of the scatter made at a time: blocks below the diagonal are mirrored, not computed


@dataclass
class Moments:
    """Sums over ``n`` embeddings ``x`` of width ``D``, about their own mean; float64.

    Attributes:
        count: ``n``.
        mean: ``(D,)``.
        scatter: ``(D, D)``, sum of ``z z'`` with ``z = x - mean``.
        third: ``(D,)``, sum of ``|z|^2 z``.
        fourth: ``()``, sum of ``|z|^4``.
    """

    count: int
    mean: Tensor
    scatter: Tensor
    third: Tensor
    fourth: Tensor

    @classmethod
    def empty(cls, width: int, device: torch.device | str = 'cpu') -> Moments:
        """Return the moments of nothing, to which batches are added."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        return cls(0, zeros(width), zeros(width, width), zeros(width), zeros())

    @classmethod
    def of(cls, embeddings: Tensor) -> Moments:
        """Return the moments of one batch.

        Args:
            embeddings: ``(N, D)`` float, at least one row. Products are made in its own precision after its mean has
                been taken away, and summed in float64.

        Raises:
            ValueError: if it is no such batch, or holds NaN or infinity.
        """
        if embeddings.ndim != 2 or not len(embeddings) or not embeddings.is_floating_point():
            raise ValueError(
                f'`embeddings` must be a (N, D) batch of floats, got {tuple(embeddings.shape)} of '
                f'{embeddings.dtype}; pool feature maps first.'
            )
        own = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
        mean = own.mean(0)
        if not bool(torch.isfinite(mean).all()):
            raise ValueError(
                '`embeddings` must be finite, but a value is NaN or infinite; look at the images and at '
                'the precision of the backbone.'
            )
        z = own - mean
        rest = z.mean(0).double()  # what rounding left of the mean; small, so its own rounding does not count
        squares = (z * z).sum(1)
        centred = cls(len(z), rest, _gram(z), (squares @ z).double(), squares.double().square().sum())
        # The sums above are about the rounded mean; move them to the true one.
        return cls(len(z), mean.double() + rest, *centred._about(-rest, z_mean=rest))

    def _about(self, shift: Tensor, z_mean: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return scatter, third and fourth sums of ``z + shift``, where ``z`` has the mean ``z_mean`` (zero if None)."""
        n, s, e = self.count, self.scatter, shift
        first = torch.zeros_like(e) if z_mean is None else n * z_mean
        trace, square = s.trace(), e @ e
        scatter = s + torch.outer(first, e) + torch.outer(e, first) + n * torch.outer(e, e)
        third = self.third + 2 * s @ e + trace * e + 2 * (first @ e) * e + square * first + n * square * e
        fourth = (
            self.fourth
            + 4 * e @ (s @ e)
            + n * square**2
            + 4 * (e @ self.third)
            + 2 * square * trace
            + 4 * square * (first @ e)
        )
        return scatter, third, fourth

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets together."""
        if not self.count or not other.count:
            return other if not self.count else self
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f'merged moments must have one width, got {len(self.mean)} and {len(other.mean)}; '
                'take features of the same layers.'
            )
        count = self.count + other.count
        mean = self.mean + (other.mean - self.mean) * (other.count / count)
        sums = zip(self._about(self.mean - mean), other._about(other.mean - mean), strict=True)
        return Moments(count, mean, *(a + b for a, b in sums))

    def update(self, embeddings: Tensor) -> None:
        """Add a batch, ``(N, D)``, in place."""
        vars(self).update(vars(self.merge(Moments.of(embeddings))))

    def all_reduce(self) -> Moments:
        """Return the moments over all ranks; without a process group, these."""
        if not (dist.is_available() and dist.is_initialized()):
            return self
        first = torch.cat([self.mean * self.count, self.mean.new_tensor([self.count])])
        dist.all_reduce(first)
        count = int(first[-1])
        mean = first[:-1] / max(count, 1)
        sums = self._about(self.mean - mean)
        for value in sums:
            dist.all_reduce(value)
        return Moments(count, mean, *sums)


def _gram(z: Tensor) -> Tensor:
    """Return ``z' z`` in float64; of the symmetric product only the blocks on and above the diagonal are computed."""
    width = z.shape[1]
    if width <= _BLOCK:
        return (z.T @ z).double()
    result = torch.empty(width, width, dtype=torch.float64, device=z.device)
    for start in range(0, width, _BLOCK):
        stop = min(start + _BLOCK, width)
        rows = (z[:, start:stop].T @ z[:, start:]).double()
        result[start:stop, start:] = rows
        result[start:, start:stop] = rows.T
    return result
