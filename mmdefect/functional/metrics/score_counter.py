"""Streaming histograms of the scores, from which every threshold-free metric follows, and the mode that keeps them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmdefect.functional.metrics.counter import UNIT, Counter, fixed_point
from mmdefect.functional.metrics.label_map import LabelMap
from mmdefect.functional.metrics.ranking import aupro, auroc, average_precision, best_f1
from mmdefect.functional.metrics.scores import ScoreBins, probability

_STEPS = 1024  # places within a bin that are told apart to see whether its scores are equal


def channels(num_classes: int) -> list[int | None]:
    """Return what :func:`~.scores.log_odds` gives a row for: the defect classes, and ``None`` for any defect.

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

    def __init__(self, num_classes: int, bins: ScoreBins = ScoreBins(), overlap: bool = True) -> None:
        self.channels, self.bins, self.overlap = channels(num_classes), bins, overlap
        rows = len(self.channels)
        shapes = dict(
            pixels=(rows, bins.count),
            positives=(rows, bins.count),
            place=(rows, bins.count),
            place_squared=(rows, bins.count),
        )
        if overlap:
            shapes.update(overlap=(rows, bins.count), regions=(rows,))
        super().__init__(**shapes)

    def update(self, odds: Tensor, truth: LabelMap) -> None:
        """Count one image.

        Args:
            odds: ``(rows, N)`` finite float log-odds, see :func:`~.scores.log_odds`.
            truth: its label.
        """
        if self.sums['pixels'].device != odds.device:
            self.to(odds.device)
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
            self.sums['overlap'][row].index_add_(0, index, fixed_point(1 / area.double())[region].to(index.device))
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
        edges = self.bins.log_odds_at(np.arange(self.bins.count))
        return Curve(
            positive[::-1],
            (sums['pixels'] - sums['positives'])[::-1].astype(np.float64),
            tied[::-1],
            place[::-1],
            edges[::-1],
            sums['overlap'][::-1] / UNIT if self.overlap else None,
            int(sums.get('regions', 0)),
        )


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
        size = odds.shape[1]
        keep = np.ones(size, bool)
        keep[truth.ignored.numpy()] = False
        entry = {
            'odds': odds.cpu().numpy()[:, keep],
            'label': np.zeros((len(self.channels), size), bool),
            'overlap': np.zeros((len(self.channels), size)),
            'regions': np.zeros(len(self.channels), np.int64),
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
        if not self.kept:
            nothing = np.zeros(0)
            return Curve(nothing, nothing, nothing.astype(bool), nothing, nothing, nothing if self.overlap else None, 0)
        odds, label, overlap = (
            np.concatenate([entry[name][row] for entry in self.kept]) for name in ('odds', 'label', 'overlap')
        )
        values, group = np.unique(-odds, return_inverse=True)
        sums = [np.bincount(group, weights, len(values)) for weights in (label, ~label, overlap)]
        return Curve(
            sums[0],
            sums[1],
            np.ones(len(values), bool),
            np.full(len(values), 0.5),
            -values,
            sums[2] if self.overlap else None,
            sum(int(entry['regions'][row]) for entry in self.kept),
        )


class Curve:
    """Counts per threshold, from the highest down, and the metrics that follow.

    Args:
        positive: ``(B,)`` float64.
        negative: ``(B,)`` float64.
        tied: ``(B,)`` bool, see :func:`~.ranking.average_precision`.
        place: ``(B,)`` where the positives lie within an entry, see there.
        edges: ``(B,)`` the log-odds from which on an entry is included.
        overlap: ``(B,)`` sums of 1 / region area; ``None`` if they were not counted.
        regions: how many regions there are.
    """

    def __init__(
        self,
        positive: np.ndarray,
        negative: np.ndarray,
        tied: np.ndarray,
        place: np.ndarray,
        edges: np.ndarray,
        overlap: np.ndarray | None,
        regions: int,
    ) -> None:
        self.positive, self.negative, self.tied, self.place, self.edges = positive, negative, tied, place, edges
        self.overlap, self.regions = overlap, regions

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

        Returns:
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
