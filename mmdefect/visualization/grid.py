"""Images in a grid with titles, the legend of the classes, and the row of images that shows one synthetic defect."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy import ndarray

from mmdefect.visualization.overlay import check_image, difference
from mmdefect.visualization.text import INK, PAPER, Colour, draw_text, fit_text, text_strip, text_width


def legend(names: Sequence[str], palette: Sequence[Colour], width: int | None = None, size: int = 14) -> ndarray:
    """Return a strip with a coloured square and the name of each class.

    Args:
        palette: RGB of each class.
        width: width of the strip in pixels; entries continue on new lines. One line by default.
        size: size of the font in pixels.
    """
    if len(names) != len(palette):
        raise ValueError(f'`names` and `palette` must be equally long, got {len(names)} and {len(palette)}.')
    line, gap = int(1.7 * size), size
    widths = [size + 6 + text_width(name, size) + gap for name in names]
    total = sum(widths) + gap if width is None else width
    places, x, y = [], gap // 2, 0
    for wide in widths:
        if x + wide > total and x > gap // 2:
            x, y = gap // 2, y + line
        places.append((x, y))
        x += wide
    strip = np.full((y + line, total, 3), PAPER, np.uint8)
    for (x, y), name, colour in zip(places, names, palette, strict=True):
        top = y + (line - size) // 2
        cv2.rectangle(strip, (x, top), (x + size - 1, top + size - 1), tuple(int(c) for c in colour), -1)
        cv2.rectangle(strip, (x, top), (x + size - 1, top + size - 1), INK, 1)
        text = fit_text(name, size, total - x - size - 8)
        strip = draw_text(strip, text, (x + size + 6, y + (line - int(1.17 * size)) // 2), size, INK)
    return strip


def image_grid(
    rows: Sequence[Sequence[ndarray | None]],
    row_titles: Sequence[str] | None = None,
    column_titles: Sequence[str] | None = None,
    captions: Sequence[Sequence[str]] | None = None,
    title: str = '',
    footer: ndarray | None = None,
    cell_hw: tuple[int, int] | None = None,
    gap: int = 6,
    size: int = 14,
) -> ndarray:
    """Lay images out in a grid.

    Args:
        rows: rows of ``(H, W, 3)`` uint8 RGB images; they may differ in length, ``None`` leaves a cell empty.
        row_titles: text to the left of each row.
        column_titles: text above each column.
        captions: text below each image, in the shape of ``rows``.
        title: text above everything.
        footer: ``(h, w, 3)`` uint8 below everything, such as :func:`legend`.
        cell_hw: size of a cell; larger images are shrunk into it, smaller ones centred. The largest by default.
        gap: white pixels between cells.
        size: size of the font in pixels.

    Returns:
        ``(H, W, 3)`` uint8 RGB.
    """
    images = [image for row in rows for image in row if image is not None]
    if not images:
        raise ValueError('`rows` must hold at least one image, got none.')
    for image in images:
        check_image(image, 'rows')
    columns = max(len(row) for row in rows)
    if row_titles is not None and len(row_titles) != len(rows):
        raise ValueError(f'`row_titles` must name each of the {len(rows)} rows, got {len(row_titles)}.')
    if column_titles is not None and len(column_titles) > columns:
        raise ValueError(f'`column_titles` must name at most the {columns} columns, got {len(column_titles)}.')
    if captions is not None and [len(c) for c in captions] != [len(r) for r in rows]:
        raise ValueError("`captions` must have the shape of `rows`, one text per image; use '' for none.")
    cell_h, cell_w = cell_hw or (max(p.shape[0] for p in images), max(p.shape[1] for p in images))
    line = int(1.6 * size)
    side = max((text_width(text, size) for text in row_titles), default=0) + 12 if row_titles else 0
    step_x, step_y = cell_w + gap, cell_h + gap + (line if captions else 0)
    top = (int(1.4 * line) if title else 0) + (line if column_titles else 0) + gap
    foot_h, foot_w = (0, 0) if footer is None else (footer.shape[0] + gap, footer.shape[1])
    width = max(side + gap + columns * step_x, foot_w)
    page = np.full((top + len(rows) * step_y + foot_h, width, 3), PAPER, np.uint8)

    def put(part: ndarray, y: int, x: int) -> None:
        page[y : y + part.shape[0], x : x + part.shape[1]] = part

    if title:
        put(text_strip(title, width, int(1.4 * line), int(1.2 * size)), 0, 0)
    for k, text in enumerate(column_titles or ()):
        put(text_strip(text, cell_w, line, size), top - line - gap // 2, side + gap + k * step_x)
    for i, row in enumerate(rows):
        y = top + i * step_y
        if row_titles:
            put(text_strip(row_titles[i], side, cell_h, size), y, 0)
        for j, image in enumerate(row):
            x = side + gap + j * step_x
            if image is not None:
                put(fit_cell(image, (cell_h, cell_w), enlarge=False), y, x)
            if captions:
                put(text_strip(captions[i][j], cell_w, line, size), y + cell_h, x)
    if footer is not None:
        put(footer, page.shape[0] - footer.shape[0], 0)
    return page


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
    images = before, after, outline(after, label, palette), difference(before, after, gain=5)
    cells = [image[window] for image in images]
    shown = np.full((side, side, 3), 255, np.uint8) if donor is None else donor
    return [fit_cell(cell, (side, side)) for cell in (cells[0], shown, *cells[1:])]


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
    sides = (top, bottom, frame_hw[0]), (left, right, frame_hw[1])
    starts = [min(max(0, (low + high - side) // 2), limit - side) for low, high, limit in sides]
    return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)


def fit_cell(image: ndarray, cell_hw: tuple[int, int], enlarge: bool = True) -> ndarray:
    """Return the image in the middle of a white cell, shrunk to fit; or enlarged without smoothing, when asked to."""
    scale = min(cell_hw[0] / image.shape[0], cell_hw[1] / image.shape[1])
    if scale < 1 or enlarge:
        size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        method = cv2.INTER_NEAREST if scale >= 1 else cv2.INTER_AREA
        image = cv2.resize(np.ascontiguousarray(image), size, interpolation=method)
    cell = np.full((*cell_hw, 3), PAPER, np.uint8)
    top, left = (cell_hw[0] - image.shape[0]) // 2, (cell_hw[1] - image.shape[1]) // 2
    cell[top : top + image.shape[0], left : left + image.shape[1]] = image
    return cell
