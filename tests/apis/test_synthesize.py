"""Libraries and synthetic data sets made side by side equal those made one by one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mmdefect.registration  # noqa: F401
from mmdefect.apis.synthesize import build_libraries, synthesize
from mmdefect.datasets import BladeWTADataset
from mmdefect.experiments.bulk import Workers
from tests.helpers.small import write_labelled_parts

REPO = Path(__file__).resolve().parents[2]
LEAF = REPO / 'configs/fast_scnn/fast-scnn_paste-poisson_2k_wta-256.py'


@pytest.fixture(scope='module')
def options(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    write_labelled_parts(root, train=6, val=6, test=6)
    return {'data_root': str(root), 'crop_size': (64, 64), 'image_scale': (120, 96)}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('MMDEFECT_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


def files_of(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file() and path.suffix != '.lock'
    }


@pytest.fixture
def one_by_one(options, cache, tmp_path):
    result = synthesize(LEAF, tmp_path / 'one', 7, seed=4, cfg_options=options)
    return result, files_of(tmp_path / 'one')


def test_images_labels_and_records_agree_and_make_a_data_set(one_by_one, options, tmp_path):
    result, _ = one_by_one
    assert result['images'] == result['made'] == 7 and sum(result['defects'].values()) >= 7
    dataset = BladeWTADataset(
        data_root=str(tmp_path / 'one'),
        pipeline=[],
        data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
    )
    assert len(dataset) == 7
    counted = {}
    for number in range(7):
        label = np.array(Image.open(tmp_path / 'one' / 'ann_dir' / 'train' / f'{number:06d}.png'))
        image = Image.open(tmp_path / 'one' / 'img_dir' / 'train' / f'{number:06d}.png')
        record = json.loads((tmp_path / 'one' / 'instances' / 'train' / f'{number:06d}.json').read_text())
        assert image.size == (64, 64) and label.shape == (64, 64) and '/img_dir/train/' in record['background']
        for instance in record['instances']:
            left, top, right, bottom = instance['box_xyxy']
            counted[instance['class_index']] = counted.get(instance['class_index'], 0) + 1
            assert (label[top:bottom, left:right] == instance['class_index']).any()
    assert {dataset.metainfo['classes'][k]: n for k, n in counted.items()} == result['defects']


def test_what_is_complete_is_not_made_again(one_by_one, options, tmp_path):
    _, files = one_by_one
    folder = tmp_path / 'one'
    (folder / 'instances' / 'train' / '000003.json').unlink()  # stopped before the record
    (folder / 'img_dir' / 'train' / '000003.png').write_bytes(b'half')
    result = synthesize(LEAF, folder, 7, seed=4, cfg_options=options)
    assert result['made'] == 1 and files_of(folder) == files
    more = synthesize(LEAF, folder, 9, seed=4, cfg_options=options)
    assert more['made'] == 2 and files.items() <= files_of(folder).items()


def test_a_folder_of_other_settings_is_refused(one_by_one, options, tmp_path):
    with pytest.raises(ValueError, match='same settings.*seed'):
        synthesize(LEAF, tmp_path / 'one', 7, seed=5, cfg_options=options)
    with pytest.raises(ValueError, match='same settings.*settings'):
        synthesize(LEAF, tmp_path / 'one', 7, seed=4, cfg_options={**options, 'crop_size': (48, 48)})
    with pytest.raises(ValueError, match='must be empty'):
        synthesize(LEAF, tmp_path, 7, cfg_options=options)
    with pytest.raises(ValueError, match='at least 1'):
        synthesize(LEAF, tmp_path / 'one', 0, cfg_options=options)


@pytest.mark.slow
def test_images_made_on_ray_are_those_made_here(one_by_one, options, tmp_path):
    pytest.importorskip('ray')
    result = synthesize(LEAF, tmp_path / 'many', 7, seed=4, cfg_options=options, workers=Workers('ray', 2, threads=1))
    assert (result, files_of(tmp_path / 'many')) == one_by_one


@pytest.mark.slow
def test_a_library_cut_on_ray_is_the_one_cut_here(options, tmp_path, monkeypatch):
    pytest.importorskip('ray')
    found = []
    for name, who in (('one', Workers()), ('many', Workers('ray', 1, threads=1))):
        monkeypatch.setenv('MMDEFECT_CACHE', str(tmp_path / name))
        (library,) = build_libraries(LEAF, options, who)
        assert len(library) >= 6 and tmp_path / name in library.folder.parents
        found.append(files_of(library.folder))
    assert found[0] == found[1]


def test_a_config_that_pastes_nothing_has_no_library(options):
    with pytest.raises(ValueError, match='must paste defects'):
        build_libraries(REPO / 'configs/fast_scnn/fast-scnn_baseline_2k_wta-256.py', options)
