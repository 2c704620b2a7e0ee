"""Run a batch: one job after the other in this process, or side by side on an engine; tables after every job.

The tables of a project are ``results.csv`` and ``results.md``, one row a model, from the states on disk.
"""

import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from mmdefect.experiments import states
from mmdefect.experiments.batch import Batch, Job
from mmdefect.experiments.engines import Engine, Slots
from mmdefect.experiments.job import check_job, run_job
from mmdefect.experiments.process import Show
from mmdefect.experiments.states import JobState
from mmdefect.experiments.tables import csv_table, markdown_table
from mmdefect.files import read_json, write_json, write_text

PLAN_NAME = 'plan.json'
LOG_NAME = 'exp_log.txt'
SUMMARY = ('aAcc', 'mIoU', 'mAcc', 'fg_mIoU', 'fg_mAcc')
Row = dict[str, 'str | float | int | None']


def check_batch(batch: Batch, engine: Engine | None = None) -> None:
    """Raise what can be known to be wrong before the first training: of the engine, or work of another config."""
    (engine or Slots()).check(batch)
    for job in batch.jobs:
        check_job(batch, job)


def run_batch(batch: Batch, show: Show = print, engine: Engine | None = None) -> list[JobState]:
    """Run all jobs of a batch in order and return their states, in the same order.

    Jobs that are done are passed over, failed and interrupted ones go on where they stopped, jobs that another
    living process runs are left to it. The tables are written after every job. Without an engine the jobs run one after
    the other in this process; with one, ``show`` must be a function of a module.

    Raises:
        ValueError: see :func:`check_batch`; nothing was started then.
        KeyboardInterrupt: if asked to stop; everything on disk can be resumed.
    """
    check_batch(batch, engine)
    order = _write_plan(batch)
    write_results(batch.project_dir, order)
    places = {job.name: f'[{number}/{len(batch.jobs)}] {job.name}' for number, job in enumerate(batch.jobs, start=1)}

    def note(line: str) -> None:
        show(line)
        with (batch.project_dir / LOG_NAME).open('a', encoding='utf-8') as log:
            log.write(f'{time.strftime("%Y-%m-%d %H:%M:%S")} {line}\n')

    def begin(job: Job) -> None:
        note(f'{places[job.name]}: {_intent(states.read_state(batch.job_dir(job)), batch)}')

    def finished(job: Job, state: JobState) -> None:
        write_results(batch.project_dir, order)
        note(f'{places[job.name]}: {_outcome(state)}')

    stopped = ''
    try:
        if engine is not None:
            for job in batch.jobs:
                begin(job)
            engine.run(batch, batch.jobs, show, finished)
            return [states.read_state(batch.job_dir(job)) for job in batch.jobs]
        results = []
        for job in batch.jobs:
            begin(job)
            stopped = places[job.name]
            results.append(run_job(batch, job, lambda line, label=job.label: show(f'{label} | {line}')))
            finished(job, results[-1])
        return results
    except KeyboardInterrupt:
        started = batch.jobs if engine is not None else [job for job in batch.jobs if places[job.name] == stopped]
        kept = any(next((batch.job_dir(job) / 'train').rglob('iter_*.pth'), None) for job in started)
        how = 'goes on from the last checkpoint' if kept else 'starts anew, for there is no checkpoint yet'
        note(f'{stopped}{": " * bool(stopped)}stopped; the same command {how}')
        raise
    finally:
        write_results(batch.project_dir, order)


def _write_plan(batch: Batch) -> list[str]:
    """Add this batch to ``plan.json``, its new jobs as pending; return all models of the project in their order."""
    path = batch.project_dir / PLAN_NAME
    with states.locked(batch.project_dir / '.lock'):
        known = read_json(path)['jobs'] if path.is_file() else {}
        plan = {
            'project': batch.project,
            'jobs': {**known, **{job.name: str(job.config) for job in batch.jobs}},
            'gpu_count': batch.gpu_count,
            'cfg_options': list(batch.cfg_options),
            'rule': asdict(batch.rule),
            'tools': {key: str(value) for key, value in asdict(batch.tools).items()},
            'working_dir': str(Path.cwd()),
        }
        write_json(path, plan)
        for job in batch.jobs:
            if states.read_state(batch.job_dir(job)) is None:
                states.write_state(batch.job_dir(job), JobState(job.name))
    return list(plan['jobs'])


def _intent(state: JobState | None, batch: Batch) -> str:
    if state is None or not state.attempts:
        return 'start'
    if state.status == 'done':
        same_rule = state.rule == asdict(batch.rule)
        return 'done before, skipped' if same_rule else 'done before, chosen anew by another rule'
    return f'go on with {state.phase}' + (' after a failure' if state.status == 'failed' else '')


def _outcome(state: JobState) -> str:
    if state.status == 'done':
        known = [(key, state.metrics.get(key)) for key in ('mIoU', 'fg_mIoU')]
        values = ', '.join(f'{key} {value:.2f}' for key, value in known if value is not None)
        return f'done, {state.best["checkpoint"]}: {state.verdict or values}'
    if state.status == 'running':
        owner = state.owner or {}
        return f'runs elsewhere (host {owner.get("host", "?")}, process {owner.get("pid", "?")}), left alone'
    return f'{state.status}: {state.error}' if state.error else state.status


def read_states(project_dir: Path, order: Iterable[str] = ()) -> list[JobState]:
    """Read the states of all jobs of a project: first those of ``order``, then the others by name."""
    paths = sorted((project_dir / 'exp').glob(f'*/*/{states.STATE_NAME}'))
    found = {state.job: state for state in (states.read_state(path.parent) for path in paths)}
    return [found[name] for name in dict.fromkeys([*order, *found]) if name in found]


def result_rows(found: Iterable[JobState]) -> list[Row]:
    """Return one row a model; every row has the same columns, the classes of all models included."""
    found = list(found)
    classes = list(dict.fromkeys(name for state in found for name in state.classes))
    table = []
    for state in found:
        best = state.best or {}
        metrics = {**_foreground(state.classes), **state.metrics}
        row: Row = {'model': state.job, 'state': state.status, 'best_iter': best.get('iter')}
        row.update({key: metrics.get(key) for key in SUMMARY})
        columns = [(name, column) for name in classes for column in ('IoU', 'Acc')]
        row.update({f'{column}.{name}': state.classes.get(name, {}).get(column) for name, column in columns})
        row['train_seconds'] = round(state.train_seconds, 1)
        row['error'] = state.error or best.get('note', '')
        table.append(row)
    return table


def _foreground(classes: dict[str, dict[str, float | None]]) -> dict[str, float]:
    """Mean over all classes but the first, for logs that do not state it; undefined classes do not count."""
    rows = list(classes.values())[1:]
    known = {key: [row[key] for row in rows if row.get(key) is not None] for key in ('IoU', 'Acc')}
    return {f'fg_m{key}': round(sum(values) / len(values), 2) for key, values in known.items() if values}


def _cell(value: str | float | int | None) -> str:
    if value is None:
        return ''
    return f'{value:.2f}' if isinstance(value, float) else ' '.join(str(value).replace('|', '\\|').split())[:160]


def write_results(project_dir: Path, order: Iterable[str] = ()) -> str:
    """Write ``results.csv`` and ``results.md`` of a project and return the Markdown table."""
    found = read_states(project_dir, order)
    if not found:
        return ''
    table = result_rows(found)
    # Columns that are empty everywhere are left out.
    columns = [key for key in table[0] if key in ('model', 'state') or any(row[key] not in (None, '') for row in table)]
    words = [k for k, key in enumerate(columns) if key in ('model', 'state', 'error')]
    markdown = markdown_table(columns, [[_cell(row[key]) for key in columns] for row in table], words)
    rules = [state.rule for state in found if state.rule]
    rules = {(r['metric'] + ' without background' * r['exclude_background'], r['tie']) for r in rules}
    chosen = '; '.join(f'best `{metric}` on the validation set, {tie} of equals' for metric, tie in sorted(rules))
    write_text(project_dir / 'results.csv', csv_table(table))
    scope = 'mIoU and mAcc include the background, fg_mIoU and fg_mAcc are means over the defect classes'
    verdicts = [f'- {state.job}: {state.verdict}' for state in found if state.verdict]
    markdown = '\n'.join([*verdicts, *[''] * bool(verdicts), markdown])
    text = f'Percent on the test set, by the decision that predicting delivers. {scope}.\n'
    text += f'Checkpoint: {chosen or "none chosen yet"}.\n'
    write_text(project_dir / 'results.md', f'# {project_dir.name}\n\n{markdown}\n{text}')
    return markdown
