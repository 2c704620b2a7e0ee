from __future__ import annotations

import hashlib
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.dataset import RepeatDataset

from mmdefect.datasets import BladeWTADataset
from mmdefect.datasets.checks import check_disjoint, check_donors
from mmdefect.datasets.layouts import build_layout
from mmdefect.datasets.samples import iter_data_infos
from mmdefect.datasets.splits import Fractions, KShot, Third, split_dataset
from tests.helpers.data import write_mvtec, write_wta


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
