"""A real study on tiny data: 2 arms of the same config x 3 seeds, from one file to its page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.data import write_wta

REPO = Path(__file__).resolve().parents[2]
STUDY = """
name = 'tiny'
base = 'configs/fast_scnn/fast-scnn_baseline_2k_wta-256.py'
factor = dict(name='nothing', keys=['nothing'])
iterations = 4
val_interval = 2
selection = dict(metric='fg_mIoU')
metrics = ['fg_mIoU', 'mIoU']
overrides = {'crop_size': [64, 64], 'image_scale': [80, 64], 'train_dataloader.batch_size': 2,
             'class_weight': [0.001, 1.0, 1.0],
             'default_hooks.logger.interval': 1}
arms = dict(first={}, second=dict(seed_offset=100))
"""


def tool(name, *arguments):
    return subprocess.run(
        [sys.executable, f'tools/{name}.py', *map(str, arguments)],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.mark.slow
def test_the_same_config_twice_is_not_distinguishable(tmp_path):
    write_wta(tmp_path / 'data')
    study = tmp_path / 'tiny.py'
    study.write_text(STUDY)
    places = ['--work-dir', tmp_path / 'work', '--results', tmp_path / 'results']
    command = [
        study,
        *places,
        '--data-root',
        tmp_path / 'data',
        '--seeds',
        3,
        '--slots',
        2,
        '--threads',
        1,
        '--allow-modified',
        '--workers',
        0,
    ]
    dry = tool('study', *command, '--dry-run')
    assert dry.returncode == 0 and dry.stdout.count('to do') == 6, dry.stderr[-2000:]
    done = tool('study', *command)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    page = (tmp_path / 'results' / 'tiny.md').read_text()
    assert '6 of 6 runs' in page and '`second` is not distinguishable from `first` in fg_mIoU' in page
    records = [json.loads(path.read_text()) for path in (tmp_path / 'results' / 'records').glob('*.json')]
    assert len(records) == 6 and all(
        len(r['counts']['images']) == 3 and r['budget']['iterations'] == 4 for r in records
    )
    assert not any(str(tmp_path) in path.read_text() for path in (tmp_path / 'results').rglob('*.*'))
    again = tool('study', *command)
    assert again.returncode == 0 and '6 recorded before, 0 to do' in again.stdout
    compared = tool('compare', study, '--results', tmp_path / 'results')
    assert compared.returncode == 0 and 'not distinguishable from `first`' in compared.stdout
    report = tool('report', tmp_path / 'work' / 'studies', '--out', tmp_path / 'report.html')
    assert report.returncode == 0, report.stderr[-2000:]
    text = (tmp_path / 'report.html').read_text()
    assert 'Validation fg mIoU' in text and 'data:image/webp' in text and 'do not give the logged metrics' not in text
    status = tool('status', tmp_path / 'work' / 'studies')
    assert status.returncode == 0 and '6 done' in status.stdout
