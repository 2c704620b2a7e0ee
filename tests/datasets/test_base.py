from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from mmdefect.datasets import DefectDataset, MVTecDataset, defect_palette
from mmdefect.datasets.samples import Sample, index_by_stem, list_images
from mmdefect.datasets.split_file import Split, SplitEntry, write_split
from tests.helpers.data import save, write_mvtec


class ListedDataset(DefectDataset):
    """Three images: two with own splits, one without."""

    METAINFO: ClassVar = dict(classes=('normal', 'dent', 'hole'), palette=[[0, 0, 0], [1, 1, 1], [2, 2, 2]])

    def scan(self):
        return [
            Sample(f'{self.data_root}/{n}.png', None, own_split=s)
            for n, s in (('a', 'train'), ('b', 'val'), ('c', None))
        ]


def names(dataset):
    return [dataset.get_data_info(i)['img_path'].rsplit('/', 1)[-1] for i in range(len(dataset))]


def split_file(path, **splits):
    entries = {
        n: [SplitEntry(f'{i}.png', None, 'good', f'hash of {i}') for i in images] for n, images in splits.items()
    }
    write_split(Split(entries, {'name': 'by hand'}, 0), path)
    return str(path)


class TestSelection:
    def test_own_split_and_everything(self, tmp_path):
        assert names(ListedDataset(data_root=str(tmp_path), split='train')) == ['a.png']
        assert names(ListedDataset(data_root=str(tmp_path))) == ['a.png', 'b.png', 'c.png']

    def test_split_file_overrides_the_folders(self, tmp_path):
        file = split_file(tmp_path / 's.json', train=['c', 'b'], val=['a'])
        assert names(ListedDataset(data_root=str(tmp_path), split='train', split_file=file)) == ['c.png', 'b.png']

    def test_split_file_below_the_data_root(self, tmp_path):
        split_file(tmp_path / 's.json', train=['a'])
        assert names(ListedDataset(data_root=str(tmp_path), split='train', split_file='s.json')) == ['a.png']

    def test_unknown_split_lists_the_found(self, tmp_path):
        with pytest.raises(ValueError, match=r"split 'test', but its folders give \['train', 'val'\]"):
            ListedDataset(data_root=str(tmp_path), split='test')
        file = split_file(tmp_path / 's.json', train=['a'], val=['b'])
        with pytest.raises(ValueError, match=r"s\.json has no split 'test'; it holds \['train', 'val'\]"):
            ListedDataset(data_root=str(tmp_path), split='test', split_file=file)

    def test_empty_split(self, tmp_path):
        file = split_file(tmp_path / 's.json', train=['a'], val=[])
        with pytest.raises(ValueError, match=r"the split 'val' of .*s\.json must hold at least one image"):
            ListedDataset(data_root=str(tmp_path), split='val', split_file=file)

    def test_listed_image_that_is_gone(self, tmp_path):
        file = split_file(tmp_path / 's.json', train=['a', 'x', 'y'])
        with pytest.raises(ValueError, match=r's\.json names x\.png and 1 more images, which ListedDataset does not'):
            ListedDataset(data_root=str(tmp_path), split='train', split_file=file)

    def test_missing_split_file_says_where_it_looked(self, tmp_path):
        with pytest.raises(ValueError, match=r"none of \['no\.json', '.*no\.json'\] does"):
            ListedDataset(data_root=str(tmp_path), split='train', split_file='no.json')

    def test_split_file_needs_a_split(self, tmp_path):
        with pytest.raises(ValueError, match='`split` must name one split'):
            ListedDataset(data_root=str(tmp_path), split_file='s.json')

    def test_missing_root_and_empty_layout(self, tmp_path):
        with pytest.raises(ValueError, match='`data_root` must be a folder'):
            ListedDataset(data_root=str(tmp_path / 'no'))

        class Empty(DefectDataset):
            def scan(self):
                return []

        with pytest.raises(ValueError, match='must hold images in the layout of Empty'):
            Empty(data_root=str(tmp_path))


class TestMetainfo:
    def test_selected_classes_map_the_others_to_ignore(self, tmp_path):
        dataset = ListedDataset(data_root=str(tmp_path), metainfo=dict(classes=('normal', 'hole')))
        assert dataset.metainfo['label_map'] == {0: 0, 1: 255, 2: 1}
        assert dataset.metainfo['palette'] == [[0, 0, 0], [2, 2, 2]]
        assert dataset.get_data_info(0)['num_classes'] == 3, 'the file may hold the class that is mapped away'

    def test_new_names_rename(self, tmp_path):
        dataset = ListedDataset(data_root=str(tmp_path), metainfo=dict(classes=('ok', 'p', 'q', 'r')))
        assert dataset.metainfo['label_map'] is None
        assert dataset.metainfo['palette'] == defect_palette(4)
        assert dataset.get_data_info(0)['num_classes'] == 4

    def test_reduce_zero_label_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match='`reduce_zero_label` must be False'):
            ListedDataset(data_root=str(tmp_path), reduce_zero_label=True)

    def test_palette_is_distinct_and_stable(self):
        many = defect_palette(40)
        assert many[0] == [0, 0, 0] and len({tuple(c) for c in many}) == 40
        assert all(0 <= v <= 255 for c in many for v in c)
        assert defect_palette(5) == many[:5]


class TestPlainLoader:
    @pytest.mark.parametrize(
        'pipeline',
        [
            [dict(type='LoadAnnotations')],
            [
                dict(
                    type='RandomChoice',
                    transforms=[[dict(type='LoadAnnotations')], [dict(type='LoadDefectAnnotations')]],
                )
            ],
            [dict(type='RandomApply', transforms=[dict(type='LoadAnnotations')])],
            [dict(type='TestTimeAug', transforms=[[dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])],
        ],
        ids=['plain', 'choice', 'apply', 'tta'],
    )
    def test_is_refused_where_it_would_read_labels_wrongly(self, tmp_path, pipeline):
        write_mvtec(tmp_path)
        with pytest.raises(ValueError, match='must load labels with LoadDefectAnnotations'):
            MVTecDataset(data_root=str(tmp_path), split='test', pipeline=pipeline)
        MVTecDataset(data_root=str(tmp_path), split='test', pipeline=[dict(type='LoadDefectAnnotations')])


class TestFiles:
    def test_images_only_sorted_and_visible(self, tmp_path):
        for name in ('b.PNG', 'a.jpg'):
            save(tmp_path / name, np.zeros((2, 2), np.uint8))
        for name in ('.hidden.png', 'notes.txt', 'Thumbs.db'):
            (tmp_path / name).write_text('x')
        assert [p.rsplit('/', 1)[-1] for p in list_images(tmp_path)] == ['a.jpg', 'b.PNG']

    def test_missing_folder(self, tmp_path):
        with pytest.raises(ValueError, match='must be a folder of images'):
            list_images(tmp_path / 'no')

    def test_stems(self):
        assert index_by_stem(['d/a_mask.png', 'd/b.c.png'], ('_mask',)) == {'a': 'd/a_mask.png', 'b.c': 'd/b.c.png'}
        with pytest.raises(ValueError, match='d/a.png and d/a.jpg share one'):
            index_by_stem(['d/a.png', 'd/a.jpg'])
