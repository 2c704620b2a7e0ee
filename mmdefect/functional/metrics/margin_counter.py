"""Streaming joint histogram of the margins of all defect classes over the background, by label."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmdefect.functional.metrics.counter import Counter
from mmdefect.functional.metrics.label_map import LabelMap
from mmdefect.functional.metrics.scores import SOFTNESS

#: Bins per margin by number of defect classes; more classes than listed are counted sparsely.
DENSE_BINS = {1: 4096, 2: 256, 3: 64}
#: Sparse counts begin with so many bins per margin and halve them whenever more cells than this are occupied.
SPARSE_BINS, MOST_CELLS = 64, 2**17
_MOST_BITS = 62


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
