from __future__ import annotations

import hashlib
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmseg.datasets import BaseSegDataset

from mmdefect.datasets import BladeWTADataset, DefectDataset, MVTecDataset
from mmdefect.datasets.checks import check_dataset, check_disjoint, check_donors
from mmdefect.datasets.layouts import build_layout
from mmdefect.datasets.protocols import Fractions, KShot, Third
from mmdefect.datasets.samples import Sample, iter_data_infos
from mmdefect.datasets.splits import split_dataset
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


@pytest.fixture
def root(tmp_path):
    write_wta(tmp_path)
    return tmp_path


def datasets(root, names=('train', 'val', 'test')):
    return {n: BladeWTADataset(data_root=str(root), split=n) for n in names}


def copy_image(root, source, target):
    shutil.copy(root / 'img_dir' / source, root / 'img_dir' / target)
    shutil.copy(root / 'ann_dir' / source, root / 'ann_dir' / target)


class TestDisjoint:
    def test_passes(self, root):
        check_disjoint(datasets(root))

    def test_copy_under_another_name_names_both_files(self, root):
        copy_image(root, 'train/[0002]top.png', 'test/renamed.png')
        with pytest.raises(
            ValueError,
            match=r'train/\[0002\]top\.png \(train\) and .*test/renamed\.png \(test\) have '
            r'the same content; take one out',
        ):
            check_disjoint(datasets(root))

    def test_more_pairs_are_counted(self, root):
        for index in range(3):
            copy_image(root, f'train/[000{index}]top.png', f'val/copy{index}.png')
        with pytest.raises(ValueError, match=r'same content \(2 more pairs\)'):
            check_disjoint(datasets(root))

    def test_one_folder_used_twice(self, root):
        same = datasets(root, ('val',))['val']
        with pytest.raises(ValueError, match=r'val and test both read .*\(2 more shared images\); give each its own'):
            check_disjoint({'val': same, 'test': RepeatDataset(same, 2)})

    def test_copies_inside_one_split_are_allowed(self, root):
        copy_image(root, 'train/[0002]top.png', 'train/again.png')
        check_disjoint(datasets(root))

    def test_equal_size_is_not_equal_content(self, root):
        path = root / 'img_dir/test/padded.png'
        copy_image(root, 'train/[0002]top.png', 'test/padded.png')
        data = bytearray(path.read_bytes())
        data[-5] ^= 1
        path.write_bytes(data)
        check_disjoint(datasets(root))


class TestDonors:
    def held_out(self, root):
        return datasets(root, ('val', 'test'))

    def train_images(self, root):
        return sorted(map(str, (root / 'img_dir/train').iterdir()))

    def test_training_images_pass(self, root):
        check_donors(self.train_images(root), self.held_out(root))
        check_donors({p: sha(p) for p in self.train_images(root)}, self.held_out(root))

    @pytest.mark.parametrize('by_hash', [False, True])
    def test_held_out_image_names_both_files(self, root, by_hash):
        donor = root / 'donor.png'
        shutil.copy(root / 'img_dir/val/[0001]top.png', donor)
        sources = [*self.train_images(root), str(donor)]
        sources = {p: sha(p) for p in sources} if by_hash else sources
        with pytest.raises(ValueError, match=r'donor\.png has the content of .*val/\[0001\]top\.png \(val\)'):
            check_donors(sources, self.held_out(root))

    def test_donors_among_themselves_may_repeat(self, root):
        images = self.train_images(root)
        check_donors([*images, images[0]], self.held_out(root))

    def test_missing_source(self, root):
        with pytest.raises(ValueError, match=r'gone\.png must be readable'):
            check_donors([str(root / 'gone.png')], self.held_out(root))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31), protocol=st.sampled_from([Third(), KShot(2), Fractions()]))
def test_written_splits_never_share_content(tmp_path, seed, protocol):
    """The contents really are different, for any seed: files are compared, not names."""
    if not (tmp_path / 'nut').exists():
        write_mvtec(tmp_path, {'nut': ['dent', 'scar']})
    split = split_dataset(build_layout('mvtec', str(tmp_path)), protocol, tmp_path / 's.json', seed, overwrite=True)
    built = {n: build_layout('mvtec', str(tmp_path), split=n, split_file='s.json') for n in split.splits}
    check_disjoint(built)
    train = [i['img_path'] for i in iter_data_infos(built['train'])]
    check_donors(train, {n: d for n, d in built.items() if n != 'train'})
    contents = [{sha(i['img_path']) for i in iter_data_infos(d)} for d in built.values()]
    assert sum(map(len, contents)) == len(set().union(*contents)) == 19


def sha(path):
    with open(path, 'rb') as stream:
        return hashlib.sha256(stream.read()).hexdigest()
