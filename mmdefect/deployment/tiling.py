"""Images larger than the network takes, in tiles, with memory that grows with the width of the image only.

Tiles go over the image row by row. One band of probabilities as high as a tile is held; its finished rows are decided,
measured (``defects.py``) and forgotten. What remains per pixel is a byte of the label map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy import ndarray

from mmdefect.deployment.decision import decide_labels
from mmdefect.deployment.defects import DefectGatherer
from mmdefect.deployment.predictor import BatchPredictor, check_rgb
from mmdefect.deployment.tiles import AxisTiles, place_tiles
from mmdefect.deployment.types import ModelInfo, Prediction, check_thresholds


@dataclass(frozen=True)
class TilePlan:
    """How to cut images; either ``tile_hw`` or ``split``.

    Attributes:
        tile_hw: rows and columns of a tile; an image smaller than a tile is one tile.
        split: cut every image into ``split`` x ``split`` parts of equal size (the last ones take in some pixels twice
            where the image does not divide), side by side, as tools of others do; an overlap makes them larger.
        overlap_px: least pixels that neighbours share.
        margin_px: pixels at inner borders of tiles that count nothing; twice this must fit the overlap.
        multiple_px: tiles start at multiples of this; the stride of the network, where a prediction equal to that of the
            whole image is wanted.
        batch: tiles of one call of the network.
    """

    tile_hw: tuple[int, int] | None = None
    split: int | None = None
    overlap_px: int = 0
    margin_px: int = 0
    multiple_px: int = 1
    batch: int = 4

    def __post_init__(self) -> None:
        if (self.tile_hw is None) == (self.split is None):
            raise ValueError('a plan must have either `tile_hw` or `split`; give one of them.')
        smallest = min(self.tile_hw) if self.tile_hw is not None else self.split
        if smallest < 1 or self.batch < 1 or self.multiple_px < 1:
            raise ValueError(f'`tile_hw`, `split`, `batch` and `multiple_px` must be at least 1, got {self}.')

    def axes(self, size_hw: tuple[int, int]) -> tuple[AxisTiles, AxisTiles]:
        """Return the tiles of the rows and of the columns of an image."""
        sides = self.tile_hw
        if sides is None:
            sides = tuple(min(s, -(-s // self.split) + self.overlap_px) for s in size_hw)
        return tuple(
            place_tiles(
                length,
                side,
                self.overlap_px if side < length else 0,
                self.margin_px if side < length else 0,
                self.multiple_px,
            )
            for length, side in zip(size_hw, sides, strict=True)
        )


class TiledPredictor:
    """A predictor that cuts images into tiles for another.

    Args:
        predictor: predicts the tiles.
        plan: how to cut.
        progress: called with the finished and all tiles of an image.
    """

    def __init__(
        self, predictor: BatchPredictor, plan: TilePlan, progress: Callable[[int, int], None] | None = None
    ) -> None:
        self.predictor, self.plan, self.progress = predictor, plan, progress

    @property
    def info(self) -> ModelInfo:
        """Of the model that predicts the tiles."""
        return self.predictor.info

    def close(self) -> None:
        """Close the model."""
        self.predictor.close()

    def predict_batch(
        self,
        images: list[ndarray],
        thresholds: Sequence[float] | None = None,
        min_area_px: int = 0,
        mm_per_pixel: float | None = None,
        return_probabilities: bool = False,
    ) -> list[Prediction]:
        """Predict images of any sizes; see :class:`mmdefect.deployment.types.Predictor`.

        Probabilities take ``4 (K + 1)`` bytes a pixel when they are asked for; nothing else of that size is held.
        """
        chosen = self.info.thresholds if thresholds is None else check_thresholds(thresholds, self.info.classes)
        return [self._predict(image, chosen, min_area_px, mm_per_pixel, return_probabilities) for image in images]

    def _predict(
        self,
        image: ndarray,
        thresholds: tuple[float, ...],
        min_area_px: int,
        mm_per_pixel: float | None,
        return_probabilities: bool,
    ) -> Prediction:
        check_rgb(image)
        size_hw, classes = image.shape[:2], self.info.classes
        label_map = np.zeros(size_hw, np.uint8)
        everything = np.zeros((len(classes), *size_hw), np.float32) if return_probabilities else None
        most = getattr(self.predictor, 'max_regions', None)
        gatherer, image_score = DefectGatherer(classes, size_hw, min_area_px, most), 0.0
        for top, probabilities in self.bands(image, thresholds):
            rows = slice(top, top + probabilities.shape[1])
            label_map[rows] = decide_labels(probabilities, thresholds)
            gatherer.add(top, label_map[rows], probabilities)
            image_score = max(image_score, float(probabilities[1:].max()))
            if everything is not None:
                everything[:, rows] = probabilities
        defects = gatherer.finish(label_map, mm_per_pixel)
        return Prediction(label_map, everything, defects, bool(defects), image_score)

    def bands(self, image: ndarray, thresholds: Sequence[float]):
        """Yield ``(top, (K + 1, h, W) float32)`` from top to bottom; an array is valid until the next is asked for."""
        rows, columns = self.plan.axes(image.shape[:2])
        band = np.zeros((len(self.info.classes), rows.size, image.shape[1]), np.float32)
        total, done = len(rows.starts) * len(columns.starts), 0
        for index, (top, end) in enumerate(zip(rows.starts, rows.finished, strict=True)):
            for first in range(0, len(columns.starts), self.plan.batch):
                lefts = columns.starts[first : first + self.plan.batch]
                tiles = np.stack([image[top : top + rows.size, left : left + columns.size] for left in lefts])
                for place, probability in enumerate(self._infer(tiles, thresholds), first):
                    left = columns.starts[place]
                    probability *= rows.weights[index][:, None] * columns.weights[place]
                    band[:, :, left : left + columns.size] += probability
                done += len(lefts)
                if self.progress is not None:
                    self.progress(done, total)
            height = end - top
            yield top, band[:, :height]
            band[:, : rows.size - height] = band[:, height:]
            band[:, rows.size - height :] = 0

    def _infer(self, tiles: ndarray, thresholds: Sequence[float]) -> ndarray:
        """Predict tiles; a small image is mirrored up to the size of a model of fixed size, and cut back."""
        height, width = tiles.shape[1:3]
        fixed = getattr(self.predictor, 'image_size_hw', None)
        if fixed is not None and (height, width) != fixed and height <= fixed[0] and width <= fixed[1]:
            tiles = np.stack(
                [
                    cv2.copyMakeBorder(t, 0, fixed[0] - height, 0, fixed[1] - width, cv2.BORDER_REFLECT_101)
                    for t in tiles
                ]
            )
        return self.predictor.infer(tiles, thresholds)[1][:, :, :height, :width]
