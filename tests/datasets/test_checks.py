from __future__ import annotations

import numpy as np
import pytest
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmseg.datasets import BaseSegDataset

from mmdefect.datasets import BladeWTADataset, DefectDataset, MVTecDataset
from mmdefect.datasets.checks import check_dataset
from mmdefect.datasets.layouts import build_layout
from mmdefect.datasets.samples import Sample
from mmdefect.datasets.splits import Third, split_dataset
from tests.helpers.data import SIZE_HW, save, write_mvtec, write_wta

MASK = 'ann_dir/train/[0001]top.png'
IMAGE = 'img_dir/train/[0001]top.png'


@pytest.fixture
def wta(tmp_path):
    write_wta(tmp_path)
    return tmp_path


def check(root, **options):
    return check_dataset(BladeWTADataset(data_root=str(root), split='train', **options))


class TestSummary:
    def test_counts_by_class(self, wta):
        summary = check(wta)  # six images: clean, broken, both, clean, attached, both
        assert (summary.num_images, summary.num_masks, summary.warnings) == (6, 6, [])
        assert summary.images_by_class == {0: 6, 1: 3, 2: 3}

    def test_equals_counting_loaded_labels(self, wta):
        dataset = BladeWTADataset(data_root=str(wta), pipeline=[dict(type='LoadDefectAnnotations')])
        counts = {v: sum(v in dataset[i]['gt_seg_map'] for i in range(len(dataset))) for v in range(3)}
        assert check_dataset(dataset).images_by_class == counts

    def test_clean_images_have_no_mask(self, tmp_path):
        write_mvtec(tmp_path)
        summary = check_dataset(MVTecDataset(data_root=str(tmp_path), classes='types'))
        assert (summary.num_images, summary.num_masks) == (38, 24)
        assert summary.images_by_class == {0: 38, 1: 6, 2: 12, 3: 6}

    def test_wrappers_and_plain_mmseg_data_sets(self, wta):
        plain = BaseSegDataset(
            data_root=str(wta),
            img_suffix='.png',
            metainfo=dict(classes=('n', 'a', 'b')),
            data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
        )
        ours = BladeWTADataset(data_root=str(wta), split='val')
        assert check_dataset(RepeatDataset(plain, 3)).num_images == 6
        both = BladeWTADataset(data_root=str(wta), split='train')
        assert check_dataset(ConcatDataset([both, ours, both])).num_images == 9

    def test_defect_without_pixels_is_a_warning(self, tmp_path):
        write_mvtec(tmp_path)
        save(tmp_path / 'screw/ground_truth/bent/002_mask.png', np.zeros(SIZE_HW, np.uint8))
        (warning,) = check_dataset(MVTecDataset(data_root=str(tmp_path))).warnings
        assert 'bent/002.png is listed as bent' in warning and 'no defect pixel' in warning


class TestErrors:
    def test_missing_mask(self, wta):
        (wta / MASK).unlink()
        with pytest.raises(ValueError, match=r'the mask .*\[0001\]top\.png must be readable.*restore it'):
            check(wta)

    def test_other_size(self, wta):
        save(wta / MASK, np.zeros((10, 12), np.uint8))
        with pytest.raises(
            ValueError, match=r'\[0001\]top\.png must have the size of its image, 56x40, but it has 12x10'
        ):
            check(wta)

    def test_values_outside_the_classes(self, wta):
        save(wta / MASK, np.full(SIZE_HW, 7, np.uint8))
        with pytest.raises(ValueError, match=r'\[0001\]top\.png must be 0\.\.2 or 255 \(ignore\), but it holds 7'):
            check(wta)

    @pytest.mark.parametrize('file, name', [(MASK, 'mask'), (IMAGE, 'image')])
    def test_unreadable(self, wta, file, name):
        (wta / file).write_bytes(b'\x89PNG nothing')
        with pytest.raises(ValueError, match=rf'the {name} .*\[0001\]top\.png must be readable'):
            check(wta)

    def test_truncated_image(self, wta):
        (wta / IMAGE).write_bytes((wta / IMAGE).read_bytes()[:-400])
        with pytest.raises(ValueError, match=r'\[0001\]top\.png must be complete'):
            check(wta)

    def test_others_are_counted(self, wta):
        for index in range(4):
            (wta / f'ann_dir/train/[000{index}]top.png').unlink()
        with pytest.raises(ValueError, match=r'\(3 more such problems; the next: .*\[0001\]top'):
            check(wta)

    def test_masks_of_0_and_255_read_as_indices(self, wta):
        for mask in (wta / 'ann_dir/train').iterdir():
            save(mask, np.eye(*SIZE_HW, dtype=np.uint8) * 255)
        with pytest.raises(ValueError, match='hold only 0 and 255.*255 means ignore; read them with'):
            check(wta)

    def test_class_mapped_away_is_no_error(self, wta):
        summary = check(wta, metainfo=dict(classes=('normal', 'broken')))
        assert set(summary.images_by_class) == {0, 1}

    def test_unknown_palette_colour(self, tmp_path):
        save(tmp_path / 'i.png', np.zeros((2, 2, 3), np.uint8))
        save(tmp_path / 'm.png', np.array([[[0, 0, 0], [255, 0, 0]], [[0, 0, 0], [9, 9, 9]]], np.uint8))

        class Coloured(DefectDataset):
            def scan(self):
                return [
                    Sample(
                        f'{self.data_root}/i.png',
                        f'{self.data_root}/m.png',
                        'dent',
                        'palette',
                        palette=[[0, 0, 0], [255, 0, 0]],
                    )
                ]

        with pytest.raises(ValueError, match=r'm\.png must be one of the palette .* holds \(9, 9, 9\)'):
            check_dataset(Coloured(data_root=str(tmp_path), metainfo=dict(classes=('normal', 'dent'))))

    def test_image_changed_since_the_split(self, tmp_path):
        write_mvtec(tmp_path)
        split = split_dataset(build_layout('mvtec', str(tmp_path)), Third(), tmp_path / 's.json')
        dataset = MVTecDataset(data_root=str(tmp_path), split='train', split_file='s.json')
        check_dataset(dataset)
        changed = split.splits['train'][0].image
        save(tmp_path / changed, np.zeros((*SIZE_HW, 3), np.uint8))
        with pytest.raises(ValueError, match=f'the content of .*{changed} has changed'):
            check_dataset(dataset)
