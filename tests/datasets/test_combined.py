from __future__ import annotations

import shutil

import pytest

from mmdefect.datasets import CombinedDefectDataset
from tests.datasets.labels import LOAD, assert_labels, part
from tests.helpers.data import SIZE_HW, write_combined


def test_labels(tmp_path):
    truth = write_combined(tmp_path)
    for split in ('train', 'val', 'test'):
        assert_labels(
            CombinedDefectDataset(data_root=str(tmp_path), split=split, pipeline=LOAD),
            part(truth, f'Combined/{split}/'),
        )
    assert_labels(CombinedDefectDataset(data_root=str(tmp_path), split='good', pipeline=LOAD), part(truth, 'good/'))
    assert_labels(CombinedDefectDataset(data_root=str(tmp_path), pipeline=LOAD), truth)


def test_good_images_join_training(tmp_path):
    truth = write_combined(tmp_path)
    dataset = CombinedDefectDataset(data_root=str(tmp_path), split='train', include_good=True, pipeline=LOAD)
    assert_labels(dataset, {**part(truth, 'Combined/train/'), **part(truth, 'good/')})


def test_object_masks(tmp_path):
    write_combined(tmp_path)
    dataset = CombinedDefectDataset(
        data_root=str(tmp_path), split='good', pipeline=[*LOAD, dict(type='LoadObjectMask')]
    )
    assert dataset[0]['gt_object_map'].sum() == SIZE_HW[0] * (SIZE_HW[1] // 2)
    (tmp_path / 'good_object_location_mask/001_mask.png').unlink()
    with pytest.raises(ValueError, match=r'good/001\.png must have a mask .*001_mask\.png'):
        CombinedDefectDataset(data_root=str(tmp_path), split='good')
    shutil.rmtree(tmp_path / 'good_object_location_mask')
    dataset = CombinedDefectDataset(data_root=str(tmp_path), split='good')
    assert dataset.get_data_info(0)['object_mask_path'] is None


def test_lower_case_folder(tmp_path):
    truth = write_combined(tmp_path)
    (tmp_path / 'Combined').rename(tmp_path / 'combined')
    dataset = CombinedDefectDataset(data_root=str(tmp_path), split='val', pipeline=LOAD)
    assert_labels(dataset, {n.lower(): label for n, label in part(truth, 'Combined/val/').items()})


def test_errors(tmp_path):
    with pytest.raises(ValueError, match='must hold the folder Combined/'):
        CombinedDefectDataset(data_root=str(tmp_path))
    write_combined(tmp_path)
    (tmp_path / 'Combined/val_gt/001_mask.png').unlink()
    with pytest.raises(ValueError, match=r'val/001\.png must have a mask .*val_gt/001_mask\.png'):
        CombinedDefectDataset(data_root=str(tmp_path))
