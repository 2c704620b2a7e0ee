"""Scores of a segmentation as one number per pixel and class, and their bins.

The score of class ``k`` is its log-odds against all other classes, ``log p_k - log(1 - p_k)``, and that of 'any
defect' the log-odds of not being background. Probabilities pile up at 0 and 1, where float32 cannot tell them apart
any more; log-odds are computed from the logits and do not saturate. The bins are evenly spaced in
``s / (SOFTNESS + |s|)``: .004 wide (in log-odds, for 4096 bins) at probability .5, .01 at .993, and no score falls
off the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

KINDS = ('logits', 'probabilities')
#: Log-odds at which the bins are twice as wide as at 0, in one direction.
SOFTNESS = 8.0
_TINY = 1e-37  # about the smallest normal float32; keeps log finite for a probability of exactly 0
_NEAR_ONE = 2.0**-25  # half a float32 step below 1


def log_scores(scores: Tensor, kind: str) -> Tensor:
    """Return scores whose differences are log-odds: logits as they are, probabilities as logarithms.

    Args:
        scores: ``(C, H, W)`` float, one channel a class (background first), or one channel for a single defect class.
        kind: ``logits`` (before softmax or sigmoid) or ``probabilities``.

    Returns:
        ``(K, H, W)`` float with ``K = max(C, 2)``; a single channel gets a background channel.

    Raises:
        ValueError: for another kind, another shape, or probabilities outside [0, 1].
    """
    if kind not in KINDS:
        raise ValueError(f'`kind` must be one of {KINDS}, got {kind!r}.')
    if scores.ndim != 3 or not scores.shape[0]:
        raise ValueError(f'`scores` must have the shape (C, H, W), got {tuple(scores.shape)}.')
    if scores.dtype not in (torch.float32, torch.float64):
        scores = scores.float()
    if kind == 'logits':
        return scores if scores.shape[0] > 1 else torch.cat([torch.zeros_like(scores), scores])
    low, high = (float(v) for v in scores.aminmax()) if scores.numel() else (0.0, 0.0)
    if low < 0 or high > 1 + 1e-5:
        raise ValueError(
            f'`scores` must lie in [0, 1] as probabilities, got {low:.4g}..{high:.4g}; say '
            '`kind="logits"` if the model gives logits.'
        )
    if scores.shape[0] == 1:
        return torch.cat([(1 - scores).clamp_min(_NEAR_ONE), scores.clamp_min(_TINY)]).log()
    return scores.clamp_min(_TINY).log()


def log_odds(scores: Tensor) -> Tensor:
    """Return the log-odds of every defect class against all others, and of any defect.

    Args:
        scores: ``(K, H, W)`` float from :func:`log_scores`.

    Returns:
        ``(K - 1, N)`` for two classes, else ``(K, N)`` with 'any defect' last, ``N = H * W``.
    """
    flat = scores.reshape(scores.shape[0], -1)
    count = flat.shape[0]
    if count == 2:
        return (flat[1] - flat[0])[None]
    # The log of the sum of all other classes, from those before and those after; total minus own would cancel near 1.
    after = [flat[-1]]
    for k in range(count - 2, 0, -1):
        after.append(torch.logaddexp(flat[k], after[-1]))
    after.reverse()  # after[k] joins the classes k + 1 ..
    odds = torch.empty_like(flat)
    torch.sub(after[0], flat[0], out=odds[-1])
    before = flat[0]
    for k in range(1, count):
        rest = before if k == count - 1 else torch.logaddexp(before, after[k])
        torch.sub(flat[k], rest, out=odds[k - 1])
        if k < count - 1:
            before = torch.logaddexp(before, flat[k])
    return odds


@dataclass(frozen=True)
class ScoreBins:
    """Bins of log-odds.

    Attributes:
        count: how many; even, so that probability .5 is an edge.
    """

    count: int = 32768

    def __post_init__(self) -> None:
        if not 2 <= self.count <= 32768 or self.count % 2:
            raise ValueError(
                f'`bins` must be an even number in 2..32768, got {self.count}; take the exact mode when that '
                'is not enough.'
            )

    def position(self, log_odds: Tensor) -> Tensor:
        """Return where log-odds lie on the axis of the bins: a float in ``[0, count)`` whose floor is the bin."""
        squashed = log_odds.abs().add_(SOFTNESS)
        torch.div(log_odds, squashed, out=squashed)
        return squashed.add_(1).mul_(self.count / 2).clamp_(0, self.count * (1 - 1e-6))

    def log_odds_at(self, position: np.ndarray | float) -> np.ndarray:
        """Return the log-odds at positions on the axis; the ends are infinite."""
        squashed = np.asarray(position, np.float64) * 2 / self.count - 1
        with np.errstate(divide='ignore'):
            return SOFTNESS * squashed / (1 - np.abs(squashed))


def probability(log_odds: np.ndarray | float) -> np.ndarray:
    """Return the probability of log-odds."""
    return 0.5 * (1 + np.tanh(np.asarray(log_odds, np.float64) / 2))
