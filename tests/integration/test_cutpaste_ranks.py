"""CutPaste pre-training on two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.runner import Runner

from mmdefect.apis.train import prepare_train_config
from tests.helpers.data import draw_image, save

REPO = Path(__file__).resolve().parents[2]
LEAF = 'configs/cutpaste/resnet18-l3_3way_demo.py'


@pytest.mark.slow
def test_two_ranks_train_one_network_and_validate_it_exactly(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(23):
        save(tmp_path / 'data' / 'carpet' / 'train' / 'good' / f'{index:02d}.png', draw_image(rng, (64, 64)))
    options = {
        'data_root': str(tmp_path / 'data'),
        'image_scale': (64, 64),
        'train_dataloader.batch_size': 2,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'val_dataloader.num_workers': 0,
        'val_dataloader.persistent_workers': False,
        'val_dataloader.batch_size': 1,
        'train_cfg.max_iters': 3,
        'train_cfg.val_interval': 3,
        'default_hooks.checkpoint.interval': 3,
        'default_hooks.logger.interval': 1,
        'randomness.seed': 0,
    }
    words = [f'{key}={value}'.replace(' ', '') for key, value in options.items()]
    done = subprocess.run(
        ['bash', 'tools/dist_train.sh', LEAF, '2', '--work-dir', str(tmp_path / 'two'), '--cfg-options', *words],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, 'PYTHON': sys.executable, 'CUDA_VISIBLE_DEVICES': ''},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    (log,) = (tmp_path / 'two').rglob('scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len([line for line in lines if 'lr' in line]) == 3
    assert [path.name for path in (tmp_path / 'two').glob('iter_*.pth')] == ['iter_3.pth']
    cfg = prepare_train_config(REPO / LEAF, tmp_path / 'one', cfg_options=options)
    cfg.load_from = str(tmp_path / 'two' / 'iter_3.pth')
    alone = Runner.from_cfg(cfg).val()
    logged = {key: value for key, value in lines[-1].items() if key.startswith('views/')}
    assert logged == {key: pytest.approx(value, rel=1e-12) for key, value in alone.items()}
    assert 0 <= alone['views/accuracy'] <= 100 and len(alone) == 3
