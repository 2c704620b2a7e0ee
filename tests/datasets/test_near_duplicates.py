"""Near duplicates: recall on copies, precision on fixed-pose products, and groups that never overlap."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdefect.datasets.near_duplicates import exact_duplicates, merge_groups, near_duplicates, thumbnail
from tests.helpers.realdata import real_data


def texture(rng, size=96):
    return cv2.GaussianBlur(rng.normal(size=(size, size)).astype(np.float32), (0, 0), 3) * 120 + 128


def product(rng, size=96):
    """A fixed part under a fixed light, with a little texture of its own: all of them look alike."""
    rows, columns = np.mgrid[:size, :size]
    part = 60 + 150 * ((abs(rows - 48) < 30) & (abs(columns - 40) < 25)) + 0.3 * rows
    return part + 0.25 * (texture(rng, size) - 128)


def photograph(image, rng, gain=1.0, noise=1.0):
    return np.clip(image * gain + rng.normal(size=image.shape) * noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize('make', [texture, product])
@pytest.mark.parametrize('count', [6, 60])
def test_second_exposures_are_found_and_other_parts_are_not(make, count):
    rng = np.random.default_rng(0)
    parts = [make(rng) for _ in range(count)]
    images = [photograph(p, rng) for p in parts] + [photograph(parts[2], rng, 0.8), photograph(parts[4], rng, 1.1)]
    groups = near_duplicates(np.stack([thumbnail(i) for i in images]))
    assert groups == [(2, count), (4, count + 1)]


def test_two_lightings_are_no_duplicates():
    rng = np.random.default_rng(1)
    shade = np.linspace(0.5, 1.3, 96)[None]
    images = [photograph(product(rng) * (shade if k % 2 else shade[:, ::-1]), rng) for k in range(64)]
    assert near_duplicates(np.stack([thumbnail(i) for i in images])) == []


def test_few_or_flat_images():
    rng = np.random.default_rng(0)
    one = thumbnail(photograph(texture(rng), rng))
    assert near_duplicates(np.stack([one] * 3)) == []
    assert near_duplicates(np.zeros((8, 64, 64), np.float32)) == []


def test_colour_images_are_judged_by_brightness():
    grey = np.arange(96 * 96, dtype=np.float32).reshape(96, 96) % 251
    colour = np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)
    np.testing.assert_allclose(thumbnail(colour), thumbnail(grey.astype(np.uint8)), atol=1)


def test_exact_duplicates():
    assert exact_duplicates(['a', 'b', 'a', 'c', 'b', 'a']) == [(0, 2, 5), (1, 4)]


@settings(deadline=None, max_examples=60)
@given(groups=st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=4), max_size=6))
def test_merged_groups_equal_repeated_union(groups):
    expected = [{i} for i in range(12)]
    for group in groups:
        joined = set().union(*(e for e in expected if e & set(group)))
        expected = [e for e in expected if not e & joined] + [joined]
    assert merge_groups(12, groups) == sorted(tuple(sorted(e)) for e in expected if len(e) > 1)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**16), count=st.integers(4, 60))
def test_groups_are_disjoint_and_sorted(seed, count):
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(max(1, count // 3), 64, 64))
    thumbnails = base[rng.integers(0, len(base), count)] + rng.normal(size=(count, 64, 64)) * 0.3
    groups = near_duplicates(thumbnails.astype(np.float32))
    members = [m for g in groups for m in g]
    assert len(members) == len(set(members)) and groups == sorted(groups) and all(len(g) > 1 for g in groups)


def pair_scores(groups, truth):
    found = {(a, b) for g in groups for a in g for b in g if a < b}
    true = {(a, b) for g in truth for a in g for b in g if a < b}
    return len(found & true) / len(found), len(found & true) / len(true)


def test_exposures_of_real_tiles():
    root = real_data('magnetic_tile')
    files = sorted((root / 'images').glob('*.jpg'))
    place = {f.stem: i for i, f in enumerate(files)}
    truth = [[place[n] for n in group] for group in json.loads((root / 'near_duplicate_groups.json').read_text())]
    precision, recall = pair_scores(near_duplicates(np.stack([thumbnail(cv2.imread(str(f))) for f in files])), truth)
    assert precision > 0.75 and recall > 0.5, (precision, recall)


def test_edits_of_real_inserts():
    originals = sorted(real_data('wta512', 'img_dir').glob('*/*.png'))
    edits = sorted(real_data('wta512_edits', 'img_dir').glob('new_*.png'))
    place = {f.name: i for i, f in enumerate(originals)}
    truth = [(place[f.name.removeprefix('new_')], len(originals) + k) for k, f in enumerate(edits)]
    thumbnails = np.stack([thumbnail(cv2.imread(str(f))) for f in [*originals, *edits]])
    precision, recall = pair_scores(near_duplicates(thumbnails), truth)
    assert precision > 0.8 and recall > 0.5, (precision, recall)
