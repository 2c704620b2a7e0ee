"""Training with a synthesis recipe from one leaf config, in the workers and on the device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mmdefect.apis import train
from tests.helpers.small import quick_options, write_labelled_parts

REPO = Path(__file__).resolve().parents[2]
QUICK = quick_options(3, image_scale=(120, 96))


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    write_labelled_parts(root, train=4, val=4, test=4)
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
