"""Images larger than the network takes, in tiles, with memory that grows with the width of the image only.

Tiles are placed and weighted one axis at a time, since both are products of rows and columns. They go over the image
row by row. One band of probabilities as high as a tile is held; its finished rows are decided, measured
(``defects.py``) and forgotten. What remains per pixel is a byte of the label map.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy import ndarray

from mmdefect.deployment.decision import decide_labels
from mmdefect.deployment.defects import DefectGatherer
from mmdefect.deployment.predictor import BatchPredictor, check_rgb
from mmdefect.deployment.types import Prediction, PredictOptions, Predictor


@dataclass(frozen=True)
class AxisTiles:
    """The tiles of one axis."""

    starts: tuple[int, ...]  # first pixel of each tile
    size: int  # pixels of a tile
    weights: ndarray  # (tiles, size) float32; those of the tiles over a pixel sum to 1

    @property
    def finished(self) -> tuple[int, ...]:
        """Of each tile, the pixel up to which nothing of a later tile is missing."""
        return (*self.starts[1:], self.starts[-1] + self.size)


def place_tiles(length: int, size: int, overlap: int, margin: int = 0, multiple: int = 1) -> AxisTiles:
    """Place tiles of one size along an axis, evenly, and blend them.

    Across the overlap of two tiles the weight goes over as the square of a sine. The outermost ``margin`` pixels of a
    tile count nothing (except at the border of the image): where they cover the receptive field of the network beyond a
    pixel, every tile says of the pixels that count what the whole image would, and so does the blend. Neighbours share
    at least ``overlap`` pixels. Starts are multiples of ``multiple``, except that of the last tile where the remainder
    of the axis is none.
    """
    if size >= length:
        return AxisTiles((0,), length, np.ones((1, length), np.float32))
    advance = size - overlap
    if not 0 <= overlap < size:
        raise ValueError(f'the overlap must be at least 0 and smaller than the tile, got {overlap} of {size} pixels.')
    if margin < 0 or 2 * margin > overlap:
        raise ValueError(f'the margin must fit into the overlap twice, got {margin} of {overlap} pixels.')
    if advance < multiple:
        raise ValueError(
            f'tiles must advance by at least {multiple} pixels, the stride of the network, but they advance by '
            f'{advance}; take larger tiles or a smaller overlap.'
        )
    step = advance // multiple * multiple
    count = int(np.ceil((length - size) / step))
    starts = [(length - size) * i // count // multiple * multiple for i in range(count)] + [length - size]
    if any(b - a > advance for a, b in pairwise(starts)):  # rounding opened a gap
        starts = [step * i for i in range(count)] + [length - size]
    return AxisTiles(tuple(starts), size, _blend(starts, size, margin))


def _blend(starts: list[int], size: int, margin: int) -> ndarray:
    weights = np.ones((len(starts), size))
    position = np.arange(size) + 0.5
    for i, (start, after) in enumerate(pairwise(starts)):
        overlap = start + size - after
        weights[i] *= _rise(size - position, overlap, margin)
        weights[i + 1] *= _rise(position, overlap, margin)
    total = np.zeros(starts[-1] + size)
    for start, row in zip(starts, weights, strict=True):
        total[start : start + size] += row
    for start, row in zip(starts, weights, strict=True):
        row /= total[start : start + size]
    return weights.astype(np.float32)


def _rise(distance: ndarray, overlap: int, margin: int) -> ndarray:
    """Return 0 up to the margin, 1 from the overlap less the margin on, and a squared sine between."""
    if overlap <= 2 * margin:
        return (distance > overlap / 2).astype(np.float64)
    return np.sin(np.pi / 2 * np.clip((distance - margin) / (overlap - 2 * margin), 0, 1)) ** 2


@dataclass(frozen=True)
class TilePlan:
    """How to cut images; either ``tile_hw`` or ``split``.

    With ``split`` every image is cut into ``split`` x ``split`` parts of equal size, side by side (the last ones take
    in some pixels twice where the image does not divide); an overlap makes them larger.
    """

    tile_hw: tuple[int, int] | None = None  # rows and columns; an image smaller than a tile is one tile
    split: int | None = None
    overlap_px: int = 0  # least pixels that neighbours share
    margin_px: int = 0  # at inner borders of tiles, count nothing; twice this must fit the overlap
    multiple_px: int = 1  # of which starts are multiples: the stride of the network, to equal the whole image
    batch: int = 4  # tiles of one call of the network

    def __post_init__(self) -> None:
        if (self.tile_hw is None) == (self.split is None):
            raise ValueError('a plan must have either `tile_hw` or `split`; give one of them.')
        smallest = min(self.tile_hw) if self.tile_hw is not None else self.split
        if smallest < 1 or self.batch < 1 or self.multiple_px < 1:
            raise ValueError(f'`tile_hw`, `split`, `batch` and `multiple_px` must be at least 1, got {self}.')

    def axes(self, size_hw: tuple[int, int]) -> tuple[AxisTiles, AxisTiles]:
        """Return the tiles of the rows and of the columns of an image."""
        sides = self.tile_hw or tuple(-(-length // self.split) + self.overlap_px for length in size_hw)
        rows, columns = (
            place_tiles(length, side, self.overlap_px, self.margin_px, self.multiple_px)
            for length, side in zip(size_hw, sides, strict=True)
        )
        return rows, columns


class TiledPredictor(Predictor):
    """A predictor that cuts images into tiles for another; ``progress`` gets the finished and all tiles of an image."""

    def __init__(
        self, predictor: BatchPredictor, plan: TilePlan, progress: Callable[[int, int], None] | None = None
    ) -> None:
        if predictor.info.extra.get('whole_images'):
            raise ValueError(
                f'{predictor.info.name or "the model"} must see whole images, because it compares places of the part, '
                'but is asked for tiles; leave the tiles out, or train with a bank of normal features.'
            )
        self.predictor, self.info, self.plan, self.progress = predictor, predictor.info, plan, progress

    def close(self) -> None:
        """Close the model."""
        self.predictor.close()

    def predict(self, images: list[ndarray], options: PredictOptions) -> list[Prediction]:
        """Predict images of any sizes; only probabilities that are asked for are held as a whole."""
        return [self._predict(image, options) for image in images]

    def _predict(self, image: ndarray, options: PredictOptions) -> Prediction:
        check_rgb(image)
        size_hw, classes = image.shape[:2], self.info.classes
        label_map = np.zeros(size_hw, np.uint8)
        everything = np.zeros((len(classes), *size_hw), np.float32) if options.return_probabilities else None
        gatherer = DefectGatherer(classes, size_hw, options.min_area_px, self.predictor.max_regions)
        image_score = 0.0
        for top, probabilities in self.bands(image, options.thresholds):
            rows = slice(top, top + probabilities.shape[1])
            label_map[rows] = decide_labels(probabilities, options.thresholds)
            gatherer.add(top, label_map[rows], probabilities)
            image_score = max(image_score, float(probabilities[1:].max()))
            if everything is not None:
                everything[:, rows] = probabilities
        defects = gatherer.finish(label_map, options.mm_per_pixel)
        return Prediction(label_map, everything, defects, self.info.rejects(defects), image_score)

    def bands(self, image: ndarray, thresholds: Sequence[float]) -> Iterator[tuple[int, ndarray]]:
        """Yield ``(top, (K + 1, h, W) float32)`` from top to bottom; an array is valid until the next is asked for."""
        rows, columns = self.plan.axes(image.shape[:2])
        band = np.zeros((len(self.info.classes), rows.size, image.shape[1]), np.float32)
        total, done = len(rows.starts) * len(columns.starts), 0
        for top, end, row_weights in zip(rows.starts, rows.finished, rows.weights, strict=True):
            for first in range(0, len(columns.starts), self.plan.batch):
                lefts = columns.starts[first : first + self.plan.batch]
                tiles = np.stack([image[top : top + rows.size, left : left + columns.size] for left in lefts])
                for column, probability in enumerate(self._infer(tiles, thresholds), first):
                    left = columns.starts[column]
                    probability *= row_weights[:, None] * columns.weights[column]
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
        fixed = self.predictor.image_size_hw
        if fixed not in (None, (height, width)) and height <= fixed[0] and width <= fixed[1]:
            borders = 0, fixed[0] - height, 0, fixed[1] - width
            tiles = np.stack([cv2.copyMakeBorder(tile, *borders, cv2.BORDER_REFLECT_101) for tile in tiles])
        return self.predictor.infer(tiles, thresholds)[1][:, :, :height, :width]


class SizedPredictor(Predictor):
    """A predictor that cuts what does not fit, so that the memory of the network is bounded; for the server.

    An image fits if it has no more pixels than a tile, or, for a file exported for one size, exactly that size; and so
    many go through together as have no more pixels than a tile. A model that resizes by itself takes everything.

    Args:
        predictor: the model.
        tile_hw: of a tile, unless the file is for one size; ``None`` lets the network see whole images.
        max_regions: of an image; more are an error, since a noisy image could have millions.
    """

    def __init__(
        self, predictor: BatchPredictor, tile_hw: tuple[int, int] | None, max_regions: int | None = None
    ) -> None:
        predictor.max_regions = max_regions
        self.predictor, self.info, self._fixed_hw = predictor, predictor.info, predictor.image_size_hw
        self._tile_hw = self._fixed_hw or (tile_hw if predictor.info.input_size_hw is None else None)
        if self._tile_hw is not None:  # an eighth is shared, as in tools/predict.py
            self._tiled = TiledPredictor(predictor, TilePlan(self._tile_hw, overlap_px=min(self._tile_hw) // 8))

    def close(self) -> None:
        """Close the model."""
        self.predictor.close()

    def predict(self, images: list[ndarray], options: PredictOptions) -> list[Prediction]:
        """Predict images of any sizes; see :meth:`Predictor.predict_batch`."""
        predictions: dict[int, Prediction] = {}
        for group in self._groups(images):
            together = self.predictor.predict([images[k] for k in group], options)
            predictions.update(zip(group, together, strict=True))
        for k, image in enumerate(images):
            if k not in predictions:
                (predictions[k],) = self._tiled.predict([image], options)
        return [predictions[k] for k in range(len(images))]

    def _groups(self, images: list[ndarray]) -> list[list[int]]:
        """Return what goes through the network as a whole, cut where images together have more pixels than a tile."""
        if self._tile_hw is None:
            return [list(range(len(images)))]
        if self._fixed_hw is not None:
            return [[k for k, image in enumerate(images) if image.shape[:2] == self._fixed_hw]]
        most, groups, held = self._tile_hw[0] * self._tile_hw[1], [], 0
        for k, image in enumerate(images):
            pixels = image.shape[0] * image.shape[1]
            if pixels > most:
                continue
            if not groups or held + pixels > most:
                groups.append([])
                held = 0
            groups[-1].append(k)
            held += pixels
        return groups
