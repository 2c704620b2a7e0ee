"""Run a batch: one job after the other in this process, or side by side on an engine; tables after every job."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from mmdefect.experiments import states
from mmdefect.experiments.engine import Engine
from mmdefect.experiments.job import check_job, run_job
from mmdefect.experiments.pool import Slots
from mmdefect.experiments.records import read_json, write_json
from mmdefect.experiments.report import write_results
from mmdefect.experiments.spec import Batch, Job
from mmdefect.experiments.states import JobState

PLAN_NAME = 'plan.json'
LOG_NAME = 'exp_log.txt'


def check_batch(batch: Batch, engine: Engine | None = None) -> None:
    """Raise what can be known to be wrong before the first training.

    Raises:
        ValueError, RuntimeError, ModuleNotFoundError: if the engine has not what is asked for, or a folder holds the
            work of another config.
    """
    (engine or Slots()).check(batch)
    for job in batch.jobs:
        check_job(batch, job)


def run_batch(batch: Batch, show: Callable[[str], None] = print, engine: Engine | None = None) -> list[JobState]:
    """Run all jobs of a batch in order and return their states, in the same order.

    Jobs that are done are passed over, failed and interrupted ones go on where they stopped, jobs that another
    living process runs are left to it. ``results.csv`` and ``results.md`` are written after every job.

    Args:
        batch: the plan.
        show: gets every line of output; with an engine it must be a function of a module.
        engine: what runs the jobs side by side; without one they run one after the other in this process.

    Raises:
        ValueError: see :func:`check_batch`; nothing was started then.
        KeyboardInterrupt: if asked to stop; everything on disk can be resumed.
    """
    check_batch(batch, engine)
    order = _write_plan(batch)
    write_results(batch.project_dir, order)
    if engine is None:
        return _run_in_turn(batch, show, order)
    numbers = {job.name: f'[{number}/{len(batch.jobs)}] {job.name}' for number, job in enumerate(batch.jobs, start=1)}
    for job in batch.jobs:
        _note(batch, show, f'{numbers[job.name]}: {_intent(states.read_state(batch.job_dir(job)), batch)}')

    def finished(job: Job, state: JobState) -> None:
        write_results(batch.project_dir, order)
        _note(batch, show, f'{numbers[job.name]}: {_outcome(state)}')

    try:
        engine.run(batch, batch.jobs, show, finished)
    except KeyboardInterrupt:
        _note(batch, show, 'stopped; the same command goes on from the last checkpoints')
        raise
    finally:
        write_results(batch.project_dir, order)
    return [states.read_state(batch.job_dir(job)) for job in batch.jobs]


def _run_in_turn(batch: Batch, show: Callable[[str], None], order: list[str]) -> list[JobState]:
    results = []
    for number, job in enumerate(batch.jobs, start=1):
        place = f'[{number}/{len(batch.jobs)}] {job.name}'
        before = states.read_state(batch.job_dir(job))
        _note(batch, show, f'{place}: {_intent(before, batch)}')
        try:
            state = run_job(batch, job, lambda line, label=job.label: show(f'{label} | {line}'))
        except KeyboardInterrupt:
            _note(batch, show, f'{place}: stopped; the same command goes on from the last checkpoint')
            raise
        finally:
            write_results(batch.project_dir, order)
        _note(batch, show, f'{place}: {_outcome(state)}')
        results.append(state)
    return results


def _write_plan(batch: Batch) -> list[str]:
    """Add this batch to ``plan.json``, its new jobs as pending; return all models of the project in their order."""
    path = batch.project_dir / PLAN_NAME
    with states.locked(batch.project_dir / '.lock'):
        known = read_json(path)['jobs'] if path.is_file() else {}
        jobs = {**known, **{job.name: str(job.config) for job in batch.jobs}}
        write_json(
            path,
            {
                'project': batch.project,
                'jobs': jobs,
                'gpu_count': batch.gpu_count,
                'cfg_options': list(batch.cfg_options),
                'rule': asdict(batch.rule),
                'tools': {key: str(value) for key, value in asdict(batch.tools).items()},
                'working_dir': str(Path.cwd()),
            },
        )
        for job in batch.jobs:
            if states.read_state(batch.job_dir(job)) is None:
                states.write_state(batch.job_dir(job), JobState(job.name))
    return list(jobs)


def _intent(state: JobState | None, batch: Batch) -> str:
    if state is None or not state.attempts:
        return 'start'
    if state.status == 'done':
        same_rule = state.rule == asdict(batch.rule)
        return 'done before, skipped' if same_rule else 'done before, chosen anew by another rule'
    return f'go on with {state.phase}' + (' after a failure' if state.status == 'failed' else '')


def _outcome(state: JobState) -> str:
    if state.status == 'done':
        values = ', '.join(
            f'{key} {state.metrics[key]:.2f}' for key in ('mIoU', 'fg_mIoU') if state.metrics.get(key) is not None
        )
        return f'done, {state.best["checkpoint"]}: {values}'
    if state.status == 'running':
        owner = state.owner or {}
        return f'runs elsewhere (host {owner.get("host", "?")}, process {owner.get("pid", "?")}), left alone'
    return f'{state.status}: {state.error}' if state.error else state.status


def _note(batch: Batch, show: Callable[[str], None], line: str) -> None:
    show(line)
    with (batch.project_dir / LOG_NAME).open('a', encoding='utf-8') as log:
        log.write(f'{time.strftime("%Y-%m-%d %H:%M:%S")} {line}\n')
