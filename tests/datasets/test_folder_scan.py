"""Pairing images and masks in the arrangements people have; file contents matter only where stems collide."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdefect.datasets.folder_scan import list_images_below, looks_like_mask, scan_folder
from tests.helpers.data import draw_image, save


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'')


#: name: files, mask of each image; without types and splits
PLAIN = {
    'pictures and labels': (['pictures/a.jpg', 'labels/a.png'], {'pictures/a.jpg': 'labels/a.png'}),
    'images and masks': (
        ['images/a.jpg', 'masks/a.png', 'images/b.jpg', 'masks/b.png'],
        {'images/a.jpg': 'masks/a.png', 'images/b.jpg': 'masks/b.png'},
    ),
    'upper case folders and suffixes': (['Images/A.JPG', 'Masks/A.PNG'], {'Images/A.JPG': 'Masks/A.PNG'}),
    'mask suffix on files in masks/': (['images/a.jpg', 'masks/a_mask.png'], {'images/a.jpg': 'masks/a_mask.png'}),
    'mask beside the image, _mask': (['a.png', 'a_mask.png'], {'a.png': 'a_mask.png'}),
    'mask beside the image, -mask': (['a.bmp', 'a-mask.bmp'], {'a.bmp': 'a-mask.bmp'}),
    'mask beside the image, _label': (['a.tif', 'a_label.png'], {'a.tif': 'a_label.png'}),
    '_image and _mask': (['a_image.png', 'a_mask.png'], {'a_image.png': 'a_mask.png'}),
    'mask beside the image inside images/': (
        ['images/a.png', 'images/a_mask.png'],
        {'images/a.png': 'images/a_mask.png'},
    ),
    'an image whose own name ends in _label': (
        ['images/big_label.png', 'masks/big_label.png'],
        {'images/big_label.png': 'masks/big_label.png'},
    ),
    'clean folder': (
        ['images/a.jpg', 'masks/a.png', 'good/b.jpg'],
        {'images/a.jpg': 'masks/a.png', 'good/b.jpg': None},
    ),
    'clean image with the name of a defective one': (
        ['images/a.jpg', 'masks/a.png', 'good/a.jpg'],
        {'images/a.jpg': 'masks/a.png', 'good/a.jpg': None},
    ),
    'clean images with masks': (
        ['images/ok/a.jpg', 'masks/ok/a.png', 'images/b.jpg', 'masks/b.png'],
        {'images/ok/a.jpg': 'masks/ok/a.png', 'images/b.jpg': 'masks/b.png'},
    ),
    'masks flat, images in folders': (
        ['images/monday/a.jpg', 'images/tuesday/b.jpg', 'masks/a.png', 'masks/b.png'],
        {'images/monday/a.jpg': 'masks/a.png', 'images/tuesday/b.jpg': 'masks/b.png'},
    ),
}
#: name: files, `{image: (mask, type, split)}`, where types come from
ARRANGEMENTS = {
    'img_dir and ann_dir with splits': (
        ['img_dir/train/a.png', 'ann_dir/train/a.png', 'img_dir/val/a.png', 'ann_dir/val/a.png'],
        {
            'img_dir/train/a.png': ('ann_dir/train/a.png', None, 'train'),
            'img_dir/val/a.png': ('ann_dir/val/a.png', None, 'val'),
        },
        'none',
    ),
    'splits above images and masks': (
        ['train/images/a.png', 'train/masks/a.png', 'test/images/a.png', 'test/masks/a.png'],
        {
            'train/images/a.png': ('train/masks/a.png', None, 'train'),
            'test/images/a.png': ('test/masks/a.png', None, 'test'),
        },
        'none',
    ),
    'folders that end in _gt': (
        ['train/a.png', 'train_gt/a.png', 'val/a.png', 'val_gt/a.png'],
        {'train/a.png': ('train_gt/a.png', None, 'train'), 'val/a.png': ('val_gt/a.png', None, 'val')},
        'none',
    ),
    'mask beside the image, _GT': (
        ['train/10000.png', 'train/10000_GT.png', 'test/20.png', 'test/20_GT.png'],
        {'train/10000.png': ('train/10000_GT.png', None, 'train'), 'test/20.png': ('test/20_GT.png', None, 'test')},
        'none',
    ),
    'one mask folder per class': (
        ['images/a.jpg', 'images/b.jpg', 'masks/scratch/a.png', 'masks/stain/b.png'],
        {
            'images/a.jpg': ('masks/scratch/a.png', 'scratch', None),
            'images/b.jpg': ('masks/stain/b.png', 'stain', None),
        },
        'folder',
    ),
    'a folder per type, masks beside': (
        ['scratch/a.jpg', 'scratch/a_mask.png', 'stain/a.jpg', 'stain/a_mask.png'],
        {'scratch/a.jpg': ('scratch/a_mask.png', 'scratch', None), 'stain/a.jpg': ('stain/a_mask.png', 'stain', None)},
        'folder',
    ),
    'as MVTec AD ships': (
        ['train/good/000.png', 'test/good/000.png', 'test/crack/000.png', 'ground_truth/crack/000_mask.png'],
        {
            'train/good/000.png': (None, None, 'train'),
            'test/good/000.png': (None, None, 'test'),
            'test/crack/000.png': ('ground_truth/crack/000_mask.png', 'crack', 'test'),
        },
        'folder',
    ),
    'type as a prefix': (
        ['images/crack__1.jpg', 'masks/crack__1.png', 'images/big hole__1.jpg', 'masks/big hole__1.png', 'good/x.jpg'],
        {
            'images/crack__1.jpg': ('masks/crack__1.png', 'crack', None),
            'images/big hole__1.jpg': ('masks/big hole__1.png', 'big hole', None),
            'good/x.jpg': (None, None, None),
        },
        'prefix',
    ),
}


@pytest.mark.parametrize('name', [*PLAIN, *ARRANGEMENTS])
def test_arrangement(tmp_path, name):
    if name in PLAIN:
        files, masks = PLAIN[name]
        expected, source = {image: (mask, None, None) for image, mask in masks.items()}, 'none'
    else:
        files, expected, source = ARRANGEMENTS[name]
    touch(tmp_path, *files)
    scan = scan_folder(tmp_path)
    found = {p.image: (p.masks[0] if p.masks else None, p.types[0] if p.types else None, p.split) for p in scan.pairs}
    assert found == expected
    assert (scan.types_from, scan.unmasked, scan.orphan_masks) == (source, (), ())
    assert scan_folder(str(tmp_path)) == scan


def test_hidden_files_and_other_files_are_left_out(tmp_path):
    touch(tmp_path, 'images/a.jpg', 'masks/a.png', 'images/.a.jpg', '.trash/images/b.jpg', 'notes.txt', 'images/a.json')
    assert list_images_below(tmp_path) == ['images/a.jpg', 'masks/a.png']


def test_same_stem_png_is_the_mask_of_the_jpg(tmp_path):
    rng = np.random.default_rng(0)
    mask = np.zeros((40, 56), np.uint8)
    mask[3:9, 4:8] = 255
    for name in ('exp1', 'exp2'):
        save(tmp_path / 'MT_Crack' / f'{name}.jpg', draw_image(rng))
        save(tmp_path / 'MT_Crack' / f'{name}.png', mask)
    scan = scan_folder(tmp_path)
    assert [(p.image, p.masks, p.types) for p in scan.pairs] == [
        (f'MT_Crack/{n}.jpg', (f'MT_Crack/{n}.png',), ('MT_Crack',)) for n in ('exp1', 'exp2')
    ]
    assert looks_like_mask(tmp_path / 'MT_Crack/exp1.png') and not looks_like_mask(tmp_path / 'MT_Crack/exp1.jpg')


def test_two_photographs_of_one_stem_are_ambiguous_once_a_mask_fits_both(tmp_path):
    rng = np.random.default_rng(0)
    for suffix in ('jpg', 'png'):
        save(tmp_path / 'images' / f'a.{suffix}', draw_image(rng))
    save(tmp_path / 'masks/a.png', np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match=r'masks/a.png must belong to one image, but images/a.jpg and images/a.png'):
        scan_folder(tmp_path)


def test_orphans_both_ways(tmp_path):
    touch(tmp_path, 'images/a.jpg', 'masks/a.png', 'images/only.jpg', 'masks/lost.png', 'good/c.jpg')
    scan = scan_folder(tmp_path)
    assert scan.unmasked == ('images/only.jpg',) and scan.orphan_masks == ('masks/lost.png',)
    assert [p.image for p in scan.pairs] == ['good/c.jpg', 'images/a.jpg']
    as_clean = scan_folder(tmp_path, unmasked='clean')
    assert as_clean.unmasked == ()
    assert [p.image for p in as_clean.pairs] == ['good/c.jpg', 'images/a.jpg', 'images/only.jpg']


def test_a_mask_never_goes_to_a_clean_image_of_the_same_number(tmp_path):
    touch(
        tmp_path,
        'test/good/007.png',
        'test/crack/001.png',
        'ground_truth/crack/001_mask.png',
        'ground_truth/crack/007_mask.png',
    )
    scan = scan_folder(tmp_path)
    assert scan.orphan_masks == ('ground_truth/crack/007_mask.png',)
    assert {p.image: p.masks for p in scan.pairs}['test/good/007.png'] == ()


def test_several_class_masks_of_one_image(tmp_path):
    touch(tmp_path, 'images/a.jpg', 'masks/stain/a.png', 'masks/scratch/a.png')
    (pair,) = scan_folder(tmp_path).pairs
    assert pair.masks == ('masks/scratch/a.png', 'masks/stain/a.png') and pair.types == ('scratch', 'stain')


@pytest.mark.parametrize(
    'files, both',
    [
        (['cam1/a.jpg', 'cam2/a.jpg', 'masks/a.png'], ('cam1/a.jpg', 'cam2/a.jpg')),
        (['images/a.jpg', 'masks/a.png', 'masks/a.tif'], ('masks/a.png', 'masks/a.tif')),
        (['images/a.jpg', 'masks/a.png', 'images/a_mask.png'], ('images/a_mask.png', 'masks/a.png')),
    ],
)
def test_ambiguous_pairs_name_both_files(tmp_path, files, both):
    touch(tmp_path, *files)
    with pytest.raises(ValueError) as info:
        scan_folder(tmp_path)
    assert all(name in str(info.value) for name in both) and str(info.value).endswith('.')


@pytest.mark.parametrize(
    'files, says',
    [
        ([], 'no image file'),
        (['readme.txt'], 'no image file'),
        (['masks/a.png'], 'only masks (masks/a.png)'),
        (['a.jpg', 'b.jpg'], 'its 2 images (first: a.jpg) have none'),
        (
            ['images/a.jpg', 'masks/z.png'],
            'none of 1 images (first: images/a.jpg) matches one of 1 masks (first: masks/z.png)',
        ),
    ],
)
def test_nothing_to_pair(tmp_path, files, says):
    touch(tmp_path, *files)
    with pytest.raises(ValueError) as info:
        scan_folder(tmp_path)
    assert says in str(info.value)


def test_bad_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match='check the path'):
        scan_folder(tmp_path / 'absent')
    with pytest.raises(ValueError, match='`types` must be one of'):
        scan_folder(tmp_path, types='suffix')
    with pytest.raises(ValueError, match='`unmasked` must be'):
        scan_folder(tmp_path, unmasked='ignore')


def test_types_can_be_overruled(tmp_path):
    touch(tmp_path, 'camera1/a.jpg', 'camera1/a_mask.png', 'camera2/b.jpg', 'camera2/b_mask.png')
    assert scan_folder(tmp_path).types == ('camera1', 'camera2')
    assert scan_folder(tmp_path, types='none').types == ()


NAMES = st.lists(st.text('abcxyz0189', min_size=1, max_size=5), min_size=1, max_size=8, unique=True)


@settings(deadline=None, max_examples=60)
@given(
    names=NAMES,
    layout=st.sampled_from(
        [
            '{split}images/{n}.jpg|{split}masks/{n}.png',
            '{split}{n}.png|{split}{n}_GT.png',
            'img_dir/{split}{n}.png|ann_dir/{split}{n}.png',
        ]
    ),
    splits=st.lists(st.sampled_from(['', 'train/', 'val/', 'test/']), min_size=1, max_size=3, unique=True),
)
def test_every_pair_of_a_complete_folder_is_found(tmp_path_factory, names, layout, splits):
    root = tmp_path_factory.mktemp('pairs')
    expected = set()
    for split in splits:
        for name in names:
            image, mask = layout.format(split=split, n=name).split('|')
            touch(root, image, mask)
            expected.add((image, mask))
    scan = scan_folder(root)
    assert {(p.image, *p.masks) for p in scan.pairs} == expected
    assert not scan.unmasked and not scan.orphan_masks
