"""The outer-validation split is taken out of training, and nothing else changes."""

import pytest

import mmdefect.registration  # noqa: F401
from mmdefect.datasets.layouts import build_layout
from mmdefect.datasets.split_file import read_split
from mmdefect.datasets.splits import split_outer_val
from tests.helpers.data import write_wta


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('wta')
    write_wta(root, dict(train=18, val=3, test=3))
    return root


def names(split, side):
    return {entry.image for entry in split.splits[side]}


def test_folders_keep_their_sides_and_training_is_divided(root, tmp_path):
    split = split_outer_val(build_layout('wta', str(root)), 0.34, str(tmp_path / 'a.json'))
    assert names(split, 'val') == {f'img_dir/val/[{i:04d}]top.png' for i in range(3)} and len(names(split, 'test')) == 3
    train, outer = names(split, 'train'), names(split, 'outer_val')
    assert train | outer == {f'img_dir/train/[{i:04d}]top.png' for i in range(18)} and not train & outer
    assert len(outer) in (6, 7, 8) and {e.type for e in split.splits['outer_val']} == {
        e.type for e in split.splits['train']
    }  # every type is on both sides
    assert names(read_split(tmp_path / 'a.json'), 'outer_val') == outer
    again = split_outer_val(build_layout('wta', str(root)), 0.34, str(tmp_path / 'b.json'))
    other = split_outer_val(build_layout('wta', str(root)), 0.34, str(tmp_path / 'c.json'), seed=5)
    assert names(again, 'outer_val') == outer != names(other, 'outer_val')


def test_a_split_file_is_divided_further_once_and_groups_stay_together(root, tmp_path):
    groups = tmp_path / 'groups.json'
    members = [f'img_dir/train/[{i:04d}]top.png' for i in (0, 3, 6)]
    groups.write_text('[["' + '", "'.join(members) + '"]]')
    first = tmp_path / 'first.json'
    split_outer_val(build_layout('wta', str(root)), 0.5, str(first), group_file=str(groups))
    split = read_split(first)
    assert len({side for side in ('train', 'outer_val') for m in members if m in names(split, side)}) == 1
    with pytest.raises(ValueError, match='no outer_val yet'):
        split_outer_val(build_layout('wta', str(root)), 0.5, str(tmp_path / 'x.json'), split_file=str(first))
    with pytest.raises(FileExistsError, match='--overwrite'):
        split_outer_val(build_layout('wta', str(root)), 0.5, str(first))
    with pytest.raises(ValueError, match='between 0 and 1'):
        split_outer_val(build_layout('wta', str(root)), 1.0, str(tmp_path / 'x.json'))
