"""Scores of a segmentation as one number per pixel and class, and their histograms.

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

from mmdefect.functional.metrics.counting import UNIT, Counter, LabelMap
from mmdefect.functional.metrics.ranking import Curve

KINDS = ('logits', 'probabilities')
#: Log-odds at which the bins are twice as wide as at 0, in one direction.
SOFTNESS = 8.0
_TINY = 1e-37  # about the smallest normal float32; keeps log finite for a probability of exactly 0
_NEAR_ONE = 2.0**-25  # half a float32 step below 1
_STEPS = 1024  # places within a bin that are told apart to see whether its scores are equal


def log_scores(scores: Tensor, kind: str) -> Tensor:
    """Return scores whose differences are log-odds: logits as they are, probabilities as logarithms.

    Args:
        scores: ``(C, H, W)`` float, one channel a class (background first), or one channel for a single defect class.
        kind: ``logits`` (before softmax or sigmoid) or ``probabilities``.

    Returns:
        ``(K, H, W)`` float with ``K = max(C, 2)``; a single channel gets a background channel.
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
            f'`scores` must lie in [0, 1] as probabilities, got {low:.4g}..{high:.4g}; set `kind="logits"` if they are '
            'logits.'
        )
    if scores.shape[0] == 1:
        return torch.cat([(1 - scores).clamp_min(_NEAR_ONE), scores.clamp_min(_TINY)]).log()
    return scores.clamp_min(_TINY).log()


def log_odds(scores: Tensor) -> Tensor:
    """Return the log-odds of every defect class against all others, and of any defect.

    From ``(K, H, W)`` of :func:`log_scores`: ``(1, N)`` for two classes, else ``(K, N)`` with 'any defect' last.
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
    """Bins of log-odds; their ``count`` is even, so that probability .5 is an edge."""

    count: int = 32768

    def __post_init__(self) -> None:
        if not 2 <= self.count <= 32768 or self.count % 2:
            raise ValueError(f'`bins` must be an even number in 2..32768, got {self.count}; `exact` needs none.')

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


def channels(num_classes: int) -> list[int | None]:
    """Return what :func:`log_odds` gives a row for: the defect classes, and ``None`` for any defect.

    With a single defect class both are the same row.
    """
    return [1] if num_classes == 2 else [*range(1, num_classes), None]


class ScoreCounter(Counter):
    """Histograms of log-odds over all pixels and over the positives, per class and for any defect.

    ``overlap`` says whether also to count what AUPRO needs.
    """

    def __init__(self, num_classes: int, bins: ScoreBins | None = None, overlap: bool = True) -> None:
        self.channels, self.bins, self.overlap = channels(num_classes), bins or ScoreBins(), overlap
        rows = len(self.channels)
        names = ('pixels', 'positives', 'place', 'place_squared', *(['overlap'] if overlap else []))
        shapes = dict.fromkeys(names, (rows, self.bins.count))
        super().__init__(**shapes, **(dict(regions=(rows,)) if overlap else {}))

    def update(self, odds: Tensor, truth: LabelMap) -> None:
        """Count one image: ``(rows, N)`` finite log-odds (:func:`log_odds`) and its label."""
        self.sums = {name: value.to(odds.device) for name, value in self.sums.items()}
        for row, class_id in enumerate(self.channels):  # row by row: what is computed stays in the processor's cache
            position = self.bins.position(odds[row])
            index = position.to(torch.int16)
            self.sums['pixels'][row] += torch.bincount(index, minlength=self.bins.count)
            if truth.ignored.numel():
                ignored = truth.ignored.to(odds.device)
                self.sums['pixels'][row] -= torch.bincount(index[ignored], minlength=self.bins.count)
            if truth.pixels_of(class_id).numel():
                self._update_positives(row, class_id, position, truth)

    def _update_positives(self, row: int, class_id: int | None, position: Tensor, truth: LabelMap) -> None:
        own = position[truth.pixels_of(class_id).to(position.device)]
        index = own.long()
        place = ((own - index) * _STEPS).long()
        ones = torch.ones_like(index)
        for name, values in (('positives', ones), ('place', place), ('place_squared', place * place)):
            self.sums[name][row].index_add_(0, index, values)
        if self.overlap:
            region, area = truth.regions_of(class_id)
            share = (UNIT / area.double()).round().long()
            self.sums['overlap'][row].index_add_(0, index, share[region].to(index.device))
            self.sums['regions'][row] += len(area)

    def curve(self, class_id: int | None) -> Curve:
        """Return the counts per bin of a class (``None``: any defect), from the highest score down."""
        row = self.channels.index(class_id if class_id in self.channels else 1)
        sums = {name: value[row].cpu().numpy() for name, value in self.sums.items()}
        positive = sums['positives'].astype(np.float64)
        with np.errstate(invalid='ignore', divide='ignore'):
            variance = sums['place_squared'] / positive - (sums['place'] / positive) ** 2
        several = positive > 1
        equal = several & (variance < 1e-9)
        # One positive in a bin does not show whether the scores there are equal; the other bins decide it.
        tied = np.where(several, equal, equal.sum() > several.sum() / 2)
        tied[[0, -1]] = True  # where scores beyond the axis would be clipped to
        with np.errstate(invalid='ignore', divide='ignore'):
            place = np.where(tied | (positive == 0), 0.5, 1 - (sums['place'] / positive + 0.5) / _STEPS)
        negative = (sums['pixels'] - sums['positives']).astype(np.float64)
        edges = self.bins.log_odds_at(np.arange(self.bins.count))
        overlap = sums['overlap'][::-1] / UNIT if self.overlap else None
        rows = (values[::-1] for values in (positive, negative, edges, tied, place))
        return Curve(*rows, overlap, int(sums.get('regions', 0)))


class ScoreKeeper:
    """The exact mode: keeps every score; same interface as :class:`ScoreCounter`, but memory grows with the images."""

    def __init__(self, num_classes: int, overlap: bool = True) -> None:
        self.channels, self.overlap = channels(num_classes), overlap
        self.kept: list[dict[str, np.ndarray]] = []

    def update(self, odds: Tensor, truth: LabelMap) -> None:
        """Keep one image; arguments as in :meth:`ScoreCounter.update`."""
        keep, shape = truth.counted, tuple(odds.shape)
        entry = {
            'odds': odds.cpu().numpy()[:, keep],
            'label': np.zeros(shape, bool),
            'overlap': np.zeros(shape),
            'regions': np.zeros(shape[0], np.int64),
        }
        for row, class_id in enumerate(self.channels):
            pixels = truth.pixels_of(class_id)
            region, area = truth.regions_of(class_id)
            entry['label'][row, pixels.numpy()] = True
            entry['overlap'][row, pixels.numpy()] = 1 / area[region].double().numpy()
            entry['regions'][row] = len(area)
        entry['label'], entry['overlap'] = entry['label'][:, keep], entry['overlap'][:, keep]
        self.kept.append(entry)

    def merge(self, other: ScoreKeeper) -> None:
        """Add what another keeper saw."""
        self.kept += other.kept

    def curve(self, class_id: int | None) -> Curve:
        """Return the counts per distinct score of a class (``None``: any defect), from the highest score down."""
        row = self.channels.index(class_id if class_id in self.channels else 1)
        odds, label, overlap = (
            np.concatenate([np.zeros(0, kind), *(entry[name][row] for entry in self.kept)])
            for name, kind in (('odds', np.float32), ('label', bool), ('overlap', np.float64))
        )
        values, group = np.unique(-odds, return_inverse=True)
        positive, negative, overlap = (np.bincount(group, w, len(values)) for w in (label, ~label, overlap))
        regions = sum(int(entry['regions'][row]) for entry in self.kept)
        overlap = overlap if self.overlap else None
        return Curve(positive, negative, -values, overlap=overlap, regions=regions)
