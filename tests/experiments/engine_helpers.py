"""What the tests of engines share: something to print with in other processes, and results without times."""

from __future__ import annotations

import csv
import json
import sys
import time
import zipfile
from pathlib import Path

from mmdefect.experiments.states import read_state


def say(line):
    print(line, flush=True)


def silent(line):
    pass


def results(batch):
    """Return results.csv without the times."""
    with (batch.project_dir / 'results.csv').open() as file:
        return [{key: value for key, value in row.items() if key != 'train_seconds'} for row in csv.DictReader(file)]


def trained_by(batch, job, step):
    """Return the process that trained each iteration of a checkpoint's weights."""
    path = batch.job_dir(job) / 'train' / 'ckpt' / f'iter_{step}.pth'
    return json.loads(zipfile.ZipFile(path).read('trained_by'))


def wait_for(path, seconds=60):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f'{path} did not appear'
        time.sleep(0.01)


def running_job(batch, step, seconds=90):
    """Wait until a job has the checkpoint of a step and still runs; return it and its state."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for job in batch.jobs:
            folder = batch.job_dir(job)
            if (folder / 'train' / f'iter_{step}.pth').exists():
                state = read_state(folder)
                if state.status == 'running' and state.phase == 'train':
                    return job, state
        time.sleep(0.02)
    raise AssertionError(f'no job came to iteration {step}')


def batch_command(batch, *options: str) -> list[str]:
    """Return the command that runs a batch as a user would."""
    tool = Path(__file__).resolve().parents[2] / 'tools' / 'run_batch.py'
    places = ['--work-dir', batch.work_dir, '--train-tool', batch.tools.train, '--test-tool', batch.tools.test]
    configs = [job.config for job in batch.jobs]
    command = [sys.executable, tool, '--project', batch.project, '--gpu-count', '0', *options, *places, *configs]
    return [str(part) for part in command]
