"""Images of one synthetic defect: before, after, its label outline, and what changed."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy import ndarray

#: Titles of the cells that :func:`defect_row` returns.
COLUMNS = ('background', 'defect', 'result', 'label outline', 'difference x5')


def defect_row(
    before: ndarray,
    after: ndarray,
    label: ndarray,
    donor: ndarray | None,
    box_xyxy: Sequence[int],
    palette: Sequence[Sequence[int]],
    side: int = 200,
) -> list[ndarray]:
    """Return the cells of one defect, enlarged without smoothing so that every pixel can be judged.

    Args:
        before: ``(H, W, 3)`` uint8 RGB, the image without the defect.
        after: the image with it.
        label: ``(H, W)`` integers, the label map after.
        donor: ``(h, w, 3)`` uint8 RGB, what was pasted, as it was found; an empty cell without one.
        box_xyxy: left, top, right, bottom of the defect.
        palette: RGB of each class.
        side: width and height of a cell.
    """
    window = window_around(box_xyxy, before.shape[:2])
    difference = np.clip(128 + 5 * (after.astype(np.int16) - before), 0, 255).astype(np.uint8)
    cells = [photo[window] for photo in (before, after, outline(after, label, palette), difference)]
    shown = np.full((side, side, 3), 255, np.uint8) if donor is None else donor
    return [fit_cell(cell, side) for cell in (cells[0], shown, *cells[1:])]


def outline(image: ndarray, label: ndarray, palette: Sequence[Sequence[int]]) -> ndarray:
    """Return the image with the pixels just outside of every class in its colour; 255 has none."""
    drawn = image.copy()
    for class_id in np.unique(label).tolist():
        if class_id not in (0, 255):
            inside = (label == class_id).astype(np.uint8)
            ring = (cv2.dilate(inside, np.ones((3, 3), np.uint8)) > 0) & (label == 0)
            drawn[ring] = palette[class_id]
    return drawn


def window_around(box_xyxy: Sequence[int], frame_hw: tuple[int, int]) -> tuple[slice, slice]:
    """Return rows and columns of a square around a box, twice as large, at least 48 pixels, inside the frame."""
    left, top, right, bottom = box_xyxy
    side = min(max(48, 2 * max(right - left, bottom - top)), *frame_hw)
    starts = (
        min(max(0, (low + high - side) // 2), limit - side)
        for low, high, limit in ((top, bottom, frame_hw[0]), (left, right, frame_hw[1]))
    )
    return tuple(slice(start, start + side) for start in starts)


def fit_cell(photo: ndarray, side: int) -> ndarray:
    """Return an image scaled into a white square."""
    scale = side / max(photo.shape[:2])
    size = max(1, round(photo.shape[1] * scale)), max(1, round(photo.shape[0] * scale))
    method = cv2.INTER_NEAREST if scale >= 1 else cv2.INTER_AREA
    scaled = cv2.resize(np.ascontiguousarray(photo), size, interpolation=method)
    cell = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - scaled.shape[0]) // 2, (side - scaled.shape[1]) // 2
    cell[top : top + scaled.shape[0], left : left + scaled.shape[1]] = scaled
    return cell
