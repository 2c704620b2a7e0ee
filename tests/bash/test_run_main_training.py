"""bash/run_main.sh with the real tools: the whole tree, and going on after a kill half-way."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.realdata import real_data_root

ROOT = Path(__file__).parents[2]
DATA = (real_data_root() or Path('absent')) / 'wta512'
MODEL = 'fast_scnn/fast-scnn_baseline_2k_wta-256'


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason='MMDEFECT_DATA/wta512 is absent')
def test_a_training_killed_half_way_is_resumed_selected_and_tested(tmp_path):
    options = [
        f'data_root={DATA}',
        'train_cfg.max_iters=40',
        'train_cfg.val_interval=10',
        'default_hooks.checkpoint.interval=10',
        'default_hooks.logger.interval=5',
        'train_dataloader.batch_size=2',
        'train_dataloader.num_workers=1',
    ]
    command = ['bash', str(ROOT / 'bash' / 'run_main.sh'), MODEL, '--', *options]
    environment = {
        **os.environ,
        'PROJECT_NAME': 'p',
        'GPU_COUNT': '0',
        'PYTHON': sys.executable,
        'WORK_DIR': str(tmp_path),
    }
    folder = tmp_path / 'p' / 'exp' / MODEL
    first = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    deadline = time.monotonic() + 300
    try:
        for line in first.stdout:
            if (folder / 'train' / 'iter_20.pth').is_file():
                break
            assert time.monotonic() < deadline, line
    finally:
        os.killpg(first.pid, signal.SIGKILL)  # the planner only: the training is in a group of its own
        first.communicate()
    second = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert second.returncode == 0, second.stdout[-3000:] + second.stderr
    state = json.loads((folder / 'state.json').read_text())
    assert len(state['attempts']) == 2 and state['attempts'][1]['resumed_from'] in (10, 20, 30)
    assert len(list((folder / 'train').glob('*/vis_data/scalars.json'))) == 2
    checkpoints = {path.name for path in (folder / 'train' / 'ckpt').iterdir()}
    assert {f'iter_{step}.pth' for step in (10, 20, 30, 40)} | {'best_checkpoint', 'last_checkpoint'} <= checkpoints
    assert len(list((folder / 'test').glob('*.png'))) == len(list((DATA / 'img_dir' / 'test').glob('*.png')))
    log = (folder / 'test' / 'test_log.txt').read_text().splitlines()
    assert '|  Class   |  IoU  |  Acc  |' in log
    metrics, verdict = log[-2:]
    assert 'Iter(test) [60/60]    aAcc:' in metrics and 'fg_mIoU:' in metrics
    assert 'Test: ' in verdict and 'bad parts found' in verdict and 'good parts rejected' in verdict
    (row,) = csv.DictReader((tmp_path / 'p' / 'results.csv').open())
    assert (row['model'], row['state']) == (MODEL, 'done')
    assert float(row['fg_mIoU']) == pytest.approx((float(row['IoU.attached']) + float(row['IoU.broken'])) / 2, abs=0.02)
