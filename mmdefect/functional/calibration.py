"""One offset per defect class, fitted on validation, that moves the decision from plain argmax.

Synthesis and class-balanced losses change how often the network sees each class, so its scores are ordered well but
cut at the wrong place. The calibrated decision is ``argmax_k(logit_k + offset_k)`` with ``offset_0 = 0``; the
offsets maximise a chosen objective over the validation set. A class without a labelled pixel there keeps offset 0.

The fit streams: of every pixel only the bins of its margins ``logit_k - logit_0`` are counted, together with its
label and the fold of its image, and a bin stands at the mean of the margins that fell into it
(:class:`MarginCounter`): scores of coarse steps are fitted as they are, others up to the spread within a bin (.06 in
log-odds at probability .5 for three classes).
Then coordinate ascent: for one class at a time, all offsets are tried at once by sorting the bins, and the best is
taken, in the middle of its interval; of equally good intervals the one nearest to no offset. It starts from plain
argmax and from lower common offsets, takes the best result and is never worse than argmax (in the binned set).

What is delivered is cross-fitted (:func:`cross_fit`): each fold of images is judged with offsets fitted on the others,
shrunk towards no offset by one of ``SHRINKS``. The share with the best objective is taken, and with it the mean over
the folds; where none is better than 0, plain argmax is the decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mmdefect.functional.metrics.counting import Counter, LabelMap
from mmdefect.functional.metrics.scores import SOFTNESS

OBJECTIVES = ('IoU', 'F1', 'recall')
#: Offsets stay within +- this, in logits: beyond it the bins are too wide to tell.
LIMIT = 12.0
#: Common offsets of all defect classes to start from: plain argmax, half way, and predicting hardly any defect. Where
#: several classes are over-predicted, lowering one alone only hands its pixels to the next.
_STARTS = (0.0, -LIMIT / 3, -LIMIT)
_STEP_OUT = 0.5  # how far beyond the last bin an offset lies where no other bin bounds it
_TIE = 1e-4  # offsets this near to a value lie on it: applied to logits in single precision, they round
#: Bins per margin by number of defect classes; more classes than listed are counted sparsely.
DENSE_BINS = {1: 4096, 2: 256, 3: 64}
#: Sparse counts begin with this many bins per margin and halve them whenever too many cells are occupied.
SPARSE_BINS, MOST_CELLS = 64, 2**17
_MOST_BITS = 62
#: Parts into which the validation images fall for the cross-fit, by their names.
FOLDS = 5
#: Shares of the fitted offsets that are tried; 0 is plain argmax.
SHRINKS = (0.0, 0.25, 0.5, 0.75, 1.0)
#: Margins are summed within this, in units of 2**-22: 2**30 a pixel leave room for 8 thousand million pixels.
_LARGEST, _STEPS_PER_LOGIT = 256.0, 2**22


def decide(scores: Tensor, offsets: Tensor) -> Tensor:
    """Return ``argmax(scores + offsets)`` over the classes, ``(...)`` int16; of equals the lowest class wins.

    Args:
        scores: ``(K, ...)`` float logits (or logarithms of probabilities), background first.
        offsets: ``(K,)`` float.
    """
    best, chosen = scores[0] + float(offsets[0]), torch.zeros_like(scores[0], dtype=torch.int16)
    for k in range(1, len(scores)):
        # a loop, because argmax over the first axis takes 30 ms for 3 x 512 x 512 on a CPU core and this takes 1
        value = scores[k] + float(offsets[k])
        chosen.masked_fill_(value > best, k)
        best = torch.maximum(best, value)
    return chosen


@dataclass(frozen=True)
class Calibration:
    """Offsets and what they were fitted for; :meth:`to_dict` goes into the meta of a checkpoint."""

    offsets: tuple[float, ...]  # one per class, 0 for the background
    objective: str  # 'IoU', 'F1' or 'recall'
    recall_floor: float  # least recall of every class that 'recall' asks for
    value: float  # objective on the binned validation set; 'recall' subtracts 1000 per unit of recall below the floor
    argmax_value: float  # the same without offsets
    unfitted: tuple[int, ...]  # classes without a labelled pixel in the validation set; their offset is 0
    shrink: float = 1.0  # share of the fitted offsets that is delivered; 0: plain argmax
    crossed_value: float = float('nan')  # objective on images that their offsets were not fitted on

    @property
    def decision(self) -> str:
        """What is delivered, ``calibrated`` or ``argmax``."""
        return 'calibrated' if any(self.offsets) else 'argmax'

    def to_dict(self) -> dict:
        """Return plain lists and numbers."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {**values, 'decision': self.decision}


def read_offsets(record: dict, classes: Sequence[str]) -> dict[str, float]:
    """Return the offsets by class name that ``meta['calibration']`` of a checkpoint holds for these classes."""
    if list(record['classes']) != list(classes):
        raise ValueError(
            f'the offsets of a checkpoint must be for the classes {list(classes)}, but they are for '
            f'{list(record["classes"])}; validate again with the data set at hand.'
        )
    return dict(zip(classes[1:], map(float, record['offsets'][1:]), strict=True))


def fit_offsets(
    margins: np.ndarray, counts: np.ndarray, objective: str = 'IoU', recall_floor: float = 0.8
) -> Calibration:
    """Fit one offset per defect class.

    Args:
        margins: ``(M, K - 1)`` logits of the defect classes minus that of the background, one row a group of pixels.
        counts: ``(M, K)`` pixels of each label in the group.
        objective: ``IoU`` or ``F1``: their mean over the defect classes that have labelled pixels. ``recall``: the
            mean IoU among the offsets with which every class has at least ``recall_floor`` recall; where that cannot
            be had, recall comes first.
        recall_floor: only for ``recall``, in (0, 1].
    """
    if objective not in OBJECTIVES or not 0 < recall_floor <= 1:
        raise ValueError(
            f'`objective` must be one of {OBJECTIVES} and `recall_floor` in (0, 1], got {objective!r} and '
            f'{recall_floor}.'
        )
    labelled = counts.sum(0)
    defects = range(1, len(labelled))
    fitted = [k for k in defects if labelled[k]]
    table = _Table(margins, counts, objective, recall_floor, labelled[fitted].astype(np.float64), fitted)
    best = plain = table.value_of(np.zeros(len(labelled))) if fitted else float('nan')
    offsets = np.zeros(len(labelled))
    for start in _STARTS if fitted else ():
        tried = np.zeros(len(labelled))
        tried[fitted] = start
        value = table.ascend(tried)
        if value > best + 1e-12:
            best, offsets = value, tried
    unfitted = tuple(k for k in defects if not labelled[k])
    return Calibration(tuple(map(float, offsets)), objective, recall_floor, float(best), float(plain), unfitted)


def cross_fit(margins: np.ndarray, folds: np.ndarray, objective: str = 'IoU', recall_floor: float = 0.8) -> Calibration:
    """Fit on the folds in turn, judge each fold with the offsets of the others, and return what is delivered.

    Args:
        margins: as in :func:`fit_offsets`.
        folds: ``(F, M, K)`` pixels of each label in the group, by fold.
        objective, recall_floor: as in :func:`fit_offsets`.
    """
    counts = folds.sum(0)
    whole = fit_offsets(margins, counts, objective, recall_floor)
    labelled = counts.sum(0)
    used = [k for k, own in enumerate(folds) if own.any()]
    fitted = [k for k in range(1, len(labelled)) if labelled[k]]
    if not any(whole.offsets) or len(used) < 2:  # argmax is best already, or one fold has all images
        shrink = 0.0 if len(used) < 2 else 1.0
        offsets = tuple(shrink * offset for offset in whole.offsets)
        return replace(
            whole, offsets=offsets, value=whole.argmax_value, shrink=shrink, crossed_value=whole.argmax_value
        )
    each = [np.array(fit_offsets(margins, counts - folds[k], objective, recall_floor).offsets) for k in used]
    table = _Table(margins, counts, objective, recall_floor, labelled[fitted].astype(np.float64), fitted)
    values = []
    for share in SHRINKS:
        judged = sum(binned_confusion(margins, folds[k], tuple(share * own)) for k, own in zip(used, each, strict=True))
        values.append(table.value(np.diag(judged).astype(np.float64), judged.sum(0).astype(np.float64)))
    best = int(np.argmax(np.round(values, 9)))  # of equals the one nearest to no offset
    offsets = _off_ties(margins, SHRINKS[best] * np.mean(each, 0))
    return replace(
        whole,
        offsets=tuple(map(float, offsets)),
        value=float(table.value_of(offsets)),
        shrink=SHRINKS[best],
        crossed_value=float(values[best]),
    )


def _off_ties(margins: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return offsets moved off the values at which a group changes sides: there rounding decides when they are applied.

    A fitted offset lies between two such values, a mean of several may lie on one. The lower side gives what the table
    gives: of equals the background wins.
    """
    values, offsets = np.concatenate([np.zeros((len(margins), 1)), margins], 1), offsets.copy()
    for k in np.flatnonzero(offsets):
        moved = values + offsets
        moved[:, k] = -np.inf
        below = offsets[k] - np.unique(moved.max(1) - values[:, k])
        if (np.abs(below) < _TIE).any():
            offsets[k] -= min(_STEP_OUT, below[below > _TIE].min(initial=1.0) / 2)
    return offsets


def binned_confusion(margins: np.ndarray, counts: np.ndarray, offsets: tuple[float, ...]) -> np.ndarray:
    """Return the ``(K, K)`` confusion matrix (row = label) that offsets give on the table of a margin counter."""
    values = np.concatenate([np.zeros((len(margins), 1)), margins], 1)
    chosen = (values + np.asarray(offsets)).argmax(1) if len(values) else np.zeros(0, int)
    confusion = np.zeros((counts.shape[1], counts.shape[1]), np.int64)
    np.add.at(confusion.T, chosen, counts)
    return confusion


@dataclass
class _Table:
    """The binned validation set and the objective on it."""

    margins: np.ndarray
    counts: np.ndarray
    objective: str
    recall_floor: float
    labelled: np.ndarray  # pixels of the classes in ``fitted``
    fitted: list[int]

    def value(self, hit: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Return the objective for hits and predicted pixels per class, ``(..., K)``, for many candidates at once."""
        hit, predicted = hit[..., self.fitted], predicted[..., self.fitted]
        if self.objective == 'F1':
            return (2 * hit / (self.labelled + predicted)).mean(-1)
        value = (hit / (self.labelled + predicted - hit)).mean(-1)
        if self.objective == 'recall':  # an IoU is at most 1: missing recall weighs more than any IoU
            value = value - 1e3 * np.maximum(0, self.recall_floor - hit / self.labelled).sum(-1)
        return value

    def value_of(self, offsets: np.ndarray) -> float:
        """Return the objective with offsets."""
        confusion = binned_confusion(self.margins, self.counts, tuple(offsets))
        return self.value(np.diag(confusion).astype(np.float64), confusion.sum(0).astype(np.float64))

    def ascend(self, offsets: np.ndarray, rounds: int = 20) -> float:
        """Improve one offset at a time, in place, until none can be; return the objective."""
        best = self.value_of(offsets)
        for _ in range(rounds):
            before = best
            for k in self.fitted:
                offset, value = self.best_offset(offsets, k)
                if value > best + 1e-12:
                    offsets[k], best = offset, value
            if best <= before + 1e-9:
                break
        return best

    def best_offset(self, offsets: np.ndarray, k: int) -> tuple[float, float]:
        """Try every offset of class ``k`` while the others stay; return the best and its objective."""
        values = np.concatenate([np.zeros((len(self.margins), 1)), self.margins], 1)
        moved = values + offsets
        moved[:, k] = -np.inf
        rival = moved.argmax(1)
        needed = moved[np.arange(len(values)), rival] - values[:, k]  # offset above which the group goes to class k
        order = np.argsort(needed, kind='stable')
        needed, rival, counts = needed[order], rival[order], self.counts[order].astype(np.float64)
        size = counts.sum(1)
        hit, predicted = (np.zeros((len(needed) + 1, counts.shape[1])) for _ in range(2))
        for j in range(counts.shape[1]):
            lost, given = (-counts[:, k], -size) if j == k else (counts[:, j] * (rival == j), size * (rival == j))
            for result, change in ((hit, lost), (predicted, given)):
                result[:, j] = (0.0 if j == k else change.sum()) - np.concatenate([[0], np.cumsum(change)])
        # Candidate i takes the first i groups; it exists where the needed offset changes.
        edges = np.concatenate([[-LIMIT], np.clip(needed, -LIMIT, LIMIT), [LIMIT]])
        low, high = edges[:-1], edges[1:]
        # The middle, or a little beyond the inner edge where nothing bounds the other side.
        least = np.where(high >= LIMIT, -np.inf, high - _STEP_OUT)
        middle = np.clip((low + high) / 2, least, np.where(low <= -LIMIT, np.inf, low + _STEP_OUT))
        objective = np.where(high > low + 1e-9, self.value(hit, predicted), -np.inf)
        best = np.flatnonzero(objective >= objective.max() - 1e-12)
        choice = best[np.argmin(np.abs(middle[best]))]
        return float(middle[choice]), float(objective[choice])


class MarginCounter(Counter):
    """Counts pixels by label, fold of the image and the bins of ``logit_k - logit_0`` of all defect classes together.

    The columns of the counts are ``fold * num_classes + label``; beside them stand the sums of the margins of a bin, as
    integers, whose means are where the bin is.
    """

    def __init__(self, num_classes: int, folds: int = 1) -> None:
        if not 2 <= num_classes <= 16:
            raise ValueError(f'a calibration needs 2 to 16 classes, got {num_classes}; leave it out or merge classes.')
        self.num_classes, self.dimensions, self.folds = num_classes, num_classes - 1, folds
        self.columns = folds * num_classes
        self.dense = self.dimensions in DENSE_BINS
        self.bins = DENSE_BINS.get(self.dimensions, min(SPARSE_BINS, 2 ** (_MOST_BITS // self.dimensions)))
        self.codes = np.zeros(0, np.int64)  # sparse: occupied cells, ascending, with their counts and sums side by side
        self.values = np.zeros((0, self.columns + self.dimensions), np.int64)
        cells = self.bins**self.dimensions
        super().__init__(**(dict(counts=(self.columns, cells), totals=(self.dimensions, cells)) if self.dense else {}))

    def update(self, scores: Tensor, truth: LabelMap, fold: int = 0) -> None:
        """Count one image: ``(K, H, W)`` finite logits or logarithms of probabilities, its label, and its fold."""
        code, margins = self._codes(scores)
        if not self.dense:
            self._add(*self._grouped(code.cpu().numpy(), margins.cpu().numpy(), truth, fold))
            return
        counts = self.sums['counts'] = self.sums['counts'].to(code.device)
        totals = self.sums['totals'] = self.sums['totals'].to(code.device)
        own_counts = counts[fold * self.num_classes :][: self.num_classes]  # a view
        everything = torch.bincount(code, minlength=counts.shape[1])
        if truth.ignored.numel():
            ignored = truth.ignored.to(code.device)
            everything -= torch.bincount(code[ignored], minlength=counts.shape[1])
            margins[:, ignored] = 0
        if truth.defect.numel():
            own, label = code[truth.defect.to(code.device)].long(), truth.defect_class.to(code.device)
            own_counts.view(-1).index_add_(0, label * counts.shape[1] + own, torch.ones_like(own))
            everything.index_add_(0, own, -torch.ones_like(own))
        own_counts[0] += everything
        for total, margin in zip(totals, margins, strict=True):
            total += torch.bincount(code, margin, minlength=counts.shape[1]).long()  # float64 holds whole numbers

    def merge(self, other: MarginCounter) -> None:
        """Add what another counter saw."""
        super().merge(other)
        if not self.dense:
            self._coarsen_to(min(self.bins, other.bins))
            self._add(self._coarser(other.codes, other.bins, self.bins), other.values)

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the occupied cells: their mean margins ``(M, K - 1)`` and label counts ``(M, K)``."""
        margins, folds = self.fold_table()
        return margins, folds.sum(0)

    def fold_table(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the occupied cells: their mean margins ``(M, K - 1)`` and label counts by fold ``(F, M, K)``."""
        counts, totals = self.values[:, : self.columns], self.values[:, self.columns :]
        if self.dense:
            counts, totals = (self.sums[name].cpu().numpy().T for name in ('counts', 'totals'))
            codes = np.flatnonzero(counts.any(1))
            counts, totals = counts[codes], totals[codes]
        margins = totals / _STEPS_PER_LOGIT / np.maximum(1, counts.sum(1, keepdims=True))
        return margins, counts.reshape(-1, self.folds, self.num_classes).transpose(1, 0, 2)

    def _codes(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the bin of every pixel ``(N,)`` and its margins as whole numbers of steps ``(K - 1, N)`` float64."""
        flat = scores.reshape(self.num_classes, -1)
        kind = torch.int32 if self.bins**self.dimensions < 2**31 else torch.int64
        code, margins = None, flat[1:] - flat[:1]
        steps = margins.double().clamp_(-_LARGEST, _LARGEST).mul_(_STEPS_PER_LOGIT).round_()
        for margin in margins:
            position = margin.div_(margin.abs().add_(SOFTNESS)).add_(1).mul_(self.bins / 2).clamp_(0, self.bins - 0.5)
            step = position.to(kind)
            code = step if code is None else code.mul_(self.bins).add_(step)
        return code, steps

    def _grouped(
        self, code: np.ndarray, margins: np.ndarray, truth: LabelMap, fold: int
    ) -> tuple[np.ndarray, np.ndarray]:
        label, keep = np.full(len(code), fold * self.num_classes), truth.counted
        label[truth.defect.numpy()] += truth.defect_class.numpy()
        codes, cell = np.unique(code[keep], return_inverse=True)
        pairs = np.bincount(cell * self.columns + label[keep], minlength=len(codes) * self.columns)
        totals = [np.bincount(cell, margin[keep], len(codes)).astype(np.int64) for margin in margins]
        return codes.astype(np.int64), np.concatenate([pairs.reshape(-1, self.columns), np.stack(totals, 1)], 1)

    def _add(self, codes: np.ndarray, values: np.ndarray) -> None:
        """Add the values of cells, whose codes may repeat, and coarsen the bins while too many are occupied."""
        codes, values = np.concatenate([self.codes, codes]), np.concatenate([self.values, values])
        self.codes, group = np.unique(codes, return_inverse=True)
        self.values = np.zeros((len(self.codes), values.shape[1]), np.int64)
        np.add.at(self.values, group, values)
        if len(self.codes) > MOST_CELLS and self.bins > 2:
            self._coarsen_to(self.bins // 2)

    def _coarsen_to(self, bins: int) -> None:
        if bins != self.bins:
            codes, values = self._coarser(self.codes, self.bins, bins), self.values
            self.codes, self.values, self.bins = codes[:0], values[:0], bins
            self._add(codes, values)

    def _coarser(self, codes: np.ndarray, bins: int, fewer: int) -> np.ndarray:
        powers = range(self.dimensions)
        steps = np.stack([codes // bins**power % bins for power in reversed(powers)], 1)
        return (steps // (bins // fewer) * np.array([fewer**power for power in reversed(powers)], np.int64)).sum(1)
