"""How far the jobs of a project are, from the files that they write."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from mmdefect.experiments import states
from mmdefect.experiments.process import tail
from mmdefect.experiments.records import read_scalars, training_logs, validations
from mmdefect.experiments.report import read_states
from mmdefect.experiments.states import JobState

_STEP = re.compile(r'Iter\(train\)\s+\[\s*(\d+)/(\d+)\]')


@dataclass(frozen=True)
class Progress:
    """One job.

    Attributes:
        title: name of the job.
        status: ``pending``, ``running``, ``done``, ``failed``, or ``lost`` when its process died.
        step: iterations trained.
        total: iterations planned; 0 if unknown.
        validation: last validation in words.
        seconds: time of training so far.
        note: phase, error or chosen checkpoint.
    """

    title: str
    status: str
    step: int
    total: int
    validation: str
    seconds: float
    note: str


def read_progress(project: Path) -> list[Progress]:
    """Read all jobs of a project.

    Raises:
        FileNotFoundError: if it has none.
    """
    found = read_states(project)
    if not found:
        raise FileNotFoundError(
            f'{project} must be a project with jobs in exp/, but has none; see what lies in work_dirs.')
    return [_progress(project / 'exp' / state.job, state) for state in found]


def _progress(folder: Path, state: JobState) -> Progress:
    step = total = 0
    logs = sorted((folder / 'train').glob('train_log_*.txt'))
    if logs:
        for line in tail(logs[-1], 400):
            match = _STEP.search(line)
            if match:
                step, total = int(match[1]), int(match[2])
    status = state.status
    if status == 'running' and not states.is_alive(state.owner, state.heartbeat):
        status = 'lost'
    seconds = state.train_seconds
    if status == 'running' and state.phase == 'train':
        seconds += time.time() - state.heartbeat
    note = state.error or (f'best {state.best["checkpoint"]}' if state.best else state.phase)
    return Progress(states.read_title(folder, state.job), status, step, total, _last_validation(folder), seconds, note)


def _last_validation(folder: Path) -> str:
    merged = validations(read_scalars(path, lambda line: None) for path in training_logs(folder / 'train'))
    if not merged:
        return ''
    step, metrics = list(merged.items())[-1]
    key = next((key for key in ('fg_mIoU', 'mIoU') if key in metrics), None)
    return f'{step}: {key} {metrics[key]:.2f}' if key else str(step)
