"""One job: claim it, train, collect and choose checkpoints, test. Any engine calls :func:`run_job`.

The job is idempotent: whatever was finished before is not repeated, whatever was interrupted goes on. A killed training
leaves a pointer ``last_checkpoint`` (with a path that a moved folder makes wrong), perhaps half a file, and perhaps a
checkpoint whose validation never ran; mmengine would not run it after resuming.

Engines that start programs, such as Slurm, run ``python -m mmdefect.experiments.job PLAN.json NUMBER``. Exit code: 0
done, 1 not, 128 + n stopped by signal n.
"""

import ast
import json
import math
import os
import re
import subprocess
import sys
import time
import traceback
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmdefect.experiments import process, states
from mmdefect.experiments.batch import Batch, Job, differences, fingerprint, read_batch
from mmdefect.experiments.logs import parse_test_log, read_scalars, read_validations, training_logs, validations
from mmdefect.experiments.process import Show
from mmdefect.experiments.select import choose_best
from mmdefect.experiments.states import JobState
from mmdefect.files import write_json, write_text

POINTER = 'last_checkpoint'


class JobFailed(RuntimeError):
    """A step of a job failed: one line, and the end of the output that explains it."""

    def __init__(self, message: str, lines: list[str] | None = None) -> None:
        super().__init__(message)
        self.lines = lines or []


def check_job(batch: Batch, job: Job) -> None:
    """Raise ``ValueError`` if the folder of a job holds the work of another config."""
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
    if state.phase == 'train' and next(train_dir.rglob('*.pth'), None) is None:
        return  # nothing of it is left to go on from, perhaps because of a mistake that is corrected now
    changed = differences(state.fingerprint, fingerprint(job.config, batch.cfg_options, job.recipes))
    if changed:
        kept = train_dir / Path(state.fingerprint['config']).name
        raise ValueError(
            f'{job.config} must be the config that {folder} was trained with (kept in {kept}), but differs: '
            f'{"; ".join(changed)}. Undo the change, use another project name, or move the folder away to train anew.'
        )


def plan_commands(batch: Batch, job: Job, resume: bool = False, checkpoint: str = '<best>') -> dict[str, list[str]]:
    """Return the commands of a job, ``train`` and ``test``.

    The test runs in one process on the first device: it is short, and its log has one table.
    """
    folder, tools = batch.job_dir(job), batch.tools
    options = ['--with', *job.recipes] if job.recipes else []
    options += ['--cfg-options', *batch.cfg_options] if batch.cfg_options else []
    train = [str(tools.train), str(job.config), '--work-dir', str(folder / 'train'), *(['--resume'] if resume else [])]
    if batch.gpu_count > 1:
        launch = ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={batch.gpu_count}']
        train = [*launch, *train, '--launcher', 'pytorch']
    test_dir = str(folder / 'test')
    test = [str(tools.test), str(job.config), str(folder / 'train' / 'ckpt' / checkpoint)]
    test += ['--work-dir', test_dir, '--out', test_dir]
    return {'train': [tools.python, *train, *options], 'test': [tools.python, *test, *options]}


def is_done(batch: Batch, job: Job) -> bool:
    """Tell whether nothing is left to do, by the rule of this batch."""
    state = states.read_state(batch.job_dir(job))
    return state is not None and state.status == 'done' and state.rule == asdict(batch.rule)


def claim(batch: Batch, job: Job) -> tuple[JobState, bool]:
    """Take a job unless it is done or another living process has it; return its state, and whether it is ours now."""
    folder = batch.job_dir(job)
    with states.locked(folder / '.lock'):  # spares planners of one machine the race; the claim decides on all
        state = states.read_state(folder) or JobState(job.name)
        rule = asdict(batch.rule)
        if state.status == 'running' and process.is_alive(state.owner, state.heartbeat):
            return state, False
        if state.status == 'done' and state.rule == rule:
            return state, False
        owner = process.process_record(os.getpid())
        number = states.take_claim(folder, owner)
        if number is None:
            state.status, state.owner = 'running', states.claim_holder(folder)
            return state, False
        if state.child is not None:  # a tool that outlived its killed planner still writes into the folder
            process.stop_group(state.child)
        for half_written in folder.glob(f'.{states.STATE_NAME}.*'):  # by a planner that was killed while writing
            half_written.unlink()
        if state.phase in ('test', 'done') and state.rule != rule:
            state.phase, state.metrics, state.classes, state.verdict = 'select', {}, {}, ''
        state.status, state.error, state.error_tail, state.child = 'running', '', [], None
        state.fingerprint = fingerprint(job.config, batch.cfg_options, job.recipes)
        state.owner, state.heartbeat = {**owner, 'claim': number}, time.time()
        states.write_state(folder, state)
    return state, True


def disown(batch: Batch, job: Job, error: str = '') -> None:
    """Free a job whose owner, on another machine, is known to be dead; an ``error`` leaves it failed, not pending."""
    folder = batch.job_dir(job)
    with states.locked(folder / '.lock'):
        state = states.read_state(folder)
        if state is not None and state.status == 'running':
            number = (state.owner or {}).get('claim', 0)
            state.status, state.owner, state.error = 'failed' if error else 'pending', None, error
            states.write_state(folder, state)
            states.release_claim(folder, number)


def run_job(batch: Batch, job: Job, show: Show) -> JobState:
    """Run what is left of a job and return its state; a failure is recorded there and not raised.

    Raises:
        KeyboardInterrupt: if this process is asked to stop; the job is left ``pending`` and can be resumed.
    """
    state, mine = claim(batch, job)
    if not mine:
        return state
    folder, number = batch.job_dir(job), state.owner['claim']
    work = _Work(batch, job, state, show)
    steps = {'train': work.train, 'select': work.select, 'test': work.test}
    try:
        while state.phase in steps:
            states.check_claim(folder, number)
            steps[state.phase]()
            states.check_claim(folder, number)
            states.write_state(folder, state)
        state.status = 'done'
    except states.Superseded as err:
        show(f'left alone: {err}')
        return states.read_state(folder) or state
    except KeyboardInterrupt:
        state.status = 'pending'
        work.give_back()
        raise
    except JobFailed as err:
        state.status, state.error, state.error_tail = 'failed', f'{state.phase}: {err}', err.lines
    except Exception as err:  # recorded with its traceback: one broken model must not stop the others
        state.status, state.error = 'failed', f'{state.phase}: {type(err).__name__}: {err}'
        state.error_tail = traceback.format_exc().splitlines()[-process.TAIL_LINES :]
    work.give_back()
    return state


@dataclass
class _Work:
    """The steps of one job that this process holds."""

    batch: Batch
    job: Job
    state: JobState
    show: Show

    def __post_init__(self) -> None:
        self.folder = self.batch.job_dir(self.job)
        self.train_dir = self.folder / 'train'

    def give_back(self) -> None:
        number = self.state.owner['claim']
        if states.last_claim(self.folder) == number:
            self.state.owner = self.state.child = None
            states.write_state(self.folder, self.state)
            states.release_claim(self.folder, number)

    def train(self) -> None:
        state = self.state
        self.train_dir.mkdir(parents=True, exist_ok=True)
        logs = [read_scalars(path, self.show) for path in training_logs(self.train_dir)]
        start = prepare_resume(self.train_dir, set(validations(logs))) if state.attempts else None
        command = plan_commands(self.batch, self.job, resume=start is not None)['train']
        attempt = {'started': _now(), 'resumed_from': start or 0, 'seconds': 0.0, 'command': command}
        state.attempts.append(attempt)
        resumed = f', resumed from iteration {start}' if start else ''
        self.show(f'training attempt {len(state.attempts)}{resumed}')
        log = self.train_dir / f'train_log_{len(state.attempts)}.txt'
        self._run_tool(command, log, self.batch.gpu_count, attempt)
        state.phase = 'select'

    def select(self) -> None:
        rule = self.batch.rule
        folder = collect(self.train_dir)
        saved = saved_checkpoints(folder)
        try:
            validated = read_validations(training_logs(self.train_dir), self.show)
        except ValueError as err:
            raise JobFailed(str(err)) from err
        candidates = {step: metrics for step, metrics in validated.items() if step in saved}
        if not candidates:
            steps = f'there are validations at {list(validated)} and checkpoints at {sorted(saved)}'
            remedy = 'set default_hooks.checkpoint.interval to train_cfg.val_interval'
            raise JobFailed(f'a checkpoint must be saved where the model is validated, but {steps}; {remedy}')
        log = folder / 'validations.json'
        write_text(log, ''.join(json.dumps({**metrics, 'step': step}) + '\n' for step, metrics in candidates.items()))
        step = self._ask_find_best(log)
        if step not in candidates:
            raise JobFailed(f'{self.batch.tools.find_best} must print one of {list(candidates)}, but printed {step}')
        overall = choose_best(validated, rule, lambda line: None)  # the tool has reported already
        note = ''
        if overall.step not in candidates:
            note = f'iteration {overall.step} was better ({overall.value:.2f}) but has no checkpoint'
            self.show(f'warning: {note}')
        value, name = overall.candidates.get(step), saved[step].name
        write_text(folder / 'best_checkpoint', f'{name}\n')
        self.state.rule = asdict(rule)
        self.state.best = {'iter': step, 'checkpoint': name, 'value': value, 'note': note}
        self.show(f'best checkpoint: {name}' + (f' ({rule.metric} {value:.2f})' if value is not None else ''))
        self.state.phase = 'test'

    def _ask_find_best(self, log: Path) -> int:
        rule, tool = self.batch.rule, str(self.batch.tools.find_best)
        command = [self.batch.tools.python, tool, '--json_log_path', str(log)]
        command += ['--metric', rule.metric, '--tie', rule.tie]
        command += ['--mode', rule.mode] if rule.mode != 'max' else []
        command += ['--smooth', str(rule.smooth), '--average', rule.average] if rule.smooth != 1 else []
        command += ['--exclude-background'] if rule.exclude_background else []
        command += ['--background', rule.background] if rule.background is not None else []
        answer = subprocess.run(command, check=False, capture_output=True, text=True)
        lines = answer.stderr.splitlines()
        for line in lines:
            self.show(line)
        if answer.returncode or not answer.stdout.strip().isdigit():
            said = lines[-1] if lines else f'{tool} must print an iteration, but printed {answer.stdout!r}'
            raise JobFailed(said, lines)
        return int(answer.stdout)

    def test(self) -> None:
        state, checkpoint = self.state, self.state.best['checkpoint']
        log = self.folder / 'test' / 'test_log.txt'
        command = plan_commands(self.batch, self.job, checkpoint=checkpoint)['test']
        self._run_tool(command, log, min(self.batch.gpu_count, 1))
        try:
            result = parse_test_log(log.read_text(encoding='utf-8', errors='replace'))
        except ValueError as err:
            raise JobFailed(f'{log}: {err}', process.tail(log)) from err
        state.metrics = _finite(result.summary)
        state.verdict = result.verdict
        state.classes = {name: _finite(row) for name, row in result.classes.items()}
        told = {'metrics': state.metrics, 'classes': state.classes, 'verdict': state.verdict}
        write_json(log.with_name('metrics.json'), told)
        state.tests.append({'checkpoint': checkpoint, 'rule': state.rule, 'finished': _now()})
        state.phase = 'done'

    def _run_tool(self, command: list[str], log: Path, gpu_count: int, attempt: dict[str, Any] | None = None) -> None:
        state, begun = self.state, time.monotonic()

        def started(pid: int) -> None:
            state.child = process.process_record(pid)
            states.write_state(self.folder, state)

        def account() -> None:
            state.heartbeat = time.time()
            if attempt is not None:
                attempt['seconds'] = round(time.monotonic() - begun, 1)

        def beat() -> None:
            if time.time() - state.heartbeat >= states.HEARTBEAT_SECONDS:
                states.check_claim(self.folder, state.owner['claim'])
                account()
                states.write_state(self.folder, state)

        try:
            environment = process.child_environment(gpu_count, self.batch.environment)
            code = process.run_logged(command, log, environment, self.show, started, beat)
        finally:
            account()
        state.child = None
        if code:
            raise JobFailed(*process.explain(process.tail(log, 300), code))


def _now() -> str:
    return time.strftime('%Y-%m-%d %H:%M:%S')


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


def saved_checkpoints(folder: Path) -> dict[int, Path]:
    """Return ``{iteration: file}`` of all checkpoints in a folder; ``iter_N.pth`` goes before ``best_*_iter_N.pth``."""
    return {**_by_step(sorted(folder.glob('best_*.pth'))), **_by_step(folder.glob('iter_*.pth'))}


def _by_step(paths: Iterable[Path]) -> dict[int, Path]:
    found = {_step_of(path): path for path in paths}
    return {step: found[step] for step in sorted(step for step in found if step is not None)}


def _step_of(path: Path) -> int | None:
    match = re.search(r'iter_(\d+)\.pth$', path.name)
    return int(match[1]) if match else None


def is_complete(path: Path) -> bool:
    """Tell whether a checkpoint was written to its end: torch files are zip archives, whose directory comes last."""
    return path.is_file() and zipfile.is_zipfile(path)


def prepare_resume(train_dir: Path, validated: set[int]) -> int | None:
    """Make ``last_checkpoint`` point to the newest checkpoint from which training can go on without a gap.

    Passed over are half-written files, files newer than the pointer (written, but not registered), and checkpoints
    of an iteration whose validation is due but missing in ``validated``. What is newer than the chosen one goes to
    ``discarded/``. Returns the iteration to resume from; ``None`` to start afresh.
    """
    pointer = train_dir / POINTER
    newest = _step_of(Path(pointer.read_text().strip())) if pointer.is_file() else None
    loop = _train_cfg(train_dir)
    interval, begin, end = loop.get('val_interval', 0), loop.get('val_begin', 1), loop.get('max_iters', 0)

    def is_due(step: int) -> bool:
        return bool(interval and end) and step >= begin and (step % interval == 0 or step == end)

    resumable = _by_step(train_dir.glob('iter_*.pth'))
    complete = [s for s, path in resumable.items() if is_complete(path) and (newest is None or s <= newest)]
    usable = [step for step in complete if step in validated or not is_due(step)]
    start = max(usable, default=None)
    for path in train_dir.glob('*.pth'):
        step = _step_of(path)
        if step is not None and step > (start or 0):
            (train_dir / 'discarded').mkdir(exist_ok=True)
            os.replace(path, train_dir / 'discarded' / path.name)
    if start is None:
        pointer.unlink(missing_ok=True)
    else:
        write_text(pointer, str(resumable[start]))
    return start


def collect(train_dir: Path) -> Path:
    """Move all checkpoints of a finished training to ``ckpt/``; may be repeated after an interruption.

    ``last_checkpoint``, in both folders, points to the moved file, so that ``--resume`` in the work dir still works.
    """
    target = train_dir / 'ckpt'
    target.mkdir(exist_ok=True)
    for path in sorted([*train_dir.glob('iter_*.pth'), *train_dir.glob('best_*.pth')]):
        os.replace(path, target / path.name)
    pointer = train_dir / POINTER
    if pointer.is_file():
        moved = target / Path(pointer.read_text().strip()).name
        if moved.is_file():
            write_text(pointer, str(moved))
            write_text(target / POINTER, str(moved))
    return target


def _train_cfg(train_dir: Path) -> dict[str, int]:
    """Read the integers of ``train_cfg = dict(...)`` from the config dump; empty without a readable dump."""
    for path in sorted(train_dir.glob('*.py')):
        for node in ast.parse(path.read_text(encoding='utf-8')).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == 'train_cfg':
                words = node.value.keywords if isinstance(node.value, ast.Call) else []
                constants = [(w.arg, w.value.value) for w in words if isinstance(w.value, ast.Constant)]
                return {name: value for name, value in constants if isinstance(value, int)}
    return {}


def main(argv: list[str]) -> int:
    """Run one job of a written batch."""
    batch, number = read_batch(Path(argv[0])), int(argv[1])
    job = batch.jobs[number]
    if int(os.environ.get('SLURM_RESTART_COUNT') or 0):
        disown(batch, job)  # Slurm ended the former start of this very task
    try:
        with process.stop_signals():
            state = run_job(batch, job, lambda line: print(line, flush=True))
    except process.Interrupted as err:
        return 128 + err.number
    print(f'{job.label}: {state.status} {state.error}', flush=True)
    return 0 if state.status == 'done' else 1


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
