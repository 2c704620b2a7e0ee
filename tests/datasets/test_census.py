"""The census against a slow count with SciPy, hand-made cases, and what it says about bad files."""

from __future__ import annotations

import hashlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from mmdefect.datasets.census import (
    QUANTILES,
    WIDTH,
    list_components,
    list_findings,
    make_console,
    print_census,
    suggest_crop,
    suggest_weights,
    take_census,
)
from mmdefect.datasets.samples import Sample
from tests.helpers.data import draw_image, draw_label, save, write_wta
from tests.helpers.realdata import real_data

CLASSES = ('normal', 'pit', 'scratch')


def write_labels(root, labels, encoding='index', **keys):
    rng = np.random.default_rng(0)
    samples = []
    for index, label in enumerate(labels):
        image, mask = root / f'images/{index:03d}.png', root / f'masks/{index:03d}.png'
        save(image, draw_image(rng, label.shape))
        save(mask, label)
        samples.append(Sample(str(image), str(mask), mask_encoding=encoding, **keys))
    return samples


def count_slowly(labels, classes):
    """Count pixels, images and components pixel by pixel and component by component."""
    result = {}
    for value in range(1, classes):
        areas, longest, shares, pixels, images = [], [], [], 0, 0
        for label in labels:
            found, count = ndimage.label(label == value, structure=np.ones((3, 3)))
            images += count > 0
            for component in range(1, count + 1):
                rows, columns = np.nonzero(found == component)
                areas.append(len(rows))
                shares.append(len(rows) / label.size)
                longest.append(max(rows.max() - rows.min(), columns.max() - columns.min()) + 1)
                pixels += len(rows)
        result[value] = (images, pixels, areas, longest, shares)
    return result


LABELS = st.lists(
    hnp.arrays(
        np.uint8, st.tuples(st.integers(6, 24), st.integers(6, 24)), elements=st.sampled_from([0, 0, 0, 1, 2, 255])
    ),
    min_size=1,
    max_size=5,
)


@settings(deadline=None, max_examples=60)
@given(labels=LABELS)
def test_census_equals_the_slow_count(tmp_path_factory, labels):
    root = tmp_path_factory.mktemp('census')
    census = take_census(write_labels(root, labels), CLASSES, root)
    slow = count_slowly(labels, 3)
    total = sum(int((label != 255).sum()) for label in labels)
    for value, item in enumerate(census.classes, 1):
        images, pixels, areas, longest, shares = slow[value]
        assert (item.name, item.images, item.pixels, item.components) == (CLASSES[value], images, pixels, len(areas))
        assert item.tiny == sum(a <= 16 for a in areas)
        assert item.share == pytest.approx(pixels / max(total, 1))
        for got, expected in ((item.area_px, areas), (item.longest_side_px, longest), (item.area_share, shares)):
            assert got == pytest.approx(np.percentile(expected, QUANTILES) if expected else ())
    assert census.images == census.with_mask == len(labels)
    assert census.clean == sum(not np.isin(label, (1, 2)).any() for label in labels)
    assert census.ignored_share == pytest.approx(np.mean(np.concatenate([label.ravel() for label in labels]) == 255))
    assert sum(census.sizes_wh.values()) == len(labels)
    json.dumps(census.to_dict())


@settings(deadline=None, max_examples=60)
@given(label=hnp.arrays(np.uint8, (12, 17), elements=st.sampled_from([0, 1, 2, 3, 255])))
def test_components_equal_scipy(label):
    rows = []
    for value in (1, 2, 3):
        found, _ = ndimage.label(label == value, structure=np.ones((3, 3)))
        for component, (ys, xs) in enumerate(ndimage.find_objects(found), 1):
            rows.append((value, int((found == component).sum()), ys.stop - ys.start, xs.stop - xs.start))
    assert sorted(map(tuple, list_components(label).tolist())) == sorted(rows)


def test_hand_made_case(tmp_path):
    first = np.zeros((20, 30), np.uint8)
    first[2:4, 3:8] = 1  # 10 px, 5 long
    first[4, 8] = 1  # touches the corner of it: one 8-connected part of 11 px, 3 high, 6 wide
    first[10, 10] = 2
    clean = np.zeros((20, 30), np.uint8)
    census = take_census(write_labels(tmp_path, [first, clean]), CLASSES, tmp_path)
    pit, scratch = census.classes
    assert (pit.images, pit.pixels, pit.components, pit.tiny) == (1, 11, 1, 1)
    assert pit.longest_side_px == (6,) * len(QUANTILES) and pit.area_share[0] == pytest.approx(11 / 600)
    assert (scratch.pixels, census.clean, census.sizes_wh, census.median_size_hw) == (1, 1, {(30, 20): 2}, (20, 30))
    assert census.imbalance == 1188 and census.types == {'images/000.png': 'pit', 'images/001.png': 'good'}
    digest = hashlib.sha256((tmp_path / 'images/000.png').read_bytes()).hexdigest()
    assert census.hashes['images/000.png'] == digest


def test_type_of_an_image_is_its_rarest_class(tmp_path):
    both, one = np.zeros((2, 9, 9), np.uint8)
    both[0, 0], both[5, 5], one[3, 3] = 1, 2, 1
    census = take_census(write_labels(tmp_path, [both, one]), CLASSES, tmp_path)
    assert list(census.types.values()) == ['scratch', 'pit']


def test_odd_values_and_orphans_are_reported(tmp_path):
    mask = np.zeros((9, 9), np.uint8)
    mask[2:5, 2:5], mask[2, 2], mask[8, 8] = 255, 254, 7
    samples = write_labels(tmp_path, [mask], 'binary', class_id=1)
    census = take_census(samples, ('normal', 'pit'), tmp_path, ('masks/x.png',), ('images/y.png',))
    assert census.odd_masks == {'masks/000.png': {7: 1, 254: 1}} and census.classes[0].pixels == 10
    said = ' '.join(list_findings(census))
    assert '1 mask with values besides black and white' in said and 'masks/000.png: 7 (1 px), 254 (1 px)' in said
    assert '1 mask without an image, left out: masks/x.png' in said
    assert '1 image outside good/ without a mask, left out: images/y.png' in said and '--unmasked clean' in said


def test_exact_duplicates_are_grouped(tmp_path):
    samples = write_labels(tmp_path, [np.eye(9, dtype=np.uint8)] * 3)
    (tmp_path / 'images/002.png').write_bytes((tmp_path / 'images/000.png').read_bytes())
    census = take_census(samples, CLASSES, tmp_path)
    assert census.exact_duplicates == (('images/000.png', 'images/002.png'),) and census.near_duplicates == ()


def test_duplicates_across_split_folders_are_reported(tmp_path):
    labels = write_wta(tmp_path, dict(train=2, test=2))
    (tmp_path / 'img_dir/test/[0001]top.png').write_bytes((tmp_path / 'img_dir/train/[0001]top.png').read_bytes())
    samples = [
        Sample(str(tmp_path / n), str(tmp_path / n.replace('img_dir', 'ann_dir')), own_split=n.split('/')[1])
        for n in labels
    ]
    census = take_census(samples, CLASSES, tmp_path)
    assert census.groups_across_splits == (('img_dir/train/[0001]top.png', 'img_dir/test/[0001]top.png'),)
    assert 'in different split folders' in ' '.join(list_findings(census))


@pytest.mark.parametrize(
    'longest, image_hw, crop',
    [
        (20, (1000, 1000), (256, 256)),
        (70, (1000, 1000), (288, 288)),
        (100, (1000, 350), (416, 352)),
        (400, (1000, 1000), (512, 512)),
        (400, (100, 90), (128, 96)),
    ],
)
def test_suggested_crop(longest, image_hw, crop):
    found, reason = suggest_crop(np.array([[3, longest]] * 5), image_hw)
    assert found == crop and f'at most {longest} px long' in reason


def test_suggested_crop_without_defects():
    assert suggest_crop(np.empty((0, 2)), (600, 600))[0] == (256, 256)


def test_suggested_weights():
    weights, formula, alpha = suggest_weights([10000, 2500, 100, 1, 0])
    assert weights == (1, 2, 10, 10, 1) and sum(alpha) == pytest.approx(1, abs=1e-3)
    assert 'clipped to 1..10' in formula
    assert all(type(w) is float for w in suggest_weights(np.array([100, 60]))[0])


def change(tmp_path, what):
    samples = write_labels(tmp_path, [np.eye(9, dtype=np.uint8)] * 3)
    image, mask = tmp_path / 'images/001.png', tmp_path / 'masks/001.png'
    if what == 'image of text':
        image.write_text('not an image')
    elif what == 'empty image':
        image.write_bytes(b'')
    elif what == 'lost image':
        image.unlink()
    elif what == 'mask of text':
        mask.write_text('not an image')
    elif what in ('cut image', 'cut mask'):
        path = image if what == 'cut image' else mask
        path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])
    elif what == 'small mask':
        save(mask, np.eye(8, dtype=np.uint8))
    else:
        save(mask, np.eye(9, dtype=np.uint8) * 7)
    return samples


@pytest.mark.parametrize(
    'what, says',
    [
        ('image of text', 'images/001.png must be readable'),
        ('empty image', 'images/001.png must be readable'),
        ('lost image', 'images/001.png does not exist'),
        ('cut image', 'images/001.png must be complete'),
        ('mask of text', 'masks/001.png must be readable'),
        ('cut mask', 'masks/001.png must be readable'),
        ('small mask', 'masks/001.png must have the size of its image, 9x9, but it has 8x8'),
        ('value 7', 'masks/001.png must be 0..2 or 255 (ignore), but it holds 7'),
    ],
)
def test_bad_files_are_named(tmp_path, what, says):
    with pytest.raises(ValueError) as info:
        take_census(change(tmp_path, what), CLASSES, tmp_path)
    assert says in str(info.value) and 'more files' not in str(info.value)


def test_all_bad_files_are_counted(tmp_path):
    samples = write_labels(tmp_path, [np.full((9, 9), 9, np.uint8)] * 3)
    with pytest.raises(ValueError, match=r'000.png must be .*\(2 more files of 3 have such a problem, too.\)'):
        take_census(samples, CLASSES, tmp_path)


def test_print_fits_the_screen_and_names_every_class(tmp_path):
    rng = np.random.default_rng(1)
    names = ('normal', 'attached particle of the insert', 'broken', 'scratch')
    labels = [draw_label(rng, [1, 2, 3], (60, 90)) for _ in range(5)]
    census = take_census(write_labels(tmp_path, labels), names, tmp_path)
    stream = io.StringIO()
    print_census(census, make_console(stream))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= WIDTH
    text = stream.getvalue()
    for word in ('broken', 'scratch', 'crop ', 'class weights', 'focal alpha', '5: 5 with defects', '90x60 (5)'):
        assert word in text, word
    assert 'fewer than 10 images' in text and '…' not in text


def test_real_cutting_inserts():
    root = real_data('wta512')
    names = sorted(p.name for p in (root / 'img_dir/test').iterdir())
    samples = [Sample(str(root / 'img_dir/test' / n), str(root / 'ann_dir/test' / n), own_split='test') for n in names]
    census = take_census(samples, ('normal', 'attached', 'broken'), root)
    assert (census.images, census.clean) == (60, 27)
    assert census.classes[1].pixels == 1859  # as published with the set
    assert census.classes[0].area_px[QUANTILES.index(50)] <= 3
