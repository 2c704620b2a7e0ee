"""bash/find_best.py as a command: one number on stdout, with plain Python."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.realdata import real_data_root

SCRIPT = Path(__file__).parents[2] / 'bash' / 'find_best.py'
GOLDEN = (real_data_root() or Path('absent')) / 'wta512_golden'
# What the published programs answer on their own logs: score, score2, mIoU.
ANSWERS = {
    'bisenetv1_aug': (32000, 32000, 32000),
    'deeplabv3_aug': (32000, 32000, 32000),
    'fastfcn_aug': (8000, 8000, 8000),
    'bisenetv1_origin': (32000, 32000, 40000),
    'deeplabv3_origin': (32000, 32000, 32000),
    'fastfcn_origin': (40000, 40000, 20000),
}


def find_best(*arguments):
    # -I -S: no site-packages, so neither torch nor anything else that is installed can be imported.
    command = [sys.executable, '-I', '-S', str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def log(tmp_path):
    path = tmp_path / 'scalars.json'
    records = [
        {'lr': 1, 'iter': 50, 'step': 50},
        {'aAcc': 99.0, 'mIoU': 40.0, 'mAcc': 50.0, 'IoU.normal': 99.0, 'IoU.chip': 10.0, 'step': 100},
        {'aAcc': 99.0, 'mIoU': 40.0, 'mAcc': 50.0, 'IoU.normal': 98.0, 'IoU.chip': 9.0, 'step': 200},
    ]
    path.write_text('\n'.join(map(json.dumps, records)) + '\n{"aAcc": 9')
    return path


@pytest.mark.skipif(not GOLDEN.is_dir(), reason='MMDEFECT_DATA/wta512_golden is absent')
@pytest.mark.parametrize('run', ANSWERS)
def test_published_logs(run):
    log = GOLDEN / run / 'scalars.json'
    answers = tuple(int(find_best('--json_log_path', log, '--metric', m).stdout) for m in ('score', 'score2', 'mIoU'))
    assert answers == ANSWERS[run]


@pytest.mark.skipif(not GOLDEN.is_dir(), reason='MMDEFECT_DATA/wta512_golden is absent')
def test_published_logs_have_no_class_values():
    answer = find_best('--json_log_path', GOLDEN / 'fastfcn_aug' / 'scalars.json', '--exclude-background')
    assert answer.returncode == 1 and answer.stdout == '' and 'per-class values' in answer.stderr


def test_stdout_is_the_number_alone_and_broken_lines_go_to_stderr(log):
    answer = find_best('--json_log_path', log)
    assert (answer.returncode, answer.stdout) == (0, '200\n')
    assert f'{log}:4: broken line skipped' in answer.stderr


def test_options(log):
    assert find_best('--json_log_path', log, '--tie', 'first').stdout == '100\n'
    assert find_best('--json_log_path', log, '--metric', 'fg_mIoU').stdout == '100\n'
    assert find_best('--json_log_path', log, '--metric', 'mIoU', '--exclude-background').stdout == '100\n'
    assert '200  score 63.0000  <- best' in find_best('--json_log_path', log, '--verbose').stderr
    result = json.loads(find_best('--json_log_path', log, '--json', '--metric', 'mIoU').stdout)
    assert (result['step'], result['value'], result['candidates']) == (200, 40.0, {'100': 40.0, '200': 40.0})


def test_errors_leave_stdout_empty(log, tmp_path):
    (tmp_path / 'train.json').write_text('{"lr": 1, "iter": 50, "step": 50}\n')
    for arguments, words in (
        ([tmp_path / 'train.json'], 'at least one validation'),
        ([tmp_path / 'no.json'], 'no such file'),
        ([log, '--metric', 'mDice'], "['IoU.chip', 'IoU.normal', 'aAcc', 'mAcc', 'mIoU']"),
    ):
        answer = find_best('--json_log_path', *arguments)
        assert (answer.returncode, answer.stdout) == (1, '') and words in answer.stderr


def test_the_background_in_a_mean_is_said_and_smoothing_is_shown(log):
    assert 'mIoU counts the background' in find_best('--json_log_path', log, '--metric', 'mIoU').stderr
    assert 'counts the background' not in find_best('--json_log_path', log, '--metric', 'IoU.chip').stderr
    answer = find_best('--json_log_path', log, '--metric', 'IoU.chip', '--smooth', '3', '--verbose')
    assert answer.stdout == '200\n' and '(median of 3: 9.0000)  <- best' in answer.stderr
    assert find_best('--json_log_path', log, '--smooth', '2').returncode == 1
