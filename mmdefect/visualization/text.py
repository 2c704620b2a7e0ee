"""Readable text in images, with the font that ships with matplotlib."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

if TYPE_CHECKING:  # overlays without text are drawn where Pillow is not installed
    from PIL import ImageFont

Colour = tuple[int, int, int]  # RGB in 0..255

PAPER, INK = (255, 255, 255), (25, 25, 25)


@functools.lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans with capitals about ``0.73 * size`` pixels high."""
    import matplotlib  # only its data folder is needed, and importing it costs a tenth of a second
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / 'fonts' / 'ttf' / 'DejaVuSans.ttf'), size)


def text_width(text: str, size: int) -> int:
    """Return how many pixels wide a line of text is."""
    return int(np.ceil(font(size).getlength(text)))


def fit_text(text: str, size: int, width: int) -> str:
    """Return ``text`` cut in the middle so that it fits ``width`` pixels; both ends of a file name matter."""
    if text_width(text, size) <= width:
        return text
    for kept in range(len(text) - 1, 0, -1):
        short = text[: (kept + 1) // 2] + '…' + text[len(text) - kept // 2 :]
        if text_width(short, size) <= width:
            return short
    return '…' if text_width('…', size) <= width else ''


def draw_text(image: ndarray, text: str, left_top_xy: tuple[int, int], size: int, colour: Colour) -> ndarray:
    """Return a copy of the ``(H, W, 3)`` uint8 RGB image with one line of text on it, ``size`` pixels high."""
    from PIL import Image, ImageDraw

    canvas = Image.fromarray(image)
    ImageDraw.Draw(canvas).text(left_top_xy, text, fill=colour, font=font(size))
    return np.array(canvas)


def text_strip(text: str, width: int, height: int, size: int) -> ndarray:
    """Return ``(height, width, 3)`` uint8 with a line of text in its middle, cut when it does not fit."""
    strip = np.full((height, width, 3), PAPER, np.uint8)
    text = fit_text(text, size, width - 4)
    left, top = (width - text_width(text, size)) // 2, max(0, (height - int(1.17 * size)) // 2)
    return draw_text(strip, text, (left, top), size, INK)
