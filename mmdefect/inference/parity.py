"""How far an exported model is from the one it was made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from mmdefect.deployment.predictor import BatchPredictor

#: What an exported model must keep.
MAX_DIFFERENCE, MIN_AGREEMENT = 1e-4, 0.9999


@dataclass(frozen=True)
class Parity:
    """Of two predictors on the same images.

    Attributes:
        difference: largest absolute difference of a probability.
        agreement: share of pixels with the same label.
    """

    difference: float
    agreement: float

    @property
    def holds(self) -> bool:
        """Whether both bounds are kept."""
        return self.difference <= MAX_DIFFERENCE and self.agreement >= MIN_AGREEMENT


def compare_predictors(one: BatchPredictor, two: BatchPredictor, batches: list[ndarray]) -> Parity:
    """Run two predictors over batches of images, ``(N, H, W, 3)`` uint8, with the thresholds of the first."""
    difference, same, total = 0.0, 0, 0
    for images in batches:
        labels, probabilities = one.infer(images, one.info.thresholds)
        other_labels, other = two.infer(images, one.info.thresholds)
        difference = max(difference, float(np.abs(probabilities - other).max()))
        same, total = same + int((labels == other_labels).sum()), total + labels.size
    return Parity(difference, same / total)
