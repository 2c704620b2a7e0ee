"""Scores of a segmentation as one number per pixel and class, their histograms, and the curves that follow from these.

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
from mmdefect.functional.metrics.ranking import aupro, auroc, average_precision, best_f1, probability

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

    Args:
        num_classes: classes including the background.
        bins: how the log-odds are binned.
        overlap: also count what AUPRO needs.
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
            if truth.has(class_id):
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
        rows = (values[::-1] for values in (positive, negative, tied, place, edges))
        return Curve(*rows, overlap, int(sums.get('regions', 0)))


class ScoreKeeper:
    """The exact mode: keeps every score; same interface as :class:`ScoreCounter`, but memory grows with the images.

    Args:
        num_classes: classes including the background.
        overlap: also keep what AUPRO needs.
    """

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
        tied, place = np.ones(len(values), bool), np.full(len(values), 0.5)
        overlap = overlap if self.overlap else None
        regions = sum(int(entry['regions'][row]) for entry in self.kept)
        return Curve(positive, negative, tied, place, -values, overlap, regions)


@dataclass(frozen=True)
class Curve:
    """Counts per threshold, from the highest down, and the metrics that follow.

    Attributes:
        positive: ``(B,)`` float64.
        negative: ``(B,)`` float64.
        tied: ``(B,)`` bool, see :func:`~mmdefect.functional.metrics.ranking.average_precision`.
        place: ``(B,)`` where the positives lie within an entry, see there.
        edges: ``(B,)`` the log-odds from which on an entry is included.
        overlap: ``(B,)`` sums of 1 / region area; ``None`` if they were not counted.
        regions: how many regions there are.
    """

    positive: np.ndarray
    negative: np.ndarray
    tied: np.ndarray
    place: np.ndarray
    edges: np.ndarray
    overlap: np.ndarray | None
    regions: int

    def ranking(self) -> dict[str, float]:
        """Return ``AP``, ``AUROC``, ``F1max``, ``IoUmax`` in [0, 1] and ``threshold``, a probability, of these."""
        f1, best = best_f1(self.positive, self.negative)
        return dict(
            AP=average_precision(self.positive, self.negative, self.tied, self.place),
            AUROC=auroc(self.positive, self.negative, self.place),
            F1max=f1,
            IoUmax=f1 / (2 - f1),
            threshold=float('nan') if best < 0 else float(probability(self.edges[best])),
        )

    def aupro(self, limit: float) -> float:
        """Return AUPRO up to a false positive rate; NaN without a region or a negative."""
        return aupro(self.overlap, self.regions, self.negative, limit)

    def points(self, count: int = 300, fpr_limit: float = 0.3) -> dict[str, list[float]]:
        """Return the curves to draw, thinned to about ``count`` points of even spacing along each axis.

        ``recall`` and ``precision``; with overlap also ``fpr`` (up to ``fpr_limit``) and ``pro``. Empty without a
        positive.
        """
        if not self.positive.sum():
            return {}
        found, false = np.cumsum(self.positive), np.cumsum(self.negative)
        used = found + false > 0
        recall, precision = (found / found[-1])[used], (found[used] / (found + false)[used])
        keep = _thin(recall, count)
        result = dict(recall=recall[keep], precision=precision[keep])
        if self.overlap is not None and self.regions and false[-1]:
            fpr, pro = false / false[-1], np.cumsum(self.overlap) / self.regions
            near = fpr <= fpr_limit
            keep = _thin(fpr[near], count)
            result |= dict(fpr=fpr[near][keep], pro=pro[near][keep])
        return {name: [round(float(v), 6) for v in values] for name, values in result.items()}


def _thin(values: np.ndarray, count: int) -> np.ndarray:
    """Places of a rising sequence that are at least a ``count``-th of its range apart, and its last."""
    if not len(values):
        return np.zeros(0, np.int64)
    step = max((values[-1] - values[0]) / count, 1e-12)
    bins = np.floor((values - values[0]) / step)
    first = np.flatnonzero(np.diff(bins, prepend=-1))
    return np.union1d(first, [len(values) - 1])
