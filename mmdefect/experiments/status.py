"""How far the jobs of a project are, from the files that they write."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdefect.experiments.logs import console_logs, read_scalars, training_logs, validations
from mmdefect.experiments.process import is_alive, tail
from mmdefect.experiments.run_batch import PLAN_NAME, read_states
from mmdefect.experiments.select import Rule, choose_best
from mmdefect.experiments.states import JobState, read_title
from mmdefect.files import read_json

_STEP = re.compile(r'Iter\(train\)\s+\[\s*(\d+)/(\d+)\]')


@dataclass(frozen=True)
class JobStatus:
    """How far one job is."""

    title: str  # name of the job
    status: str  # `pending`, `running`, `done`, `failed`, or `lost` when its process died
    step: int  # iterations trained
    total: int  # iterations planned; 0 if unknown
    validation: str  # last validation in words
    best: str  # best validation so far in words, by the rule of the batch
    seconds: float  # time of training so far
    #: seconds of training left, from the pace of the present attempt; `None` where that is not known
    left: float | None
    note: str  # phase, error or chosen checkpoint


def read_status(project: Path) -> list[JobStatus]:
    """Read all jobs of a project."""
    plan = read_json(project / PLAN_NAME) if (project / PLAN_NAME).is_file() else {}
    found = read_states(project, plan.get('jobs', ()))
    if not found:
        raise FileNotFoundError(
            f'{project} must be a project with jobs in exp/, but has none; look for its name in work_dirs.'
        )
    return [_status(project / 'exp' / state.job, state, plan.get('rule')) for state in found]


def time_left(rows: Sequence[JobStatus]) -> float | None:
    """Estimate the seconds until a project is done, if as many jobs as now run at a time; ``None`` if none runs.

    A job that has not begun is taken to last as long as the mean of those that have.
    """
    running = sum(row.status == 'running' for row in rows)
    begun = [row for row in rows if row.seconds and (row.status == 'done' or row.left is not None)]
    if not running or not begun:
        return None
    whole = sum(row.seconds + (row.left or 0) for row in begun) / len(begun)
    waiting = [row for row in rows if row.status not in ('done', 'failed')]
    lefts = [max(0.0, whole - row.seconds) if row.left is None else row.left for row in waiting]
    return max(*lefts, sum(lefts) / running)


def _status(folder: Path, state: JobState, rule: Mapping[str, Any] | None) -> JobStatus:
    logs = console_logs(folder / 'train')
    steps = [match for line in tail(logs[-1], 400) if (match := _STEP.search(line))] if logs else []
    step, total = (int(steps[-1][1]), int(steps[-1][2])) if steps else (0, 0)
    status = state.status
    if status == 'running' and not is_alive(state.owner, state.heartbeat):
        status = 'lost'
    seconds, left = state.train_seconds, None
    if status == 'running' and state.phase == 'train' and state.attempts:
        silence = max(0.0, time.time() - state.heartbeat)
        seconds += silence
        attempt = state.attempts[-1]
        if step > attempt['resumed_from']:
            left = (total - step) * (attempt['seconds'] + silence) / (step - attempt['resumed_from'])
    note = state.error or (f'best {state.best["checkpoint"]}' if state.best else state.phase)
    last, best = _validations(folder, state.rule or rule)
    return JobStatus(read_title(folder, state.job), status, step, total, last, best, seconds, left, note)


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
