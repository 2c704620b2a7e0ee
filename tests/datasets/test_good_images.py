"""Good images of MVTec AD's layout and of plain folders, and their division."""

from __future__ import annotations

import pytest

import mmdefect.registration  # noqa: F401
from mmdefect.datasets import GoodImageDataset
from tests.helpers.data import write_mvtec, write_wta


def names(dataset) -> list[str]:
    return [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))]


def test_the_same_images_however_they_are_named(tmp_path):
    write_mvtec(tmp_path, train_good=5)
    folder = tmp_path / 'screw' / 'train' / 'good'
    by_category = names(GoodImageDataset(str(tmp_path), 'screw'))
    assert by_category == names(GoodImageDataset(str(tmp_path / 'screw'))) == names(GoodImageDataset(str(folder)))
    assert by_category == sorted(map(str, folder.iterdir()))


def test_parts_are_disjoint_complete_and_stable(tmp_path):
    write_mvtec(tmp_path, train_good=13)
    parts = {part: names(GoodImageDataset(str(tmp_path), 'screw', part, folds=4)) for part in ('all', 'fit', 'held_out')}
    assert sorted(parts['fit'] + parts['held_out']) == parts['all'] and len(parts['held_out']) in (3, 4)
    assert parts['held_out'] == names(GoodImageDataset(str(tmp_path), 'screw', 'held_out', folds=4))


def test_errors_say_what_is_there(tmp_path):
    write_mvtec(tmp_path)
    with pytest.raises(ValueError, match='bottle, screw'):
        GoodImageDataset(str(tmp_path), 'nut')
    with pytest.raises(ValueError, match='all, fit, held_out'):
        GoodImageDataset(str(tmp_path), 'screw', 'val')
    with pytest.raises(ValueError, match='does not exist'):
        GoodImageDataset(str(tmp_path / 'no'))


def test_label_maps_tell_the_clean_images(tmp_path):
    labels = write_wta(tmp_path, dict(train=7))
    dataset = GoodImageDataset(str(tmp_path / 'img_dir' / 'train'), labels=str(tmp_path / 'ann_dir' / 'train'))
    assert [n.split('img_dir')[1] for n in names(dataset)] == [
        n.split('img_dir')[1] for n, label in sorted(labels.items()) if not label.any()]
    (tmp_path / 'ann_dir' / 'train' / '[0001]top.png').unlink()
    with pytest.raises(ValueError, match='0001'):
        GoodImageDataset(str(tmp_path / 'img_dir' / 'train'), labels=str(tmp_path / 'ann_dir' / 'train'))
