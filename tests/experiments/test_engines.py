"""The engines beside each other over stand-in tools: same plan, same folders, same results."""

from __future__ import annotations

import argparse
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mmdefect.experiments import process, states
from mmdefect.experiments.batch import read_batch, write_batch
from mmdefect.experiments.engines import RayTasks, Slots, SlurmArray, add_engine_options, engine_of
from mmdefect.experiments.process import is_alive, process_record
from mmdefect.experiments.run_batch import run_batch
from mmdefect.experiments.states import read_state
from tests.experiments.engine_helpers import batch_command, results, running_job, say, silent, trained_by, wait_for

ROOT = Path(__file__).parents[2]
QUICK = 'miou = lambda step: 50 - abs(step - {best})\n'


@pytest.fixture
def six(make_batch, make_config):
    """Six jobs, each with another best iteration."""
    return make_batch(*(make_config(f'm{k}/m', QUICK.format(best=2 * (1 + k % 3))) for k in range(6)))


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch):
    """A Slurm of shell scripts: every task of an array runs at once in the background."""
    folder = tmp_path / 'slurm_bin'
    folder.mkdir()
    programs = {
        'sbatch': 'echo "$@" >> {0}/calls; last=$(sed -n "s/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p" "$1")\n'
        'for k in $(seq 0 "$last"); do\n'
        '  SLURM_ARRAY_TASK_ID=$k setsid bash "$1" > {0}/out_$k.log 2>&1 & echo $! >> {0}/pids\n'
        'done; echo "Submitted batch job 17"',
        'srun': 'echo srun "$@" >> {0}/calls; while [ "${{1#-}}" != "$1" ]; do shift; done; exec "$@"',
        'squeue': 'for p in $(cat {0}/pids); do kill -0 $p 2>/dev/null && echo "17 R"; done; exit 0',
        'scancel': 'echo scancel "$@" >> {0}/calls\n'
        'for p in $(cat {0}/pids); do kill -TERM $p 2>/dev/null; done; exit 0',
    }
    for name, text in programs.items():
        path = folder / name
        path.write_text('#!/usr/bin/env bash\n' + text.format(folder) + '\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv('PATH', f'{folder}{os.pathsep}{os.environ["PATH"]}')
    return folder


def test_slots_give_what_one_after_the_other_gives(six):
    lines = []
    assert [s.status for s in run_batch(six, say, Slots(3, threads=1))] == ['done'] * 6
    side_by_side = results(six)
    log = (six.project_dir / 'exp_log.txt').read_text()
    assert all(f'[{k}/6] m{k - 1}/m: done' in log for k in range(1, 7))
    (six.project_dir).rename(six.work_dir / 'first')
    run_batch(six, lines.append)
    assert results(six) == side_by_side and [row['best_iter'] for row in side_by_side] == ['2', '4', '6'] * 2


def test_two_planners_on_one_project_train_each_job_once(make_batch, make_config):
    batch = make_batch(*(make_config(f'm{k}/m', 'max_iters = 8\nseconds = 0.05\n') for k in range(6)))
    command = batch_command(batch, '--slots', '2')
    planners = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)
    ]
    outputs = [planner.communicate(timeout=120)[0] for planner in planners]
    assert all(planner.returncode in (0, 1) for planner in planners), outputs  # 1: some jobs were the other's
    for job in batch.jobs:
        state = read_state(batch.job_dir(job))
        assert state.status == 'done' and len(state.attempts) == len(state.tests) == 1, outputs
        assert len(set(trained_by(batch, job, 8))) == 1 and states.last_claim(batch.job_dir(job)) == 1


def test_slurm_gives_what_one_after_the_other_gives(six, fake_slurm):
    engine = SlurmArray(count=2, threads=1, options=('--partition=gpu',), poll_seconds=0.2)
    assert [s.status for s in run_batch(six, silent, engine)] == ['done'] * 6
    on_slurm = results(six)
    (folder,) = (six.project_dir / 'slurm').iterdir()
    script = (folder / 'array.sh').read_text()
    assert '#SBATCH --array=0-5%2\n' in script and '#SBATCH --partition=gpu\n' in script and '# 3 m\n' in script
    calls = (fake_slurm / 'calls').read_text().splitlines()
    assert calls[0] == str(folder / 'array.sh') and sum(call.startswith('srun --ntasks=1') for call in calls) == 6
    before = len(calls)
    run_batch(six, silent, engine)  # all done: nothing is submitted
    assert len((fake_slurm / 'calls').read_text().splitlines()) == before
    six.project_dir.rename(six.work_dir / 'first')
    run_batch(six, silent)
    assert results(six) == on_slurm


def test_an_array_that_slurm_ended_is_reported_and_goes_on(make_batch, make_config, fake_slurm):
    batch = make_batch(make_config('a/m', 'max_iters = 30\nseconds = 0.1\n'))
    engine, job = SlurmArray(poll_seconds=0.2), batch.jobs[0]

    def cancel():
        running_job(batch, 4)
        subprocess.run(['scancel', '17'], check=True)

    thread = threading.Thread(target=cancel)
    thread.start()
    (state,) = run_batch(batch, silent, engine)
    thread.join()
    assert state.status == 'pending' and state.child is None
    (state,) = run_batch(batch, silent, engine)
    assert state.status == 'done' and state.attempts[1]['resumed_from'] >= 2 and len(trained_by(batch, job, 30)) == 30


def test_slurm_is_refused_where_there_is_none_and_where_it_refuses(make_batch, make_config, fake_slurm, monkeypatch):
    batch = make_batch(make_config('a/m'))
    (fake_slurm / 'sbatch').write_text('#!/usr/bin/env bash\necho "invalid partition" >&2; exit 1\n')
    with pytest.raises(RuntimeError, match='sbatch must take .*array.sh, but says: invalid partition'):
        run_batch(batch, silent, SlurmArray())
    monkeypatch.setenv('PATH', str(ROOT / 'nowhere'))
    with pytest.raises(RuntimeError, match='needs the program sbatch'):
        run_batch(batch, silent, SlurmArray())


def test_a_requeued_task_takes_its_job_back_at_once(make_batch, make_config, tmp_path):
    batch = make_batch(make_config('a/m'))
    job = batch.jobs[0]
    folder = batch.job_dir(job)
    elsewhere = {**process_record(os.getpid()), 'host': 'elsewhere'}
    number = states.take_claim(folder, elsewhere)
    state = {'job': 'a/m', 'status': 'running', 'heartbeat': time.time(), 'owner': {**elsewhere, 'claim': number}}
    (folder / 'state.json').write_text(json.dumps(state))
    write_batch(tmp_path / 'plan.json', batch)
    command = [sys.executable, '-m', 'mmdefect.experiments.job', str(tmp_path / 'plan.json'), '0']
    for restarts, code, status in (('0', 1, 'running'), ('1', 0, 'done')):
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, 'SLURM_RESTART_COUNT': restarts, 'PYTHONPATH': str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert read_state(folder).status == status


def test_a_plan_survives_the_disk(make_batch, make_config, tmp_path):
    batch = make_batch(
        make_config('a/m'), make_config('b/m'), gpu_count=2, cfg_options=('max_iters=4',), environment={'A': '1'}
    )
    write_batch(tmp_path / 'plan.json', batch)
    assert read_batch(tmp_path / 'plan.json') == batch


def test_of_many_threads_and_no_lock_one_gets_the_claim(tmp_path):
    barrier, won = threading.Barrier(8), []

    def claim():
        barrier.wait()
        won.append(states.take_claim(tmp_path, process_record(os.getpid())))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won, key=str) == [1] + [None] * 7


@pytest.mark.parametrize(
    'words, gpu_count, expected',
    [
        ('', 0, Slots()),
        ('--slots 2 --threads 1', 0, Slots(2, 1)),
        ('--gpus 0,1,3', 1, Slots(3, 0, ('0', '1', '3'))),
        ('--gpus 0,1,2,3', 2, Slots(2, 0, ('0,1', '2,3'))),
        ('--gpus 0 --slots 2', 1, Slots(2, 0, ('0',))),
        ('--engine ray --slots 2 --retries 1', 0, RayTasks(None, 2, 0, 0, 1)),
        ('--engine ray --ray-address a:1 --gpus 4', 1, RayTasks('a:1', 0, 0, 4)),
        ('--engine slurm --slots 3 --slurm-option=--time=1:00 --no-wait', 1, SlurmArray(3, 0, ('--time=1:00',), False)),
        ('--gpus 0,1,2', 2, 'multiple of the 2 devices'),
        ('--ray-address a:1', 0, 'is for `--engine ray`'),
        ('--no-wait', 0, 'is for `--engine slurm`'),
        ('--engine slurm --gpus 0', 0, 'hands out devices itself'),
        ('--engine ray --gpus 0,1', 1, 'must be a number of devices'),
        ('--engine slurm --slurm-option=x', 0, 'with a dash'),
    ],
)
def test_options_choose_the_engine(words, gpu_count, expected):
    parser = argparse.ArgumentParser()
    add_engine_options(parser)
    args = parser.parse_args(words.split())
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            engine_of(args, gpu_count)
    else:
        assert engine_of(args, gpu_count) == expected


def test_a_missing_ray_is_named_with_its_extra(make_batch, make_config, monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', None)
    with pytest.raises(ModuleNotFoundError, match=r'mmdefect\[ray\]'):
        run_batch(make_batch(make_config('a/m')), silent, RayTasks())


def test_groups_of_gpus_are_counted(monkeypatch, make_batch, make_config):
    monkeypatch.setattr(process, 'count_gpus', lambda python: 2)
    with pytest.raises(ValueError, match='torch sees, 2, got 4'):
        run_batch(make_batch(make_config('a/m'), gpu_count=2), silent, Slots(2, 0, ('0,1', '2,3')))


@pytest.fixture(scope='module')
def ray_here():
    """A Ray of two slots for the tests of this module."""
    ray = pytest.importorskip('ray')
    from mmdefect.experiments.engines import connected

    with connected('local', 2, 0):
        yield ray


@pytest.mark.slow
def test_six_jobs_on_ray_survive_the_death_of_a_worker(make_batch, make_config, ray_here):
    slow = 'max_iters = 20\nseconds = 0.05\n' + QUICK
    batch = make_batch(*(make_config(f'm{k}/m', slow.format(best=2 * (1 + k % 3))) for k in range(6)))
    victims = []

    def kill():
        job, state = running_job(batch, 4)
        victims.append((job, state.owner['pid']))
        os.kill(state.owner['pid'], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    assert [s.status for s in run_batch(batch, say, RayTasks())] == ['done'] * 6
    thread.join()
    (victim, pid), on_ray = victims[0], results(batch)
    assert pid != os.getpid()
    for job in batch.jobs:
        state, processes = read_state(batch.job_dir(job)), trained_by(batch, job, 20)
        assert len(processes) == 20 and len(state.tests) == 1  # every iteration once, to the end, one test
        starts = [attempt['resumed_from'] for attempt in state.attempts]
        assert (len(starts) == 2 and starts[1] >= 2) if job == victim else starts == [0]
        assert len(set(processes)) == len(starts)
    batch.project_dir.rename(batch.work_dir / 'first')
    run_batch(batch, silent)
    assert results(batch) == on_ray


@pytest.mark.slow
def test_a_job_whose_workers_always_die_is_given_up(make_batch, make_config, ray_here, tmp_path):
    killer = tmp_path / 'train.py'  # a tool that kills what started it
    killer.write_text(
        'import os, signal, sys, time\n'
        'os.makedirs(sys.argv[sys.argv.index("--work-dir") + 1], exist_ok=True)\n'
        'os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)\n'
    )
    batch = make_batch(make_config('a/m'))
    object.__setattr__(batch.tools, 'train', killer)
    (state,) = run_batch(batch, silent, RayTasks(retries=1))
    assert (state.status, state.error) == ('failed', 'its worker was lost 2 times (WorkerCrashedError)')
    assert states.last_claim(batch.job_dir(batch.jobs[0])) == 2


@pytest.mark.slow
def test_ctrl_c_stops_a_batch_on_ray_and_it_goes_on_elsewhere(make_batch, make_config):
    pytest.importorskip('ray')
    batch = make_batch(*(make_config(f'm{k}/m', 'max_iters = 40\nseconds = 0.1\n') for k in range(3)))
    planner = subprocess.Popen(
        batch_command(batch, '--engine', 'ray', '--slots', '2'),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    job, state = running_job(batch, 4)
    wait_for(batch.job_dir(job) / 'train' / 'iter_6.pth')
    planner.send_signal(signal.SIGINT)
    output, _ = planner.communicate(timeout=120)
    assert planner.returncode == 130, output[-3000:]
    after = [read_state(batch.job_dir(job)) for job in batch.jobs]
    assert [s.status for s in after] == ['pending'] * 3 and not is_alive(state.child)
    assert [s.status for s in run_batch(batch, silent, Slots(3))] == ['done'] * 3
    for job in batch.jobs:
        assert len(trained_by(batch, job, 40)) == 40
