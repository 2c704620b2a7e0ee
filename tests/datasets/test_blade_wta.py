from __future__ import annotations

import shutil

import pytest
from mmseg.registry import DATASETS

from mmdefect.datasets import BladeWTADataset
from tests.datasets.labels import LOAD, assert_labels, loaded_labels, part
from tests.helpers.data import write_wta


def test_labels_of_every_split(tmp_path):
    truth = write_wta(tmp_path)
    for split in ('train', 'val', 'test'):
        assert_labels(
            BladeWTADataset(data_root=str(tmp_path), split=split, pipeline=LOAD), part(truth, f'img_dir/{split}/')
        )
    assert_labels(BladeWTADataset(data_root=str(tmp_path), pipeline=LOAD), truth)


@pytest.mark.parametrize('name', ['BladeWTADataset', 'WTADataset'])
def test_existing_mmseg_config(tmp_path, name):
    truth = write_wta(tmp_path)
    dataset = DATASETS.build(
        dict(
            type=name,
            data_root=str(tmp_path),
            data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
            pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
        )
    )
    assert type(dataset) is BladeWTADataset
    assert dataset.metainfo['classes'] == ('normal', 'attached', 'broken')
    assert dataset.metainfo['palette'] == [[0, 0, 0], [255, 0, 0], [0, 255, 0]]
    assert_labels(dataset, part(truth, 'img_dir/train/'))


def test_ann_file(tmp_path):
    truth = write_wta(tmp_path)
    (tmp_path / 'few.txt').write_text('[0001]top\n[0004]top\n')
    dataset = BladeWTADataset(
        data_root=str(tmp_path),
        ann_file='few.txt',
        pipeline=LOAD,
        data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
    )
    assert_labels(dataset, {n: truth[n] for n in ('img_dir/train/[0001]top.png', 'img_dir/train/[0004]top.png')})


def test_other_class_names_in_the_layout(tmp_path):
    truth = write_wta(tmp_path, num_classes=5)
    classes = ('normal', 'scratch', 'chip', 'stain', 'hole')
    dataset = BladeWTADataset(data_root=str(tmp_path), metainfo=dict(classes=classes), pipeline=LOAD)
    assert_labels(dataset, truth)
    with pytest.raises(ValueError, match='must be 0..2 or 255'):
        loaded_labels(BladeWTADataset(data_root=str(tmp_path), pipeline=LOAD))


def test_errors(tmp_path):
    write_wta(tmp_path)
    with pytest.raises(ValueError, match=r"split 'dev', but its folders give \['test', 'train', 'val'\]"):
        BladeWTADataset(data_root=str(tmp_path), split='dev')
    with pytest.raises(ValueError, match='either `split` or `data_prefix`'):
        BladeWTADataset(data_root=str(tmp_path), split='train', data_prefix=dict(img_path='img_dir/train'))
    with pytest.raises(ValueError, match='`data_prefix` must name a folder'):
        BladeWTADataset(data_root=str(tmp_path), data_prefix=dict(img_path='images', seg_map_path='ann_dir'))
    shutil.rmtree(tmp_path / 'ann_dir')
    with pytest.raises(ValueError, match='must hold img_dir/ and ann_dir/, but .*ann_dir does not exist'):
        BladeWTADataset(data_root=str(tmp_path), split='train')
