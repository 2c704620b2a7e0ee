"""Location codes: the place of every pixel in the frame of its file, carried along by any transform of label maps.

An image is resized, cropped and flipped before anything is pasted, while the outline of the object and the places
where defects were seen belong to the frame of the file. So the place of every pixel is written down once, before that::

    0                    outside of the object: no defect goes here
    255                  padding, the value that label maps are padded with: no defect goes here
    256 + 2048 row + column   on the object; row and column in 1/2048 of the frame of the file

The codes are float32: these numbers are exact in it, and every resize, flip, rotation and padding of OpenCV takes it;
they must be resized with nearest neighbours, as label maps are. One map carries the allowed region, the density of
defects (a table over the cells of a coarse grid) and the way the image was scaled and flipped.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy import ndarray

from mmdefect.synthesis.donors import GRID

#: First code of a pixel on the object.
FIRST_CODE = 256
#: Rows and columns of the frame in location codes.
SIDE = 2048
_CELL_SHIFT = (SIDE // GRID).bit_length() - 1
_ROW_SHIFT = (SIDE * SIDE // GRID).bit_length() - 1


def location_codes(size_hw: tuple[int, int], allowed: ndarray | None = None) -> ndarray:
    """Return the location codes of a frame.

    Args:
        size_hw: height and width of the frame.
        allowed: ``(H, W)``, non-zero where a defect may be; everywhere when absent.

    Returns:
        ``(H, W)`` float32.

    Raises:
        ValueError: if ``allowed`` is of another size.
    """
    codes = _whole_frame(*size_hw)
    if allowed is None:
        return codes.copy()
    if allowed.shape != codes.shape:
        raise ValueError(
            f'`allowed` must have the size of the frame, {codes.shape}, got {allowed.shape}; resize it '
            'with nearest neighbours.'
        )
    return codes * (allowed > 0)


@lru_cache(maxsize=8)
def _whole_frame(height: int, width: int) -> ndarray:
    rows, columns = ((2 * np.arange(n) + 1) * SIDE // (2 * n) for n in (height, width))  # of the pixels' middles
    return (FIRST_CODE + rows[:, None] * SIDE + columns).astype(np.float32)


def decode(codes: ndarray) -> tuple[ndarray, ndarray, ndarray]:
    """Return which codes are on the object, and their rows and columns in 1/2048 of the frame (int32)."""
    value = codes.astype(np.int32) - FIRST_CODE
    return value >= 0, value // SIDE, value % SIDE


def code_weights(codes: ndarray, density: ndarray | None) -> ndarray:
    """Return how likely a defect is at each code, up to a factor; 0 off the object.

    Args:
        codes: location codes of any shape.
        density: ``(GRID, GRID)``, not negative; the same everywhere when absent.
    """
    if density is None:
        return (codes >= FIRST_CODE).astype(np.float32)
    value = codes.astype(np.int32) - FIRST_CODE
    # Codes and cells are powers of two: the cell of a code is what two shifts leave of it.
    cells = (value >> _ROW_SHIFT) * GRID + ((value & (SIDE - 1)) >> _CELL_SHIFT)
    return np.where(value >= 0, density.ravel().take(cells, mode='clip'), np.float32(0))


def frame_affine(codes: ndarray, stride: int = 1) -> ndarray | None:
    """Return how the frame of the file was moved into this image: the least-squares fit to the codes.

    Args:
        codes: ``(H, W)`` float32 location codes.
        stride: every ``stride``-th row and column is used.

    Returns:
        ``(2, 3)`` float64: row and column in the image from (row, column, 1) in 1/2048 of the frame; ``None`` when
        too little of the object is visible to tell.
    """
    on_object, rows, columns = decode(codes[::stride, ::stride])
    here = np.nonzero(on_object)
    if len(here[0]) < 16:
        return None
    source = np.stack([rows[on_object], columns[on_object]]).astype(np.float64)
    target = np.stack(here).astype(np.float64) * stride
    source_mean, target_mean = source.mean(1), target.mean(1)
    source -= source_mean[:, None]
    (yy, yx), (_, xx) = source @ source.T
    determinant = yy * xx - yx * yx
    if determinant <= 1e-9 * yy * xx:  # all on one line
        return None
    linear = target @ source.T @ np.array([[xx, -yx], [-yx, yy]]) / determinant
    return np.concatenate([linear, (target_mean - linear @ source_mean)[:, None]], 1)


def empirical_density(counts: ndarray, smoothing: float = 1.0, floor: float = 0.02) -> ndarray:
    """Turn the places where defects were found into a density per class.

    The square root of the counts is smoothed: a single large defect of a thousand pixels is not a thousand reports.

    Args:
        counts: ``(K + 1, GRID, GRID)`` pixels of each class by place; row 0 is not used.
        smoothing: standard deviation of the Gaussian, in cells of ``1 / GRID`` of the frame.
        floor: share of the even density that is mixed in, so that no place is impossible.

    Returns:
        ``(K + 1, GRID, GRID)`` float32, every class with mean 1; a class that was never seen takes that of the others
        together, and without any defect the density is even.
    """
    if not 0 <= floor <= 1:
        raise ValueError(f'`floor` must be in [0, 1], got {floor}; it is the share of the even density.')
    density = np.ones(counts.shape, np.float32)
    for class_id in range(1, len(counts)):
        seen = np.sqrt(counts[class_id] if counts[class_id].any() else counts[1:].sum(0))
        if seen.any():
            if smoothing > 0:
                seen = cv2.GaussianBlur(seen, (0, 0), smoothing, borderType=cv2.BORDER_REFLECT_101)
            density[class_id] = (1 - floor) * seen / seen.mean() + floor
    return density


def map_density(location_map: ndarray) -> ndarray:
    """Shrink a map of the frame (learned, or drawn by hand) to a density on the grid.

    Args:
        location_map: ``(H, W)`` numbers, not negative, in the frame of the file: larger where defects belong.

    Returns:
        ``(GRID, GRID)`` float32 with mean 1.

    Raises:
        ValueError: if the map is not two-dimensional, has negative or undefined values, or is zero everywhere.
    """
    array = np.asarray(location_map, np.float32)
    if array.ndim != 2 or not np.isfinite(array).all() or array.min() < 0 or not array.any():
        raise ValueError(
            '`location_map` must be (H, W) with finite values >= 0, not all zero, got shape '
            f'{array.shape}; pass probabilities in the frame of the image.'
        )
    shrunk = cv2.resize(array, (GRID, GRID), interpolation=cv2.INTER_AREA)
    return shrunk / shrunk.mean()
