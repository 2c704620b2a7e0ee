"""Where tiles lie and how much each counts: one axis at a time, since both are products of rows and columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import ndarray


@dataclass(frozen=True)
class AxisTiles:
    """The tiles of one axis.

    Attributes:
        starts: first pixel of each tile.
        size: pixels of a tile.
        weights: ``(tiles, size)`` float32; those of the tiles over a pixel sum to 1.
    """

    starts: tuple[int, ...]
    size: int
    weights: ndarray

    @property
    def finished(self) -> tuple[int, ...]:
        """Of each tile, the pixel up to which nothing of a later tile is missing."""
        return (*self.starts[1:], self.starts[-1] + self.size)


def place_tiles(length: int, size: int, overlap: int, margin: int = 0, multiple: int = 1) -> AxisTiles:
    """Place tiles of one size along an axis, evenly, and blend them.

    Across the overlap of two tiles the weight goes over as the square of a sine. The outermost ``margin`` pixels of a
    tile count nothing (except at the border of the image): where they cover the receptive field of the network beyond a
    pixel, every tile says of the pixels that count what the whole image would, and so does the blend.

    Args:
        length: pixels of the axis.
        size: pixels of a tile; at most ``length``.
        overlap: least pixels that neighbours share.
        margin: pixels of each inner border that count nothing; twice this must fit the overlap.
        multiple: starts are multiples of this (the stride of the network), except for the last tile of an axis whose
            remainder is not.

    Raises:
        ValueError: if the numbers do not fit.
    """
    size = min(size, length)
    if not 0 <= overlap < size and size < length:
        raise ValueError(f'the overlap must be at least 0 and smaller than the tile, got {overlap} of {size} pixels.')
    if margin < 0 or (2 * margin > overlap and size < length):
        raise ValueError(f'the margin must fit into the overlap twice, got {margin} of {overlap} pixels.')
    if size < length and size - overlap < multiple:
        raise ValueError(
            f'tiles must advance by at least {multiple} pixels, the stride of the network, but they advance by '
            f'{size - overlap}; take larger tiles or a smaller overlap.'
        )
    starts = [0]
    if size < length:
        step = (size - overlap) // multiple * multiple
        count = int(np.ceil((length - size) / step))
        starts = [(length - size) * i // count // multiple * multiple for i in range(count)] + [length - size]
        if any(b - a > size - overlap for a, b in zip(starts, starts[1:], strict=False)):  # rounding opened a gap
            starts = [step * i for i in range(count)] + [length - size]
    return AxisTiles(tuple(starts), size, _blend(starts, size, margin))


def _blend(starts: list[int], size: int, margin: int) -> ndarray:
    weights = np.ones((len(starts), size))
    position = np.arange(size) + 0.5
    for i, start in enumerate(starts):
        if i > 0:
            weights[i] *= _rise(position, starts[i - 1] + size - start, margin)
        if i + 1 < len(starts):
            weights[i] *= _rise(size - position, start + size - starts[i + 1], margin)
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
