"""Average precision, AUROC, best F1 and AUPRO from counts per threshold, and of one score per image.

All functions take counts ordered from the highest score to the lowest, one entry a threshold or a bin of scores, in
float64. They are exact where every entry holds equal scores. Within a bin of different scores positives and
negatives are taken as evenly mixed, which is what makes 4096 bins as good as all scores.
"""

from dataclasses import dataclass

import numpy as np

_EXPLICIT = 16  # bins with no more positives than this are summed one by one


def average_precision(
    positive: np.ndarray, negative: np.ndarray, tied: np.ndarray | bool = True, place: np.ndarray | float = 0.5
) -> float:
    """Return the average precision, the mean of the precision at every positive, in [0, 1]; NaN without a positive.

    Args:
        positive: ``(B,)`` positives per threshold.
        negative: ``(B,)`` negatives per threshold.
        tied: ``(B,)`` bool or one for all: whether the scores of an entry are equal, so that all of them come at once
            (as in scikit-learn).
        place: ``(B,)`` mean place of the positives within their entry, 0 at its top and 1 at its bottom.
    """
    total = positive.sum()
    if not total:
        return float('nan')
    found, false = np.cumsum(positive), np.cumsum(negative)
    use = positive > 0
    gain, wrong = positive[use], negative[use]
    found, false = found[use], false[use]
    tied = np.broadcast_to(tied, positive.shape)[use]
    area = np.where(tied, gain * found / np.maximum(found + false, 1), 0.0)
    # The j-th of g positives, evenly spread among w negatives, has w * j / (g + 1) of them before it; all of them
    # have more when the positives lie low in the entry.
    shift = wrong * (np.broadcast_to(place, positive.shape)[use] - 0.5)
    tp, fp, rate = found - gain, false - wrong, wrong / (gain + 1)
    for j in range(1, _EXPLICIT + 1):
        now = ~tied & (gain <= _EXPLICIT) & (gain >= j)
        before = np.clip(rate * j + shift, 0, wrong)
        area[now] += ((tp + j) / (tp + j + fp + before))[now]
    many = ~tied & (gain > _EXPLICIT)
    area[many] += _mixed_area(tp[many], (fp + shift)[many], gain[many], rate[many])
    return float(area.sum() / total)


def _mixed_area(tp: np.ndarray, fp: np.ndarray, gain: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """The sum over j = 1..gain of (tp + j) / (tp + j + fp + rate j), as its integral from 1/2 to gain + 1/2."""
    slope, start = 1 + rate, tp + fp
    ratio = (start + slope * (gain + 0.5)) / np.maximum(start + slope * 0.5, 0.5)
    return gain / slope + (tp - start / slope) / slope * np.log(ratio)


def auroc(positive: np.ndarray, negative: np.ndarray, place: np.ndarray | float = 0.5) -> float:
    """Return the area under the ROC curve in [0, 1]; NaN without a positive or a negative.

    ``place`` is that of :func:`average_precision`; at .5, equal scores count half.
    """
    pairs = positive.sum() * negative.sum()
    if not pairs:
        return float('nan')
    above = np.cumsum(positive) - positive
    return float((negative * (above + positive * (1 - place))).sum() / pairs)


def best_f1(positive: np.ndarray, negative: np.ndarray) -> tuple[float, int]:
    """Return the largest F1 over the thresholds and the entry it includes last; NaN and -1 without a positive.

    Of equals the highest threshold wins. The largest IoU is at the same threshold, ``F1 / (2 - F1)``.
    """
    total = positive.sum()
    if not total:
        return float('nan'), -1
    found = np.cumsum(positive)
    f1 = 2 * found / (found + np.cumsum(negative) + total)
    best = int(np.argmax(f1))
    return float(f1[best]), best


def aupro(overlap: np.ndarray, regions: float, negative: np.ndarray, limit: float) -> float:
    """Return the area under the per-region overlap curve up to a false positive rate, divided by that rate.

    Args:
        overlap: ``(B,)`` sum over the pixels of each entry of 1 / area of their region.
        regions: how many regions there are; without any, or without a negative, the area is NaN.
        negative: ``(B,)`` negatives per threshold.
        limit: false positive rate in (0, 1] at which the curve ends; between thresholds it is a straight line.
    """
    total = negative.sum()
    if not regions or not total:
        return float('nan')
    rate = np.concatenate([[0.0], np.cumsum(negative) / total])
    height = np.concatenate([[0.0], np.cumsum(overlap) / regions])
    end = int(np.searchsorted(rate, limit, side='right'))  # first threshold beyond the limit
    if end < len(rate):
        last = height[end - 1] + (height[end] - height[end - 1]) * (limit - rate[end - 1]) / (rate[end] - rate[end - 1])
    else:
        last = height[-1]
    x, y = np.append(rate[:end], limit), np.append(height[:end], last)
    return float(((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2).sum() / limit)


def image_ranking(scores: np.ndarray, defective: np.ndarray) -> dict[str, float]:
    """Return how well one score per image tells whether there is a defect in it at all.

    Args:
        scores: ``(I,)`` float log-odds, one an image; the largest of its pixels, say.
        defective: ``(I,)`` bool.

    Returns:
        ``AUROC``, ``AP``, ``F1max`` in [0, 1], exactly, and the probability ``threshold`` of the latter; NaN where
        there is no defective image (AUROC: or no clean one).
    """
    values, group = np.unique(-np.asarray(scores, np.float64), return_inverse=True)
    defective = np.asarray(defective, bool)
    positive, negative = (np.bincount(group, weights, len(values)) for weights in (defective, ~defective))
    found = Curve(positive, negative, -values).ranking()
    return {name: found[name] for name in ('AUROC', 'AP', 'F1max', 'threshold')}


@dataclass(frozen=True)
class Curve:
    """Counts per threshold, ``(B,)`` from the highest down, and the metrics that follow."""

    positive: np.ndarray  # float64
    negative: np.ndarray  # float64
    edges: np.ndarray  # the log-odds from which on an entry is included
    tied: np.ndarray | bool = True  # see :func:`average_precision`
    place: np.ndarray | float = 0.5  # where the positives lie within an entry, see there
    overlap: np.ndarray | None = None  # sums of 1 / region area; None if they were not counted
    regions: int = 0

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


def probability(log_odds: np.ndarray | float) -> np.ndarray:
    """Return the probability of log-odds."""
    return 0.5 * (1 + np.tanh(np.asarray(log_odds, np.float64) / 2))
