"""How far a project is, as tools/status.py shows it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmdefect.experiments.process import process_record
from mmdefect.experiments.run_batch import run_batch
from mmdefect.experiments.select import Rule
from mmdefect.experiments.states import read_state, write_state
from mmdefect.experiments.status import JobStatus, read_status, time_left

ROOT = Path(__file__).parents[2]


def row(status, seconds=0.0, left=None):
    return JobStatus('', status, 0, 0, '', '', seconds, left, '')


@pytest.fixture
def project(make_batch, make_config):
    """A finished job and one that runs: at iteration 4 of 6 after 8 seconds, the last sign of life 2 seconds ago."""
    peak = 'miou = lambda step: 50 - abs(step - 4)\n'
    batch = make_batch(make_config('a/m', peak), make_config('b/m', peak + 'crash_at = 5\n'), rule=Rule('mIoU'))
    run_batch(batch, lambda line: None)
    folder = batch.job_dir(batch.jobs[1])
    state = read_state(folder)
    state.attempts[0]['seconds'] = 8.0
    write_state(
        folder,
        dataclasses.replace(
            state,
            status='running',
            error='',
            error_tail=[],
            heartbeat=time.time() - 2,
            owner=process_record(os.getpid()),
        ),
    )
    return batch


def test_progress_and_time_left(project):
    done, running = read_status(project.project_dir)
    assert (done.status, done.step, done.total, done.best, done.left) == ('done', 6, 6, '4: mIoU 50.00', None)
    assert (running.status, running.step, running.total) == ('running', 4, 6)
    assert running.seconds == pytest.approx(10, abs=0.5) and running.left == pytest.approx(5, abs=0.5)  # 2.5 s a step
    assert (running.validation, running.best) == ('4: mIoU 50.00', '4: mIoU 50.00')


def test_a_resumed_training_is_judged_by_its_own_pace(project):
    folder = project.job_dir(project.jobs[1])
    state = read_state(folder)
    state.attempts = [{'seconds': 900.0, 'resumed_from': 0}, {'seconds': 2.0, 'resumed_from': 2}]
    write_state(folder, state)
    running = read_status(project.project_dir)[1]
    assert running.left == pytest.approx(4, abs=0.5) and running.seconds > 900


@pytest.mark.parametrize(
    'rows, left',
    [
        ([row('done', 100)], None),
        ([row('pending')], None),
        ([row('running', 10, 30)], 30),
        ([row('running', 10, 30), row('pending')], 30 + 40),
        ([row('running', 10, 30)] * 2 + [row('pending')] * 4, 30 + 80),
        ([row('done', 20), row('running')], 20),
        ([row('running', 90, 10), row('running', 10, 90)], 90),
    ],
)
def test_the_time_left_of_a_project(rows, left):
    assert time_left(rows) == (pytest.approx(left) if left is not None else None)


def test_the_table_is_shown_again_until_ctrl_c(project):
    command = [sys.executable, str(ROOT / 'tools' / 'status.py'), str(project.project_dir)]
    once = subprocess.run(command, capture_output=True, text=True, env={**os.environ, 'COLUMNS': '200'})
    assert once.returncode == 0 and 'blades: 1 done, 1 running; about 0:00:0' in once.stdout
    assert 'best so far' in once.stdout and '4/6  66 %' in once.stdout
    live = subprocess.Popen(
        [*command, '--watch', '0.2'],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, 'COLUMNS': '200', 'PYTHONUNBUFFERED': '1'},
    )
    time.sleep(1.5)
    live.send_signal(signal.SIGINT)
    output, _ = live.communicate(timeout=20)
    assert live.returncode == 0 and 'best so far' in output and 'Traceback' not in output


def test_a_job_whose_process_died_is_lost(project):
    folder = project.job_dir(project.jobs[1])
    text = json.loads((folder / 'state.json').read_text())
    text['owner']['start'] = 1
    (folder / 'state.json').write_text(json.dumps(text))
    assert read_status(project.project_dir)[1].status == 'lost'
