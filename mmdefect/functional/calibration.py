"""One offset per defect class, fitted on validation, that moves the decision from plain argmax.

Synthesis and class-balanced losses change how often the network sees each class, so its scores are ordered well but
cut at the wrong place. The calibrated decision is ``argmax_k(logit_k + offset_k)`` with ``offset_0 = 0``; the
offsets maximise a chosen objective over the validation set. A class without a labelled pixel there keeps offset 0.

The fit streams: of every pixel only the bins of its margins ``logit_k - logit_0`` are counted, together with its
label (:class:`MarginCounter`). So a fitted value is that of the binned validation set; applied to the same
pixels, the offsets give the same up to the width of a bin (.06 in log-odds at probability .5 for three classes).
Then coordinate ascent: for one class at a time, all offsets are tried at once by sorting the bins, and the best is
taken, in the middle of its interval; of equally good intervals the one nearest to no offset. It starts from plain
argmax and from lower common offsets, takes the best end and never ends below argmax (in the binned set).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

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
#: Bins per margin by number of defect classes; more classes than listed are counted sparsely.
DENSE_BINS = {1: 4096, 2: 256, 3: 64}
#: Sparse counts begin with so many bins per margin and halve them whenever more cells than this are occupied.
SPARSE_BINS, MOST_CELLS = 64, 2**17
_MOST_BITS = 62


def decide(scores: Tensor, offsets: Tensor) -> Tensor:
    """Return ``argmax(scores + offsets)`` over the classes; of equals the lowest class wins.

    Args:
        scores: ``(K, ...)`` float logits (or logarithms of probabilities), background first.
        offsets: ``(K,)`` float.

    Returns:
        ``(...)`` int16 class ids.
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
    """Offsets and how they came about; :meth:`to_dict` goes into the meta of a checkpoint.

    Attributes:
        offsets: one per class, 0 for the background.
        objective: ``IoU``, ``F1`` or ``recall``.
        recall_floor: least recall of every class that ``recall`` asks for.
        value: objective on the binned validation set with the offsets; ``recall`` subtracts 1000 for every unit of
            recall below the floor.
        argmax_value: the same without offsets.
        unfitted: classes (ids) without a labelled pixel in the validation set; their offset is 0.
    """

    offsets: tuple[float, ...]
    objective: str
    recall_floor: float
    value: float
    argmax_value: float
    unfitted: tuple[int, ...]

    def to_dict(self) -> dict:
        """Return plain lists and numbers."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def read_offsets(record: dict, classes: Sequence[str]) -> dict[str, float]:
    """Return the offsets by class name that ``meta['calibration']`` of a checkpoint holds.

    Args:
        record: ``offsets`` and ``classes``, one each a class.
        classes: names of the model at hand, background first.

    Raises:
        ValueError: if the classes differ.
    """
    if list(record['classes']) != list(classes):
        raise ValueError(
            f'the offsets of a checkpoint must be for the classes {list(classes)}, but they are for '
            f'{list(record["classes"])}; validate again with the data set at hand.'
        )
    return dict(zip(classes[1:], map(float, record['offsets'][1:]), strict=True))


def fit_offsets(
    margins: np.ndarray, counts: np.ndarray, objective: str = 'IoU', recall_floor: float = 0.8, rounds: int = 20
) -> Calibration:
    """Fit one offset per defect class.

    Args:
        margins: ``(M, K - 1)`` logits of the defect classes minus that of the background, one row a group of pixels.
        counts: ``(M, K)`` pixels of each label in the group.
        objective: ``IoU`` or ``F1``: their mean over the defect classes that have labelled pixels. ``recall``: the
            mean IoU among the offsets with which every class has at least ``recall_floor`` recall; where that cannot
            be had, recall comes first.
        recall_floor: only for ``recall``, in (0, 1].
        rounds: at most so many passes over the classes.

    Raises:
        ValueError: for another objective or floor.
    """
    if objective not in OBJECTIVES or not 0 < recall_floor <= 1:
        raise ValueError(
            f'`objective` must be one of {OBJECTIVES} and `recall_floor` in (0, 1], got {objective!r} and '
            f'{recall_floor}.'
        )
    classes = counts.shape[1]
    labelled = counts.sum(0)
    fitted = [k for k in range(1, classes) if labelled[k]]
    values = np.concatenate([np.zeros((len(margins), 1)), margins], 1)
    goal = _Goal(objective, recall_floor, labelled.astype(np.float64), fitted)
    plain = goal(*_totals(values, counts, np.zeros(classes))) if fitted else float('nan')
    best, offsets = plain, np.zeros(classes)
    for start in _STARTS if fitted else ():
        tried = np.zeros(classes)
        tried[fitted] = start
        value, tried = _ascend(values, counts, tried, fitted, goal, rounds)
        if value > best + 1e-12:
            best, offsets = value, tried
    unfitted = tuple(k for k in range(1, classes) if not labelled[k])
    return Calibration(tuple(float(o) for o in offsets), objective, recall_floor, float(best), float(plain), unfitted)


def _ascend(
    values: np.ndarray, counts: np.ndarray, offsets: np.ndarray, fitted: list[int], goal: _Goal, rounds: int
) -> tuple[float, np.ndarray]:
    """Improve one offset at a time until none can be."""
    best = goal(*_totals(values, counts, offsets))
    for _ in range(rounds):
        before = best
        for k in fitted:
            offset, value = _best_offset(values, counts, offsets, k, goal)
            if value > best + 1e-12:
                offsets[k], best = offset, value
        if best <= before + 1e-9:
            break
    return best, offsets


def binned_confusion(margins: np.ndarray, counts: np.ndarray, offsets: tuple[float, ...]) -> np.ndarray:
    """Return the ``(K, K)`` confusion matrix (row = label) that offsets give on the table of a margin counter."""
    values = np.concatenate([np.zeros((len(margins), 1)), margins], 1)
    chosen = (values + np.asarray(offsets)).argmax(1) if len(values) else np.zeros(0, int)
    confusion = np.zeros((counts.shape[1], counts.shape[1]), np.int64)
    np.add.at(confusion.T, chosen, counts)
    return confusion


class _Goal:
    """The objective as a function of hits and predicted pixels per class, for many candidates at once."""

    def __init__(self, objective: str, floor: float, labelled: np.ndarray, fitted: list[int]) -> None:
        self.objective, self.floor, self.labelled, self.fitted = objective, floor, labelled[fitted], fitted

    def __call__(self, hit: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        hit, predicted = hit[..., self.fitted], predicted[..., self.fitted]
        if self.objective == 'F1':
            return (2 * hit / (self.labelled + predicted)).mean(-1)
        value = (hit / (self.labelled + predicted - hit)).mean(-1)
        if self.objective == 'recall':  # an IoU is at most 1: missing recall weighs more than any IoU
            value = value - 1e3 * np.maximum(0, self.floor - hit / self.labelled).sum(-1)
        return value


def _totals(values: np.ndarray, counts: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    confusion = binned_confusion(values[:, 1:], counts, tuple(offsets))
    return np.diag(confusion).astype(np.float64), confusion.sum(0).astype(np.float64)


def _best_offset(
    values: np.ndarray, counts: np.ndarray, offsets: np.ndarray, k: int, goal: _Goal
) -> tuple[float, float]:
    """Try every offset of class ``k`` while the others stay; return the best and its objective."""
    classes = counts.shape[1]
    moved = values + offsets
    moved[:, k] = -np.inf
    rival = moved.argmax(1)
    needed = moved[np.arange(len(values)), rival] - values[:, k]  # offset above which the group goes to class k
    order = np.argsort(needed, kind='stable')
    needed, rival, sorted_counts = needed[order], rival[order], counts[order].astype(np.float64)
    size = sorted_counts.sum(1)
    hit, predicted = np.zeros((len(needed) + 1, classes)), np.zeros((len(needed) + 1, classes))
    for j in range(classes):
        lost = sorted_counts[:, j] * (rival == j) if j != k else -sorted_counts[:, k]
        given = size * (rival == j) if j != k else -size
        start = (lost.sum(), given.sum()) if j != k else (0.0, 0.0)
        hit[:, j] = start[0] - np.concatenate([[0], np.cumsum(lost)])
        predicted[:, j] = start[1] - np.concatenate([[0], np.cumsum(given)])
    # Candidate i takes the first i groups; it exists where the needed offset changes.
    edges = np.concatenate([[-LIMIT], np.clip(needed, -LIMIT, LIMIT), [LIMIT]])
    exists = edges[1:] > edges[:-1] + 1e-9
    low, high = edges[:-1], edges[1:]
    # The middle, or a little beyond the inner edge where nothing bounds the other side.
    middle = np.clip(
        (low + high) / 2,
        np.where(high >= LIMIT, -np.inf, high - _STEP_OUT),
        np.where(low <= -LIMIT, np.inf, low + _STEP_OUT),
    )
    objective = np.where(exists, goal(hit, predicted), -np.inf)
    best = np.flatnonzero(objective >= objective.max() - 1e-12)
    choice = best[np.argmin(np.abs(middle[best]))]
    return float(middle[choice]), float(objective[choice])


class MarginCounter(Counter):
    """Counts pixels by label and by the bins of ``logit_k - logit_0`` of all defect classes ``k`` together.

    Args:
        num_classes: classes including the background, 2 .. 16.
    """

    def __init__(self, num_classes: int) -> None:
        if not 2 <= num_classes <= 16:
            raise ValueError(f'a calibration needs 2 to 16 classes, got {num_classes}; leave it out or merge classes.')
        self.num_classes, self.dimensions = num_classes, num_classes - 1
        self.dense = self.dimensions in DENSE_BINS
        self.bins = (
            DENSE_BINS[self.dimensions] if self.dense else min(SPARSE_BINS, 2 ** (_MOST_BITS // self.dimensions))
        )
        self.codes = np.zeros(0, np.int64)  # sparse: occupied cells, ascending, and their labels
        self.labels = np.zeros((0, num_classes), np.int64)
        super().__init__(**(dict(counts=(num_classes, self.bins**self.dimensions)) if self.dense else {}))

    def update(self, scores: Tensor, truth: LabelMap) -> None:
        """Count one image.

        Args:
            scores: ``(K, H, W)`` finite float logits or logarithms of probabilities.
            truth: its label.
        """
        code = self._codes(scores)
        if self.dense:
            self._update_dense(code, truth)
        else:
            self._update_sparse(code.cpu().numpy(), truth)

    def merge(self, other: MarginCounter) -> None:
        """Add what another counter saw."""
        super().merge(other)
        if not self.dense:
            self._coarsen_to(min(self.bins, other.bins))
            codes = _coarser(other.codes, other.bins, self.bins, self.dimensions)
            self._add(codes, other.labels)

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the occupied cells: margins of their middles ``(M, K - 1)`` and label counts ``(M, K)``."""
        codes, labels = self.codes, self.labels
        if self.dense:
            labels = self.sums['counts'].cpu().numpy().T
            codes = np.flatnonzero(labels.any(1))
            labels = labels[codes]
        squashed = (_steps(codes, self.bins, self.dimensions) + 0.5) * 2 / self.bins - 1
        return SOFTNESS * squashed / (1 - np.abs(squashed)), labels

    def _codes(self, scores: Tensor) -> Tensor:
        flat = scores.reshape(self.num_classes, -1)
        kind = torch.int32 if self.bins**self.dimensions < 2**31 else torch.int64
        code = None
        for k in range(1, self.num_classes):
            margin = flat[k] - flat[0]
            position = margin.div_(margin.abs().add_(SOFTNESS)).add_(1).mul_(self.bins / 2).clamp_(0, self.bins - 0.5)
            step = position.to(kind)
            code = step if code is None else code.mul_(self.bins).add_(step)
        return code

    def _update_dense(self, code: Tensor, truth: LabelMap) -> None:
        counts = self.sums['counts'] = self.sums['counts'].to(code.device)
        everything = torch.bincount(code, minlength=counts.shape[1])
        if truth.ignored.numel():
            everything -= torch.bincount(code[truth.ignored.to(code.device)], minlength=counts.shape[1])
        if truth.defect.numel():
            own, label = code[truth.defect.to(code.device)].long(), truth.defect_class.to(code.device)
            counts.view(-1).index_add_(0, label * counts.shape[1] + own, torch.ones_like(own))
            everything.index_add_(0, own, -torch.ones_like(own))
        counts[0] += everything

    def _update_sparse(self, code: np.ndarray, truth: LabelMap) -> None:
        label = np.zeros(len(code), np.int64)
        label[truth.defect.numpy()] = truth.defect_class.numpy()
        keep = np.ones(len(code), bool)
        keep[truth.ignored.numpy()] = False
        codes, cell = np.unique(code[keep], return_inverse=True)
        pairs = np.bincount(cell * self.num_classes + label[keep], minlength=len(codes) * self.num_classes)
        self._add(codes.astype(np.int64), pairs.reshape(-1, self.num_classes))

    def _add(self, codes: np.ndarray, labels: np.ndarray) -> None:
        self.codes, self.labels = _grouped(np.concatenate([self.codes, codes]), np.concatenate([self.labels, labels]))
        while len(self.codes) > MOST_CELLS and self.bins > 2:
            self._coarsen_to(self.bins // 2)

    def _coarsen_to(self, bins: int) -> None:
        if bins != self.bins:
            self.codes, self.labels = _grouped(_coarser(self.codes, self.bins, bins, self.dimensions), self.labels)
            self.bins = bins


def _steps(codes: np.ndarray, bins: int, dimensions: int) -> np.ndarray:
    return np.stack([codes // bins**power % bins for power in reversed(range(dimensions))], 1)


def _coarser(codes: np.ndarray, bins: int, fewer: int, dimensions: int) -> np.ndarray:
    steps = _steps(codes, bins, dimensions) // (bins // fewer)
    return (steps * np.array([fewer**power for power in reversed(range(dimensions))], np.int64)).sum(1)


def _grouped(codes: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    unique, group = np.unique(codes, return_inverse=True)
    summed = np.zeros((len(unique), labels.shape[1]), np.int64)
    np.add.at(summed, group, labels)
    return unique, summed
