"""Measures of pixels: IoU, accuracy, precision and F1, their means, and IoU and F1 that forgive some pixels.

The definitions are those of mmseg's ``IoUMetric``, so that its published tables can be recomputed: IoU is
intersection over union summed over the data set, Acc is recall per class, a class that occurs neither in the labels
nor in the predictions is NaN and is left out of the means. The means over defect classes alone (``fg_*``) leave
class 0 out: with 99.8 % background the mean with background says little. Precision is the share of the predicted
pixels that are right, F1 the harmonic mean of precision and recall.

The tolerant measures count a predicted pixel as right when a labelled pixel of its class lies within ``radius``
(Euclidean, in pixels), a labelled pixel as found when a predicted one does. With ``P`` predicted and ``L`` labelled
pixels, ``tF1`` is the harmonic mean of tolerant precision, ``right / P``, and recall, ``found / L``, and
``tIoU = tF1 / (2 - tF1)``; both are the plain ones at radius 0.
"""

import cv2
import numpy as np
import torch

from mmdefect.functional.metrics.counting import UNIT, Counter, LabelMap

MEASURES = ('IoU', 'Acc', 'Precision', 'F1')


def measures(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Return IoU, Acc (recall), Precision and F1 per class: ``(K,)`` float64 arrays in [0, 1], NaN for 0 / 0.

    ``confusion`` is ``(K, K)`` counts, row = label, column = prediction.
    """
    counts = np.asarray(confusion, np.float64)
    hit, labelled, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    both = labelled + predicted
    with np.errstate(invalid='ignore', divide='ignore'):
        return dict(IoU=hit / (both - hit), Acc=hit / labelled, Precision=hit / predicted, F1=2 * hit / both)


def summarize(confusion: np.ndarray) -> dict[str, float]:
    """Return the means that mmseg prints and those over the defect classes alone, in percent; NaN for nothing."""
    rows, total = measures(confusion), int(confusion.sum())
    means = {'aAcc': 100 * int(confusion.diagonal().sum()) / total if total else float('nan')}
    means |= {f'm{name}': 100 * nan_mean(rows[name]) for name in ('IoU', 'Acc')}
    return means | {f'fg_m{name}': 100 * nan_mean(rows[name][1:]) for name in ('IoU', 'Acc')}


def nan_mean(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN (without a warning) when there is none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float('nan')


def any_defect(confusion: np.ndarray) -> np.ndarray:
    """Join all defect classes: ``(2, 2)`` counts of normal and defect from ``(K, K)``."""
    counts = np.asarray(confusion)
    return np.array([[counts[0, 0], counts[0, 1:].sum()], [counts[1:, 0].sum(), counts[1:, 1:].sum()]])


class PixelCounter(Counter):
    """The confusion matrix, and the sums over images of every measure per image."""

    def __init__(self, num_classes: int) -> None:
        shape = (len(MEASURES), num_classes)  # row 0 of the image sums is any defect, row k is class k
        super().__init__(confusion=(num_classes, num_classes), image_sum=shape, image_count=shape)

    def update(self, prediction: LabelMap, truth: LabelMap) -> np.ndarray:
        """Count one image, given its prediction and its label; return its ``(K, K)`` int64 confusion matrix."""
        counts = image_confusion(prediction, truth)
        self.sums['confusion'] += torch.from_numpy(counts)
        if truth.defect.numel() or prediction.defect.numel():
            self._add_image(counts.tolist())
        return counts

    def _add_image(self, table: list[list[int]]) -> None:
        # Plain numbers: on a matrix of 2 x 2 or 3 x 3 they are six times as fast as arrays.
        rows, columns = [sum(row) for row in table], [sum(column) for column in zip(*table, strict=True)]
        defect = sum(rows[1:]) - sum(row[0] for row in table[1:])
        cases = [(defect, sum(rows[1:]), sum(columns[1:]))]
        cases += [(table[k][k], rows[k], columns[k]) for k in range(1, len(table))]
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


class TolerantCounter(Counter):
    """Right, found, predicted and labelled pixels per class, within ``radius`` pixels; row 0 is any defect."""

    def __init__(self, num_classes: int, radius: float = 2.0) -> None:
        if radius < 0:
            raise ValueError(f'`radius` must be 0 or more pixels, got {radius}.')
        self.radius = radius
        super().__init__(**dict.fromkeys(('right', 'found', 'predicted', 'labelled'), (num_classes,)))

    def update(self, prediction: LabelMap, truth: LabelMap) -> None:
        """Count one image, given its prediction and its label."""
        present = sorted({*prediction.present, *truth.present})
        for class_id in [None, *present] if present else []:
            if class_id is None or len(present) > 1:  # else the only class and any defect are the same
                own, labelled = prediction.pixels_of(class_id), truth.pixels_of(class_id)
                right = found = 0
                if own.numel() and labelled.numel():
                    right, found = _within(own.numpy(), labelled.numpy(), truth.size_hw, self.radius)
            counted = dict(predicted=own.numel(), labelled=labelled.numel(), right=right, found=found)
            for name, value in counted.items():
                self.sums[name][class_id or 0] += value

    def compute(self) -> tuple[np.ndarray, np.ndarray]:
        """Return tolerant IoU and F1 in [0, 1], ``(num_classes,)`` each with any defect first; NaN for nothing."""
        right, found, predicted, labelled = (
            self.sums[name].double().numpy() for name in ('right', 'found', 'predicted', 'labelled')
        )
        with np.errstate(invalid='ignore', divide='ignore'):
            f1 = 2 * right * found / (right * labelled + found * predicted)
        f1 = np.where(right + found > 0, f1, np.where(predicted + labelled > 0, 0.0, np.nan))
        return f1 / (2 - f1), f1


def _within(first: np.ndarray, second: np.ndarray, size_hw: tuple[int, int], radius: float) -> tuple[int, int]:
    """Count the pixels of each set of flat indices, neither empty, that have one of the other within ``radius``."""
    margin = int(radius)
    both = [np.divmod(pixels, size_hw[1]) for pixels in (first, second)]
    top, left = (min(int(p[axis].min()) for p in both) - margin for axis in (0, 1))
    bottom, right = (max(int(p[axis].max()) for p in both) + margin for axis in (0, 1))
    masks = []
    for rows, columns in both:
        mask = np.zeros((bottom - top + 1, right - left + 1), np.uint8)
        mask[rows - top, columns - left] = 1
        masks.append(mask)
    grown = masks
    if margin:
        reach = np.arange(-margin, margin + 1)
        disc = (reach[:, None] ** 2 + reach[None] ** 2 <= radius**2).astype(np.uint8)
        grown = [cv2.dilate(mask, disc, borderType=cv2.BORDER_CONSTANT, borderValue=0) for mask in masks]
    return int(np.count_nonzero(masks[0] & grown[1])), int(np.count_nonzero(masks[1] & grown[0]))


def image_confusion(prediction: LabelMap, truth: LabelMap) -> np.ndarray:
    """Return the ``(K, K)`` int64 confusion matrix of one image; row = label, column = prediction."""
    classes = truth.num_classes
    pairs = truth.defect_class * classes + prediction.values[truth.defect]
    counts = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
    predicted = torch.bincount(prediction.defect_class, minlength=classes)
    predicted[0] = truth.valid - prediction.defect.numel()
    counts[0] = predicted - counts.sum(0)
    return counts.numpy()
