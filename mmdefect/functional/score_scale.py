"""Scores on a scale that a person can read: 0 is the most typical normal image, 1 the farthest one.

The scale must come from normal images that the density has not seen: those it was fitted on lie nearer than any new
one. :func:`fold_of` divides the normal images so that each is held out once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ScoreScale:
    """Linear scale of scores.

    Attributes:
        minimum: score that becomes 0.
        maximum: score that becomes 1.
        threshold: on that scale; a score above it is an anomaly.
        count: held-out normal images it was taken from.
    """

    minimum: float
    maximum: float
    threshold: float = 1.0
    count: int = 0

    def normalize(self, scores: Tensor) -> Tensor:
        """Return scores on the scale; beyond 1 for what is farther than every held-out normal image."""
        return (scores - self.minimum) / (self.maximum - self.minimum)

    def decide(self, scores: Tensor) -> Tensor:
        """Return for raw scores whether they are anomalies, bool."""
        return self.normalize(scores) > self.threshold

    def state(self) -> dict[str, float | int]:
        """Return plain numbers."""
        return asdict(self)


def fit_scale(held_out: Tensor, threshold: float = 1.0) -> ScoreScale:
    """Take the scale from the scores of held-out normal images, ``(N,)``.

    Raises:
        ValueError: if there are fewer than two different scores.
    """
    low, high = (float(v) for v in held_out.double().aminmax()) if len(held_out) else (0.0, 0.0)
    if not high > low:
        raise ValueError(
            f'the scale needs at least two different scores of held-out normal images, got {len(held_out)} '
            f'between {low} and {high}; add normal images.'
        )
    return ScoreScale(low, high, float(threshold), len(held_out))


def fold_of(count: int, folds: int, seed: int = 0) -> Tensor:
    """Return the fold of each of ``count`` images, ``(count,)`` int64 in ``0 .. folds - 1``, of even sizes."""
    if not 2 <= folds <= count:
        raise ValueError(f'`folds` must be between 2 and the number of normal images, {count}, got {folds}.')
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    result = torch.empty(count, dtype=torch.int64)
    result[order] = torch.arange(count) % folds
    return result
