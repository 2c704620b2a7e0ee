"""Result tables."""

from __future__ import annotations

import csv

from mmdefect.experiments.run_batch import result_rows, write_results
from mmdefect.experiments.states import JobState, write_state

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
