"""What all backends share: batches of equal size in, predictions out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy import ndarray

from mmdefect.deployment.defects import find_defects
from mmdefect.deployment.types import ModelInfo, Prediction, check_thresholds


class BatchPredictor(ABC):
    """A predictor made of one function: label maps and probabilities of images of one size.

    Attributes:
        max_regions: of the label map of an image; more are an error. For those who take images from strangers.
    """

    info: ModelInfo
    max_regions: int | None = None

    @abstractmethod
    def infer(self, images: ndarray, thresholds: Sequence[float]) -> tuple[ndarray, ndarray]:
        """Run the network.

        Args:
            images: ``(N, H, W, 3)`` uint8 RGB.
            thresholds: one per defect class.

        Returns:
            ``(N, H, W)`` uint8 labels and ``(N, K + 1, H, W)`` float32 probabilities, both the caller's to change.
        """

    def close(self) -> None:  # noqa: B027  (most have nothing to free)
        """Free what the model holds."""

    def __enter__(self) -> BatchPredictor:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def predict_batch(self, images: list[ndarray], thresholds: Sequence[float] | None = None, min_area_px: int = 0,
                      mm_per_pixel: float | None = None, return_probabilities: bool = False) -> list[Prediction]:
        """Predict images of any sizes; see :class:`mmdefect.deployment.types.Predictor`."""
        chosen = self.info.thresholds if thresholds is None else check_thresholds(thresholds, self.info.classes)
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            check_rgb(image)
            by_size.setdefault(image.shape, []).append(index)
        predictions: list[Prediction | None] = [None] * len(images)
        for indices in by_size.values():
            stack = images[indices[0]][None] if len(indices) == 1 else np.stack([images[i] for i in indices])
            labels, probabilities = self.infer(stack, chosen)
            for index, label, probability in zip(indices, labels, probabilities, strict=True):
                defects = find_defects(label, probability, self.info.classes, min_area_px, mm_per_pixel,
                                       self.max_regions)
                predictions[index] = Prediction(label, probability if return_probabilities else None, defects,
                                                bool(defects), float(probability[1:].max()))
        return predictions


def check_rgb(image: ndarray) -> None:
    """Raise ``ValueError`` unless the array is ``(H, W, 3)`` uint8 with pixels."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f'an image must be (H, W, 3) uint8 RGB, got {image.shape} of {image.dtype}; read it with '
                         'mmdefect.deployment.decoding.')
