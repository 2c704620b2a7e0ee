"""One job: claim it, train, collect and choose checkpoints, test. Any engine calls :func:`run_job`.

The job is idempotent: whatever was finished before is not repeated, whatever was interrupted goes on.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmdefect.experiments import checkpoints, claims, process, states
from mmdefect.experiments.records import (
    parse_test_log,
    read_scalars,
    read_validations,
    training_logs,
    validations,
    write_json,
    write_text,
)
from mmdefect.experiments.select import choose_best
from mmdefect.experiments.spec import Batch, Job, differences, fingerprint
from mmdefect.experiments.states import JobState

Show = Callable[[str], None]


class JobFailed(RuntimeError):
    """A step of a job failed.

    Args:
        message: one line.
        lines: end of the output that explains it.
    """

    def __init__(self, message: str, lines: list[str] | None = None) -> None:
        super().__init__(message)
        self.lines = lines or []


def check_job(batch: Batch, job: Job) -> None:
    """Refuse a folder that holds the work of another config.

    Raises:
        ValueError: naming the folder, both configs, what differs and the mend.
    """
    folder = batch.job_dir(job)
    train_dir = folder / 'train'
    state = states.read_state(folder)
    if state is None:
        if train_dir.is_dir() and any(train_dir.iterdir()):
            raise ValueError(
                f'{train_dir} must be empty or made by this batch, but holds files and there is no '
                f'{folder / states.STATE_NAME}; move it away or use another project name.'
            )
        return
    traces = [path for path in train_dir.glob('*') if path.is_dir() or path.suffix in ('.py', '.pth')]
    if state.phase == 'train' and not traces:
        return  # nothing was trained yet, perhaps because of a mistake that is mended now
    changed = differences(state.fingerprint, fingerprint(job.config, batch.cfg_options))
    if changed:
        kept = train_dir / Path(state.fingerprint['config']).name
        raise ValueError(
            f'{job.config} must be the config that {folder} was trained with (kept in {kept}), but it '
            f'differs: {"; ".join(changed)}. Undo the change, or use another project name, or move '
            f'{folder} away to train anew.'
        )


def plan_commands(batch: Batch, job: Job, resume: bool = False, checkpoint: str = '<best>') -> dict[str, list[str]]:
    """Return the commands of a job, ``train`` and ``test``.

    The test runs in one process on the first device: it is short, and its log has one table.
    """
    folder, tools = batch.job_dir(job), batch.tools
    options = ['--cfg-options', *batch.cfg_options] if batch.cfg_options else []
    train = [str(tools.train), str(job.config), '--work-dir', str(folder / 'train')]
    if resume:
        train.append('--resume')
    if batch.gpu_count > 1:
        train = [
            '-m',
            'torch.distributed.run',
            '--standalone',
            f'--nproc_per_node={batch.gpu_count}',
            *train,
            '--launcher',
            'pytorch',
        ]
    test_dir = folder / 'test'
    test = [
        str(tools.test),
        str(job.config),
        str(folder / 'train' / 'ckpt' / checkpoint),
        '--work-dir',
        str(test_dir),
        '--out',
        str(test_dir),
    ]
    return {'train': [tools.python, *train, *options], 'test': [tools.python, *test, *options]}


def is_done(batch: Batch, job: Job) -> bool:
    """Tell whether nothing is left to do, by the rule of this batch."""
    state = states.read_state(batch.job_dir(job))
    return state is not None and state.status == 'done' and state.rule == asdict(batch.rule)


def claim(batch: Batch, job: Job) -> tuple[JobState, bool]:
    """Take a job unless it is done or another living process has it.

    Returns:
        The state, and whether the caller owns the job now.
    """
    folder = batch.job_dir(job)
    with states.locked(folder / '.lock'):  # spares planners of one machine the race; the claim decides on all
        state = states.read_state(folder) or JobState(job.name)
        rule = asdict(batch.rule)
        if state.status == 'running' and states.is_alive(state.owner, state.heartbeat):
            return state, False
        if state.status == 'done' and state.rule == rule:
            return state, False
        owner = states.process_record(os.getpid())
        number = claims.take(folder, owner)
        if number is None:
            state.status, state.owner = 'running', claims.holder(folder)
            return state, False
        if state.child is not None:  # a tool that outlived its killed planner still writes into the folder
            states.stop_group(state.child)
        for half_written in folder.glob(f'.{states.STATE_NAME}.*'):  # by a planner that was killed while writing
            half_written.unlink()
        if state.phase in ('test', 'done') and state.rule != rule:
            state.phase, state.metrics, state.classes = 'select', {}, {}
        state.status, state.error, state.error_tail, state.child = 'running', '', [], None
        state.fingerprint = fingerprint(job.config, batch.cfg_options)
        state.owner, state.heartbeat = {**owner, 'claim': number}, time.time()
        states.write_state(folder, state)
    return state, True


def disown(batch: Batch, job: Job, error: str = '') -> None:
    """Free a job whose owner is known to be dead, for who cannot see that for himself: it ran on another machine.

    Args:
        batch, job: the job.
        error: leaves the job ``failed`` with this line instead of ``pending``.
    """
    folder = batch.job_dir(job)
    with states.locked(folder / '.lock'):
        state = states.read_state(folder)
        if state is not None and state.status == 'running':
            number = (state.owner or {}).get('claim', 0)
            state.status, state.owner, state.error = 'failed' if error else 'pending', None, error
            states.write_state(folder, state)
            claims.release(folder, number)


def run_job(batch: Batch, job: Job, show: Show) -> JobState:
    """Run what is left of a job and return its state; a failure is recorded there and not raised.

    Raises:
        KeyboardInterrupt: if this process is asked to stop; the job is left ``pending`` and can be resumed.
    """
    state, mine = claim(batch, job)
    if not mine:
        return state
    folder, number = batch.job_dir(job), state.owner['claim']
    steps = {'train': _train, 'select': _select, 'test': _test}
    try:
        while state.phase in steps:
            claims.check_last(folder, number)
            steps[state.phase](batch, job, state, show)
            claims.check_last(folder, number)
            states.write_state(folder, state)
        state.status = 'done'
    except claims.Superseded as err:
        show(f'left alone: {err}')
        return states.read_state(folder) or state
    except KeyboardInterrupt:
        state.status = 'pending'
        _give_back(folder, state)
        raise
    except JobFailed as err:
        state.status, state.error, state.error_tail = 'failed', f'{state.phase}: {err}', err.lines
    except Exception as err:  # recorded with its traceback: one broken model must not stop the others
        state.status, state.error = 'failed', f'{state.phase}: {type(err).__name__}: {err}'
        state.error_tail = traceback.format_exc().splitlines()[-process.TAIL_LINES :]
    _give_back(folder, state)
    return state


def _give_back(folder: Path, state: JobState) -> None:
    number = state.owner['claim']
    if claims.last_number(folder) == number:
        state.owner = state.child = None
        states.write_state(folder, state)
        claims.release(folder, number)


def _train(batch: Batch, job: Job, state: JobState, show: Show) -> None:
    train_dir = batch.job_dir(job) / 'train'
    train_dir.mkdir(parents=True, exist_ok=True)
    logs = [read_scalars(path, show) for path in training_logs(train_dir)]
    start = checkpoints.prepare_resume(train_dir, set(validations(logs))) if state.attempts else None
    command = plan_commands(batch, job, resume=start is not None)['train']
    attempt = {
        'started': time.strftime('%Y-%m-%d %H:%M:%S'),
        'resumed_from': start or 0,
        'seconds': 0.0,
        'command': command,
    }
    state.attempts.append(attempt)
    show(f'training attempt {len(state.attempts)}' + (f', resumed from iteration {start}' if start else ''))
    log = train_dir / f'train_log_{len(state.attempts)}.txt'
    _run_tool(batch, job, state, show, command, log, batch.gpu_count, attempt)
    state.phase = 'select'


def _select(batch: Batch, job: Job, state: JobState, show: Show) -> None:
    train_dir = batch.job_dir(job) / 'train'
    folder = checkpoints.collect(train_dir)
    saved = checkpoints.saved(folder)
    try:
        validated = read_validations(training_logs(train_dir), show)
    except ValueError as err:
        raise JobFailed(str(err)) from err
    candidates = {step: metrics for step, metrics in validated.items() if step in saved}
    if not candidates:
        raise JobFailed(
            f'a checkpoint must be saved where the model is validated, but there are validations at '
            f'{list(validated)} and checkpoints at {sorted(saved)}; '
            'set default_hooks.checkpoint.interval to train_cfg.val_interval'
        )
    log = folder / 'validations.json'
    write_text(log, ''.join(json.dumps({**metrics, 'step': step}) + '\n' for step, metrics in candidates.items()))
    step = _ask_find_best(batch, log, show)
    if step not in candidates:
        raise JobFailed(f'{batch.tools.find_best} must print one of {list(candidates)}, but printed {step}')
    overall = choose_best(validated, batch.rule, lambda line: None)  # the tool has reported already
    note = ''
    if overall.step not in candidates:
        note = f'iteration {overall.step} was better ({overall.value:.2f}) but has no checkpoint'
        show(f'warning: {note}')
    value = overall.candidates.get(step)
    name = saved[step].name
    write_text(folder / 'best_checkpoint', f'{name}\n')
    state.rule = asdict(batch.rule)
    state.best = {'iter': step, 'checkpoint': name, 'value': value, 'note': note}
    show(f'best checkpoint: {name}' + (f' ({batch.rule.metric} {value:.2f})' if value is not None else ''))
    state.phase = 'test'


def _ask_find_best(batch: Batch, log: Path, show: Show) -> int:
    rule = batch.rule
    command = [
        batch.tools.python,
        str(batch.tools.find_best),
        '--json_log_path',
        str(log),
        '--metric',
        rule.metric,
        '--tie',
        rule.tie,
    ]
    command += ['--mode', rule.mode] if rule.mode != 'max' else []
    command += ['--smooth', str(rule.smooth), '--average', rule.average] if rule.smooth != 1 else []
    command += ['--exclude-background'] if rule.exclude_background else []
    command += ['--background', rule.background] if rule.background is not None else []
    answer = subprocess.run(command, capture_output=True, text=True)
    for line in answer.stderr.splitlines():
        show(line)
    if answer.returncode or not answer.stdout.strip().isdigit():
        lines = answer.stderr.splitlines()
        raise JobFailed(
            lines[-1] if lines else f'{batch.tools.find_best} must print an iteration, but printed {answer.stdout!r}',
            lines,
        )
    return int(answer.stdout)


def _test(batch: Batch, job: Job, state: JobState, show: Show) -> None:
    log = batch.job_dir(job) / 'test' / 'test_log.txt'
    command = plan_commands(batch, job, checkpoint=state.best['checkpoint'])['test']
    _run_tool(batch, job, state, show, command, log, min(batch.gpu_count, 1))
    try:
        result = parse_test_log(log.read_text(encoding='utf-8', errors='replace'))
    except ValueError as err:
        raise JobFailed(f'{log}: {err}', process.tail(log)) from err
    state.metrics = {key: _finite(value) for key, value in result.summary.items()}
    state.classes = {name: {key: _finite(value) for key, value in row.items()} for name, row in result.classes.items()}
    write_json(log.with_name('metrics.json'), {'metrics': state.metrics, 'classes': state.classes})
    state.tests.append(
        {'checkpoint': state.best['checkpoint'], 'rule': state.rule, 'finished': time.strftime('%Y-%m-%d %H:%M:%S')}
    )
    state.phase = 'done'


def _run_tool(
    batch: Batch,
    job: Job,
    state: JobState,
    show: Show,
    command: list[str],
    log: Path,
    gpu_count: int,
    attempt: dict[str, Any] | None = None,
) -> None:
    folder, begun = batch.job_dir(job), time.monotonic()

    def started(pid: int) -> None:
        state.child = states.process_record(pid)
        states.write_state(folder, state)

    def account() -> None:
        state.heartbeat = time.time()
        if attempt is not None:
            attempt['seconds'] = round(time.monotonic() - begun, 1)

    def beat() -> None:
        if time.time() - state.heartbeat >= states.HEARTBEAT_SECONDS:
            claims.check_last(folder, state.owner['claim'])
            account()
            states.write_state(folder, state)

    try:
        environment = process.child_environment(gpu_count, batch.environment)
        code = process.run_logged(command, log, environment, show, started, beat)
    finally:
        account()
    state.child = None
    if code:
        raise JobFailed(*process.explain(process.tail(log, 300), code))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
