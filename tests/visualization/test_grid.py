"""Sheets, legends and text: sizes, places and colours."""

from __future__ import annotations

import numpy as np
import pytest

from mmdefect.visualization.grid import image_grid, legend
from mmdefect.visualization.text import fit_text, text_strip, text_width


def solid(value: int, height: int = 10, width: int = 12) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_images_are_where_they_should_be():
    sheet = image_grid([[solid(10), solid(20)], [solid(30)]], gap=4)
    assert sheet.shape[2] == 3 and sheet.dtype == np.uint8
    for value, (top, left) in {10: (4, 4), 20: (4, 20), 30: (18, 4)}.items():
        assert (sheet[top : top + 10, left : left + 12] == value).all()
    assert (sheet == 10).all(axis=2).sum() == 120
    assert (sheet[18:28, 20:32] == 255).all()  # the empty cell


def test_small_images_are_centred_and_large_ones_shrunk():
    sheet = image_grid([[solid(10, 4, 4), solid(20, 40, 80)]], cell_hw=(20, 20), gap=0)
    assert (sheet[8:12, 8:12] == 10).all() and (sheet == 10).all(axis=2).sum() == 16
    assert (sheet == 20).all(axis=2).sum() == 20 * 10  # aspect kept


def test_titles_captions_and_footer_leave_ink():
    rows = [[solid(10, 40, 90), None]]
    plain = image_grid(rows)
    full = image_grid(
        rows, ['row one'], ['left', 'right'], [['a', 'b']], title='Title', footer=legend(['scratch'], [(255, 0, 0)])
    )
    assert full.shape[0] > plain.shape[0] and full.shape[1] > plain.shape[1]
    assert (full == 10).all(axis=2).sum() >= 40 * 90  # text did not cover the image
    assert (full.max(axis=2) < 80).sum() > 40 * 90 + 100  # dark ink
    assert (full == (255, 0, 0)).all(axis=2).any()


def test_legend_shows_each_colour_and_wraps():
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    one = legend(['scratch', 'a long name', 'pit'], colours)
    wrapped = legend(['scratch', 'a long name', 'pit'], colours, width=130)
    assert wrapped.shape[1] == 130 and wrapped.shape[0] == 3 * one.shape[0]
    for image in (one, wrapped):
        assert [(image == c).all(axis=2).sum() for c in colours] == [12 * 12] * 3


def test_long_text_is_cut_in_the_middle():
    name = 'a_very_long_file_name_of_a_image_0017.png'
    short = fit_text(name, 14, 120)
    assert text_width(short, 14) <= 120 and short.startswith('a_ve') and short.endswith('.png') and '…' in short
    assert fit_text('ok', 14, 120) == 'ok'
    strip = text_strip(name, 120, 24, 14)
    assert strip.shape == (24, 120, 3) and strip.min() < 80


def test_errors():
    with pytest.raises(ValueError, match='at least one image'):
        image_grid([[None]])
    with pytest.raises(ValueError, match='each of the 1 rows, got 2'):
        image_grid([[solid(1)]], row_titles=['a', 'b'])
    with pytest.raises(ValueError, match='shape of `rows`'):
        image_grid([[solid(1)]], captions=[['a', 'b']])
    with pytest.raises(ValueError, match='equally long'):
        legend(['a'], [])
