"""``FolderDefectDataset`` reads what was written, with and without a split file."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mmdefect.datasets.folder import FolderDefectDataset
from mmdefect.datasets.layouts import build_layout
from mmdefect.datasets.split_file import read_split
from mmdefect.datasets.splits import Fractions, split_dataset
from tests.helpers.data import draw_image, draw_label, save, write_mvtec, write_wta

LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadDefectAnnotations')]
COLOURS = np.array([[0, 0, 0], [10, 200, 0], [200, 10, 0]], np.uint8)


def write_folder(root, encode, count=8, seed=0):
    """Write ``images/`` and ``masks/`` and two clean images; return the labels by relative path."""
    rng = np.random.default_rng(seed)
    labels = {}
    for index in range(count):
        label = draw_label(rng, [1, 2] if index % 3 else [1])
        save(root / f'images/{index:02d}.png', draw_image(rng))
        save(root / f'masks/{index:02d}.png', encode(label))
        labels[f'images/{index:02d}.png'] = label
    for index in range(2):
        save(root / f'good/c{index}.png', draw_image(rng))
        labels[f'good/c{index}.png'] = np.zeros_like(label)
    return labels


def loaded(dataset, root):
    return {
        str(info['img_path'])[len(str(root)) + 1 :]: dataset[index]['gt_seg_map']
        for index, info in enumerate(dataset.get_data_info(i) for i in range(len(dataset)))
    }


def assert_same_labels(found, expected):
    assert found.keys() == expected.keys()
    for name, label in expected.items():
        np.testing.assert_array_equal(found[name], label, err_msg=name)


@pytest.mark.parametrize(
    'encode, encoding',
    [(lambda x: x, 'index'), (lambda x: COLOURS[x], 'palette'), (lambda x: x * np.uint8(100), 'palette')],
)
def test_labels_are_read_as_drawn(tmp_path, encode, encoding):
    labels = write_folder(tmp_path, encode)
    dataset = FolderDefectDataset(str(tmp_path), pipeline=LOAD, metainfo=dict(classes=('normal', 'pit', 'cut')))
    assert dataset.description.mask_encoding == encoding and dataset.metainfo['classes'] == ('normal', 'pit', 'cut')
    assert len(dataset.metainfo['palette']) == 3
    assert_same_labels(loaded(dataset, tmp_path), labels)


def test_binary_masks(tmp_path):
    labels = write_folder(tmp_path, lambda x: (x > 0) * np.uint8(255))
    dataset = FolderDefectDataset(str(tmp_path), pipeline=LOAD)
    assert dataset.metainfo['classes'] == ('normal', 'defect')
    assert_same_labels(loaded(dataset, tmp_path), {n: (x > 0).astype(np.uint8) for n, x in labels.items()})


def test_reads_the_wta_layout(tmp_path):
    labels = write_wta(tmp_path)
    dataset = FolderDefectDataset(str(tmp_path), split='val', pipeline=LOAD)
    assert_same_labels(loaded(dataset, tmp_path), {n: x for n, x in labels.items() if '/val/' in n})


def test_reads_the_mvtec_layout_with_a_class_per_type(tmp_path):
    labels = write_mvtec(tmp_path, {'bottle': ('crack', 'stain')})
    dataset = FolderDefectDataset(str(tmp_path / 'bottle'), pipeline=LOAD)
    assert dataset.metainfo['classes'] == ('normal', 'crack', 'stain')
    expected = {n.removeprefix('bottle/'): x * np.uint8(2 if '/stain/' in n else 1) for n, x in labels.items()}
    assert_same_labels(loaded(dataset, tmp_path / 'bottle'), expected)


def test_split_file_carries_the_description(tmp_path, monkeypatch):
    labels = write_folder(tmp_path, lambda x: x)
    file = tmp_path / 'split.json'
    whole = build_layout('folder', str(tmp_path), metainfo=dict(classes=('normal', 'pit', 'cut')))
    split_dataset(whole, Fractions(), str(file), seed=0)
    monkeypatch.setattr('mmdefect.datasets.folder.describe_folder', lambda *_: pytest.fail('masks were read again'))
    parts = {
        s: FolderDefectDataset(str(tmp_path), split_file=str(file), split=s, pipeline=LOAD)
        for s in ('train', 'val', 'test')
    }
    assert all(p.metainfo['classes'] == ('normal', 'pit', 'cut') for p in parts.values())
    found = {}
    for part in parts.values():
        assert not found.keys() & loaded(part, tmp_path).keys()
        found.update(loaded(part, tmp_path))
    assert_same_labels(found, labels)
    types = {e.image: e.type for e in read_split(file).splits['train']}
    infos = [parts['train'].get_data_info(i) for i in range(len(parts['train']))]
    assert {i['img_path'][len(str(tmp_path)) + 1 :]: i['defect_type'] for i in infos} == types


def test_description_file_carries_the_classes(tmp_path):
    write_folder(tmp_path, lambda x: x)
    described = FolderDefectDataset(str(tmp_path), metainfo=dict(classes=('normal', 'pit', 'cut'))).description
    (tmp_path / 'dataset.json').write_text(json.dumps(described.to_dict()))
    assert FolderDefectDataset(str(tmp_path)).metainfo['classes'] == ('normal', 'pit', 'cut')


@pytest.mark.parametrize(
    'arguments, says',
    [
        (dict(metainfo=dict(classes=('normal', 'pit'))), 'must be 2 distinct names'),
        (dict(mask_encoding='rgb'), '`encoding` must be one of'),
        (dict(types_from='stem'), '`types` must be one of'),
        (dict(split='train'), "must hold images of the split 'train', but its folders give no splits"),
        (dict(split='train', split_file='absent.json'), '`split_file` must exist'),
    ],
)
def test_bad_arguments(tmp_path, arguments, says):
    write_folder(tmp_path, lambda x: x)
    with pytest.raises(ValueError) as info:
        FolderDefectDataset(str(tmp_path), **arguments)
    assert says in str(info.value)


def test_classes_that_differ_from_the_described_ones(tmp_path):
    write_folder(tmp_path, lambda x: x)
    described = FolderDefectDataset(str(tmp_path)).description
    (tmp_path / 'dataset.json').write_text(json.dumps(described.to_dict()))
    with pytest.raises(ValueError, match='`classes` must name the 3 classes that the masks of .* have'):
        FolderDefectDataset(str(tmp_path), metainfo=dict(classes=('normal', 'pit')))


def test_missing_root(tmp_path):
    with pytest.raises(ValueError, match='`data_root` must be a folder'):
        FolderDefectDataset(str(tmp_path / 'absent'))


def test_mask_that_vanished_after_the_split(tmp_path):
    write_folder(tmp_path, lambda x: x)
    file = tmp_path / 'split.json'
    split_dataset(build_layout('folder', str(tmp_path)), Fractions(), str(file), seed=0)
    image = next(e.image for e in read_split(file).splits['train'] if e.mask)
    (tmp_path / image.replace('images', 'masks')).unlink()
    with pytest.raises(ValueError, match=f'{image}.*does not find'):
        FolderDefectDataset(str(tmp_path), split_file=str(file), split='train')
