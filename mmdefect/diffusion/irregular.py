"""Shapes inside a box that look more like a defect than the box does: blobs, scratches, outlines of real defects.

Where a label is the mask that was generated into, a box marks mostly normal pixels. These shapes fill the upright frame
of the box and are turned with it.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from numpy import ndarray

from mmdefect.diffusion.boxes import BoxDraw
from mmdefect.synthesis.donors import DefectLibrary
from mmdefect.synthesis.perlin import perlin_noise

SHAPES = ('box', 'perlin', 'scratch', 'donor')


def draw_blob(size_hw: tuple[int, int], generator: torch.Generator) -> ndarray:
    """Return a blob with a Perlin outline, ``(h, w)`` bool, one part that reaches at least half of the frame.

    A cone that falls from the centre keeps the blob whole; noise bends its edge.
    """
    seed, cells = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    noise = perlin_noise(size_hw, (2 + int(cells * 2),) * 2, int(seed * 2**53)).numpy()
    rows = (np.arange(size_hw[0]) + 0.5) / size_hw[0] * 2 - 1
    columns = (np.arange(size_hw[1]) + 0.5) / size_hw[1] * 2 - 1
    distance = np.hypot(rows[:, None], columns[None])
    blob = distance < 0.75 + 0.5 * noise
    return _largest(blob | (distance <= max(0.25, distance.min())))


def draw_scratch(size_hw: tuple[int, int], generator: torch.Generator) -> ndarray:
    """Return a bent line of varying width along the longer side of the frame, ``(h, w)`` bool."""
    length, breadth = max(size_hw), min(size_hw)
    draws = torch.rand(8, generator=generator, dtype=torch.float64).numpy()
    along = np.linspace(0, 1, 2 * length + 1)
    bend = (
        1.6 * (draws[0] - 0.5) * (2 * along - 1)
        + 2 * (draws[1] - 0.5) * np.sin(math.pi * along)
        + 0.15 * (draws[2] - 0.5) * np.sin(2 * math.pi * (2 + 2 * draws[3]) * along + 2 * math.pi * draws[4])
    )
    thick = max(1.0, breadth * (0.08 + 0.14 * draws[5]))
    room = max(0.0, (breadth - thick) / 2 - 0.5)
    centre = breadth / 2 + np.clip(bend, -1, 1) * room
    width = thick * (0.55 + 0.45 * np.sin(math.pi * (0.1 + 0.8 * along)) * (0.6 + 0.4 * draws[6]))
    mask = np.zeros((breadth, length), bool)
    rows = np.arange(breadth) + 0.5
    for position, middle, half in zip(along, centre, np.maximum(width / 2, 0.51), strict=True):
        mask[np.abs(rows - middle) <= half, min(length - 1, int(position * length))] = True
    mask = mask if draws[7] < 0.5 else mask[:, ::-1]
    return np.ascontiguousarray(mask if size_hw[1] >= size_hw[0] else mask.T)


def draw_donor(
    size_hw: tuple[int, int], generator: torch.Generator, library: DefectLibrary, class_id: int | None = None
) -> tuple[ndarray, str]:
    """Return the outline of a real defect scaled into the frame, ``(h, w)`` bool, and the image it comes from.

    The proportions of the defect are kept; its longer axis goes along the longer side of the frame.

    Raises:
        ValueError: if the library has no defect of the class.
    """
    rows = np.arange(len(library)) if class_id is None else np.flatnonzero(library.table['class_id'] == class_id)
    if not len(rows):
        raise ValueError(
            f'the library {library.folder} must hold a defect of class {class_id}, but it holds {library.classes}.'
        )
    donor = library[int(rows[int(torch.randint(len(rows), (), generator=generator))])]
    shape = donor.mask == 1
    found_rows, found_columns = shape.any(1).nonzero()[0], shape.any(0).nonzero()[0]
    shape = shape[found_rows[0] : found_rows[-1] + 1, found_columns[0] : found_columns[-1] + 1]
    if (shape.shape[0] > shape.shape[1]) != (size_hw[0] > size_hw[1]):
        shape = np.rot90(shape)
    scale = min(size_hw[0] / shape.shape[0], size_hw[1] / shape.shape[1])
    size = max(1, round(shape.shape[0] * scale)), max(1, round(shape.shape[1] * scale))
    small = cv2.resize(shape.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR) >= 0.5
    if not small.any():
        small = np.ones(size, bool)
    mask = np.zeros(size_hw, bool)
    top, left = (size_hw[0] - size[0]) // 2, (size_hw[1] - size[1]) // 2
    mask[top : top + size[0], left : left + size[1]] = small
    return mask, donor.source


def place_shape(shape: ndarray, box: BoxDraw, size_hw: tuple[int, int]) -> ndarray:
    """Return a shape, ``(h, w)`` bool of the size of the box, at its place and turned with it, ``(H, W)`` bool."""
    rows = np.arange(size_hw[0])[:, None] + 0.5 - box.center_rc[0]
    columns = np.arange(size_hw[1])[None] + 0.5 - box.center_rc[1]
    cosine, sine = math.cos(math.radians(box.degrees)), math.sin(math.radians(box.degrees))
    row = np.floor(rows * cosine - columns * sine + box.size_hw[0] / 2).astype(np.int64)
    column = np.floor(columns * cosine + rows * sine + box.size_hw[1] / 2).astype(np.int64)
    inside = (row >= 0) & (row < shape.shape[0]) & (column >= 0) & (column < shape.shape[1])
    placed = np.zeros(size_hw, bool)
    placed[inside] = shape[row[inside], column[inside]]
    return placed


def _largest(mask: ndarray) -> ndarray:
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    return parts == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])) if count > 2 else mask
