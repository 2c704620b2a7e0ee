"""From sampled images with their masks as labels to a training whose loss knows which labels are boxes."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope

import mmdefect.registration  # noqa: F401
from mmdefect.apis import load_config, train
from mmdefect.diffusion.images import read_mask, write_image
from mmdefect.diffusion.manifest import Manifest, Record
from mmdefect.diffusion.pack import read_pack
from mmdefect.registry import DATASETS
from tests.helpers.data import write_wta
from tests.helpers.small import quick_options

REPO = Path(__file__).resolve().parents[2]
LEAF = REPO / 'configs/fast_scnn/fast-scnn_boxes_2k_wta-256.py'
QUICK = {**quick_options(2), 'loss_decode.warmup': 1}


@pytest.fixture()
def generated(tmp_path):
    """A set as ``sample`` writes it: four images with a box each."""
    random, manifest = np.random.default_rng(0), Manifest(tmp_path / 'made')
    manifest.start(dict(command='sample'))
    for number in range(4):
        mask = np.zeros((64, 80), bool)
        mask[10 + number : 30, 20:44] = True
        write_image(tmp_path / 'clean' / f'{number}.png', random.integers(0, 255, (64, 80, 3)).astype(np.uint8))
        write_image(
            tmp_path / 'made' / 'images' / f'g{number}.png', random.integers(0, 255, (64, 80, 3)).astype(np.uint8)
        )
        write_image(tmp_path / 'made' / 'masks' / f'g{number}.png', mask)
        manifest.append(
            Record(
                f'g{number}',
                f'images/g{number}.png',
                str(tmp_path / 'clean' / f'{number}.png'),
                number,
                'a photo',
                'model',
                mask=f'masks/g{number}.png',
                mask_kind='box',
                defect_type=('attached', 'chip')[number % 2],
            )
        )
    return tmp_path / 'made'


def pack(generated, out, *more):
    arguments = ['pack-boxes', str(generated), '--classes', 'normal', 'attached', 'broken', '--out', str(out), *more]
    return runpy.run_path(str(REPO / 'tools' / 'generate.py'))['main'](arguments)


def test_masks_become_labels_that_are_marked_as_boxes(generated, tmp_path, capsys):
    assert pack(generated, tmp_path / 'none') == 2
    assert (
        "1..2 of ['normal', 'attached', 'broken'], got None for 'chip'; name it with --class-ids chip=1"
        in capsys.readouterr().err
    )
    assert not (tmp_path / 'none').exists()
    assert pack(generated, tmp_path / 'boxes', '--class-ids', 'chip=2') == 0
    packed = read_pack(tmp_path / 'boxes')
    init_default_scope('mmseg')
    assert packed.labels == 'boxes' and len(packed.images) == 4
    data = DATASETS.build(
        dict(
            type='GeneratedDefectDataset',
            folder=str(tmp_path / 'boxes'),
            pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadDefectAnnotations')],
        )
    )
    for number in range(4):
        mask = read_mask(generated / 'masks' / f'g{number}.png')
        sample = data[number]
        assert (sample['gt_seg_map'] == mask * (1 + number % 2)).all()
        assert (sample['gt_box_map'] == mask).all() and sample['seg_fields'] == ['gt_seg_map', 'gt_box_map']
        assert packed.images[number].entry['defect_pixels'][str(1 + number % 2)] == mask.sum()
        assert packed.images[number].entry['mask_kind'] == 'box' and packed.images[number].entry['seed'] == number


def test_boxes_move_with_crops_and_only_they_are_boxes(generated, tmp_path):
    assert pack(generated, tmp_path / 'boxes', '--class-ids', 'chip=2') == 0
    write_wta(tmp_path / 'real', dict(train=4, val=2, test=2), size_hw=(64, 80))
    cfg = load_config(LEAF, {**QUICK, 'data_root': str(tmp_path / 'real'), 'generated.folder': str(tmp_path / 'boxes')})
    assert [h.type for h in cfg.custom_hooks if h.type == 'LabelExtrasHook']
    init_default_scope('mmseg')
    mixed = DATASETS.build(cfg.train_dataloader.dataset)
    seen = 0
    for index in range(8):
        sample = mixed[index]['data_samples']
        if index < 4:
            assert 'gt_box_map' not in sample
            continue
        box, label = sample.gt_box_map.data, sample.gt_sem_seg.data
        assert box.shape == label.shape and torch.equal(box.bool(), (label > 0) & (label != 255))
        seen += int(box.any())
    assert seen


@pytest.mark.slow
def test_the_leaf_trains(generated, tmp_path):
    assert pack(generated, tmp_path / 'boxes', '--class-ids', 'chip=2') == 0
    write_wta(tmp_path / 'real', dict(train=4, val=2, test=2), size_hw=(64, 80))
    runner = train(
        LEAF,
        work_dir=tmp_path / 'run',
        cfg_options={**QUICK, 'data_root': str(tmp_path / 'real'), 'generated.folder': str(tmp_path / 'boxes')},
    )
    assert np.isfinite(runner.message_hub.get_scalar('train/loss').current())
    assert int(runner.model.decode_head.loss_decode.iteration) == 2
