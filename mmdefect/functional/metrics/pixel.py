"""Pixel counts of a segmentation and what follows from them: IoU, accuracy, and their means.

The definitions are those of mmseg's ``IoUMetric``, so that its published tables can be recomputed: IoU is
intersection over union summed over the data set, Acc is recall per class, a class that occurs neither in the labels
nor in the predictions is NaN and is left out of the means. The means over defect classes alone (``fg_*``) leave
class 0 out: with 99.8 % background the mean with background says little.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


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
        raise ValueError(f'`prediction` and `label` must have one shape, got {tuple(prediction.shape)} and '
                         f'{tuple(label.shape)}; predict at the resolution of the label.')
    label = label.to(prediction.device)
    keep = label != ignore_index
    prediction, label = prediction[keep].long(), label[keep].long()
    for name, values in (('prediction', prediction), ('label', label)):
        if values.numel() and (int(values.min()) < 0 or int(values.max()) >= num_classes):
            raise ValueError(f'`{name}` must lie in 0..{num_classes - 1}, got {int(values.min())}..{int(values.max())}; '
                             'check the class list of the data set.')
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
