"""Training with a synthesis recipe from one leaf config, in the workers and on the device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mmdefect.apis import train
from tests.helpers.data import save
from tests.helpers.defects import labelled_parts

REPO = Path(__file__).resolve().parents[2]
QUICK = {
    'crop_size': (64, 64),
    'image_scale': (120, 96),
    'train_dataloader.batch_size': 2,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'val_dataloader.num_workers': 0,
    'val_dataloader.persistent_workers': False,
    'train_cfg.max_iters': 3,
    'train_cfg.val_interval': 3,
    'default_hooks.checkpoint.interval': 3,
    'default_hooks.logger.interval': 1,
}


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    for seed, split in enumerate(('train', 'val', 'test')):
        for index, (image, label) in enumerate(labelled_parts(4, seed)):
            save(root / 'img_dir' / split / f'{index}.png', image)
            save(root / 'ann_dir' / split / f'{index}.png', label)
    return root


@pytest.mark.parametrize(
    ('recipe', 'options'),
    [('paste_poisson', {}), ('paste_poisson', {'synthesis.where': 'device'}), ('mixed', {})],
    ids=['in workers', 'on the device', 'mixed'],
)
def test_training_runs_from_one_leaf(data_root, tmp_path, monkeypatch, recipe, options):
    monkeypatch.setenv('MMDEFECT_CACHE', str(tmp_path / 'cache'))
    leaf = REPO / 'configs/fast_scnn/fast-scnn_baseline_2k_wta-256.py'
    options = {'data_root': str(data_root), **QUICK, **options}
    runner = train(leaf, work_dir=tmp_path / 'run', cfg_options=options, recipes=[recipe])
    checkpoint = torch.load(tmp_path / 'run' / 'iter_3.pth', map_location='cpu', weights_only=False)
    assert not [k for k in checkpoint['state_dict'] if k.startswith('data_preprocessor')]
    assert np.isfinite(runner.message_hub.get_scalar('train/loss').current())
    assert len(list((tmp_path / 'cache' / 'donors').glob('*/library.json'))) == 1
    assert not list(data_root.rglob('*.bin'))  # nothing is written beside the data


def test_donors_from_a_split_of_the_same_images_are_refused(data_root, tmp_path, monkeypatch):
    monkeypatch.setenv('MMDEFECT_CACHE', str(tmp_path / 'cache'))
    leaf = REPO / 'configs/fast_scnn/fast-scnn_paste-poisson_2k_wta-256.py'
    with pytest.raises(ValueError, match='(?s)train/0.png'):
        train(
            leaf,
            work_dir=tmp_path / 'run',
            cfg_options={
                'data_root': str(data_root),
                **QUICK,
                'test_dataloader.dataset.data_prefix.img_path': 'img_dir/train',
                'test_dataloader.dataset.data_prefix.seg_map_path': 'ann_dir/train',
            },
        )
