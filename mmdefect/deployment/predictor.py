"""What all backends share: batches of equal size in, predictions out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial

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

    def predict_batch(
        self,
        images: list[ndarray],
        thresholds: Sequence[float] | None = None,
        min_area_px: int = 0,
        mm_per_pixel: float | None = None,
        return_probabilities: bool = False,
    ) -> list[Prediction]:
        """Predict images of any sizes; see :class:`mmdefect.deployment.types.Predictor`."""
        return [
            finish() for finish in self.start_batch(images, thresholds, min_area_px, mm_per_pixel, return_probabilities)
        ]

    def start_batch(
        self,
        images: list[ndarray],
        thresholds: Sequence[float] | None = None,
        min_area_px: int = 0,
        mm_per_pixel: float | None = None,
        return_probabilities: bool = False,
    ) -> list[Callable[[], Prediction]]:
        """Run the network, and return what is left to do for each image: measuring its defects, in any thread."""
        chosen = self.info.thresholds if thresholds is None else check_thresholds(thresholds, self.info.classes)
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            check_rgb(image)
            by_size.setdefault(image.shape, []).append(index)
        finishers: list[Callable[[], Prediction] | None] = [None] * len(images)
        for indices in by_size.values():
            stack = images[indices[0]][None] if len(indices) == 1 else np.stack([images[i] for i in indices])
            labels, probabilities = self.infer(stack, chosen)
            for index, label, probability in zip(indices, labels, probabilities, strict=True):
                finishers[index] = partial(
                    self._measure, label, probability, min_area_px, mm_per_pixel, return_probabilities
                )
        return finishers

    def _measure(
        self,
        label: ndarray,
        probability: ndarray,
        min_area_px: int,
        mm_per_pixel: float | None,
        return_probabilities: bool,
    ) -> Prediction:
        defects = find_defects(label, probability, self.info.classes, min_area_px, mm_per_pixel, self.max_regions)
        return Prediction(
            label, probability if return_probabilities else None, defects, bool(defects), float(probability[1:].max())
        )


def check_rgb(image: ndarray) -> None:
    """Raise ``ValueError`` unless the array is ``(H, W, 3)`` uint8 with pixels."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(
            f'an image must be (H, W, 3) uint8 RGB, got {image.shape} of {image.dtype}; read it with '
            'mmdefect.deployment.decoding.'
        )


def check_size(name: str, size_hw: tuple[int, int] | None, images: ndarray) -> None:
    """Raise ``ValueError`` if a file of fixed size gets images of another."""
    if size_hw is not None and images.shape[1:3] != tuple(size_hw):
        raise ValueError(
            f'{name} takes images of {size_hw[1]} x {size_hw[0]} (width x height), got {images.shape[2]} x '
            f'{images.shape[1]}; predict in tiles of that size, or export with a dynamic size.'
        )


def run_in_batches(run: Callable, images: ndarray, thresholds, batch_size: int | None) -> tuple[ndarray, ndarray]:
    """Call ``run(images, thresholds)`` with exactly ``batch_size`` images each, the last ones repeated; ``None`` is any."""
    if batch_size is None:
        return run(images, thresholds)
    parts = []
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        missing = batch_size - len(part)
        filled = part if not missing else np.concatenate([part, np.repeat(part[-1:], missing, 0)])
        parts.append([out[: len(part)] for out in run(filled, thresholds)])
    return parts[0] if len(parts) == 1 else tuple(np.concatenate(p) for p in zip(*parts, strict=True))
