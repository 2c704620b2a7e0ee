"""Scalar logs and test logs."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from mmdefect.experiments.logs import parse_test_log, read_scalars, read_validations, training_logs, validations
from tests.helpers.realdata import real_data_root

GOLDEN = (real_data_root() or Path('absent')) / 'wta512_golden'
GOLDEN_RUNS = sorted(path.name for path in GOLDEN.glob('*')) if GOLDEN.is_dir() else []


def train(step):
    return {'lr': 0.1, 'loss': 1.0, 'iter': step, 'step': step}


def val(step, miou):
    return {'aAcc': 99.0, 'mIoU': miou, 'mAcc': miou, 'time': 0.1, 'data_time': 0.1, 'step': step}


def write_log(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(json.dumps(record) + '\n' for record in records))
    return path


def test_only_validations_are_kept_and_times_are_no_metric():
    merged = validations([[train(50), train(100), val(100, 40.0), train(150), {'lr': 0.1, 'step': 150}]])
    assert merged == {100: {'aAcc': 99.0, 'mIoU': 40.0, 'mAcc': 40.0}}


def test_a_broken_line_is_reported_with_its_place_and_skipped(tmp_path):
    log = tmp_path / 'scalars.json'
    log.write_text(
        f'{json.dumps(val(1, 10.0))}\n{{"aAcc": 9\n[1]\n{{"mIoU": 1}}\n\n{json.dumps(val(2, 20.0))}\n{{"step": 3, "mI'
    )
    reports = []
    assert [record['step'] for record in read_scalars(log, reports.append)] == [1, 2]
    assert [report.split(': ')[0].rpartition(':')[2] for report in reports] == ['2', '3', '4', '7']


def test_a_log_that_is_not_text_is_reported(tmp_path):
    log = tmp_path / 'scalars.json'
    log.write_bytes(b'\xff\xfe\n' + json.dumps(val(1, 10.0)).encode() + b'\n')
    reports = []
    assert len(read_scalars(log, reports.append)) == 1 and len(reports) == 1


def test_no_validation_is_an_error_that_names_the_file_and_the_remedy(tmp_path):
    log = write_log(tmp_path / 'scalars.json', [train(50)])
    with pytest.raises(ValueError, match='scalars.json.*at least one validation.*val_interval'):
        read_validations([log])
    with pytest.raises(FileNotFoundError, match='no such file'):
        read_validations([tmp_path / 'nothing.json'])


def test_a_resumed_run_replaces_what_its_predecessor_did_after_the_checkpoint():
    first = [
        train(100),
        val(100, 10.0),
        train(200),
        val(200, 20.0),
        train(250),
        val(300, 30.0),
        train(350),
        val(400, 40.0),
    ]
    resumed_from_200 = [train(250), val(300, 31.0)]
    merged = validations([first, resumed_from_200])
    assert {step: metrics['mIoU'] for step, metrics in merged.items()} == {100: 10.0, 200: 20.0, 300: 31.0}


def test_a_run_started_afresh_replaces_everything():
    assert list(validations([[train(50), val(100, 1.0), val(200, 2.0)], [train(50), val(100, 3.0)]])) == [100]


def test_a_run_that_logged_nothing_replaces_nothing():
    assert list(validations([[train(50), val(100, 1.0)], []])) == [100]


def test_a_restart_within_one_file_counts_as_one():
    records = [train(50), val(100, 1.0), train(150), val(200, 2.0), train(250), train(150), val(200, 9.0)]
    assert {s: m['mIoU'] for s, m in validations([records]).items()} == {100: 1.0, 200: 9.0}


@pytest.mark.parametrize('seed', range(20))
def test_merging_equals_replaying_a_killed_training(seed):
    """Oracle: simulate runs that die anywhere and resume from a saved step; keep what the surviving weights saw."""
    rng = random.Random(seed)
    logs, survivors, start = [], {}, 0
    for _ in range(rng.randint(1, 5)):
        records, end = [], rng.randint(start + 1, start + 40)
        survivors = {step: value for step, value in survivors.items() if step <= start}
        for step in range(start + 1, end + 1):
            records.append(train(step))
            if step % 5 == 0:
                value = rng.random()
                records.append(val(step, value))
                survivors[step] = value
        logs.append(records)
        start = rng.choice([0, *range(5, end + 1, 5)])
    assert {step: metrics['mIoU'] for step, metrics in validations(logs).items()} == survivors


def test_logs_of_a_training_are_ordered_by_time(tmp_path):
    stamps = ('20250102_000000', '20241231_235959', '20250101_120000')
    for stamp in stamps:
        write_log(tmp_path / stamp / 'vis_data' / 'scalars.json', [val(1, 1.0)])
    assert [path.parts[-3] for path in training_logs(tmp_path)] == [stamps[1], stamps[2], stamps[0]]


LOG = """01/02 03:04:05 - mmengine - INFO - Iter(test) [ 50/120]    eta: 0:00:03  time: 0.0400  data_time: 0.0010
|  Class   | Recall |
| attached |  0.10  |
per class results:
+-------------+-------+------+
|    Class    |  IoU  | Acc  |
+-------------+-------+------+
|   normal    | 99.93 | 100  |
| fine, chip  | 30.45 | nan  |
+-------------+-------+------+
01/02 03:04:05 - mmengine - INFO - Iter(test) [120/120]    aAcc: 99.9300  fg_mIoU: 30.45  IoU.fine, chip: nan  time: 0.3
/env/lib/x.py:1: UserWarning: bye
"""


def test_a_test_log_is_parsed_by_hand_made_case():
    result = parse_test_log(LOG)
    assert result.summary['aAcc'] == 99.93 and result.summary['fg_mIoU'] == 30.45 and 'time' not in result.summary
    assert math.isnan(result.summary['IoU.fine, chip'])
    assert list(result.classes) == ['normal', 'fine, chip']
    assert result.classes['fine, chip']['IoU'] == 30.45 and math.isnan(result.classes['fine, chip']['Acc'])


def test_the_last_of_two_tests_in_one_log_counts():
    later = LOG.replace('30.45 | nan', '77.00 | 1.0').replace('99.9300', '50.0')
    result = parse_test_log(LOG + later)
    assert result.classes['fine, chip']['IoU'] == 77.0 and result.summary['aAcc'] == 50.0


def test_the_verdict_and_the_decision_of_the_last_test_are_read():
    line = '01/02 03:04:05 - mmengine - INFO - '
    said = 'Test: 10 of 10 bad parts found (95 %: 69 to 100 %), no good parts.'
    log = f'{line}decision: calibrated\n{LOG}{line}{said}\n'
    assert parse_test_log(log).verdict == f'{said} Decision: calibrated.' and parse_test_log(LOG).verdict == ''
    again = log.replace('10 of 10', '9 of 10').replace('calibrated', 'argmax')
    assert parse_test_log(log + again).verdict == f'{said.replace("10 of 10", "9 of 10")} Decision: argmax.'


@pytest.mark.parametrize('text', ['', LOG.split('per class')[0], LOG.replace('[120/120]', '[119/120]')])
def test_a_test_that_stopped_early_is_an_error(text):
    with pytest.raises(ValueError, match='stopped early'):
        parse_test_log(text)


@pytest.mark.skipif(not GOLDEN_RUNS, reason='MMDEFECT_DATA/wta512_golden is absent')
@pytest.mark.parametrize('run', GOLDEN_RUNS)
def test_published_logs_state_means_of_their_own_tables(run):
    result = parse_test_log((GOLDEN / run / 'test_log.txt').read_text())
    assert len(result.classes) == 3
    for key, column in (('mIoU', 'IoU'), ('mAcc', 'Acc')):
        mean = sum(row[column] for row in result.classes.values()) / 3
        assert result.summary[key] == pytest.approx(mean, abs=0.011)  # each entry is rounded to 0.01
