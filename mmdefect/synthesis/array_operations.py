"""The operations on one defect in numpy and OpenCV: what ``augment`` and ``warp`` do, without a gradient, in less time.

A hundred small tensor operations cost more than the pixels of a small defect. Colours differ from the tensor route by
rounding alone where OpenCV samples in full precision (from version 5), and by at most 1/32 of a pixel before.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy import ndarray

from mmdefect.synthesis.augment import Operations, VANISHED_SHARE
from mmdefect.synthesis.color import color_matrix
from mmdefect.synthesis.elastic import CONTROLS
from mmdefect.synthesis.warp import whole_half


def operate(image: ndarray, core: ndarray, on_object: ndarray | None, operations: Operations
            ) -> tuple[ndarray, ndarray, ndarray | None]:
    """Apply drawn operations to one defect.

    Args:
        image: ``(h, w, 3)`` uint8, RGB.
        core: ``(h, w)`` float32 of 0 and 1, the defect.
        on_object: ``(h, w)`` float32, where the patch shows the object; ``None``: everywhere.
        operations: of one sample.

    Returns:
        Colours ``(h', w', 3)`` float32, not yet limited to [0, 1]; the soft mask ``(h', w')`` float32 in [0, 1]; and
        ``on_object``, warped, or ``None``.
    """
    values, flips = operations.values[0].tolist(), operations.flips[0].tolist()
    height, width = core.shape
    both = np.empty((height + 2, width + 2, 4), np.float32)
    matrix = color_matrix(values[5:], _masked_mean(image, core), 1 / 255)
    colours = cv2.transform(np.ascontiguousarray(image, dtype=np.float32), matrix)
    both[..., :3] = cv2.copyMakeBorder(colours, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    both[..., 3] = 0
    both[1:-1, 1:-1, 3] = core
    fraction = float(operations.elastic[0])
    across, down, points = _sampling_maps(values[:5], flips, (height, width), fraction,
                                          operations.control[0].numpy() if fraction else None)
    warped = _sample(both, across, down, points)
    shown = None
    if on_object is not None:
        shown = _sample(cv2.copyMakeBorder(on_object, 1, 1, 1, 1, cv2.BORDER_REPLICATE), across, down, points)
    return warped[..., :3], _keep_peak(np.clip(warped[..., 3], 0, 1), float(core.max())), shown


def _masked_mean(image: ndarray, core: ndarray) -> ndarray:
    """``(3,)`` mean colour of the defect in [0, 1]."""
    mask = core.view()
    total = max(float(mask.sum()), 1e-6)
    return np.einsum('ijc,ij->c', image, mask, dtype=np.float32, casting='unsafe') / (255 * total)


def _inverse(values: list[float], flips: list[float]) -> tuple[float, float, float, float]:
    """Return the matrix of :func:`~mmdefect.synthesis.warp.inverse_matrix` row by row, in plain numbers: faster."""
    turn, (shear_x, shear_y) = math.radians(values[0]), (math.tan(math.radians(v)) for v in values[1:3])
    cosine, sine, inner = math.cos(turn), math.sin(turn), 1 + shear_x * shear_y
    x, y = flips[0] / values[3], flips[1] / values[4]
    return ((cosine - shear_x * sine) * x, (-sine - shear_x * cosine) * x,
            (inner * sine - shear_y * cosine) * y, (inner * cosine + shear_y * sine) * y)


def _sampling_maps(values: list[float], flips: list[float], size_hw: tuple[int, int], fraction: float,
                   control: ndarray | None) -> tuple[ndarray, ndarray, int]:
    """Return where each point of the canvas is read, x and y, and the points a side that a pixel averages."""
    (height, width), (a, b, c, d) = size_hw, _inverse(values, flips)
    scale = (1 / (1 - 2 * fraction / (CONTROLS - 3))) / (2 * abs(a * d - b * c))
    half_y = whole_half((abs(c) * width + abs(a) * height) * scale, height)
    half_x = whole_half((abs(d) * width + abs(b) * height) * scale, width)
    points = max(1, round(max(math.hypot(a, c), math.hypot(b, d)) - 0.01))
    rows, columns = (_line(round(2 * half), points) for half in (half_y, half_x))
    one_y, one_x = np.ones_like(rows), np.ones_like(columns)
    # Both maps are sums of products of a column and a row: one small product of matrices writes each.
    left_x, left_y = [rows * b + (width + 1) / 2, one_y], [rows * d + (height + 1) / 2, one_y]
    right_x, right_y = [one_x, columns * a], [one_x, columns * c]
    if control is not None:
        vertical, horizontal = _basis(rows / (2 * half_y) + 0.5), _basis(columns / (2 * half_x) + 0.5)
        step = fraction * min(half_y, half_x) * 2 / (CONTROLS - 3)
        left_x += list((vertical @ ((a * control[0] + b * control[1]) * step)).T)
        left_y += list((vertical @ ((c * control[0] + d * control[1]) * step)).T)
        right_x, right_y = right_x + list(horizontal.T), right_y + list(horizontal.T)
    across = np.array(left_x, np.float32).T @ np.array(right_x, np.float32)
    down = np.array(left_y, np.float32).T @ np.array(right_y, np.float32)
    return across, down, points


def _line(size: int, points: int) -> ndarray:
    """Return the places of the sampling points along one side, from the middle."""
    return (np.arange(size * points) - (size * points - 1) / 2) / points


def _basis(positions: ndarray) -> ndarray:
    """Return ``(N, CONTROLS)``, as :func:`~mmdefect.synthesis.elastic.spline_basis`."""
    place = np.clip(positions, 0, 1)[:, None] * (CONTROLS - 3) + 1
    distance = np.abs(place - np.arange(CONTROLS))
    near = (distance * 0.5 - 1) * distance * distance + 2 / 3
    return np.where(distance < 1, near, np.maximum(2 - distance, 0)**3 / 6)


def _sample(picture: ndarray, across: ndarray, down: ndarray, points: int) -> ndarray:
    sampled = cv2.remap(picture, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    if points > 1:
        size = sampled.shape[1] // points, sampled.shape[0] // points
        sampled = cv2.resize(sampled, size, interpolation=cv2.INTER_AREA)
    return sampled


def _keep_peak(mask: ndarray, peak: float) -> ndarray:
    new_peak = float(mask.max())
    share = new_peak / max(peak, 1e-12)
    if share > 0.999:
        return mask
    return np.clip(mask * (peak / max(new_peak, 1e-12) if share > VANISHED_SHARE else 0), 0, 1)
