"""Defects one by one: the surface they are given stays as it is, and they need what they need."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from mmdefect.demo.defects.region import Window, line_cover, polygon_cover
from mmdefect.demo.sample import CATEGORIES, SAMPLERS, SCENES

EVERY_DEFECT = [(category, kind) for category, kinds in CATEGORIES.items() for kind in kinds]
FIELDS = ('height', 'albedo', 'gloss', 'cover')


@pytest.mark.parametrize(('category', 'kind'), EVERY_DEFECT)
def test_apply_is_deterministic_and_leaves_its_input_alone(category, kind):
    scene = SCENES[category](np.random.default_rng(0), (128, 128))
    before = copy.deepcopy(scene.surface)
    defect = SAMPLERS[kind](np.random.default_rng(1), scene)
    once, twice = defect.apply(scene.surface, scene), defect.apply(scene.surface, scene)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(scene.surface, name), getattr(before, name))
        np.testing.assert_array_equal(getattr(once, name), getattr(twice, name))
        assert np.isfinite(getattr(once, name)).all()
    assert any((getattr(once, name) != getattr(before, name)).any() for name in FIELDS)
    assert once.cover.min() >= 0 and once.cover.max() <= 1
    assert once.albedo.min() >= -1e-6


def test_every_kind_is_used_by_some_category():
    assert {kind for _, kind in EVERY_DEFECT} == set(SAMPLERS)


@pytest.mark.parametrize('kind', ['chip', 'missing'])
def test_breaks_need_an_object(kind):
    scene = SCENES['metal'](np.random.default_rng(0), (128, 128))
    with pytest.raises(ValueError, match='must hold an object'):
        SAMPLERS[kind](np.random.default_rng(0), scene)


def test_missing_yarn_needs_a_weave():
    scene = SCENES['metal'](np.random.default_rng(0), (128, 128))
    with pytest.raises(ValueError, match='must be woven'):
        SAMPLERS['yarn'](np.random.default_rng(0), scene)


def test_polygon_cover_of_a_square_by_hand():
    # From the middle of pixel 1 to the middle of pixel 3: half pixels at both ends, quarters at the corners.
    square = np.array([[1.0, 1.0], [3.0, 1.0], [3.0, 3.0], [1.0, 3.0]])
    cover = polygon_cover(square, Window(0, 5, 0, 5))
    # The polygon fill paints its border pixels too: one quarter pixel of slack on each side.
    assert cover[2, 2] == 1.0
    assert 0.4 < cover[2, 1] < 0.9 and 0.15 < cover[1, 1] < 0.7
    assert cover[0].max() < 0.3 and cover[:, 0].max() < 0.3


def test_line_cover_grows_with_width_and_stays_in_the_window():
    path = np.array([[2.0, 8.0], [14.0, 8.0]])
    window = Window.around(path, 4, (17, 17))
    total = [line_cover(path, np.full(2, w), np.ones(2), window).sum() for w in (0.5, 1.0, 2.0, 3.0)]
    assert total == sorted(total)
    # Length times width and two round ends; the stroke is rounded to a quarter of a pixel.
    assert total[2] == pytest.approx(12 * 2.0 + np.pi, rel=0.13)


def test_window_is_cut_at_the_frame():
    window = Window.around(np.array([[-5.0, 3.0], [50.0, 9.0]]), 2, (10, 20))
    assert (window.top, window.bottom, window.left, window.right) == (1, 10, 0, 20)
