"""Draw boxes that lie on the object: the size from a range, the place at random, at most so many tries.

A box is taken when more than ``min_overlap`` of its area lies on the allowed region (a template, the foreground of an
image, or the whole frame); area beyond the frame is never allowed. Gui et al. ("AnoGen", ECCV 2024) use 0.75 and try
for ever; here a range that does not fit is an error that names it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy import ndarray

from mmdefect.diffusion.ranges import BoxRange


@dataclass(frozen=True)
class BoxDraw:
    """One drawn box, in pixels.

    Attributes:
        center_rc: row and column of its centre; the upright box lies inside the frame.
        size_hw: height and width before it is turned.
        degrees: turn about the centre, 0 to 180.
    """

    center_rc: tuple[float, float]
    size_hw: tuple[int, int]
    degrees: float = 0.0


def sample_box(box_range: BoxRange, size_hw: tuple[int, int], generator: torch.Generator) -> BoxDraw:
    """Draw a box for an image of this size."""
    width, height, row, column, turn = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
    box_h = _pixels(box_range.height_range, height, size_hw[0])
    box_w = _pixels(box_range.width_range, width, size_hw[1])
    top, left = int(row * (size_hw[0] - box_h + 1)), int(column * (size_hw[1] - box_w + 1))
    return BoxDraw((top + box_h / 2, left + box_w / 2), (box_h, box_w), 180.0 * turn if box_range.rotate else 0.0)


def draw_box(box: BoxDraw, size_hw: tuple[int, int]) -> ndarray:
    """Return the box as ``(H, W)`` bool: the pixels whose centres lie in it."""
    rows = np.arange(size_hw[0])[:, None] + 0.5 - box.center_rc[0]
    columns = np.arange(size_hw[1])[None] + 0.5 - box.center_rc[1]
    cosine, sine = math.cos(math.radians(box.degrees)), math.sin(math.radians(box.degrees))
    along, across = columns * cosine + rows * sine, rows * cosine - columns * sine
    return (np.abs(along) <= box.size_hw[1] / 2) & (np.abs(across) <= box.size_hw[0] / 2)


def overlap_fraction(box: BoxDraw, allowed: ndarray) -> float:
    """Return the share of the box that lies on ``allowed``, ``(H, W)`` bool; outside the frame nothing is allowed."""
    height, width = allowed.shape
    around = math.ceil(math.hypot(*box.size_hw) / 2) + 1
    top, left = max(0, math.floor(box.center_rc[0]) - around), max(0, math.floor(box.center_rc[1]) - around)
    part = allowed[top : min(height, top + 2 * around + 2), left : min(width, left + 2 * around + 2)]
    shifted = BoxDraw((box.center_rc[0] - top, box.center_rc[1] - left), box.size_hw, box.degrees)
    inside = np.count_nonzero(draw_box(shifted, part.shape) & part)
    return min(1.0, inside / (box.size_hw[0] * box.size_hw[1]))


def fit_box(
    box_range: BoxRange,
    allowed: ndarray,
    generator: torch.Generator,
    min_overlap: float = 0.75,
    attempts: int = 1000,
    where: str = 'the allowed region',
) -> tuple[BoxDraw, float]:
    """Draw boxes until one lies on the allowed region.

    Args:
        box_range: sizes.
        allowed: ``(H, W)`` bool.
        generator: CPU generator.
        min_overlap: share of the box that must be exceeded.
        attempts: boxes tried at most.
        where: the region in words, for the message.

    Returns:
        The box and its share on the region.

    Raises:
        ValueError: naming the range, when none of the tries fits.
    """
    best = 0.0
    for _ in range(attempts):
        box = sample_box(box_range, allowed.shape, generator)
        share = overlap_fraction(box, allowed)
        if share > min_overlap:
            return box, share
        best = max(best, share)
    raise ValueError(
        f'a box of the range {box_range} must fit on {where} with more than {min_overlap:g} of its area, '
        f'but none of {attempts} did (best {best:.2f}; {allowed.mean():.0%} of the frame is allowed); '
        'give a smaller range, another template, or a lower --min-overlap.'
    )


def bounding_box(mask: ndarray) -> tuple[int, int, int, int]:
    """Return top, left, bottom, right of the set pixels of ``(H, W)`` bool; bottom and right are exclusive."""
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    if not rows.size:
        raise ValueError('`mask` must have a set pixel, but it is empty.')
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def resize_region(region: ndarray, size_hw: tuple[int, int]) -> ndarray:
    """Return a region at another size, ``(H, W)`` bool; nearest neighbour."""
    return cv2.resize(region.astype(np.uint8), size_hw[::-1], interpolation=cv2.INTER_NEAREST) > 0


def _pixels(interval: tuple[float, float], draw: float, size: int) -> int:
    return min(size, max(1, round((interval[0] + (interval[1] - interval[0]) * draw) * size)))
