"""Pixel counts of a segmentation and what follows from them: IoU, accuracy, and their means.

The definitions are those of mmseg's ``IoUMetric``, so that its published tables can be recomputed: IoU is
intersection over union summed over the data set, Acc is recall per class, a class that occurs neither in the labels
nor in the predictions is NaN and is left out of the means. The means over defect classes alone (``fg_*``) leave
class 0 out: with 99.8 % background the mean with background says little. Precision is the share of the predicted
pixels that are right, F1 the harmonic mean of precision and recall.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmdefect.functional.metrics.counter import UNIT, Counter
from mmdefect.functional.metrics.label_map import LabelMap

MEASURES = ('IoU', 'Acc', 'Precision', 'F1')


def confusion_matrix(prediction: Tensor, label: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """Count label/prediction pairs.

    Args:
        prediction: any shape, integer class ids in ``0 .. num_classes - 1``.
        label: same shape, integer class ids, or ``ignore_index``.
        num_classes: classes including the background.
        ignore_index: label value that is left out.

    Returns:
        ``(num_classes, num_classes)`` int64 on the device of ``prediction``; row = label, column = prediction.

    Raises:
        ValueError: if the shapes differ or a value lies outside the classes.

    Example:
        >>> confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 255]), 2)
        tensor([[1, 1],
                [0, 0]])
    """
    if prediction.shape != label.shape:
        raise ValueError(
            f'`prediction` and `label` must have one shape, got {tuple(prediction.shape)} and '
            f'{tuple(label.shape)}; predict at the resolution of the label.'
        )
    label = label.to(prediction.device)
    keep = label != ignore_index
    prediction, label = prediction[keep].long(), label[keep].long()
    for name, values in (('prediction', prediction), ('label', label)):
        if values.numel() and (int(values.min()) < 0 or int(values.max()) >= num_classes):
            raise ValueError(
                f'`{name}` must lie in 0..{num_classes - 1}, got {int(values.min())}..{int(values.max())}; '
                'check the class list of the data set.'
            )
    return torch.bincount(label * num_classes + prediction, minlength=num_classes**2).view(num_classes, num_classes)


def iou_and_accuracy(confusion: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return IoU and accuracy (recall) per class from a confusion matrix.

    Args:
        confusion: ``(K, K)``, row = label, column = prediction.

    Returns:
        Two ``(K,)`` float64 arrays in [0, 1]; NaN where the denominator is zero.
    """
    counts = confusion.double().cpu().numpy()
    hit, labelled, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    with np.errstate(invalid='ignore', divide='ignore'):
        return hit / (labelled + predicted - hit), hit / labelled


def summarize(confusion: Tensor, background: int | None = 0) -> dict[str, float]:
    """Return the means that mmseg prints and those over the defect classes alone, in percent.

    Args:
        confusion: ``(K, K)``, row = label, column = prediction.
        background: class left out of ``fg_mIoU`` and ``fg_mAcc``; ``None`` leaves none out.

    Returns:
        ``aAcc``, ``mIoU``, ``mAcc``, ``fg_mIoU``, ``fg_mAcc``; NaN where nothing was counted.
    """
    iou, accuracy = iou_and_accuracy(confusion)
    foreground = np.arange(len(iou)) != (-1 if background is None else background)
    total = int(confusion.sum())
    return {
        'aAcc': 100 * int(confusion.diagonal().sum()) / total if total else float('nan'),
        'mIoU': 100 * nan_mean(iou),
        'mAcc': 100 * nan_mean(accuracy),
        'fg_mIoU': 100 * nan_mean(iou[foreground]),
        'fg_mAcc': 100 * nan_mean(accuracy[foreground]),
    }


def nan_mean(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN (without a warning) when there is none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float('nan')


def measures(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Return IoU, Acc (recall), Precision and F1 per class.

    Args:
        confusion: ``(K, K)`` counts, row = label, column = prediction.

    Returns:
        ``(K,)`` float64 arrays in [0, 1] by name; NaN where the denominator is zero. F1 is NaN where the class neither
        occurs nor is predicted, as IoU.
    """
    counts = np.asarray(confusion, np.float64)
    hit, labelled, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    with np.errstate(invalid='ignore', divide='ignore'):
        return dict(
            IoU=hit / (labelled + predicted - hit),
            Acc=hit / labelled,
            Precision=hit / predicted,
            F1=2 * hit / (labelled + predicted),
        )


def any_defect(confusion: np.ndarray) -> np.ndarray:
    """Join all defect classes: ``(2, 2)`` counts of normal and defect from ``(K, K)``."""
    counts = np.asarray(confusion)
    return np.array([[counts[0, 0], counts[0, 1:].sum()], [counts[1:, 0].sum(), counts[1:, 1:].sum()]])


class PixelCounter(Counter):
    """The confusion matrix, and the sums over images of every measure per image.

    Args:
        num_classes: classes including the background.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        # row 0 of the image sums is any defect, row k is class k
        shape = (len(MEASURES), num_classes)
        super().__init__(confusion=(num_classes, num_classes), image_sum=shape, image_count=shape)

    def update(self, prediction: LabelMap, truth: LabelMap) -> np.ndarray:
        """Count one image, given its prediction and its label; return its ``(K, K)`` int64 confusion matrix."""
        counts = image_confusion(prediction, truth)
        self.sums['confusion'] += torch.from_numpy(counts)
        if truth.defect.numel() or prediction.defect.numel():
            self._add_image(counts)
        return counts

    def _add_image(self, counts: np.ndarray) -> None:
        # Plain numbers: on a matrix of 2 x 2 or 3 x 3 they are six times as fast as arrays.
        table = counts.tolist()
        rows, columns = [sum(row) for row in table], [sum(column) for column in zip(*table, strict=True)]
        defect = sum(rows[1:]) - sum(row[0] for row in table[1:])
        cases = [
            (defect, sum(rows[1:]), sum(columns[1:])),
            *zip((table[k][k] for k in range(1, len(table))), rows[1:], columns[1:], strict=True),
        ]
        totals, images = self.sums['image_sum'].numpy(), self.sums['image_count'].numpy()  # views
        for row, (hit, labelled, predicted) in enumerate(cases):
            both = labelled + predicted
            parts = ((hit, both - hit), (hit, labelled), (hit, predicted), (2 * hit, both))
            for measure, (part, whole) in enumerate(parts):
                if whole:
                    totals[measure, row] += round(part / whole * UNIT)
                    images[measure, row] += 1

    def image_means(self) -> dict[str, np.ndarray]:
        """Return each measure as its mean over the images that have it, ``(K,)`` with any defect first."""
        total, count = (self.sums[name].cpu().numpy().astype(np.float64) for name in ('image_sum', 'image_count'))
        with np.errstate(invalid='ignore', divide='ignore'):
            return dict(zip(MEASURES, total / UNIT / count, strict=True))


def image_confusion(prediction: LabelMap, truth: LabelMap) -> np.ndarray:
    """Return the ``(K, K)`` int64 confusion matrix of one image; row = label, column = prediction."""
    classes = truth.num_classes
    pairs = truth.defect_class * classes + prediction.values[truth.defect]
    counts = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
    predicted = torch.bincount(prediction.defect_class, minlength=classes)
    predicted[0] = truth.valid - prediction.defect.numel()
    counts[0] = predicted - counts.sum(0)
    return counts.numpy()
