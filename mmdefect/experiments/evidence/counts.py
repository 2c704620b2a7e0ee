"""Counts of each image and class, from predicted and true label maps; and the metrics of any set of images.

Counts are what a paired bootstrap resamples: a metric of the data set is computed anew from the sum of the drawn
images' counts. Definitions are those of mmseg's ``IoUMetric``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy import ndarray

IGNORE = 255
#: Order of the last axis of ``Counts.values``.
INTERSECTION, PREDICTED, LABELLED = range(3)


@dataclass(frozen=True)
class Counts:
    """Pixels of each image and class.

    Attributes:
        names: identity of each image; runs are paired by it.
        classes: name of each class, the background first.
        values: ``(N, K, 3)`` int64: intersection, predicted, labelled.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    values: ndarray

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.names), len(self.classes), 3):
            raise ValueError(
                f'`values` must be {(len(self.names), len(self.classes), 3)} for the names and classes, got '
                f'{self.values.shape}.'
            )

    def to_json(self) -> dict[str, Any]:
        """Return plain data; the union is predicted + labelled - intersection."""
        return {
            'classes': list(self.classes),
            'columns': ['intersection', 'predicted', 'labelled'],
            'images': {name: row.reshape(-1).tolist() for name, row in zip(self.names, self.values, strict=True)},
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> Counts:
        """Invert :meth:`to_json`."""
        classes = tuple(value['classes'])
        rows = np.array(list(value['images'].values()), np.int64).reshape(-1, len(classes), 3)
        return Counts(tuple(value['images']), classes, rows)


def count_image(prediction: ndarray, label: ndarray, num_classes: int) -> ndarray:
    """Count one image.

    Args:
        prediction: ``(H, W)`` integers in ``0 .. num_classes - 1``.
        label: ``(H, W)`` integers in the same range, or 255 for pixels that do not count.
        num_classes: classes including the background.

    Returns:
        ``(num_classes, 3)`` int64: intersection, predicted, labelled.

    Raises:
        ValueError: if the shapes differ or a value lies outside the classes.

    Example:
        >>> count_image(np.array([[0, 1, 1]]), np.array([[0, 0, 255]]), 2).tolist()
        [[1, 1, 2], [0, 1, 0]]
    """
    matrix = confusion(prediction, label, num_classes)
    return np.stack([np.diag(matrix), matrix.sum(0), matrix.sum(1)], axis=1)


def confusion(prediction: ndarray, label: ndarray, num_classes: int) -> ndarray:
    """Return ``(num_classes, num_classes)`` int64, row = label, column = prediction; see :func:`count_image`."""
    if prediction.shape != label.shape:
        raise ValueError(
            f'prediction and label must have one size, got {prediction.shape} and {label.shape}; predict at '
            'the resolution of the label.'
        )
    keep = label != IGNORE
    predicted, labelled = prediction[keep].astype(np.int64), label[keep].astype(np.int64)
    for kind, values in (('prediction', predicted), ('label', labelled)):
        if values.size and values.max() >= num_classes:
            raise ValueError(
                f'a {kind} must hold values below {num_classes}, got {values.max()}; check the class list.'
            )
    return np.bincount(labelled * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)


def read_labels(path) -> ndarray:
    """Read a label map, ``(H, W)`` uint8 of class ids.

    Raises:
        ValueError: if the file is no single-channel image.
    """
    label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if label is None or label.ndim != 2:
        what = 'cannot be read' if label is None else f'has shape {label.shape}'
        raise ValueError(f'{path} must be a PNG of class ids with one channel, but {what}.')
    return label


def metrics(values: ndarray, classes: Sequence[str]) -> dict[str, ndarray]:
    """Return metrics in percent from summed counts.

    Args:
        values: ``(..., K, 3)`` counts, already summed over images; a leading axis for resamples is kept.
        classes: name of each class, the background first.

    Returns:
        ``aAcc``, ``mIoU``, ``mAcc``, ``fg_mIoU``, ``fg_mAcc``, ``fg_mF1`` and per class ``IoU.c``, ``Acc.c``,
        ``Precision.c``, ``F1.c``; arrays of the leading shape. NaN where nothing was counted, and NaN does not
        count in the means.
    """
    hit, predicted, labelled = (values[..., k].astype(np.float64) for k in (INTERSECTION, PREDICTED, LABELLED))
    with np.errstate(invalid='ignore', divide='ignore'):
        columns = {
            'IoU': 100 * hit / (predicted + labelled - hit),
            'Acc': 100 * hit / labelled,
            'Precision': 100 * hit / predicted,
            'F1': 200 * hit / (predicted + labelled),
        }
        overall = 100 * hit.sum(-1) / labelled.sum(-1)
    out = {
        'aAcc': overall,
        'mIoU': _nan_mean(columns['IoU']),
        'mAcc': _nan_mean(columns['Acc']),
        'fg_mIoU': _nan_mean(columns['IoU'][..., 1:]),
        'fg_mAcc': _nan_mean(columns['Acc'][..., 1:]),
        'fg_mF1': _nan_mean(columns['F1'][..., 1:]),
    }
    for k, name in enumerate(classes):
        out.update({f'{kind}.{name}': column[..., k] for kind, column in columns.items()})
    return out


def _nan_mean(values: ndarray) -> ndarray:
    known = ~np.isnan(values)
    number = known.sum(-1)
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.where(known, values, 0).sum(-1) / number
