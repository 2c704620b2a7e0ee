"""Rendered images: the same in every process, labels exact, defects where they may be."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdefect.demo.sample import CATEGORIES, MAX_AREA_FRACTION, TOLERANCE, render_sample
from mmdefect.demo.scenes import HOLE

EVERY_DEFECT = [(category, kind) for category, kinds in CATEGORIES.items() for kind in kinds]


def changed(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return where two images differ by more than the tolerance, the slow and obvious way."""
    return (np.abs(a.astype(int) - b.astype(int)) > TOLERANCE).any(axis=-1)


def digest(category: str) -> str:
    kinds = CATEGORIES[category]
    sample = render_sample(category, [(kinds[0], 1), (kinds[-1], 2)], (160, 144), [5, 3])
    return hashlib.sha256(sample.image.tobytes() + sample.label.tobytes()).hexdigest()


def test_two_processes_render_the_same_bytes():
    code = (
        'import sys; sys.path.insert(0, sys.argv[1]); from test_sample import digest; '
        'print(*(digest(c) for c in ("metal", "carpet", "insert")))'
    )
    here = os.path.dirname(__file__)
    outputs = [
        subprocess.run(
            [sys.executable, '-c', code, here],
            env={**os.environ, 'PYTHONHASHSEED': seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for seed in ('1', '2')
    ]
    assert outputs[0] == outputs[1] == [digest(c) for c in ('metal', 'carpet', 'insert')]


def test_another_seed_is_another_image():
    a, b = (render_sample('metal', [], (128, 128), [0, k]).image for k in (0, 1))
    assert (a != b).mean() > 0.5


@pytest.mark.parametrize(('category', 'kind'), EVERY_DEFECT)
def test_label_is_what_the_defect_changed(category, kind):
    for number in range(3):
        with_defect = render_sample(category, [(kind, 4)], (160, 160), [1, number])
        without = render_sample(category, [], (160, 160), [1, number])
        np.testing.assert_array_equal(with_defect.clean, without.image)
        np.testing.assert_array_equal(with_defect.label == 4, changed(with_defect.image, without.image))
        assert set(np.unique(with_defect.label)) == {0, 4}
        assert without.label.max() == 0 and without.records == ()


@settings(max_examples=15, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_several_defects_keep_the_label_exact(data, seed):
    category = data.draw(st.sampled_from(sorted(CATEGORIES)))
    kinds = data.draw(st.lists(st.sampled_from(CATEGORIES[category]), min_size=1, max_size=3))
    sample = render_sample(category, [(kind, k + 1) for k, kind in enumerate(kinds)], (128, 128), [seed])
    np.testing.assert_array_equal(sample.label > 0, changed(sample.image, sample.clean))
    assert (sample.label > 0).mean() <= MAX_AREA_FRACTION
    for k, record in enumerate(sample.records):
        mask = sample.label == k + 1  # one class per defect here, so its pixels are those of the class
        assert record.area == mask.sum()
        left, top, right, bottom = record.box_xyxy
        inside = np.zeros_like(mask)
        inside[top:bottom, left:right] = True
        assert not (mask & ~inside).any()


@pytest.mark.parametrize('kind', CATEGORIES['insert'])
def test_defects_stay_on_the_object(kind):
    side = 192
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    # The fixture lets the part move by one per cent of the side; a pixel beyond that and the blur is hole for sure.
    hole = np.hypot(x, y) < HOLE * side * 0.99 - 0.015 * side - 2
    for number in range(12):
        sample = render_sample('insert', [(kind, 1)], (side, side), [2, number])
        bright = (sample.clean.min(axis=2) > 200).astype(np.uint8)
        table = cv2.erode(bright, np.ones((5, 5), np.uint8)) > 0
        assert table.mean() > 0.3 and hole.sum() > 1000
        assert not sample.label[table | hole].any()
        # Outside the object not even a change below the tolerance is left.
        np.testing.assert_array_equal(sample.image[~sample.support], sample.clean[~sample.support])


def test_sizes_are_those_of_real_defects():
    areas = np.array(
        [(render_sample(c, [(k, 1)], (256, 256), [3, n]).label > 0).mean() for c, k in EVERY_DEFECT for n in range(4)]
    )
    assert areas.max() <= MAX_AREA_FRACTION
    assert np.mean(areas < 0.01) > 0.8
    assert areas.min() < 0.0005


def test_the_smallest_particles_are_a_few_pixels():
    smallest = 256 * 256
    for number in range(25):
        label = render_sample('insert', [('particle', 1)], (256, 256), [4, number]).label
        _, _, stats, _ = cv2.connectedComponentsWithStats(label, connectivity=8)
        smallest = min(smallest, stats[1:, cv2.CC_STAT_AREA].min())
    assert smallest <= 9


@pytest.mark.parametrize('category', CATEGORIES)
@pytest.mark.parametrize('size_hw', [(128, 128), (128, 320), (300, 150)])
def test_any_size_and_shape(category, size_hw):
    sample = render_sample(category, [(CATEGORIES[category][0], 1)], size_hw, [6])
    assert sample.image.shape == (*size_hw, 3) and sample.image.dtype == np.uint8
    assert sample.label.shape == size_hw and sample.label.any()


@pytest.mark.parametrize('category', CATEGORIES)
def test_largest_size(category):
    sample = render_sample(category, [(CATEGORIES[category][0], 1)], (1024, 1024), [7])
    np.testing.assert_array_equal(sample.label > 0, changed(sample.image, sample.clean))
    assert sample.label.any()


def test_images_are_exposed_like_photographs():
    for category in CATEGORIES:
        image = render_sample(category, [], (256, 256), [8]).image
        assert 60 < image.mean() < 235
        assert (image == 255).mean() < 0.02 and (image == 0).mean() < 0.001  # neither burnt out nor black
        high = image.astype(float) - cv2.GaussianBlur(image.astype(float), (0, 0), 1.0)
        assert 0.3 < np.median(np.abs(high)) < 12  # grain, not flat colour


def test_errors_name_the_choices():
    with pytest.raises(ValueError, match="one of .*'carpet', 'insert', 'metal'.* got 'wood'"):
        render_sample('wood', [], (128, 128), [0])
    with pytest.raises(ValueError, match=r"among \['scratch', 'pit', 'stain', 'particle'\], got \['chip'\]"):
        render_sample('metal', [('chip', 1)], (128, 128), [0])
    with pytest.raises(ValueError, match=r'between 128 and 1024 pixels .* got \(64, 128\)'):
        render_sample('metal', [], (64, 128), [0])
