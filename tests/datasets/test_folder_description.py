"""What mask values mean: detected from the files, overruled by hand, or read from dataset.json."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from mmdefect.datasets.folder import describe_folder, description_from_dict, label_samples, read_description
from mmdefect.datasets.folder_scan import scan_folder
from mmdefect.datasets.masks import detect_encoding, read_values
from tests.helpers.data import draw_image, save


def write_masks(root, *arrays, suffix='png'):
    paths = []
    for index, array in enumerate(arrays):
        paths.append(root / 'masks' / f'{index}.{suffix}')
        save(paths[-1], np.asarray(array, np.uint8))
    return paths


def grey(*values):
    """A row of 4x4 blocks, one per value."""
    return np.kron(np.array([values]), np.ones((4, 4))).astype(np.uint8)


def colours(*values):
    return np.repeat(np.repeat(np.array([values], np.uint8), 4, axis=0), 4, axis=1)


@pytest.mark.parametrize(
    'masks, encoding, classes',
    [
        ([grey(0, 255), grey(0, 0)], 'binary', 1),
        ([grey(0, 1)], 'binary', 1),
        ([grey(0, 128)], 'binary', 1),
        ([grey(0, 1, 2), grey(0, 0, 2)], 'index', 2),
        ([grey(0, 1, 255), grey(0, 0, 1)], 'index', 1),
        ([grey(0, 1, 2, 255)], 'index', 2),
        ([grey(0, 3)], 'binary', 1),
        ([grey(0, 1, 5)], 'index', 5),
        ([grey(0, 254, 255, 1)], 'binary', 1),
        ([grey(0, 128, 255)], 'palette', 2),
        ([grey(0, 40, 80, 120, 160)], 'palette', 4),
        ([grey(0, *([255] * 90), *range(20, 220, 20))], 'binary', 1),
        ([colours((0, 0, 0), (255, 0, 0)), colours((0, 0, 0), (0, 255, 0))], 'palette', 2),
        ([colours((0, 0, 0), (255, 255, 255))], 'binary', 1),
        ([colours((0, 0, 0), (2, 2, 2), (1, 1, 1))], 'index', 2),
    ],
)
def test_detection(tmp_path, masks, encoding, classes):
    found = detect_encoding(write_masks(tmp_path, *masks))
    assert (found.encoding, found.defect_classes) == (encoding, classes)


def test_colours_are_sorted_and_black_or_else_the_most_frequent_is_normal(tmp_path):
    black = detect_encoding(write_masks(tmp_path / 'a', colours((0, 0, 9), (9, 0, 0), (9, 0, 0), (0, 0, 0))))
    assert black.palette == ((0, 0, 0), (0, 0, 9), (9, 0, 0))
    white = detect_encoding(write_masks(tmp_path / 'b', colours((255, 255, 255), (255, 255, 255), (9, 0, 0))))
    assert white.palette == ((255, 255, 255), (9, 0, 0))


def test_indexed_png_gives_indices(tmp_path):
    image = Image.fromarray(grey(0, 1, 2), 'P')
    image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    (tmp_path / 'masks').mkdir()
    image.save(tmp_path / 'masks/0.png')
    assert read_values(tmp_path / 'masks/0.png').kind == 'indexed'
    found = detect_encoding([tmp_path / 'masks/0.png'])
    assert (found.encoding, found.defect_classes) == ('index', 2)
    as_colours = detect_encoding([tmp_path / 'masks/0.png'], 'palette')
    assert as_colours.palette == ((0, 0, 0), (0, 200, 0), (200, 0, 0))


def test_jpeg_masks_are_black_and_white(tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[10:40, 20:50] = 255
    found = detect_encoding(write_masks(tmp_path, mask, suffix='jpg'))
    assert found.encoding == 'binary' and 'JPEG' in found.reason


def test_sixteen_bit_masks(tmp_path):
    Image.fromarray(grey(0, 1).astype(np.uint16) * 65535).save(tmp_path / 'a.png')
    assert detect_encoding([tmp_path / 'a.png']).encoding == 'binary'


@pytest.mark.parametrize(
    'masks, says',
    [
        ([grey(0, 0)], ['all 1 masks are zero everywhere', '0.png']),
        ([grey(0, 1), grey(0, 255)], ['0.png marks defects by 1', '1.png by 255', "'binary' if both mean a defect"]),
        ([np.arange(256).reshape(16, 16)], ['0.png holds 256 grey levels', 'without anti-aliasing']),
        ([np.random.default_rng(0).integers(0, 256, (16, 16, 3))], ['at most 64 colours', '0.png has']),
    ],
)
def test_undecidable_masks_are_errors(tmp_path, masks, says):
    with pytest.raises(ValueError) as info:
        detect_encoding(write_masks(tmp_path, *masks))
    assert all(text in str(info.value) for text in says)


def test_overruling_is_checked(tmp_path):
    ambiguous = write_masks(tmp_path / 'a', grey(0, 1), grey(0, 255))
    assert detect_encoding(ambiguous, 'binary').defect_classes == 1
    assert detect_encoding(ambiguous, 'index').defect_classes == 1
    with pytest.raises(ValueError, match="no mask .* holds a defect; give 'binary'"):
        detect_encoding(write_masks(tmp_path / 'b', grey(0, 255)), 'index')
    with pytest.raises(ValueError, match='class ids must be below 64, but .*0.png holds 128'):
        detect_encoding(write_masks(tmp_path / 'c', grey(0, 128)), 'index')
    with pytest.raises(ValueError, match='must hold one channel.*is a colour image'):
        detect_encoding(write_masks(tmp_path / 'd', colours((0, 0, 0), (9, 0, 0))), 'index')
    with pytest.raises(ValueError, match='no image'):
        (tmp_path / 'broken.png').write_bytes(b'png?')
        detect_encoding([tmp_path / 'broken.png'])


def write_folder(root, masks, images=None):
    rng = np.random.default_rng(0)
    for name, mask in masks.items():
        save(root / 'masks' / f'{name}.png', mask)
        save(root / 'images' / f'{name}.png', draw_image(rng, mask.shape[:2]))


def test_binary_masks_take_their_class_from_type(tmp_path):
    write_folder(tmp_path, {'pit__1': grey(0, 255), 'cut__1': grey(0, 255), 'cut__2': grey(0, 255)})
    scan = scan_folder(tmp_path)
    described = describe_folder(scan)
    assert described.classes == ('normal', 'cut', 'pit') and described.class_of_type == {'cut': 1, 'pit': 2}
    samples = label_samples(scan, described)
    assert [(s.defect_type, s.class_id, s.mask_encoding) for s in samples] == [
        ('cut', 1, 'binary'),
        ('cut', 1, 'binary'),
        ('pit', 2, 'binary'),
    ]
    one = describe_folder(scan, class_names=['defect'])
    assert one.classes == ('normal', 'defect') and {s.class_id for s in label_samples(scan, one)} == {1}
    renamed = describe_folder(scan, class_names=['Schnitt', 'Grube'])
    assert renamed.classes == ('normal', 'Schnitt', 'Grube') and renamed.class_of_type == {'cut': 1, 'pit': 2}


def test_class_names_for_index_masks(tmp_path):
    write_folder(tmp_path, {'a': grey(0, 1, 2)})
    scan = scan_folder(tmp_path)
    assert describe_folder(scan).classes == ('normal', 'class_1', 'class_2')
    assert describe_folder(scan, class_names=['dent', 'rust', 'not drawn yet']).classes[-1] == 'not drawn yet'
    for names in (['dent'], ['dent', 'dent'], ['normal', 'dent']):
        with pytest.raises(ValueError, match="`class_names` must be 2 distinct names besides 'normal'"):
            describe_folder(scan, class_names=names)


def test_description_file_decides(tmp_path):
    write_folder(tmp_path, {'a': grey(0, 1)})
    scan = scan_folder(tmp_path)
    described = describe_folder(scan, class_names=['dent'], encoding='index')
    (tmp_path / 'dataset.json').write_text(json.dumps({**described.to_dict(), 'source': 'anything'}))
    assert read_description(tmp_path) == described
    assert describe_folder(scan) == described
    assert describe_folder(scan, encoding='binary').mask_encoding == 'binary'
    assert description_from_dict(json.loads(json.dumps(described.to_dict())), 'x') == described


@pytest.mark.parametrize(
    'body',
    [
        '{',
        '[]',
        '{"format": "other"}',
        '{"format": "mmdefect-dataset/1", "classes": ["a"], "mask_encoding": "index"}',
        '{"format": "mmdefect-dataset/1", "classes": ["a", "b"], "mask_encoding": "rgb"}',
        '{"format": "mmdefect-dataset/1", "classes": ["a", "b"], "mask_encoding": "palette"}',
    ],
)
def test_bad_description_file_is_named(tmp_path, body):
    (tmp_path / 'dataset.json').write_text(body)
    with pytest.raises(ValueError, match=r'dataset.json must .*correct or remove it\.$'):
        read_description(tmp_path)


def test_several_masks_of_one_image_name_the_fix(tmp_path):
    for kind in ('dent', 'rust'):
        save(tmp_path / 'masks' / kind / 'a.png', grey(0, 255))
    save(tmp_path / 'images/a.png', grey(0, 9))
    scan = scan_folder(tmp_path)
    with pytest.raises(ValueError, match='a.png has masks/dent/a.png and masks/rust/a.png; merge them with `python'):
        label_samples(scan, describe_folder(scan))


def test_masks_with_and_without_type(tmp_path):
    save(tmp_path / 'masks/rust/a.png', grey(0, 255))
    save(tmp_path / 'masks/b.png', grey(0, 255))
    for name in 'ab':
        save(tmp_path / f'images/{name}.png', grey(0, 9))
    scan = scan_folder(tmp_path)
    with pytest.raises(ValueError, match=r"type of masks/b.png must be one of \['rust'\], got None"):
        label_samples(scan, describe_folder(scan))
