"""Images of any size for one model: small ones in batches, large ones in tiles."""

from __future__ import annotations

from collections.abc import Sequence

from numpy import ndarray

from mmdefect.deployment.predictor import BatchPredictor
from mmdefect.deployment.tiling import TiledPredictor, TilePlan
from mmdefect.deployment.types import ModelInfo, Prediction

#: Of the sides of a tile that neighbours share, unless told otherwise; as in tools/predict.py.
OVERLAP_SHARE = 1 / 8


class SizedPredictor:
    """A predictor that cuts what does not fit, so that the memory of the network is bounded.

    An image fits if it has no more pixels than a tile, or, for a file exported for one size, exactly that size; and so
    many go through together as have no more pixels than a tile. A model that resizes by itself takes everything.

    Args:
        predictor: the model.
        tile_hw: rows and columns of a tile; ``None`` lets the network see whole images. A file exported for one size
            always has tiles of that size.
        max_regions: of an image; more are an error, since a noisy image could have millions.
    """

    def __init__(
        self, predictor: BatchPredictor, tile_hw: tuple[int, int] | None, max_regions: int | None = None
    ) -> None:
        self.predictor = predictor
        predictor.max_regions = max_regions
        self._fixed_hw = getattr(predictor, 'image_size_hw', None)
        self._tile_hw = self._fixed_hw or (None if predictor.info.input_size_hw is not None else tile_hw)
        self._tiled = None
        if self._tile_hw is not None:
            overlap = int(min(self._tile_hw) * OVERLAP_SHARE)
            self._tiled = TiledPredictor(predictor, TilePlan(tile_hw=self._tile_hw, overlap_px=overlap))

    @property
    def info(self) -> ModelInfo:
        """Of the model."""
        return self.predictor.info

    def predict_batch(
        self,
        images: list[ndarray],
        thresholds: Sequence[float] | None = None,
        min_area_px: int = 0,
        mm_per_pixel: float | None = None,
        return_probabilities: bool = False,
    ) -> list[Prediction]:
        """Predict images of any sizes; see :class:`mmdefect.deployment.types.Predictor`."""
        options = (thresholds, min_area_px, mm_per_pixel, return_probabilities)
        whole = [k for k, image in enumerate(images) if self._fits(image)]
        predictions: list[Prediction | None] = [None] * len(images)
        for group in self._groups(images, whole):
            together = self.predictor.predict_batch([images[k] for k in group], *options)
            for k, prediction in zip(group, together, strict=True):
                predictions[k] = prediction
        for k, image in enumerate(images):
            if predictions[k] is None:
                (predictions[k],) = self._tiled.predict_batch([image], *options)
        return predictions

    def _groups(self, images: list[ndarray], whole: list[int]) -> list[list[int]]:
        """Cut a batch where its images together have more pixels than a tile."""
        if self._tile_hw is None or self._fixed_hw is not None:
            return [whole] if whole else []
        most, groups, held = self._tile_hw[0] * self._tile_hw[1], [], 0
        for k in whole:
            pixels = images[k].shape[0] * images[k].shape[1]
            if not groups or held + pixels > most:
                groups.append([])
                held = 0
            groups[-1].append(k)
            held += pixels
        return groups

    def _fits(self, image: ndarray) -> bool:
        if self._fixed_hw is not None:
            return image.shape[:2] == self._fixed_hw
        return self._tile_hw is None or image.shape[0] * image.shape[1] <= self._tile_hw[0] * self._tile_hw[1]

    def close(self) -> None:
        """Close the model."""
        self.predictor.close()
