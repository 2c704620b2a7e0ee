from __future__ import annotations

import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import Compose
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from mmdefect.datasets.transforms import LoadDefectAnnotations, LoadObjectMask
from tests.helpers.data import save, write_combined


@pytest.fixture
def info(tmp_path):
    label = np.zeros((20, 30), np.uint8)
    label[4:9, 5:12] = 1
    label[12:15, 20:25] = 2
    label[0, 0] = 255
    save(tmp_path / 'image.png', np.full((20, 30, 3), 200, np.uint8))
    save(tmp_path / 'mask.png', label)
    return dict(
        img_path=str(tmp_path / 'image.png'),
        seg_map_path=str(tmp_path / 'mask.png'),
        mask_encoding='index',
        class_id=None,
        palette=None,
        num_classes=3,
        label_map=None,
        reduce_zero_label=False,
        seg_fields=[],
    )


def truth(info):
    return np.asarray(Image.open(info['seg_map_path']))


def test_equals_mmsegs_loader_on_index_masks(info):
    for label_map in (None, {0: 0, 1: 255, 2: 1}):
        info.update(label_map=label_map, seg_fields=[])
        ours = LoadDefectAnnotations()(LoadImageFromFile()(dict(info)))
        info['seg_fields'] = []
        theirs = LoadAnnotations()(LoadImageFromFile()(dict(info)))
        assert ours['gt_seg_map'].dtype == theirs['gt_seg_map'].dtype == np.uint8
        np.testing.assert_array_equal(ours['gt_seg_map'], theirs['gt_seg_map'])
        assert ours['seg_fields'] == theirs['seg_fields'] == ['gt_seg_map']


def test_after_the_resize_the_label_keeps_native_size(info):
    pipeline = Compose(
        [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(60, 40)), dict(type='LoadDefectAnnotations')]
    )
    results = pipeline(info)
    assert results['img'].shape[:2] == (40, 60) and results['ori_shape'] == (20, 30)
    np.testing.assert_array_equal(results['gt_seg_map'], truth(info))


def test_before_the_resize_the_label_is_resized_without_new_values(info):
    pipeline = Compose(
        [dict(type='LoadImageFromFile'), dict(type='LoadDefectAnnotations'), dict(type='Resize', scale=(75, 50))]
    )
    results = pipeline(info)
    assert results['gt_seg_map'].shape == (50, 75)
    assert set(np.unique(results['gt_seg_map'])) <= {0, 1, 2, 255}
    assert (results['gt_seg_map'] == 2).sum() == pytest.approx(15 * 2.5**2, rel=0.3)  # nearest neighbour, 3x5 px


@pytest.mark.parametrize('loaded', [True, False], ids=['image loaded', 'image not loaded'])
def test_clean_image_is_all_zero(info, loaded):
    info['seg_map_path'] = None
    results = LoadDefectAnnotations()(LoadImageFromFile()(info) if loaded else info)
    assert results['gt_seg_map'].shape == (20, 30) and results['gt_seg_map'].dtype == np.uint8
    assert not results['gt_seg_map'].any()


def test_binary_and_palette(info, tmp_path):
    label = truth(info) == 1
    save(tmp_path / 'binary.png', label.astype(np.uint8) * 255)
    binary = LoadDefectAnnotations()(
        {
            **info,
            'seg_map_path': str(tmp_path / 'binary.png'),
            'mask_encoding': 'binary',
            'class_id': 2,
            'seg_fields': [],
        }
    )
    np.testing.assert_array_equal(binary['gt_seg_map'], label * 2)
    colours = np.where(label[..., None], [0, 255, 0], [0, 0, 0]).astype(np.uint8)
    save(tmp_path / 'palette.png', colours)
    palette = LoadDefectAnnotations()(
        {
            **info,
            'seg_map_path': str(tmp_path / 'palette.png'),
            'mask_encoding': 'palette',
            'palette': [[0, 0, 0], [255, 0, 0], [0, 255, 0]],
            'seg_fields': [],
        }
    )
    np.testing.assert_array_equal(palette['gt_seg_map'], label * 2)


def test_new_image_without_annotation_passes(info):
    results = LoadDefectAnnotations()(dict(img_path=info['img_path']))
    assert 'gt_seg_map' not in results


class TestErrors:
    def test_other_size_names_both_files(self, info, tmp_path):
        save(tmp_path / 'mask.png', np.zeros((20, 31), np.uint8))
        with pytest.raises(ValueError, match=r'mask\.png must have the size of its image .*image\.png, 30x20.*31x20'):
            LoadDefectAnnotations()(LoadImageFromFile()(info))

    def test_missing_mask(self, info):
        info['seg_map_path'] += '.gone'
        with pytest.raises(ValueError, match=r'mask\.png\.gone does not exist; restore it'):
            LoadDefectAnnotations()(info)

    def test_unreadable_mask(self, info, tmp_path):
        (tmp_path / 'mask.png').write_bytes(b'\x89PNG\r\n\x1a\n broken')
        with pytest.raises(ValueError, match=r'mask\.png must be readable'):
            LoadDefectAnnotations()(info)

    def test_value_outside_the_classes(self, info):
        info['num_classes'] = 2
        with pytest.raises(ValueError, match=r'mask\.png must be 0\.\.1 or 255.*holds 2'):
            LoadDefectAnnotations()(info)


class TestObjectMask:
    def test_moves_with_the_image(self, tmp_path):
        write_combined(tmp_path)
        info = dict(
            img_path=str(tmp_path / 'good/000.png'),
            seg_map_path=None,
            object_mask_path=str(tmp_path / 'good_object_location_mask/000_mask.png'),
            seg_fields=[],
        )
        results = Compose(
            [
                dict(type='LoadImageFromFile'),
                dict(type='LoadDefectAnnotations'),
                dict(type='LoadObjectMask'),
                dict(type='RandomFlip', prob=1.0),
            ]
        )(info)
        width = results['gt_object_map'].shape[1]
        assert not results['gt_object_map'][:, : width // 2].any()
        assert results['gt_object_map'][:, width // 2 :].all()

    def test_without_a_mask_the_object_is_everything(self, info):
        assert LoadObjectMask()(info)['gt_object_map'].all()

    def test_other_size(self, info, tmp_path):
        save(tmp_path / 'object.png', np.ones((3, 3), np.uint8))
        info['object_mask_path'] = str(tmp_path / 'object.png')
        with pytest.raises(ValueError, match=r'object\.png must have the size'):
            LoadObjectMask()(info)
