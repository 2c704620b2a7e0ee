"""Good images of MVTec AD's layout and of plain folders, and their division."""

from __future__ import annotations

import json

import pytest

import mmdefect.registration  # noqa: F401
from mmdefect.datasets import GoodImageDataset
from tests.helpers.data import write_mvtec, write_visa, write_wta


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
    parts = {
        part: names(GoodImageDataset(str(tmp_path), 'screw', part, folds=4)) for part in ('all', 'fit', 'held_out')
    }
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
        n.split('img_dir')[1] for n, label in sorted(labels.items()) if not label.any()
    ]
    (tmp_path / 'ann_dir' / 'train' / '[0001]top.png').unlink()
    with pytest.raises(ValueError, match='0001'):
        GoodImageDataset(str(tmp_path / 'img_dir' / 'train'), labels=str(tmp_path / 'ann_dir' / 'train'))


def write_split(path, splits: dict[str, list[tuple[str, str]]]) -> None:
    """Write a split file by hand: names and types."""
    path.write_text(
        json.dumps(
            dict(
                format='mmdefect-split/1',
                protocol=dict(name='fractions'),
                seed=0,
                notes={},
                splits={
                    name: [dict(image=image, mask=None, type=kind, sha256=image) for image, kind in entries]
                    for name, entries in splits.items()
                },
            )
        )
    )


def test_a_split_file_gives_the_good_images_of_one_split(tmp_path):
    write_mvtec(tmp_path, train_good=6)
    good = [f'screw/train/good/{p.name}' for p in sorted((tmp_path / 'screw' / 'train' / 'good').iterdir())]
    bad = sorted(p.relative_to(tmp_path).as_posix() for p in (tmp_path / 'screw' / 'test').rglob('*.png'))[0]
    write_split(
        tmp_path / 'splits.json',
        dict(
            train=[(good[3], 'good'), (bad, 'crack'), (good[0], 'screw/good')],
            test=[(good[1], 'good')],
            val=[(bad + 'x', 'crack')],
            far=[('no.png', 'good')],
        ),
    )

    def made(**settings) -> list[str]:
        return names(GoodImageDataset(str(tmp_path), split_file='splits.json', **settings))

    assert made() == [str(tmp_path / good[0]), str(tmp_path / good[3])]
    assert made(split='test') == [str(tmp_path / good[1])]
    for settings, message in (
        (dict(split='val'), "type 'good'"),
        (dict(split='dev'), 'no split'),
        (dict(split='far'), 'no.png'),
        (dict(category='screw'), 'by itself'),
    ):
        with pytest.raises(ValueError, match=message):
            made(**settings)


def test_good_images_of_visa_are_those_that_train(tmp_path):
    write_visa(tmp_path)
    expected = [str(tmp_path / f'nut/Data/Images/Normal/{i:03d}.JPG') for i in range(8)]
    assert names(GoodImageDataset(str(tmp_path), 'nut')) == expected  # by 1cls
    assert names(GoodImageDataset(str(tmp_path / 'nut'), division='2cls_highshot')) == expected
    (tmp_path / 'split_csv' / '1cls.csv').unlink()
    with pytest.raises(ValueError, match='name a division file of VisA'):
        GoodImageDataset(str(tmp_path), 'nut')
    with pytest.raises(ValueError, match='nut, pcb'):
        GoodImageDataset(str(tmp_path))
