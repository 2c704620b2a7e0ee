"""The engine for Slurm: one array job, one task a model, each started by ``srun``."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmdefect.experiments import claims, states
from mmdefect.experiments.job import is_done
from mmdefect.experiments.pool import state_of, thread_variables
from mmdefect.experiments.records import write_text
from mmdefect.experiments.spec import Batch, Job, write_batch
from mmdefect.experiments.states import JobState

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
#: Seconds that cancelled jobs get to write their state; Slurm kills 30 seconds after it asked.
STOP_SECONDS = 45.0


@dataclass(frozen=True)
class SlurmArray:
    """See :class:`mmdefect.experiments.engine.Engine`. All machines must see the project, the data and this package.

    Attributes:
        count: jobs at the same time; 0 leaves it to Slurm.
        threads: cores of a job, and threads of its libraries; 0 asks for one and leaves the threads.
        options: further options of sbatch, such as ``--partition=gpu`` or ``--time=8:00:00``.
        wait: whether to wait for the end, reporting what happens; without it the array is submitted and left alone.
        poll_seconds: between two looks at the states.
    """

    count: int = 0
    threads: int = 0
    options: tuple[str, ...] = ()
    wait: bool = True
    poll_seconds: float = 5.0

    def __post_init__(self) -> None:
        wrong = [option for option in self.options if not option.startswith('-')]
        if wrong:
            raise ValueError(f'an option of sbatch must begin with a dash, got {wrong}; write --partition=gpu.')

    def check(self, batch: Batch) -> None:
        """Raise if there is no Slurm here."""
        if shutil.which('sbatch') is None:
            raise RuntimeError(
                'the engine `slurm` needs the program sbatch, which is not in PATH; start it where '
                'jobs are submitted, or look at the script with --dry-run.'
            )

    def script(self, batch: Batch, jobs: Sequence[Job], folder: Path) -> str:
        """Return the array script; ``folder`` holds the plan and gets the output."""
        limit = f'%{self.count}' if self.count else ''
        options = [
            f'--job-name={batch.project}',
            f'--array=0-{len(jobs) - 1}{limit}',
            '--ntasks=1',
            f'--cpus-per-task={max(1, self.threads)}',
            f'--output={folder}/%a.log',
            '--open-mode=append',
            '--requeue',
        ]
        options += [f'--gres=gpu:{batch.gpu_count}'] if batch.gpu_count else []
        lines = '\n'.join(f'#SBATCH {option}' for option in (*options, *self.options))
        names = '\n'.join(f'# {number} {job.label}' for number, job in enumerate(jobs))
        path = shlex.quote(str(_PACKAGE_ROOT))
        return (
            f'#!/usr/bin/env bash\n{lines}\n{names}\nset -euo pipefail\n'
            f'export PYTHONPATH={path}${{PYTHONPATH:+:$PYTHONPATH}}\n'
            f'exec srun --ntasks=1 {shlex.quote(batch.tools.python)} -m mmdefect.experiments.worker '
            f'{shlex.quote(str(folder / "plan.json"))} "$SLURM_ARRAY_TASK_ID"\n'
        )

    def run(
        self, batch: Batch, jobs: Sequence[Job], show: Callable[[str], None], finished: Callable[[Job, JobState], None]
    ) -> None:
        """Submit the jobs that are not done as one array, and wait for them."""
        done = [job for job in jobs if is_done(batch, job)]
        jobs = [job for job in jobs if job not in done]
        for job in done:
            finished(job, state_of(batch, job, 'it was done'))
        if not jobs:
            return
        folder = _new_folder(batch.project_dir / 'slurm')
        batch = replace(batch, jobs=tuple(jobs), environment={**batch.environment, **thread_variables(self.threads)})
        write_batch(folder / 'plan.json', batch)
        write_text(folder / 'array.sh', self.script(batch, jobs, folder))
        number = _submit(folder / 'array.sh')
        show(f'Slurm job {number}: {len(jobs)} tasks, output in {folder}')
        if self.wait:
            try:
                self._follow(batch, jobs, number, show, finished)
            except BaseException:
                subprocess.run(['scancel', number], check=False)
                _await_stop(batch, jobs)
                raise

    def _follow(
        self,
        batch: Batch,
        jobs: Sequence[Job],
        number: str,
        show: Callable[[str], None],
        finished: Callable[[Job, JobState], None],
    ) -> None:
        before = {job.name: claims.last_number(batch.job_dir(job)) for job in jobs}
        waiting = list(jobs)
        while waiting:
            ended = not _is_queued(number)  # asked first: what ends after this is seen in the next round
            for job in list(waiting):
                state = states.read_state(batch.job_dir(job))
                fresh = state is not None and (
                    state.status == 'done' or claims.last_number(batch.job_dir(job)) > before[job.name]
                )
                if ended or (fresh and state.status in ('done', 'failed')):
                    waiting.remove(job)
                    finished(job, state_of(batch, job, f'Slurm ended job {number}'))
            if waiting:
                time.sleep(self.poll_seconds)


def _new_folder(parent: Path) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    stamp, number = time.strftime('%Y%m%d_%H%M%S'), 0
    while True:
        folder = parent / (f'{stamp}_{number}' if number else stamp)
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


def _submit(script: Path) -> str:
    answer = subprocess.run(['sbatch', str(script)], capture_output=True, text=True)
    match = re.search(r'Submitted batch job (\d+)', answer.stdout)
    if answer.returncode or match is None:
        raise RuntimeError(
            f'sbatch must take {script}, but says: {(answer.stderr or answer.stdout).strip()}; '
            'correct the options of the engine.'
        )
    return match[1]


def _is_queued(number: str) -> bool:
    answer = subprocess.run(['squeue', '--noheader', '--jobs', number], capture_output=True, text=True)
    # An unknown number is an error to squeue: the job ended and was forgotten. Any other error is no answer.
    return bool(answer.stdout.strip()) if not answer.returncode else 'Invalid job id' not in answer.stderr


def _await_stop(batch: Batch, jobs: Sequence[Job]) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline and any(
        (state := states.read_state(batch.job_dir(job))) is not None and state.status == 'running' for job in jobs
    ):
        time.sleep(min(1.0, STOP_SECONDS / 10))
