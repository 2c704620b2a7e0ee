"""How far the jobs of a project are, from the files that they write."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdefect.experiments import states
from mmdefect.experiments.process import tail
from mmdefect.experiments.records import read_json, read_scalars, training_logs, validations
from mmdefect.experiments.report import read_states
from mmdefect.experiments.run import PLAN_NAME
from mmdefect.experiments.select import Rule, choose_best
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
        best: best validation so far in words, by the rule of the batch.
        seconds: time of training so far.
        left: seconds of training left, from the pace of the present attempt; ``None`` where that is not known.
        note: phase, error or chosen checkpoint.
    """

    title: str
    status: str
    step: int
    total: int
    validation: str
    best: str
    seconds: float
    left: float | None
    note: str


def read_progress(project: Path) -> list[Progress]:
    """Read all jobs of a project.

    Raises:
        FileNotFoundError: if it has none.
    """
    plan = read_json(project / PLAN_NAME) if (project / PLAN_NAME).is_file() else {}
    found = read_states(project, plan.get('jobs', ()))
    if not found:
        raise FileNotFoundError(
            f'{project} must be a project with jobs in exp/, but has none; see what lies in work_dirs.'
        )
    return [_progress(project / 'exp' / state.job, state, plan.get('rule')) for state in found]


def time_left(rows: Sequence[Progress]) -> float | None:
    """Estimate the seconds until a project is done, if as many jobs as now run at a time; ``None`` if none runs.

    A job that has not begun is taken to last as long as the mean of those that have.
    """
    running = [row for row in rows if row.status == 'running']
    known = [
        row.seconds + (row.left or 0) for row in rows if row.seconds and (row.status == 'done' or row.left is not None)
    ]
    if not running or not known:
        return None
    whole = sum(known) / len(known)
    lefts = [
        row.left if row.left is not None else max(0.0, whole - row.seconds)
        for row in rows
        if row.status not in ('done', 'failed')
    ]
    return max(max(lefts), sum(lefts) / len(running))


def _progress(folder: Path, state: JobState, rule: Mapping[str, Any] | None) -> Progress:
    step = total = 0
    logs = sorted((folder / 'train').glob('train_log_*.txt'), key=lambda path: int(path.stem.rpartition('_')[2]))
    if logs:
        for line in tail(logs[-1], 400):
            match = _STEP.search(line)
            if match:
                step, total = int(match[1]), int(match[2])
    status = state.status
    if status == 'running' and not states.is_alive(state.owner, state.heartbeat):
        status = 'lost'
    seconds, left = state.train_seconds, None
    if status == 'running' and state.phase == 'train' and state.attempts:
        silence = max(0.0, time.time() - state.heartbeat)
        seconds += silence
        here = step - state.attempts[-1]['resumed_from']
        if here > 0:
            left = (total - step) * (state.attempts[-1]['seconds'] + silence) / here
    note = state.error or (f'best {state.best["checkpoint"]}' if state.best else state.phase)
    last, best = _validations(folder, state.rule or rule)
    return Progress(states.read_title(folder, state.job), status, step, total, last, best, seconds, left, note)


def _validations(folder: Path, rule: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return the last and the best validation in words."""
    merged = validations(read_scalars(path, lambda line: None) for path in training_logs(folder / 'train'))
    if not merged:
        return '', ''
    step, metrics = list(merged.items())[-1]
    key = next((key for key in ('fg_mIoU', 'mIoU') if key in metrics), None)
    last = f'{step}: {key} {metrics[key]:.2f}' if key else str(step)
    by = Rule(**rule) if rule else Rule(key or 'score')
    try:
        choice = choose_best(merged, by, lambda line: None)
    except ValueError:  # no finite value yet
        return last, ''
    return last, f'{choice.step}: {by.metric} {choice.value:.2f}'
