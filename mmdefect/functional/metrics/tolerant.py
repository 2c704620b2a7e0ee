"""IoU and F1 that forgive a boundary drawn some pixels off.

A predicted pixel counts as right when a labelled pixel of its class lies within ``radius`` (Euclidean, in pixels), a
labelled pixel as found when a predicted one does. With ``P`` predicted and ``L`` labelled pixels,
``tF1 = (right + found) / (P + L)`` and ``tIoU = tF1 / (2 - tF1)``; both are the plain F1 and IoU at radius 0.
"""

from __future__ import annotations

import cv2
import numpy as np

from mmdefect.functional.metrics.counter import Counter
from mmdefect.functional.metrics.label_map import LabelMap


class TolerantCounter(Counter):
    """Right, found, predicted and labelled pixels per class; row 0 is any defect.

    Args:
        num_classes: classes including the background.
        radius: tolerance in pixels.
    """

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
                    right, found = within(own.numpy(), labelled.numpy(), truth.size_hw, self.radius)
            counted = dict(predicted=own.numel(), labelled=labelled.numel(), right=right, found=found)
            for name, value in counted.items():
                self.sums[name][class_id or 0] += value

    def compute(self) -> tuple[np.ndarray, np.ndarray]:
        """Return tolerant IoU and F1 in [0, 1], ``(num_classes,)`` each with any defect first; NaN for nothing."""
        sums = {name: value.double().numpy() for name, value in self.sums.items()}
        with np.errstate(invalid='ignore', divide='ignore'):
            f1 = (sums['right'] + sums['found']) / (sums['predicted'] + sums['labelled'])
        return f1 / (2 - f1), f1


def within(first: np.ndarray, second: np.ndarray, size_hw: tuple[int, int], radius: float) -> tuple[int, int]:
    """Count the pixels of each set that have one of the other within ``radius``.

    Args:
        first: flat indices, not empty.
        second: flat indices, not empty.
        size_hw: height and width of the map.
        radius: Euclidean distance in pixels.
    """
    margin = int(radius)
    both = [np.divmod(pixels, size_hw[1]) for pixels in (first, second)]
    top, left = (min(int(p[axis].min()) for p in both) - margin for axis in (0, 1))
    bottom, right = (max(int(p[axis].max()) for p in both) + margin for axis in (0, 1))
    masks = []
    for rows, columns in both:
        mask = np.zeros((bottom - top + 1, right - left + 1), np.uint8)
        mask[rows - top, columns - left] = 1
        masks.append(mask)
    disc = _disc(radius)
    grown = (
        masks
        if margin == 0
        else [cv2.dilate(mask, disc, borderType=cv2.BORDER_CONSTANT, borderValue=0) for mask in masks]
    )
    return int(np.count_nonzero(masks[0] & grown[1])), int(np.count_nonzero(masks[1] & grown[0]))


def _disc(radius: float) -> np.ndarray:
    reach = np.arange(-int(radius), int(radius) + 1)
    return (reach[:, None] ** 2 + reach[None] ** 2 <= radius**2).astype(np.uint8)
