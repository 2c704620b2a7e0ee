"""The data sets through mmseg's own training and test pipelines and PyTorch's loader."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader

from mmdefect.datasets import BladeWTADataset, CombinedDefectDataset, MVTecDataset
from tests.datasets.labels import part
from tests.helpers.data import SIZE_HW, write_combined, write_mvtec, write_wta

TRAIN = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadDefectAnnotations'),
    dict(type='RandomResize', scale=(64, 64), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(32, 32), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
TEST = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='LoadDefectAnnotations'),
    dict(type='PackSegInputs'),
]
MEMBERS = [
    (write_wta, lambda root, **kw: BladeWTADataset(data_root=root, split='train', **kw), 3),
    (write_mvtec, lambda root, **kw: MVTecDataset(data_root=root, classes='types', **kw), 4),
    (
        write_combined,
        lambda root, **kw: CombinedDefectDataset(data_root=root, split='train', include_good=True, **kw),
        2,
    ),
]


@pytest.mark.parametrize('write, build, num_classes', MEMBERS, ids=['wta', 'mvtec', 'combined'])
def test_training_pipeline(tmp_path, write, build, num_classes):
    write(tmp_path)
    dataset = build(str(tmp_path), pipeline=TRAIN)
    loader = DataLoader(
        dataset,
        batch_size=3,
        shuffle=True,
        num_workers=2,
        collate_fn=pseudo_collate,
        generator=torch.Generator().manual_seed(0),
    )
    seen, images = set(), 0
    for batch in loader:
        for image, sample in zip(batch['inputs'], batch['data_samples'], strict=True):
            label = sample.gt_sem_seg.data
            assert image.shape[1:] == label.shape[1:] and image.dtype == torch.uint8 and label.dtype == torch.int64
            seen |= set(label.unique().tolist())
            images += 1
    assert images == len(dataset)
    assert seen <= {*range(num_classes), 255} and seen & set(range(1, num_classes))


@pytest.mark.parametrize('write, build, num_classes', MEMBERS, ids=['wta', 'mvtec', 'combined'])
def test_test_pipeline_keeps_native_labels(tmp_path, write, build, num_classes):
    write(tmp_path)
    dataset = build(str(tmp_path), pipeline=TEST, test_mode=True)
    for item in (dataset[i] for i in range(len(dataset))):
        sample = item['data_samples']
        assert sample.ori_shape == SIZE_HW == tuple(sample.gt_sem_seg.data.shape[1:])
        assert tuple(item['inputs'].shape[1:]) == sample.img_shape != SIZE_HW
        assert len(dataset.metainfo['classes']) == num_classes == len(dataset.metainfo['palette'])


def test_test_pipeline_yields_the_drawn_pixels(tmp_path):
    """The pixels of every class that come out of the test pipeline are those that were drawn."""
    truth = part(write_wta(tmp_path), 'img_dir/train/')
    dataset = BladeWTADataset(data_root=str(tmp_path), split='train', pipeline=TEST)
    drawn = np.bincount(np.concatenate([v.ravel() for v in truth.values()]), minlength=3)
    loaded = sum(
        torch.bincount(dataset[i]['data_samples'].gt_sem_seg.data.ravel(), minlength=3) for i in range(len(dataset))
    )
    assert loaded.tolist() == drawn.tolist()
