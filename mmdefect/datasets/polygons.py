"""Turn polygons and run-length codes into masks.

A pixel belongs to a polygon when its centre does: no pixel is gained or lost on average, which matters where the median
defect has two pixels. (COCO's own tools draw the outline too and so grow every region by about half a pixel.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RULES = ('union', 'evenodd')


def rasterize_polygons(
    polygons: Sequence[Sequence[float]], size_hw: tuple[int, int], rule: str = 'union'
) -> np.ndarray:
    """Fill polygons.

    Args:
        polygons: each ``[x0, y0, x1, y1, ...]`` in pixels; pixel column ``i`` spans ``[i, i + 1]``. A polygon that
            touches or crosses itself is filled by the even-odd rule, so a hole reached by a bridge stays open.
        size_hw: height and width of the image; what lies outside is cut off.
        rule: how several polygons combine: ``'union'``, as COCO defines it, or ``'evenodd'``, where a polygon inside
            another one is a hole.

    Returns:
        ``(H, W)`` bool.

    Raises:
        ValueError: if a polygon has fewer than three points or an odd number of coordinates.
    """
    if rule not in RULES:
        raise ValueError(f'`rule` must be one of {RULES}, got {rule!r}.')
    masks = [_fill(_points(p), size_hw) for p in polygons]
    if not masks:
        return np.zeros(size_hw, bool)
    return np.logical_or.reduce(masks) if rule == 'union' else np.logical_xor.reduce(masks)


def touched_pixels(polygons: Sequence[Sequence[float]], size_hw: tuple[int, int]) -> np.ndarray:
    """Mark the pixels that hold a corner of a polygon: what is left of one too thin to cover a pixel centre.

    Args:
        polygons: as for :func:`rasterize_polygons`.
        size_hw: height and width of the image.

    Returns:
        ``(H, W)`` bool.
    """
    mask = np.zeros(size_hw, bool)
    for polygon in polygons:
        columns, rows = np.floor(_points(polygon)).astype(int).T
        inside = (columns >= 0) & (columns < size_hw[1]) & (rows >= 0) & (rows < size_hw[0])
        mask[rows[inside], columns[inside]] = True
    return mask


def decode_rle(counts: Sequence[int] | str, size_hw: tuple[int, int]) -> np.ndarray:
    """Decode a run-length code as COCO files hold it.

    Args:
        counts: lengths of the runs of 0 and 1 in turn, beginning with 0, in column-major order; or their compressed
            text.
        size_hw: height and width.

    Returns:
        ``(H, W)`` bool.

    Raises:
        ValueError: if the runs do not fill the image exactly.
    """
    runs = _decompress(counts) if isinstance(counts, str) else [int(c) for c in counts]
    if min(runs, default=0) < 0 or sum(runs) != size_hw[0] * size_hw[1]:
        raise ValueError(f'the runs must fill {size_hw[1]}x{size_hw[0]} pixels, but they add up to {sum(runs)}')
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(size_hw, order='F')


def _points(polygon: Sequence[float]) -> np.ndarray:
    values = np.asarray(polygon, np.float64)
    if values.ndim != 1 or len(values) < 6 or len(values) % 2 or not np.isfinite(values).all():
        raise ValueError(f'a polygon must be a flat list of three or more x, y pairs, got {str(polygon)[:60]}')
    return values.reshape(-1, 2)


def _fill(points: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Fill one polygon by the even-odd rule: a pixel is inside when an odd number of edges lies left of its centre."""
    height, width = size_hw
    crossings = np.zeros((height, width + 1), np.int64)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y0 > y1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        # Rows whose centre y + .5 lies in [y0, y1): half-open, so a corner counts for one of its two edges.
        first, last = max(int(np.ceil(y0 - 0.5)), 0), min(int(np.ceil(y1 - 0.5)), height)
        if first >= last:
            continue
        rows = np.arange(first, last)
        x = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
        columns = np.clip(np.ceil(x - 0.5), 0, width).astype(int)  # the first column whose centre is right of the edge
        np.add.at(crossings, (rows, columns), 1)
    return np.cumsum(crossings[:, :width], axis=1) % 2 == 1


def _decompress(text: str) -> list[int]:
    """Read the compressed text: five bits a character, lowest first, from the third run on as differences."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f'the run-length text must hold characters from "0" to "o", but it holds {character!r}')
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs
