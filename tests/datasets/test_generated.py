"""Packed sets beside real training data: data set, draws, shares, and the step of composing a config."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

import mmdefect.registration  # noqa: F401
from mmdefect.apis import compose, load_config
from mmdefect.compat import config_root
from mmdefect.datasets.checks import check_dataset
from mmdefect.engine.hooks.check_hooks import classes_of
from mmdefect.engine.samplers import PartShareSampler
from mmdefect.registry import DATASETS
from tests.helpers.data import write_wta

ROOT = config_root('mmdefect')


@pytest.fixture
def packed(tmp_path):
    """Five images, the way ``generate.py pack`` writes them."""
    folder = tmp_path / 'packed'
    rng = np.random.default_rng(0)
    images = []
    for index in range(5):
        label = np.zeros((40, 48), np.uint8)
        label[10:14, 10:14] = 1 + index % 2
        entry = dict(image=f'img_dir/train/g{index}.png', label=f'ann_dir/train/g{index}.png', source=f's{index}.png')
        for name, array in (
            (entry['image'], rng.integers(0, 255, (40, 48, 3)).astype(np.uint8)),
            (entry['label'], label),
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(folder / name)
        images.append(entry)
    content = dict(version=1, classes=['normal', 'attached', 'broken'], labels='relabelled', images=images)
    (folder / 'pack.json').write_text(json.dumps(content))
    return folder


def leaf(tmp_path, packed, text=''):
    write_wta(tmp_path / 'real', dict(train=8, val=4, test=4))
    bases = [str(ROOT / 'fast_scnn/fast-scnn_baseline_2k_wta-256.py'), str(ROOT / '_base_/datasets/generated.py')]
    (tmp_path / 'leaf.py').write_text(
        f'_base_ = {bases!r}\ndata_root = {str(tmp_path / "real")!r}\n'
        f'crop_size = (32, 32)\nimage_scale = (48, 40)\n'
        f'generated = dict(folder={str(packed)!r})\n{text}'
    )
    return tmp_path / 'leaf.py'


def test_a_packed_set_is_a_data_set(packed):
    data = DATASETS.build(
        dict(
            type='GeneratedDefectDataset',
            folder=str(packed),
            pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadDefectAnnotations')],
        )
    )
    summary = check_dataset(data)
    assert summary.images_by_class == {0: 5, 1: 3, 2: 2}
    assert data.metainfo['classes'] == ('normal', 'attached', 'broken')
    assert data[1]['gt_seg_map'].max() == 2 and data.get_data_info(1)['generated_from'] == 's1.png'
    with pytest.raises(ValueError, match='classes of the training'):
        DATASETS.build(dict(type='GeneratedDefectDataset', folder=str(packed), metainfo=dict(classes=['a', 'b'])))
    (packed / 'ann_dir/train/g3.png').unlink()
    with pytest.raises(ValueError, match='g3.png'):
        DATASETS.build(dict(type='GeneratedDefectDataset', folder=str(packed)))


def test_one_base_line_puts_it_beside_the_real_data(tmp_path, packed):
    cfg = load_config(leaf(tmp_path, packed))
    real, generated = cfg.train_dataloader.dataset.datasets
    assert real.type == 'BladeWTADataset' and real.data_root == str(tmp_path / 'real')
    assert generated.folder == str(packed) and generated.pipeline == real.pipeline
    assert cfg.train_dataloader.sampler.shares == [3, 1]
    assert 'generated' not in cfg and cfg.val_dataloader.dataset.type == 'BladeWTADataset'
    once = json.dumps(cfg.to_dict(), sort_keys=True, default=str)
    compose(cfg)
    assert json.dumps(cfg.to_dict(), sort_keys=True, default=str) == once

    init_default_scope('mmseg')
    data = DATASETS.build(cfg.train_dataloader.dataset)
    assert len(data) == 13 and data.metainfo['classes'] == ('normal', 'attached', 'broken')
    assert classes_of(cfg.train_dataloader.dataset) == classes_of(data)
    assert check_dataset(data).num_images == 13


def test_the_real_data_root_does_not_move_the_packed_set(tmp_path, packed):
    cfg = load_config(leaf(tmp_path, packed), dict(data_root='elsewhere'))
    real, generated = cfg.train_dataloader.dataset.datasets
    assert real.data_root == 'elsewhere' and generated.folder == str(packed)


def test_numbered_draws_are_those_of_the_parts(tmp_path, packed):
    cfg = load_config(leaf(tmp_path, packed))
    init_default_scope('mmseg')
    mixed, again = (DATASETS.build(cfg.train_dataloader.dataset) for _ in range(2))
    sampler = PartShareSampler(mixed, [1, 1], seed=5)
    PartShareSampler(again, [1, 1], seed=5)
    draws = list(itertools.islice(iter(sampler), 20))
    torch.rand(3), np.random.rand(3)  # the state of the process must not matter
    for draw in draws:
        a, b = mixed[draw], again[draw]
        assert torch.equal(a['inputs'], b['inputs'])
    position, index = divmod(draws[3], 13)
    assert position == 3
    part, inside = (0, index) if index < 8 else (1, index - 8)
    own = again.datasets[part][position * len(again.datasets[part]) + inside]
    assert torch.equal(mixed[draws[3]]['inputs'], own['inputs'])


@pytest.mark.parametrize('shares', [[3, 1], [1, 1], [0, 1]])
def test_shares_are_met_and_parts_go_round(shares):
    class Part(list):
        pass

    class Joined:
        datasets = (Part(range(50)), Part(range(7)))

        def __len__(self):
            return 57

    sampler = PartShareSampler(Joined(), shares, seed=1)
    draws = np.array(list(itertools.islice(iter(sampler), 4000)))
    share = (draws >= 50).mean()
    expected = shares[1] / sum(shares)
    assert abs(share - expected) <= 4 * np.sqrt(expected * (1 - expected) / 4000)
    generated = draws[draws >= 50]
    rounds = generated[: len(generated) // 7 * 7].reshape(-1, 7)
    assert (np.sort(rounds, 1) == np.arange(50, 57)).all(), 'each image once a round'
    assert np.array_equal(draws[:500], list(itertools.islice(iter(sampler), 500)))
    with pytest.raises(ValueError, match='shares'):
        PartShareSampler(Joined(), [1])
    with pytest.raises(ValueError, match='shares'):
        PartShareSampler(Joined(), [0, 0])


@pytest.mark.parametrize(
    'change, words',
    [
        (dict(ratio=dict(real=1)), 'real and generated'),
        (dict(ratio=dict(real=0, generated=0)), 'not all 0'),
        (dict(share=1), 'keys folder and ratio'),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path, packed, change, words):
    cfg = Config.fromfile(leaf(tmp_path, packed))
    if 'ratio' in change:
        cfg.generated['ratio'] = change['ratio']
    else:
        cfg.generated.update(change)
    with pytest.raises(ValueError, match=words):
        compose(cfg)


def test_without_a_ratio_or_a_folder(tmp_path, packed):
    cfg = Config.fromfile(leaf(tmp_path, packed))
    cfg.generated['ratio'] = None
    compose(cfg)
    assert cfg.train_dataloader.sampler.type == 'DefectSampler'
    cfg = Config.fromfile(leaf(tmp_path, packed))
    cfg.generated['folder'] = None
    compose(cfg)
    assert cfg.train_dataloader.dataset.type == 'BladeWTADataset'
