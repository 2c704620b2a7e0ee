"""States on disk and who owns a job."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time

import pytest

from mmdefect.experiments import process, states
from mmdefect.experiments.job import claim, run_job
from mmdefect.experiments.process import is_alive, process_record, stop_group
from mmdefect.experiments.states import JobState, read_state, write_state


@pytest.fixture
def sleeper():
    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)
    yield child
    child.kill()
    child.wait()


def test_a_state_survives_the_disk(tmp_path):
    state = JobState('a/m', 'failed', attempts=[{'seconds': 1.5}, {'seconds': 2.0}], metrics={'IoU.x': None})
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state and state.train_seconds == 3.5
    assert read_state(tmp_path / 'nowhere') is None


def test_a_state_of_another_version_is_named(tmp_path):
    (tmp_path / 'state.json').write_text('{"job": "a/m", "colour": 1}')
    with pytest.raises(ValueError, match='state.json must be a job state.*another version'):
        read_state(tmp_path)


def test_life_is_judged_by_number_and_start_time(sleeper):
    record = process_record(sleeper.pid)
    assert is_alive(record) and is_alive(process_record(os.getpid()))
    assert not is_alive({**record, 'start': record['start'] - 1})  # the number was given away again
    stop_group(record)
    assert not is_alive(record) and sleeper.wait(5) != 0
    assert not is_alive(None)


def test_a_killed_process_that_nobody_waited_for_is_dead(sleeper):
    record = process_record(sleeper.pid)
    sleeper.kill()
    deadline = time.monotonic() + 5
    while is_alive(record) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_alive(record) and sleeper.returncode is None


def test_another_machine_is_judged_by_its_heartbeat():
    record = {**process_record(os.getpid()), 'host': 'elsewhere'}
    assert is_alive(record, time.time()) and not is_alive(record, time.time() - process.STALE_SECONDS - 1)
    stop_group(record)  # must not touch a process of this machine with the same number


@pytest.mark.parametrize(
    'owner, age, free', [('self', 9999, False), ('dead', 0, True), ('elsewhere', 5, False), ('elsewhere', 9999, True)]
)
def test_claims(make_batch, make_config, owner, age, free):
    batch = make_batch(make_config('a/m'))
    job = batch.jobs[0]
    record = process_record(os.getpid())
    record.update({'self': {}, 'dead': {'start': record['start'] - 1}, 'elsewhere': {'host': 'elsewhere'}}[owner])
    write_state(batch.job_dir(job), JobState(job.name, 'running', owner=record, heartbeat=time.time() - age))
    state, mine = claim(batch, job)
    assert mine is free and state.status == 'running'
    held = read_state(batch.job_dir(job)).owner
    assert (held.items() >= process_record(os.getpid()).items()) is (free or owner == 'self')
    assert held.get('claim') == (1 if free else None)


def test_a_tool_that_outlived_its_planner_is_ended_before_the_job_goes_on(make_batch, make_config, sleeper):
    batch = make_batch(make_config('a/m'))
    job = batch.jobs[0]
    dead = {**process_record(os.getpid()), 'start': 1}
    folder = batch.job_dir(job)
    write_state(folder, JobState(job.name, 'running', owner=dead, child=process_record(sleeper.pid)))
    (folder / '.state.json.half').write_text('{')
    assert claim(batch, job)[1]
    assert sleeper.wait(5) != 0
    assert sorted(path.name for path in folder.iterdir()) == ['.lock', 'claims', 'state.json']


def test_of_many_planners_one_gets_the_job(tmp_path, make_batch, make_config):
    batch = make_batch(make_config('a/m'))
    program = (
        'import sys, time; from pathlib import Path\n'
        'from mmdefect.experiments.job import claim\n'
        'from mmdefect.experiments.batch import Batch, Tools, find_jobs\n'
        f'tools = Tools(*[Path({str(batch.tools.train)!r})] * 3, sys.executable)\n'
        f'jobs = find_jobs([{str(batch.jobs[0].config)!r}], [])\n'
        f'batch = Batch(Path({str(batch.work_dir)!r}), "blades", jobs, 0, tools)\n'
        'print(claim(batch, batch.jobs[0])[1], flush=True); sys.stdin.read()\n'
    )
    command = [sys.executable, '-c', program]
    planners = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    try:
        assert sorted(planner.stdout.readline() for planner in planners) == ['False\n'] * 3 + ['True\n']
    finally:
        for planner in planners:
            planner.communicate('')


@pytest.mark.parametrize(
    'last, age, number',
    [
        (None, 0, 1),
        ('released', 0, 2),
        ('dead', 0, 2),
        ('elsewhere', 9999, 2),
        ('elsewhere', 5, None),
        ('self', 0, None),
        ('half written', 0, None),
        ('half written', 9999, 2),
    ],
)
def test_a_claim_is_given_once(tmp_path, last, age, number):
    owner, path = process_record(os.getpid()), tmp_path / 'claims' / '0001.json'
    if last == 'half written':
        path.parent.mkdir()
        path.write_text('{"ho')
        os.utime(path, (time.time() - age,) * 2)
    elif last is not None:
        changes = {'released': {}, 'self': {}, 'dead': {'start': 1}, 'elsewhere': {'host': 'elsewhere'}}[last]
        assert states.take_claim(tmp_path, {**owner, **changes}) == 1
        path.write_text(json.dumps({**json.loads(path.read_text()), 'claimed': time.time() - age}))
        if last == 'released':
            states.release_claim(tmp_path, 1)
    assert states.take_claim(tmp_path, owner) == number
    assert states.last_claim(tmp_path) == (number or 1)


def test_an_owner_that_was_taken_for_dead_stops_and_touches_nothing(make_batch, make_config):
    """A machine slept: another one has claimed the job meanwhile."""
    batch = make_batch(make_config('a/m', 'max_iters = 40\nseconds = 0.05\n'))
    job, lines = batch.jobs[0], []
    folder = batch.job_dir(job)
    other = JobState(
        job.name,
        'running',
        owner={**process_record(os.getpid()), 'host': 'elsewhere', 'claim': 2},
        heartbeat=time.time(),
    )

    def take_over(line):
        lines.append(line)
        if line == 'Iter(train) [4/40]':
            states.write_state(folder, dataclasses.replace(states.read_state(folder), heartbeat=0.0))
            (folder / 'claims' / '0002.json').write_text(json.dumps({**other.owner, 'claimed': time.time()}))
            write_state(folder, other)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(states, 'HEARTBEAT_SECONDS', 0.0)
        assert run_job(batch, job, take_over) == other
    assert read_state(folder) == other and 'taken over by claim 2' in lines[-1]
    assert not (folder / 'train' / 'iter_40.pth').exists()  # the tool was stopped
