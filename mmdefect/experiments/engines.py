"""Engines run jobs of a batch side by side, here or elsewhere, and the command line options that choose one.

:class:`Slots` are processes of this machine, on CPU threads or a queue of GPUs; :class:`RayTasks` are tasks of a Ray
cluster, or of a Ray started here; :class:`SlurmArray` is an array job of Slurm. All of them call
:func:`mmdefect.experiments.job.run_job` in the end; all they know of each other is the state files. Machines of a
cluster must all see the project, the data and this package.
"""

import argparse
import contextlib
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Protocol

from mmdefect.experiments import process, states
from mmdefect.experiments.batch import Batch, Job, write_batch
from mmdefect.experiments.job import disown, is_done, run_job
from mmdefect.experiments.process import Show, thread_variables
from mmdefect.experiments.states import JobState
from mmdefect.files import write_text

ENGINES = ('local', 'ray', 'slurm')
Finished = Callable[[Job, JobState], None]
#: Seconds that stopped jobs get to write their state; Slurm kills 30 seconds after it asked.
STOP_SECONDS = 45.0
#: Shared memory of a local Ray for results on their way, in bytes; jobs and bulk work pass files and small records.
OBJECT_STORE_BYTES = 128 * 2**20
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]


class Engine(Protocol):
    """Runs jobs."""

    def check(self, batch: Batch) -> None:
        """Raise what can be known to be wrong before the first training, such as a missing program."""

    def run(self, batch: Batch, jobs: Sequence[Job], show: Show, finished: Finished) -> None:
        """Run jobs in order, several at a time; those that another process runs are left to it.

        The batch brings tools, rule and folder; its own jobs do not matter here. ``show`` gets every line of output,
        perhaps in another process: a function of a module, which should print. ``finished`` is called here after each
        job. After a ``KeyboardInterrupt`` the running jobs are stopped and can be resumed.
        """


@dataclass(frozen=True)
class Slots:
    """The local engine: a number of slots, each a process of its own."""

    count: int = 1  # jobs at the same time
    threads: int = 0  # threads of the libraries in each; 0 leaves them as they are
    gpus: tuple[str, ...] = ()  # devices of each slot, taken in turn, such as `'0,1'`; empty trains on the CPU

    def __post_init__(self) -> None:
        if self.count < 1 or self.threads < 0:
            raise ValueError(
                f'there must be at least one slot, and threads not below 0, got {self.count} and {self.threads}.'
            )

    def check(self, batch: Batch) -> None:
        """Raise if torch does not see as many GPUs as are asked for."""
        named = {device for group in self.gpus for device in group.split(',')}
        wanted = max(batch.gpu_count, len(named))
        present = process.count_gpus(batch.tools.python) if wanted else 0
        if wanted > present:
            raise ValueError(
                f'`gpu_count` must be at most the number of GPUs that torch sees, {present}, got {wanted}; take fewer, '
                'or look at CUDA_VISIBLE_DEVICES and the torch build.'
            )

    def run(self, batch: Batch, jobs: Sequence[Job], show: Show, finished: Finished) -> None:
        """Run jobs in order, ``count`` at a time."""
        context = multiprocessing.get_context('spawn')
        waiting, running = list(jobs), {}
        try:
            while waiting or running:
                for slot in range(self.count):
                    if slot not in running and waiting:
                        job = waiting.pop(0)
                        args = self._of_slot(batch, slot), job, show
                        worker = context.Process(target=_work_in_slot, args=args, name=job.label)
                        worker.start()
                        running[slot] = worker, job
                for slot, (worker, job) in list(running.items()):
                    if not worker.is_alive():
                        worker.join()
                        del running[slot]
                        finished(job, _state_of(batch, job, f'its process ended with exit code {worker.exitcode}'))
                time.sleep(0.1)
        except BaseException:
            for worker, _ in running.values():
                if worker.is_alive() and worker.pid is not None:
                    os.kill(worker.pid, signal.SIGTERM)
            for worker, _ in running.values():
                worker.join()
            raise

    def environment(self, slot: int) -> dict[str, str]:
        """Return the variables of the tools in one slot."""
        devices = {'CUDA_VISIBLE_DEVICES': self.gpus[slot % len(self.gpus)]} if self.gpus else {}
        return {**thread_variables(self.threads), **devices}

    def _of_slot(self, batch: Batch, slot: int) -> Batch:
        count = len(self.gpus[slot % len(self.gpus)].split(',')) if self.gpus else batch.gpu_count
        return replace(batch, environment={**batch.environment, **self.environment(slot)}, gpu_count=count)


def _work(batch: Batch, job: Job, show: Show, folder: str = '.') -> None:
    """Run one job in a process made for it."""
    os.chdir(folder)  # relative paths in configs mean what they mean where the batch was started
    with process.stop_signals():
        run_job(batch, job, lambda line: show(f'{job.label} | {line}'))


def _work_in_slot(batch: Batch, job: Job, show: Show) -> None:
    try:
        _work(batch, job, show)
    except process.Interrupted as err:
        raise SystemExit(128 + err.number) from None


def _state_of(batch: Batch, job: Job, what_happened: str) -> JobState:
    state = states.read_state(batch.job_dir(job))
    if state is None:
        raise RuntimeError(f'{job.name} must leave a state, but {what_happened}; see its output above.')
    return state


def import_ray() -> ModuleType:
    """Import Ray, which is optional; an error names the extra that brings it."""
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')  # otherwise Ray reports home
    os.environ.setdefault('RAY_worker_niceness', '0')  # 15 by default: workers would starve beside any other program
    os.environ.setdefault('RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO', '0')  # tasks without GPUs keep CUDA_VISIBLE_DEVICES
    try:
        import ray
    except ModuleNotFoundError as err:
        raise ModuleNotFoundError(
            'the engine `ray` needs the package ray, which is not installed; run '
            '`pip install -c constraints.txt "mmdefect[ray]"`, or take `--engine local`.'
        ) from err
    return ray


@contextlib.contextmanager
def connected(address: str | None = None, cpus: int | None = None, gpus: int | None = None) -> Iterator[ModuleType]:
    """Hold a connection to the Ray at an address or ``$RAY_ADDRESS``, else to one that is started here and ended again.

    ``cpus`` and ``gpus`` of the latter are all that there are by default. A connection that was there before is used
    and left as it is.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get('RAY_ADDRESS') or 'local'
    here = dict(num_cpus=cpus, num_gpus=gpus, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES)
    # Workers find this package where the driver found it: Ray hands on its sys.path.
    ray.init(address, logging_level='warning', **(here if address == 'local' else {}))
    try:
        yield ray
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class RayTasks:
    """Every job is a task of Ray; a job whose worker is lost goes on elsewhere from its last checkpoint."""

    address: str | None = None  # of the cluster; by default `$RAY_ADDRESS`, else a Ray of this machine
    count: int = 0  # CPU slots of a Ray that is started here, in jobs; 0 takes all cores
    threads: int = 0  # cores that a job asks for, and threads of its libraries; 0 asks for one and leaves the threads
    gpus: int = 0  # devices of a Ray that is started here; 0 takes those that it finds
    retries: int = 3  # how often a job is started again after its worker was lost

    def check(self, batch: Batch) -> None:
        """Raise if Ray is not installed; how many GPUs there are is the cluster's business."""
        import_ray()

    def run(self, batch: Batch, jobs: Sequence[Job], show: Show, finished: Finished) -> None:
        """Run jobs in order, as many at a time as the cluster has room for."""
        batch = replace(batch, environment={**batch.environment, **thread_variables(self.threads)})
        cores = max(1, self.threads)
        with connected(self.address, self.count * cores or None, self.gpus or None) as ray:
            gone, resources = ray.exceptions, ray.cluster_resources()
            for name, wanted in (('CPU', cores), ('GPU', batch.gpu_count)):
                present = resources.get(name, 0)
                if present < wanted:
                    lack = f'a job asks for {wanted} {name}, but the cluster has {present:g} now'
                    show(f'warning: {lack}; jobs wait until a machine with enough joins')
            # What Ray raises when the process or the machine of a task is gone; nothing that the task itself did.
            losses = gone.WorkerCrashedError, gone.NodeDiedError, gone.LocalRayletDiedError, gone.OutOfMemoryError
            task = ray.remote(num_cpus=cores, num_gpus=batch.gpu_count, max_retries=0)(_work)

            def start(job: Job):
                return task.options(name=job.label).remote(batch, job, show, os.getcwd())

            running = {start(job): (job, 0) for job in jobs}
            try:
                while running:
                    for ref in ray.wait(list(running), num_returns=1, timeout=1.0)[0]:
                        job, tries = running.pop(ref)
                        try:
                            ray.get(ref)
                        except losses as err:
                            lost = f'its worker was lost {tries + 1} times ({type(err).__name__})'
                            disown(batch, job, '' if tries < self.retries else lost)
                            if tries < self.retries:
                                show(f'{job.label}: {lost}; it goes on from the last checkpoint')
                                running[start(job)] = job, tries + 1
                                continue
                        finished(job, _state_of(batch, job, 'its worker was lost'))
            except BaseException:
                for ref in running:
                    ray.cancel(ref)
                if running:
                    ray.wait(list(running), num_returns=len(running), timeout=STOP_SECONDS)
                raise


@dataclass(frozen=True)
class SlurmArray:
    """One array job of Slurm, one task a model, each started by ``srun``."""

    count: int = 0  # jobs at the same time; 0 leaves it to Slurm
    threads: int = 0  # cores of a job, and threads of its libraries; 0 asks for one and leaves the threads
    options: tuple[str, ...] = ()  # further options of sbatch, such as `--partition=gpu` or `--time=8:00:00`
    wait: bool = True  # for the end, reporting what happens; otherwise the array is submitted and left alone
    poll_seconds: float = 5.0  # between two looks at the states

    def __post_init__(self) -> None:
        wrong = [option for option in self.options if not option.startswith('-')]
        if wrong:
            raise ValueError(f'an option of sbatch must begin with a dash, got {wrong}; write --partition=gpu.')

    def check(self, batch: Batch) -> None:
        """Raise if there is no Slurm here."""
        if shutil.which('sbatch') is None:
            words = 'start it where jobs are submitted, or look at the script with --dry-run'
            raise RuntimeError(f'the engine `slurm` needs the program sbatch, which is not in PATH; {words}.')

    def script(self, batch: Batch, jobs: Sequence[Job], folder: Path) -> str:
        """Return the array script; ``folder`` holds the plan and gets the output."""
        limit = f'%{self.count}' if self.count else ''
        options = [f'--job-name={batch.project}', f'--array=0-{len(jobs) - 1}{limit}', '--ntasks=1']
        options += [f'--cpus-per-task={max(1, self.threads)}', f'--output={folder}/%a.log', '--open-mode=append']
        options += ['--requeue', *([f'--gres=gpu:{batch.gpu_count}'] if batch.gpu_count else []), *self.options]
        lines = '\n'.join(f'#SBATCH {option}' for option in options)
        names = '\n'.join(f'# {number} {job.label}' for number, job in enumerate(jobs))
        root, python, plan = (shlex.quote(str(p)) for p in (_PACKAGE_ROOT, batch.tools.python, folder / 'plan.json'))
        return (
            f'#!/usr/bin/env bash\n{lines}\n{names}\nset -euo pipefail\n'
            f'export PYTHONPATH={root}${{PYTHONPATH:+:$PYTHONPATH}}\n'
            f'exec srun --ntasks=1 {python} -m mmdefect.experiments.job {plan} "$SLURM_ARRAY_TASK_ID"\n'
        )

    def run(self, batch: Batch, jobs: Sequence[Job], show: Show, finished: Finished) -> None:
        """Submit the jobs that are not done as one array, and wait for them."""
        done = [job for job in jobs if is_done(batch, job)]
        jobs = [job for job in jobs if job not in done]
        for job in done:
            finished(job, _state_of(batch, job, 'it was done'))
        if not jobs:
            return
        folder = batch.project_dir / 'slurm' / datetime.now().strftime('%Y%m%d_%H%M%S_%f')
        batch = replace(batch, jobs=tuple(jobs), environment={**batch.environment, **thread_variables(self.threads)})
        write_batch(folder / 'plan.json', batch)
        script = folder / 'array.sh'
        write_text(script, self.script(batch, jobs, folder))
        answer = subprocess.run(['sbatch', str(script)], check=False, capture_output=True, text=True)
        match = re.search(r'Submitted batch job (\d+)', answer.stdout)
        if answer.returncode or match is None:
            reason = (answer.stderr or answer.stdout).strip()
            raise RuntimeError(f'sbatch must take {script}, but says: {reason}; correct the options of the engine.')
        show(f'Slurm job {match[1]}: {len(jobs)} tasks, output in {folder}')
        if self.wait:
            try:
                self._follow(batch, match[1], finished)
            except BaseException:
                subprocess.run(['scancel', match[1]], check=False)
                deadline = time.monotonic() + STOP_SECONDS
                while time.monotonic() < deadline and any(_is_running(batch, job) for job in jobs):
                    time.sleep(min(1.0, STOP_SECONDS / 10))
                raise

    def _follow(self, batch: Batch, number: str, finished: Finished) -> None:
        waiting = {job: states.last_claim(batch.job_dir(job)) for job in batch.jobs}
        while waiting:
            ended = not _is_queued(number)  # asked first: what ends after this is seen in the next round
            for job, claim in list(waiting.items()):
                folder = batch.job_dir(job)
                state = states.read_state(folder)
                fresh = state and (state.status == 'done' or states.last_claim(folder) > claim)
                if ended or (fresh and state.status in ('done', 'failed')):
                    del waiting[job]
                    finished(job, _state_of(batch, job, f'Slurm ended job {number}'))
            if waiting:
                time.sleep(self.poll_seconds)


def _is_running(batch: Batch, job: Job) -> bool:
    state = states.read_state(batch.job_dir(job))
    return state is not None and state.status == 'running'


def _is_queued(number: str) -> bool:
    answer = subprocess.run(['squeue', '--noheader', '--jobs', number], check=False, capture_output=True, text=True)
    # An unknown number is an error to squeue: the job ended and was forgotten. Any other error is no answer.
    return bool(answer.stdout.strip()) if not answer.returncode else 'Invalid job id' not in answer.stderr


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose an engine to a parser."""
    group = parser.add_argument_group('where jobs run')
    add = group.add_argument
    add('--engine', choices=ENGINES, default='local', help='default: local, processes of this machine')
    slots = 'local 1, or one for each group of GPUs; ray and slurm as many as there is room for'
    add('--slots', type=int, help=f'jobs at the same time (default: {slots})')
    add('--threads', type=int, default=0, help='cores and threads of each job (default: as they are)')
    gpus = 'local: devices to share out, such as 0,1,2,3; ray: how many a Ray that is started here has'
    add('--gpus', default='', help=gpus)
    add('--ray-address', help='Ray cluster (default: $RAY_ADDRESS, else a Ray is started here)')
    add('--retries', type=int, default=3, help='ray: restarts of a job whose worker is lost (default: 3)')
    option = 'slurm: further option of sbatch, such as --slurm-option=--partition=gpu; may be repeated'
    add('--slurm-option', action='append', default=[], metavar='OPTION', help=option)
    add('--no-wait', action='store_true', help='slurm: submit and return')


def engine_of(args: argparse.Namespace, gpu_count: int = 0) -> Engine:
    """Return the engine that parsed options ask for, for jobs that get ``gpu_count`` devices each."""
    for name, owner in (('ray_address', 'ray'), ('slurm_option', 'slurm'), ('no_wait', 'slurm')):
        if getattr(args, name) and args.engine != owner:
            raise ValueError(f'`--{name.replace("_", "-")}` is for `--engine {owner}`, got --engine {args.engine}.')
    devices = [device for device in args.gpus.split(',') if device]
    if args.engine == 'slurm':
        if args.gpus:
            raise ValueError('`--gpus` is not for `--engine slurm`, which hands out devices itself; use `--gpu-count`.')
        return SlurmArray(args.slots or 0, args.threads, tuple(args.slurm_option), not args.no_wait)
    if args.engine == 'ray':
        if len(devices) > 1 or (devices and not devices[0].isdigit()):
            words = 'CUDA_VISIBLE_DEVICES says which ones are seen'
            raise ValueError(f'`--gpus` of the engine ray must be a number of devices, got {args.gpus}; {words}.')
        gpus = int(devices[0]) if devices else 0
        return RayTasks(args.ray_address, args.slots or 0, args.threads, gpus, args.retries)
    size = max(1, gpu_count)
    if len(devices) % size:
        raise ValueError(f'`--gpus` must be a multiple of the {size} devices of a job, got {args.gpus}.')
    groups = tuple(','.join(devices[k : k + size]) for k in range(0, len(devices), size))
    return Slots(args.slots or max(1, len(groups)), args.threads, groups)
