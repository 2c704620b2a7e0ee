"""Converting: labels come out as they went in, whatever the source and the layout, and nothing is lost on the way."""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmdefect.datasets import BladeWTADataset, FolderDefectDataset, MVTecDataset
from mmdefect.datasets.coco import read_coco
from mmdefect.datasets.convert import (
    Source,
    SourceImage,
    convert,
    paint,
    read_folder,
    read_ksdd2,
    read_magnetic_tile,
    unique_names,
)
from tests.helpers.data import draw_image, draw_label, save, write_wta
from tests.helpers.realdata import real_data

LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadDefectAnnotations')]
TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'convert_dataset.py'
RNG_SEED = 0


def loaded(dataset):
    """Return the label maps of a data set by the stem of the image."""
    return {Path(dataset.get_data_info(i)['img_path']).stem: dataset[i]['gt_seg_map'] for i in range(len(dataset))}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, label in expected.items():
        np.testing.assert_array_equal(found[name], label, err_msg=name)


def write_ksdd2(root):
    rng = np.random.default_rng(RNG_SEED)
    labels = {}
    for split, start in (('train', 10000), ('test', 20000)):
        for index in range(4):
            label = draw_label(rng, [1] if index else [])
            save(root / split / f'{start + index}.png', draw_image(rng))
            save(root / split / f'{start + index}_GT.png', label * np.uint8(255))
            labels[f'{start + index}'] = label
    return labels


def write_magnetic(root, published):
    rng = np.random.default_rng(RNG_SEED)
    labels = {}
    for value, kind in enumerate(('Blowhole', 'Crack', 'Fray'), 1):
        for index in range(3):
            label = draw_label(rng, [1])
            name = f'exp{index}_num_{value}{index}'
            image, mask = (
                (root / f'MT_{kind}/Imgs/{name}.jpg', root / f'MT_{kind}/Imgs/{name}.png')
                if published
                else (root / f'images/{kind.lower()}__{name}.jpg', root / f'masks/{kind.lower()}__{name}.png')
            )
            save(image, draw_image(rng))
            save(mask, label * np.uint8(255))
            labels[image.stem] = label * np.uint8(value)
    for index in range(2):
        save(root / ('MT_Free/Imgs' if published else 'good') / f'free{index}.jpg', draw_image(rng))
        labels[f'free{index}'] = np.zeros_like(label)
    return labels


@pytest.mark.parametrize('layout', ['index', 'mvtec'])
def test_ksdd2(tmp_path, layout):
    labels = write_ksdd2(tmp_path / 'source')
    report = convert(read_ksdd2(tmp_path / 'source'), tmp_path / 'out', layout)
    assert_same(loaded(FolderDefectDataset(str(tmp_path / 'out'), pipeline=LOAD)), labels)
    if layout == 'index':
        train = FolderDefectDataset(str(tmp_path / 'out'), split='train', pipeline=LOAD)
        assert set(loaded(train)) == {n for n in labels if n.startswith('1')}
        assert report.images == {'train': {'good': 1, 'defect': 3}, 'test': {'good': 1, 'defect': 3}}
    else:
        assert_same(loaded(MVTecDataset(str(tmp_path / 'out'), pipeline=LOAD)), labels)
        assert report.decisions['defect images of the training split, moved to test/'] == 3


@pytest.mark.parametrize('published', [True, False])
@pytest.mark.parametrize('layout', ['index', 'mvtec'])
def test_magnetic_tile(tmp_path, published, layout):
    labels = write_magnetic(tmp_path / 'source', published)
    source = read_magnetic_tile(tmp_path / 'source')
    assert source.classes == ('normal', 'blowhole', 'crack', 'fray')
    convert(source, tmp_path / 'out', layout)
    dataset = FolderDefectDataset(str(tmp_path / 'out'), pipeline=LOAD)
    assert dataset.metainfo['classes'] == source.classes
    assert_same(loaded(dataset), labels)


def test_index_layout_is_what_the_blade_data_set_reads(tmp_path):
    labels = write_wta(tmp_path / 'source')
    convert(read_folder(tmp_path / 'source', class_names=['attached', 'broken']), tmp_path / 'out')
    for split in ('train', 'val', 'test'):
        ours = BladeWTADataset(data_root=str(tmp_path / 'out'), split=split, pipeline=LOAD)
        assert_same(loaded(ours), {Path(n).stem: x for n, x in labels.items() if f'/{split}/' in n})


def test_class_folders_of_one_image_are_merged_smaller_on_top(tmp_path):
    large, small = np.zeros((2, 20, 20), np.uint8)
    large[2:12, 2:12], small[10:14, 10:14] = 255, 255
    save(tmp_path / 'in/masks/stain/a.png', large)
    save(tmp_path / 'in/masks/chip/a.png', small)
    save(tmp_path / 'in/images/a.png', draw_image(np.random.default_rng(0), (20, 20)))
    report = convert(read_folder(tmp_path / 'in'), tmp_path / 'out')
    (label,) = loaded(FolderDefectDataset(str(tmp_path / 'out'), pipeline=LOAD)).values()
    assert (label[2:10, 2:12] == 2).all() and (label[10:14, 10:14] == 1).all()
    assert report.decisions == {'pixels claimed by two classes, given to the smaller region': 4}


def test_paint_counts_and_keeps_its_input():
    base, decisions = np.zeros((4, 4), np.uint8), Counter()
    row = np.zeros((4, 4), bool)
    row[1] = True
    label = paint(base, [(np.ones((4, 4), bool), 2), (row, 1)], decisions)
    assert base.sum() == 0 and (label[1] == 1).all() and (label[[0, 2, 3]] == 2).all() and sum(decisions.values()) == 4


def write_coco(root, split='train', kind='polygon'):
    """Two images of 30x24 with rectangles, so that the exact labels are known."""
    rng = np.random.default_rng(RNG_SEED)
    boxes = {1: [(2, 3, 9, 8, 7)], 2: [(1, 1, 20, 15, 9), (5, 5, 8, 9, 7)]}  # x0 y0 x1 y1 category
    labels, annotations = {}, []
    for image_id, rectangles in boxes.items():
        label = np.zeros((24, 30), np.uint8)
        for x0, y0, x1, y1, category in rectangles:
            label[y0:y1, x0:x1] = {7: 1, 9: 2}[category]
            mask = np.zeros((24, 30), bool)
            mask[y0:y1, x0:x1] = True
            runs = np.diff(np.flatnonzero(np.diff(np.r_[-1, mask.ravel('F'), -1].astype(int))) + 0)
            shape = (
                [[x0, y0, x1, y0, x1, y1, x0, y1]]
                if kind == 'polygon'
                else dict(size=[24, 30], counts=([0] if mask[0, 0] else []) + runs.tolist())
            )
            annotations.append(dict(id=len(annotations), image_id=image_id, category_id=category, segmentation=shape))
        save(root / split / f'{image_id}.jpg', draw_image(rng, (24, 30)))
        labels[str(image_id)] = label
    save(root / split / '3.jpg', draw_image(rng, (24, 30)))
    labels['3'] = np.zeros((24, 30), np.uint8)
    body = dict(
        images=[dict(id=i, file_name=f'{i}.jpg', width=30, height=24) for i in (1, 2, 3)],
        annotations=annotations,
        categories=[dict(id=9, name='dent'), dict(id=7, name='scratch'), dict(id=1, name='all defects')],
    )
    file = root / split / '_annotations.coco.json'
    file.write_text(json.dumps(body))
    return file, labels


@pytest.mark.parametrize('kind', ['polygon', 'runs'])
@pytest.mark.parametrize('layout', ['index', 'mvtec'])
def test_coco(tmp_path, kind, layout):
    file, labels = write_coco(tmp_path / 'in', kind=kind)
    source = read_coco(file)
    assert source.classes == ('normal', 'scratch', 'dent')  # by category id; the empty parent is left out
    assert 'all defects' in source.notes[0]
    report = convert(source, tmp_path / 'out', layout)
    found = loaded(FolderDefectDataset(str(tmp_path / 'out'), pipeline=LOAD))
    if layout == 'index':
        assert_same(found, labels)
        assert report.decisions['pixels claimed by two classes, given to the smaller region'] == 12
    else:
        assert_same({k: v > 0 for k, v in found.items()}, {k: v > 0 for k, v in labels.items()})
        assert (tmp_path / 'out/test/combined/2.jpg').is_file()


def test_coco_folder_with_splits(tmp_path):
    for split in ('train', 'valid', 'test'):
        write_coco(tmp_path / 'in', split)
    source = read_coco(tmp_path / 'in')
    assert Counter(i.split for i in source.images) == {'train': 3, 'val': 3, 'test': 3}
    report = convert(source, tmp_path / 'out')
    assert set(report.images) == {'train', 'val', 'test'}


def test_coco_images_elsewhere_and_chosen_classes(tmp_path):
    file, _ = write_coco(tmp_path / 'in')
    moved = tmp_path / 'other' / 'instances_train.json'
    moved.parent.mkdir()
    moved.write_text(file.read_text())
    with pytest.raises(ValueError, match='the image 1.jpg that .*instances_train.json lists must exist.*--images'):
        read_coco(moved)
    report = convert(read_coco(moved, tmp_path / 'in/train', ['dent']), tmp_path / 'out')
    assert report.decisions['annotations of classes that were not asked for, left out'] == 2
    assert report.images == {'train': {'dent': 1, 'good': 2}}


def test_thin_coco_polygons_are_kept_and_counted(tmp_path):
    file, _ = write_coco(tmp_path / 'in')
    body = json.loads(file.read_text())
    body['annotations'][0]['segmentation'] = [[3.1, 2.1, 9.8, 2.2, 3.1, 2.15]]
    file.write_text(json.dumps(body))
    report = convert(read_coco(file), tmp_path / 'out')
    assert report.decisions['polygons thinner than a pixel, drawn as the pixels of their corners'] == 1
    assert loaded(FolderDefectDataset(str(tmp_path / 'out'), pipeline=LOAD))['1'].sum() == 2


@pytest.mark.parametrize(
    'change, says',
    [
        (lambda b: b['annotations'][0].pop('segmentation'), 'annotation 0 of 1.jpg in .* only a box at best'),
        (lambda b: b['annotations'][0].update(segmentation=[[1, 2, 3]]), 'annotation 0 of 1.jpg .* three or more x, y'),
        (lambda b: b['annotations'][0].update(segmentation=dict(size=[24, 30], counts=[5])), 'must fill 30x24 pixels'),
        (lambda b: b['annotations'][0].update(segmentation=dict(size=[9, 9], counts=[81])), r'is for \[9, 9\]'),
        (lambda b: b['images'][0].update(width=60), '1.jpg must have the size that .* states, 60x24, but it has 30x24'),
        (lambda b: b['images'][0].pop('file_name'), 'file_name in an entry of images'),
        (lambda b: b.pop('categories'), 'must be a COCO file'),
        (lambda b: b.update(annotations=[]), 'must hold at least one annotation'),
        (lambda b: b['categories'][1].update(name='normal'), "must not annotate a category 'normal'"),
        (lambda b: b['images'][0].update(file_name='gone.jpg'), 'the image gone.jpg .* must exist'),
        (lambda b: b['annotations'][0].update(category_id=55), 'must have one of the listed categories, got 55'),
    ],
)
def test_bad_coco_files(tmp_path, change, says):
    file, _ = write_coco(tmp_path / 'in')
    body = json.loads(file.read_text())
    change(body)
    file.write_text(json.dumps(body))
    with pytest.raises(ValueError, match=says):
        convert(read_coco(file), tmp_path / 'out')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['in']


def test_coco_source_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match='does not exist'):
        read_coco(tmp_path / 'absent')
    (tmp_path / 'x.json').write_text('[]')
    with pytest.raises(ValueError, match='must hold at least one JSON file'):
        read_coco(tmp_path)
    with pytest.raises(ValueError, match=r"`--classes` must name .*'scratch', 'dent'.*got 'rust'"):
        read_coco(write_coco(tmp_path / 'in')[0], class_names=['rust'])


def test_never_overwrites_unasked(tmp_path):
    write_ksdd2(tmp_path / 'in')
    source = read_ksdd2(tmp_path / 'in')
    convert(source, tmp_path / 'out')
    before = sorted(p.stat().st_mtime_ns for p in (tmp_path / 'out').rglob('*'))
    with pytest.raises(FileExistsError, match='must be a new folder, but it exists; .*--overwrite'):
        convert(source, tmp_path / 'out')
    assert sorted(p.stat().st_mtime_ns for p in (tmp_path / 'out').rglob('*')) == before
    convert(source, tmp_path / 'out', 'mvtec', overwrite=True)
    assert not (tmp_path / 'out/img_dir').exists() and (tmp_path / 'out/train/good').is_dir()
    assert sorted(p.name for p in tmp_path.iterdir()) == ['in', 'out']


def test_never_replaces_what_is_no_conversion(tmp_path):
    write_ksdd2(tmp_path / 'in')
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/thesis.txt').write_text('years of work')
    with pytest.raises(FileExistsError, match='must be an earlier conversion'):
        convert(read_ksdd2(tmp_path / 'in'), tmp_path / 'mine', overwrite=True)
    with pytest.raises(ValueError, match='must be another folder than the source'):
        convert(read_ksdd2(tmp_path / 'in'), tmp_path / 'in', overwrite=True)
    with pytest.raises(ValueError, match='must be another folder than the source'):
        convert(read_ksdd2(tmp_path / 'in'), tmp_path, overwrite=True)
    assert (tmp_path / 'mine/thesis.txt').is_file() and len(list((tmp_path / 'in').rglob('*.png'))) == 16


def test_a_failed_conversion_leaves_the_earlier_one(tmp_path):
    write_ksdd2(tmp_path / 'in')
    convert(read_ksdd2(tmp_path / 'in'), tmp_path / 'out')
    source = read_ksdd2(tmp_path / 'in')
    save(tmp_path / 'in/test/20003_GT.png', np.zeros((5, 5), np.uint8))
    with pytest.raises(ValueError, match='20003_GT.png must have the size of its image, 56x40, but it has 5x5'):
        convert(source, tmp_path / 'out', overwrite=True)
    assert len(list((tmp_path / 'out/ann_dir').rglob('*.png'))) == 8
    assert sorted(p.name for p in tmp_path.iterdir()) == ['in', 'out']


def test_hard_links_and_copies(tmp_path):
    write_ksdd2(tmp_path / 'in')
    convert(read_ksdd2(tmp_path / 'in'), tmp_path / 'linked', link='hard')
    convert(read_ksdd2(tmp_path / 'in'), tmp_path / 'copied')
    source = tmp_path / 'in/train/10001.png'
    assert os.path.samefile(source, tmp_path / 'linked/img_dir/train/10001.png')
    copy = tmp_path / 'copied/img_dir/train/10001.png'
    assert not os.path.samefile(source, copy) and source.read_bytes() == copy.read_bytes()


def test_missing_mask_in_ksdd2(tmp_path):
    write_ksdd2(tmp_path)
    (tmp_path / 'test/20001_GT.png').unlink()
    with pytest.raises(ValueError, match=r'test/20001.png has none \(1 in all\)'):
        read_ksdd2(tmp_path)


def test_tiles_without_types(tmp_path):
    save(tmp_path / 'images/a.png', draw_image(np.random.default_rng(0)))
    save(tmp_path / 'masks/a.png', np.full((40, 56), 255, np.uint8))
    with pytest.raises(ValueError, match='must hold folders MT_<type>'):
        read_magnetic_tile(tmp_path)


@pytest.mark.parametrize('arguments', [dict(layout='coco'), dict(link='soft')])
def test_bad_arguments(tmp_path, arguments):
    write_ksdd2(tmp_path / 'in')
    with pytest.raises(ValueError, match='must be'):
        convert(read_ksdd2(tmp_path / 'in'), tmp_path / 'out', **arguments)


def image_at(place, split=None, kind=None, suffix='.png'):
    return SourceImage(place + suffix, place, split, lambda _: np.zeros((2, 2), np.uint8), kind)


def test_names_stay_apart():
    images = [image_at('train/a', 'train'), image_at('val/a', 'val')]
    assert unique_names(images, per_split=True) == ['a', 'a']
    assert unique_names(images, per_split=False) == ['train__a', 'val__a']
    typed = [image_at('x/1', None, 'crack'), image_at('y/1', None, 'dent')]
    assert unique_names(typed, True) == ['crack__1', 'dent__1']
    assert unique_names([image_at('cam/A'), image_at('bar/a')], True) == ['cam__A', 'bar__a']
    assert unique_names([image_at('a', suffix='.jpg'), image_at('a', suffix='.png')], True) == ['a_jpg', 'a_png']
    with pytest.raises(ValueError, match='listed 2 times'):
        unique_names([image_at('a'), image_at('a')], True)


def test_ignored_pixels_survive_in_the_index_layout(tmp_path):
    label = np.zeros((6, 6), np.uint8)
    label[0], label[3] = 255, 1
    save(tmp_path / 'a.png', draw_image(np.random.default_rng(0), (6, 6)))
    source = Source((SourceImage(str(tmp_path / 'a.png'), 'a', None, lambda _: label),), ('normal', 'dent'))
    convert(source, tmp_path / 'out')
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / 'out/ann_dir/a.png')), label)
    report = convert(source, tmp_path / 'out2', 'mvtec')
    assert report.decisions['images whose ignored pixels became normal'] == 1


def test_real_tiles_keep_every_pixel(tmp_path):
    root = real_data('magnetic_tile')
    report = convert(read_magnetic_tile(root), tmp_path / 'out', link='copy')
    assert report.images['all'] == {'blowhole': 115, 'break': 85, 'crack': 57, 'fray': 32, 'uneven': 99, 'good': 300}
    for mask in sorted((root / 'masks').glob('*.png'))[::40]:
        original = np.asarray(Image.open(mask)) > 0
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / 'out/ann_dir' / mask.name)) > 0, original)


def run_tool(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, arguments)])
    return runpy.run_path(str(TOOL), run_name='tool')['main']()


def test_tool(tmp_path, monkeypatch, capsys):
    write_ksdd2(tmp_path / 'in')
    assert run_tool(monkeypatch, 'ksdd2', tmp_path / 'in', tmp_path / 'out') == 0
    said = capsys.readouterr().out
    assert 'train: 4 images: 3 defect, 1 good' in said and f'next: python tools/init_project.py {tmp_path}/out' in said
    assert run_tool(monkeypatch, 'ksdd2', tmp_path / 'in', tmp_path / 'out') == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and len(error.splitlines()) == 1
    file, _ = write_coco(tmp_path / 'coco')
    assert run_tool(monkeypatch, 'coco', file, tmp_path / 'parts', '--layout', 'mvtec', '--classes', 'scratch') == 0
    assert run_tool(monkeypatch, 'folder', tmp_path / 'out', tmp_path / 'again') == 0
    assert run_tool(monkeypatch, 'magnetic-tile', tmp_path / 'out', tmp_path / 'tiles') == 2
