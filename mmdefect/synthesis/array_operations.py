"""The operations on one defect in numpy and OpenCV: what ``augment`` and ``warp`` do, without a gradient, in less time.

A hundred small tensor operations cost more than the pixels of a small defect. Here the mask is warped first, and the
colours only where it went; the photometric operations come last, on what is left: they are affine, and so they commute
with the warp. Colours differ from the tensor route by rounding alone where OpenCV samples in full precision (from
version 5), and by at most 1/32 of a pixel before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy import ndarray

from mmdefect.synthesis.augment import VANISHED_SHARE
from mmdefect.synthesis.color import color_matrix
from mmdefect.synthesis.drawn_operations import DrawnOperations
from mmdefect.synthesis.elastic import CONTROLS
from mmdefect.synthesis.warp import whole_half

#: Rows and columns of the canvas: top, bottom, left, right; they may lie outside of it.
Window = tuple[int, int, int, int]


@dataclass(frozen=True)
class Sampling:
    """Where each point of the canvas is read.

    Attributes:
        across, down: ``(H p, W p)`` float32 columns and rows in the patch.
        points: p, the points a side that one pixel of the canvas averages.
    """

    across: ndarray
    down: ndarray
    points: int

    def read(self, photo: ndarray, border: int, window: Window | None = None) -> ndarray:
        """Return what the canvas, or a window of it, shows of an image; beyond the canvas its border goes on.

        Args:
            image: ``(h, w)`` or ``(h, w, C)`` float32.
            border: OpenCV's name for what lies beyond the image.
            window: of the canvas.
        """
        across, down, points, outside = self.across, self.down, self.points, (0, 0, 0, 0)
        if window is not None:
            (height, width), (top, bottom, left, right) = self.size_hw, window
            outside = max(0, -top), max(0, bottom - height), max(0, -left), max(0, right - width)
            rows = slice(max(0, top) * points, min(bottom, height) * points)
            columns = slice(max(0, left) * points, min(right, width) * points)
            across, down = across[rows, columns], down[rows, columns]
        sampled = cv2.remap(photo, across, down, cv2.INTER_LINEAR, borderMode=border)
        if points > 1:
            size = sampled.shape[1] // points, sampled.shape[0] // points
            sampled = cv2.resize(sampled, size, interpolation=cv2.INTER_AREA)
        return cv2.copyMakeBorder(sampled, *outside, cv2.BORDER_REPLICATE) if any(outside) else sampled

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the canvas."""
        return self.across.shape[0] // self.points, self.across.shape[1] // self.points


def warped_mask(core: ndarray, sampling: Sampling) -> ndarray:
    """Return the defect on the canvas, ``(H, W)`` float32 in [0, 1], soft at its outline.

    Args:
        core: ``(h, w)`` float32 of 0 and 1.
        sampling: of its operations.
    """
    # OpenCV fades to a constant over one pixel beyond the image, as a border of zeros does.
    soft, peak = sampling.read(core, cv2.BORDER_CONSTANT), float(core.max())
    new_peak = float(soft.max())
    share = new_peak / max(peak, 1e-12)
    if share > 0.999:
        return soft
    return np.clip(soft * (peak / max(new_peak, 1e-12) if share > VANISHED_SHARE else 0), 0, 1)


def masked_mean(image: ndarray, core: ndarray) -> ndarray:
    """Return the mean colour of the defect, ``(3,)`` float64 in [0, 1].

    Args:
        image: ``(h, w, 3)`` uint8.
        core: ``(h, w)`` float32 of 0 and 1.
    """
    return np.array(cv2.mean(image, core.astype(np.uint8))[:3]) / 255


def coloured(patch: ndarray, operations: DrawnOperations, mean: ndarray) -> ndarray:
    """Apply the photometric operations.

    Args:
        patch: ``(h, w, 3)`` float32 in [0, 255], RGB.
        operations: what was drawn.
        mean: ``(3,)`` mean colour of the defect before it was warped, in [0, 1].

    Returns:
        ``(h, w, 3)`` float32 in [0, 1], RGB.
    """
    colours = cv2.transform(patch, color_matrix(operations.values[5:], mean, 1 / 255))
    np.maximum(colours, 0, out=colours)
    return np.minimum(colours, 1, out=colours)


@dataclass(frozen=True)
class Canvas:
    """The array that a warped patch fits into, and how its points lie in the patch.

    Attributes:
        inverse: matrix from offsets (x, y) from the middle of the canvas to those in the patch, row by row.
        half_y, half_x: half of its height and width.
        points: points a side that a pixel averages; more than one when the defect shrinks.
    """

    inverse: tuple[float, float, float, float]
    half_y: float
    half_x: float
    points: int

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return round(2 * self.half_y), round(2 * self.half_x)

    @property
    def control_step(self) -> float:
        """Pixels of the canvas between two control points of an elastic deformation, along the shorter side."""
        return min(self.half_y, self.half_x) * 2 / (CONTROLS - 3)


def canvas_of(operations: DrawnOperations, size_hw: tuple[int, int]) -> Canvas:
    """Return the canvas of a patch of a size."""
    height, width = size_hw
    a, b, c, d = inverse = _inverse(operations.values, operations.flips)
    scale = (1 / (1 - 2 * operations.elastic / (CONTROLS - 3))) / (2 * abs(a * d - b * c))
    half_y = whole_half((abs(c) * width + abs(a) * height) * scale, height)
    half_x = whole_half((abs(d) * width + abs(b) * height) * scale, width)
    return Canvas(inverse, half_y, half_x, max(1, round(max(math.hypot(a, c), math.hypot(b, d)) - 0.01)))


def sampling_of(operations: DrawnOperations, size_hw: tuple[int, int]) -> Sampling:
    """Return where the points of the canvas are read in a patch of a size."""
    (height, width), control = size_hw, operations.control
    canvas = canvas_of(operations, size_hw)
    (a, b, c, d), points = canvas.inverse, canvas.points
    rows, columns = (_line(side, points) for side in canvas.size_hw)
    # Both maps are sums of products of a column and a row: one small product of matrices writes each.
    terms = 2 if control is None else 2 + CONTROLS
    left = np.empty((2, len(rows), terms), np.float32)
    right = np.empty((2, terms, len(columns)), np.float32)
    left[0, :, 0], left[1, :, 0], left[:, :, 1] = rows * b + (width - 1) / 2, rows * d + (height - 1) / 2, 1
    right[:, 0], right[0, 1], right[1, 1] = 1, columns * a, columns * c
    if control is not None:
        step = operations.elastic * canvas.control_step
        mixed = np.array(((a * step, b * step), (c * step, d * step))) @ control.reshape(2, -1)
        basis = _basis(np.concatenate([rows / (2 * canvas.half_y), columns / (2 * canvas.half_x)]) + 0.5)
        left[:, :, 2:] = basis[: len(rows)] @ mixed.reshape(2, CONTROLS, CONTROLS)
        right[:, 2:] = basis[len(rows) :].T
    across, down = left @ right
    return Sampling(across, down, points)


def _inverse(values: tuple[float, ...], flips: tuple[float, float]) -> tuple[float, float, float, float]:
    """Return the matrix of :func:`~mmdefect.synthesis.warp.inverse_matrix` row by row, in plain numbers: faster."""
    turn, (shear_x, shear_y) = math.radians(values[0]), (math.tan(math.radians(v)) for v in values[1:3])
    cosine, sine, inner = math.cos(turn), math.sin(turn), 1 + shear_x * shear_y
    x, y = flips[0] / values[3], flips[1] / values[4]
    return (
        (cosine - shear_x * sine) * x,
        (-sine - shear_x * cosine) * x,
        (inner * sine - shear_y * cosine) * y,
        (inner * cosine + shear_y * sine) * y,
    )


def _line(size: int, points: int) -> ndarray:
    """Return the places of the sampling points along one side, from the middle."""
    return (np.arange(size * points) - (size * points - 1) / 2) / points


def _basis(positions: ndarray) -> ndarray:
    """Return ``(N, CONTROLS)``, as :func:`~mmdefect.synthesis.elastic.spline_basis`."""
    place = np.minimum(np.maximum(positions, 0), 1)[:, None] * (CONTROLS - 3) + 1
    distance = np.abs(place - np.arange(CONTROLS))
    far = np.maximum(2 - distance, 0)
    near = np.maximum(1 - distance, 0)
    return (far * far * far - 4 * (near * near * near)) / 6  # the cubic spline as a sum of truncated powers
