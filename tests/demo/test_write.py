"""Data sets on disk: complete, readable by plain OpenCV, repeatable, and careful with other people's files."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmdefect.demo.sample import CATEGORIES
from mmdefect.demo.write import plan_layout, smallest_count, write_demo_dataset

SIZE = (128, 128)


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp('demo') / 'set'
    write_demo_dataset(out, images=30, size_hw=SIZE, seed=3)
    return out


def read(path: Path, flag: int = cv2.IMREAD_UNCHANGED) -> np.ndarray:
    photo = cv2.imread(str(path), flag)
    assert photo is not None, path
    return photo


def test_mvtec_layout_is_complete(root):
    folders = {p.name for p in (root / 'mvtec').iterdir()}
    assert folders == set(CATEGORIES)
    total = 0
    for category, kinds in CATEGORIES.items():
        base = root / 'mvtec' / category
        assert {p.name for p in (base / 'train').iterdir()} == {'good'}
        assert {p.name for p in (base / 'test').iterdir()} == {'good', *kinds}
        assert {p.name for p in (base / 'ground_truth').iterdir()} == set(kinds)
        for image in base.glob('t*/*/*.png'):
            total += 1
            assert read(image).shape == (*SIZE, 3)
            mask = base / 'ground_truth' / image.parent.name / f'{image.stem}_mask.png'
            assert mask.exists() == (image.parent.name != 'good')
            if mask.exists():
                values = read(mask)
                assert values.shape == SIZE and values.dtype == np.uint8
                assert set(np.unique(values)) == {0, 255}
    assert total == 30


def test_wta_layout_is_complete_and_balanced(root):
    info = json.loads((root / 'dataset.json').read_text())['layouts']['wta']
    assert info['classes'] == ['normal', 'attached', 'broken']
    names, images, clean, seen = [], 0, 0, np.zeros(3, int)
    for split, counts in info['counts'].items():
        pixels = np.zeros(3, int)
        split_clean = 0
        for image in sorted((root / 'wta' / 'img_dir' / split).iterdir()):
            assert read(image).shape == (*SIZE, 3)
            label = read(root / 'wta' / 'ann_dir' / split / image.name)
            assert label.shape == SIZE and label.dtype == np.uint8 and label.max() <= 2
            pixels += np.bincount(label.ravel(), minlength=3)
            split_clean += label.max() == 0
            names.append(image.name)
        assert counts['pixels'] == {n: int(v) for n, v in zip(info['classes'], pixels, strict=True) if v}
        assert counts['clean'] == split_clean
        seen, images, clean = seen + (pixels > 0), images + counts['images'], clean + split_clean
    assert images == 30 and sorted(names) == [f'part_{k:04d}.png' for k in range(1, 31)]
    assert clean / images == pytest.approx(0.4, abs=0.05)
    assert (seen == 3).all()  # both defects occur in each split
    assert not list((root / 'wta').rglob('.*'))  # no partial files


def test_balance_of_the_default_set():
    plans = plan_layout('wta', 200)
    assert sum(not p.defects for p in plans) == 80
    attached = sum(any(c == 1 for _, c in p.defects) for p in plans)
    broken = sum(any(c == 2 for _, c in p.defects) for p in plans)
    assert abs(attached - broken) <= 12
    assert [sum(p.group == s for p in plans) for s in ('train', 'val', 'test')] == [120, 40, 40]
    mvtec = plan_layout('mvtec', 200)
    assert len(mvtec) == 200
    for category, kinds in CATEGORIES.items():
        counts = [sum(p.category == category and p.group == f'test/{k}' for p in mvtec) for k in kinds]
        assert max(counts) - min(counts) <= 1 and min(counts) >= 6


def test_dataset_json_says_how_to_make_it_again(root, tmp_path):
    info = json.loads((root / 'dataset.json').read_text())
    assert info['complete'] and info['seed'] == 3 and info['size_hw'] == [128, 128]
    again = tmp_path / 'again'
    assert write_demo_dataset(again, ('wta',), info['images_per_layout'], tuple(info['size_hw']), info['seed'])
    for path in sorted((again / 'wta').rglob('*.png')):
        assert path.read_bytes() == (root / path.relative_to(again)).read_bytes()


def test_records_agree_with_the_masks(root):
    records = json.loads((root / 'records.json').read_text())
    assert len(records) == 60
    for name, defects in records.items():
        if not name.startswith('wta/'):
            continue
        label = read(root / name.replace('img_dir', 'ann_dir'))
        for index in (1, 2):
            assert sum(d['area'] for d in defects if d['class_index'] == index) == (label == index).sum()


def test_more_images_keep_the_first_ones():
    few = {(p.category, p.group, p.seed[-1]): p for p in plan_layout('mvtec', 60)}
    many = {(p.category, p.group, p.seed[-1]): p for p in plan_layout('mvtec', 200)}
    assert all(many[key] == plan for key, plan in few.items())


def test_progress_counts_every_image(tmp_path):
    calls = []
    write_demo_dataset(tmp_path / 'x', ('wta',), 10, SIZE, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(k, 10) for k in range(1, 11)]


def test_overwrite_replaces_only_demo_data(tmp_path):
    out = tmp_path / 'set'
    write_demo_dataset(out, ('mvtec',), 30, SIZE)
    with pytest.raises(FileExistsError, match='must be empty or absent'):
        write_demo_dataset(out, ('wta',), 10, SIZE)
    note = out / 'note.txt'
    note.write_text('mine')
    write_demo_dataset(out, ('wta',), 10, SIZE, overwrite=True)
    assert not (out / 'mvtec').exists() and note.read_text() == 'mine'
    stranger = tmp_path / 'other'
    (stranger / 'wta').mkdir(parents=True)
    (stranger / 'wta' / 'a.png').write_bytes(b'x')
    with pytest.raises(FileExistsError, match='not replaced'):
        write_demo_dataset(stranger, ('wta',), 10, SIZE, overwrite=True)
    assert (stranger / 'wta' / 'a.png').exists()


def test_bad_arguments_write_nothing(tmp_path):
    out = tmp_path / 'set'
    for arguments, text in (
        ({'images': 3}, 'at least'),
        ({'layouts': ('voc',)}, 'one of'),
        ({'seed': -1}, 'negative'),
        ({'size_hw': (64, 64)}, 'between 128 and 1024'),
    ):
        with pytest.raises(ValueError, match=text):
            write_demo_dataset(out, **{'size_hw': SIZE, **arguments})
    assert not out.exists()
    out.write_text('a file')
    with pytest.raises(NotADirectoryError, match='is a file'):
        write_demo_dataset(out, size_hw=SIZE)


@pytest.mark.parametrize('layout', ['mvtec', 'wta'])
def test_smallest_count_leaves_no_folder_empty(layout):
    plans = plan_layout(layout, smallest_count(layout))
    assert len(plans) == smallest_count(layout)
    groups = {(p.category, p.group) for p in plans}
    if layout == 'mvtec':
        assert groups == {
            (c, g)
            for c, kinds in CATEGORIES.items()
            for g in ('train/good', 'test/good', *(f'test/{k}' for k in kinds))
        }
    else:
        assert groups == {('insert', s) for s in ('train', 'val', 'test')}
