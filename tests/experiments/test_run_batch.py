"""Whole batches over stand-in tools: order, failures, resuming, stopping; and their tables of results."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from mmdefect.experiments import process
from mmdefect.experiments.job import plan_commands
from mmdefect.experiments.process import is_alive
from mmdefect.experiments.run_batch import check_batch, result_rows, run_batch, write_results
from mmdefect.experiments.select import Rule
from mmdefect.experiments.states import JobState, read_state, write_state
from tests.experiments.engine_helpers import batch_command, wait_for

ROOT = Path(__file__).parents[2]


def silent(line):
    pass


def results(batch):
    with (batch.project_dir / 'results.csv').open() as file:
        return {row['model']: row for row in csv.DictReader(file)}


def trained_by(batch, step, job=0):
    """Return the process that trained each iteration of a checkpoint's weights."""
    path = batch.job_dir(batch.jobs[job]) / 'train' / 'ckpt' / f'iter_{step}.pth'
    return json.loads(zipfile.ZipFile(path).read('trained_by'))


def statuses(states):
    return [state.status for state in states]


def test_a_batch_leaves_the_whole_tree(make_batch, make_config):
    peak = 'miou = lambda step: 50 - abs(step - 4)\n'
    batch = make_batch(make_config('a/m', peak), make_config('b/m'))
    lines = []
    assert statuses(run_batch(batch, lines.append)) == ['done', 'done']
    train, test = (batch.job_dir(batch.jobs[0]) / name for name in ('train', 'test'))
    assert sorted(path.name for path in (train / 'ckpt').iterdir()) == [
        'best_checkpoint',
        'iter_2.pth',
        'iter_4.pth',
        'iter_6.pth',
        'last_checkpoint',
        'validations.json',
    ]
    assert (train / 'ckpt' / 'best_checkpoint').read_text() == 'iter_4.pth\n'
    assert (train / 'ckpt' / 'last_checkpoint').read_text() == str(train / 'ckpt' / 'iter_6.pth')
    assert len(list(train.glob('*/vis_data/scalars.json'))) == 1 and not list(train.glob('*.pth'))
    assert (test / 'part_1.png').is_file()
    log = (test / 'test_log.txt').read_text()
    assert f'Load checkpoint from {train}/ckpt/iter_4.pth' in log
    assert log.splitlines()[-1].partition(' INFO - ')[2].startswith('Iter(test) [2/2]    aAcc: 99.9000')
    table = results(batch)
    assert (table['a/m']['best_iter'], table['b/m']['best_iter']) == ('4', '6')
    assert (table['a/m']['IoU.attached'], table['a/m']['fg_mIoU'], table['a/m']['Acc.broken']) == ('34.0', '27.0', '')
    assert 'm | Iter(train) [6/6]' in lines and "m | devices '' launcher none" in lines
    assert [line.split(' ', 2)[2] for line in (batch.project_dir / 'exp_log.txt').read_text().splitlines()] == [
        '[1/2] a/m: start',
        '[1/2] a/m: done, iter_4.pth: mIoU 50.00',
        '[2/2] b/m: start',
        '[2/2] b/m: done, iter_6.pth: mIoU 50.00',
    ]


def test_what_is_done_is_not_done_again(make_batch, make_config):
    first, second = make_config('a/m'), make_config('b/m')
    run_batch(make_batch(first), silent)
    batch = make_batch(second, first)
    before = trained_by(batch, 6, job=1)
    run_batch(batch, silent)
    assert trained_by(batch, 6, job=1) == before and len(read_state(batch.job_dir(batch.jobs[1])).attempts) == 1
    assert list(results(batch)) == ['a/m', 'b/m']  # the order in which the project got them


def test_a_failing_model_is_recorded_and_the_rest_goes_on(make_batch, make_config):
    crash, fine = make_config('a/crash', 'crash_at = 5\n'), make_config('b/m')
    batch = make_batch(crash, fine, make_config('c/test', 'test_fails = True\n'))
    assert statuses(run_batch(batch, silent)) == ['failed', 'done', 'failed']
    table = results(batch)
    assert table['a/crash']['error'] == 'train: RuntimeError: loss is NaN at iteration 5'
    assert table['c/test']['error'] == 'test: RuntimeError: no test image' and table['c/test']['best_iter'] == '6'
    state = read_state(batch.job_dir(batch.jobs[0]))
    assert state.error_tail[0].startswith("devices ''") and state.error_tail[-1].endswith('at iteration 5')


def test_a_failed_model_is_tried_again_from_its_last_checkpoint(make_batch, make_config):
    batch = make_batch(make_config('a/m', 'kill_at = 5\n'))
    (state,) = run_batch(batch, silent)
    assert (state.status, state.error) == ('failed', 'train: ended by SIGKILL (often: out of memory)')
    (state,) = run_batch(batch, silent)
    assert state.status == 'done' and [attempt['resumed_from'] for attempt in state.attempts] == [0, 4]
    processes = trained_by(batch, 6)
    assert len(processes) == 6 and len(set(processes[:4])) == len(set(processes[4:])) == 1 < len(set(processes))


def test_a_validation_that_was_cut_off_is_made_up_for(make_batch, make_config):
    batch = make_batch(make_config('a/m', 'skip_validation_at = 4\nmiou = lambda step: 50 - abs(step - 4)\n'))
    assert statuses(run_batch(batch, silent)) == ['failed']
    (state,) = run_batch(batch, silent)
    assert [attempt['resumed_from'] for attempt in state.attempts] == [0, 2] and state.best['iter'] == 4
    assert len(trained_by(batch, 6)) == 6


def test_no_validation_and_no_matching_checkpoint_are_failures_not_zero(make_batch, make_config, tmp_path):
    never = make_config('a/never', 'interval = 99\nmax_iters = 3\nskip_validation_at = 3\n')
    tool = tmp_path / 'train.py'
    batch = make_batch(never)
    tool.write_text(batch.tools.train.read_text().replace("sys.exit('error", "sys.exit(0 and '"))
    object.__setattr__(batch.tools, 'train', tool)
    (state,) = run_batch(batch, silent)
    assert state.status == 'failed' and 'at least one validation' in state.error and state.best is None


def test_a_better_step_without_checkpoint_is_pointed_out(make_batch, make_config):
    batch = make_batch(make_config('a/m'))
    run_batch(batch, silent)
    (batch.job_dir(batch.jobs[0]) / 'train' / 'ckpt' / 'iter_6.pth').unlink()
    lines = []
    (state,) = run_batch(make_batch(batch.jobs[0].config, rule=Rule('mIoU')), lines.append)
    note = 'iteration 6 was better (46.00) but has no checkpoint'
    assert state.best['iter'] == 4 and results(batch)['a/m']['error'] == note and f'm | warning: {note}' in lines


def test_another_rule_chooses_anew_without_training(make_batch, make_config):
    config = make_config('a/m')
    run_batch(make_batch(config), silent)
    batch = make_batch(config, rule=Rule('mIoU', mode='min'))
    (state,) = run_batch(batch, silent)
    assert state.best['iter'] == 2 and len(state.attempts) == 1 and results(batch)['a/m']['IoU.attached'] == '32.0'


def test_a_changed_config_is_an_error_before_anything_starts(make_batch, make_config):
    config, other = make_config('a/m', 'seconds = 0\n'), make_config('b/m')
    run_batch(make_batch(config), silent)
    make_config('a/m', 'seconds = 0  # still the same\n')
    run_batch(make_batch(config), silent)
    make_config('a/m', 'seconds = 0.001\n')
    with pytest.raises(ValueError, match=r'kept in .*exp/a/m/train/m.py.*content of .*configs/a/m.py.*another project'):
        run_batch(make_batch(other, config), silent)
    make_config('a/m', 'seconds = 0\n')
    with pytest.raises(ValueError, match='overrides'):
        run_batch(make_batch(other, config, cfg_options=('max_iters=8',)), silent)
    assert not (make_batch(other).project_dir / 'exp' / 'b').exists()


def test_a_mistake_that_let_nothing_be_trained_may_be_mended(make_batch, make_config):
    config = make_config('a/m', 'max_iters = "six"\n1 / 0\n')
    assert statuses(run_batch(make_batch(config), silent)) == ['failed']
    make_config('a/m', 'max_iters = 6\n')
    assert statuses(run_batch(make_batch(config, cfg_options=('max_iters=4',)), silent)) == ['done']


def test_a_mistake_may_be_mended_before_the_first_checkpoint(make_batch, make_config):
    """As without the internet: the config itself says which line to change, and training has begun by then."""
    config = make_config('a/m', 'max_iters = 6\nseconds = 60\n')
    batch = make_batch(config)
    folder = batch.job_dir(batch.jobs[0]) / 'train'
    planner = start_batch(batch, stdout=subprocess.PIPE)
    wait_for(folder / 'm.py')
    planner.send_signal(signal.SIGINT)
    said = planner.communicate(timeout=60)[0].decode()
    assert 'a/m: stopped; the same command starts anew, for there is no checkpoint yet' in said
    assert not list(folder.rglob('*.pth'))
    make_config('a/m', 'max_iters = 6\n')
    assert statuses(run_batch(make_batch(config), silent)) == ['done']


def test_a_folder_of_unknown_origin_is_not_touched(make_batch, make_config):
    batch = make_batch(make_config('a/m'))
    train_dir = batch.job_dir(batch.jobs[0]) / 'train'
    train_dir.mkdir(parents=True)
    (train_dir / 'iter_2.pth').write_text('precious')
    with pytest.raises(ValueError, match='must be empty or made by this batch'):
        run_batch(batch, silent)


def test_overrides_reach_training_and_test(make_batch, make_config):
    batch = make_batch(make_config('a/m'), cfg_options=('max_iters=8',))
    (state,) = run_batch(batch, silent)
    assert state.best['iter'] == 8
    commands = plan_commands(batch, batch.jobs[0])
    assert all(command[-2:] == ['--cfg-options', 'max_iters=8'] for command in commands.values())


def test_a_find_best_of_ones_own_decides(make_batch, make_config, tmp_path):
    program = tmp_path / 'find_best.py'
    program.write_text('print(2)')
    (state,) = run_batch(make_batch(make_config('a/m'), find_best=program), silent)
    assert state.best['iter'] == 2
    program.write_text('print("none")')
    (state,) = run_batch(make_batch(make_config('b/m'), find_best=program), silent)
    assert state.status == 'failed' and 'must print an iteration' in state.error


def test_several_gpus_start_torchrun(make_batch, make_config):
    train, test = plan_commands(
        make_batch(make_config('a/m'), gpu_count=3), make_batch(make_config('a/m')).jobs[0], resume=True
    ).values()
    assert train[1:5] == ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=3']
    assert train[-3:] == ['--resume', '--launcher', 'pytorch'] and '--launcher' not in test


@pytest.mark.parametrize(
    'visible, count, expected',
    [(None, 0, ''), (None, 2, '0,1'), ('3,5,7', 2, '3,5'), ('GPU-abc', 1, 'GPU-abc'), ('0,1', 0, '')],
)
def test_children_see_exactly_the_devices_asked_for(monkeypatch, visible, count, expected):
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if visible is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    assert process.child_environment(count, {})['CUDA_VISIBLE_DEVICES'] == expected


def test_more_gpus_than_there_are_is_an_error(monkeypatch, make_batch, make_config):
    monkeypatch.setattr(process, 'count_gpus', lambda python: 1)
    check_batch(make_batch(make_config('a/m'), gpu_count=1))
    with pytest.raises(ValueError, match='at most the number of GPUs that torch sees, 1, got 2'):
        run_batch(make_batch(make_config('a/m'), gpu_count=2), silent)


def test_an_interpreter_without_torch_is_named(tmp_path):
    python = tmp_path / 'python'
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    python.chmod(0o755)
    with pytest.raises(RuntimeError, match='must be able to import torch.*No module named'):
        process.count_gpus(str(python))


@pytest.mark.parametrize(
    'output, code, message',
    [
        (['Traceback', '  File "x"', 'ValueError: no', ''], 1, 'ValueError: no'),
        (
            [
                '[rank1]: RuntimeError: out of memory',
                'torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ',
                '====',
                'exitcode : 1',
            ],
            1,
            'RuntimeError: out of memory',
        ),
        (['error: the mask is missing'], 2, 'error: the mask is missing'),
        (['something odd', ''], 3, 'exit code 3: something odd'),
        ([], 1, 'exit code 1: no output'),
        (['fine'], -signal.SIGTERM, 'ended by SIGTERM'),
    ],
)
def test_the_line_that_says_what_went_wrong(output, code, message):
    assert process.explain(output, code)[0] == message


def start_batch(batch, stdout=subprocess.DEVNULL):
    return subprocess.Popen(batch_command(batch), stdout=stdout, stderr=subprocess.PIPE)


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_batch_goes_on_without_training_anything_twice(make_batch, make_config, number):
    batch = make_batch(make_config('a/m', 'max_iters = 40\nseconds = 0.05\n'), make_config('b/m'))
    folder = batch.job_dir(batch.jobs[0])
    planner = start_batch(batch)
    wait_for(folder / 'train' / 'iter_4.pth')
    planner.send_signal(number)
    planner.communicate(timeout=30)
    state = read_state(folder)
    if number == signal.SIGKILL:
        assert state.status == 'running'
        deadline = time.monotonic() + 10
        while is_alive(state.child):  # the system ends the tool, too
            assert time.monotonic() < deadline
            time.sleep(0.05)
    else:
        assert (planner.returncode, state.status, state.child) == (130, 'pending', None)
        log = (batch.project_dir / 'exp_log.txt').read_text()
        assert 'stopped; the same command goes on from the last checkpoint\n' in log
        assert results(batch)['b/m']['state'] == 'pending'
    child = state.child
    assert statuses(run_batch(batch, silent)) == ['done', 'done']
    assert not is_alive(child)
    state = read_state(folder)
    start = state.attempts[1]['resumed_from']
    processes = trained_by(batch, 40)
    # a checkpoint whose validation was not logged any more is passed over, so 4 may have been one too far
    assert 2 <= start < 40 and len(state.attempts) == 2 and len(processes) == 40
    assert len(set(processes[:start])) == len(set(processes[start:])) == 1
    stamps = list((folder / 'train').glob('*/vis_data/scalars.json'))
    assert len(stamps) == 2 and (folder / 'train' / 'ckpt' / 'best_checkpoint').read_text() == 'iter_40.pth\n'
    validated = [json.loads(line)['step'] for line in (folder / 'train/ckpt/validations.json').read_text().splitlines()]
    assert validated == list(range(2, 41, 2))


def test_a_job_of_another_planner_is_left_alone(make_batch, make_config):
    batch = make_batch(make_config('a/m', 'max_iters = 20\nseconds = 0.1\n'))
    folder = batch.job_dir(batch.jobs[0])
    planner = start_batch(batch)
    wait_for(folder / 'train' / 'iter_2.pth')
    lines = []
    assert statuses(run_batch(batch, lines.append)) == ['running']
    assert 'runs elsewhere' in lines[-1]
    planner.communicate(timeout=60)
    assert planner.returncode == 0 and len(read_state(folder).attempts) == 1
    assert len(set(trained_by(batch, 20))) == 1


CLASSES = {'normal': {'IoU': 99.0, 'Acc': 99.5}, 'chip': {'IoU': 30.0, 'Acc': 50.0}, 'dirt': {'IoU': 10.0, 'Acc': None}}


def done(name, **kwargs):
    values = {
        'status': 'done',
        'best': {'iter': 20, 'checkpoint': 'iter_20.pth', 'value': 1.0, 'note': ''},
        'rule': {'metric': 'score', 'exclude_background': False, 'tie': 'last'},
        'metrics': {'aAcc': 99.9, 'mIoU': 46.33, 'mAcc': 74.75},
        'classes': CLASSES,
        'attempts': [{'seconds': 3.0}, {'seconds': 4.04}],
        **kwargs,
    }
    return JobState(name, **values)


def test_foreground_means_leave_out_the_first_class_and_unknown_values():
    (row,) = result_rows([done('a/m')])
    assert (row['fg_mIoU'], row['fg_mAcc'], row['train_seconds']) == (20.0, 50.0, 7.0)


def test_logged_foreground_means_win():
    (row,) = result_rows([done('a/m', metrics={'fg_mIoU': 21.0})])
    assert (row['fg_mIoU'], row['fg_mAcc']) == (21.0, 50.0)


def test_files_have_a_row_for_every_model_in_the_order_of_the_plan(tmp_path):
    write_state(tmp_path / 'exp' / 'a' / 'm', JobState('a/m', 'failed', error='train: ValueError: a | b'))
    write_state(tmp_path / 'exp' / 'b' / 'm', done('b/m'))
    markdown = write_results(tmp_path, ['b/m', 'a/m'])
    table = list(csv.DictReader((tmp_path / 'results.csv').open()))
    assert [row['model'] for row in table] == ['b/m', 'a/m']
    assert list(table[0]) == [
        'model',
        'state',
        'best_iter',
        'aAcc',
        'mIoU',
        'mAcc',
        'fg_mIoU',
        'fg_mAcc',
        'IoU.normal',
        'Acc.normal',
        'IoU.chip',
        'Acc.chip',
        'IoU.dirt',
        'Acc.dirt',
        'train_seconds',
        'error',
    ]
    assert table[0]['Acc.dirt'] == '' and table[0]['IoU.chip'] == '30.0'
    assert table[1]['state'] == 'failed' and table[1]['error'] == 'train: ValueError: a | b'
    lines = markdown.splitlines()
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1 and 'Acc.dirt' not in lines[0]
    assert lines[3].replace('\\|', '').count('|') == lines[0].count('|')
    assert 'best `score` on the validation set, last of equals' in (tmp_path / 'results.md').read_text()


def test_an_empty_project_writes_nothing(tmp_path):
    assert write_results(tmp_path) == '' and not (tmp_path / 'results.csv').exists()


def test_the_verdict_on_parts_stands_above_the_table_and_ends_the_log(make_batch, make_config):
    said = 'Test: 10 of 10 bad parts found (95 %: 69 to 100 %), 2 of 71 good parts rejected (95 %: 0.3 to 9.8 %).'
    batch = make_batch(make_config('a/m', f'says = ({said!r}, "decision: calibrated")'))
    (state,) = run_batch(batch, silent)
    assert state.verdict == f'{said} Decision: calibrated.'
    text = (batch.project_dir / 'results.md').read_text()
    assert text.index(f'- a/m: {state.verdict}\n') < text.index('| model')
    assert 'by the decision that predicting delivers' in text
    log = (batch.project_dir / 'exp_log.txt').read_text().splitlines()
    assert log[-1].endswith(state.verdict)
