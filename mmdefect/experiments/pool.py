"""The local engine: a number of slots, each a process of its own, on CPU threads or on a queue of GPUs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess

from mmdefect.experiments import process, states
from mmdefect.experiments.job import run_job
from mmdefect.experiments.spec import Batch, Job
from mmdefect.experiments.states import JobState

_THREADS = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS')
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Slots:
    """The local engine, see :class:`mmdefect.experiments.engine.Engine`.

    Attributes:
        count: jobs at the same time.
        threads: threads of the libraries in each; 0 leaves them as they are.
        gpus: devices of each slot, taken in turn, such as ``'0'`` or ``'0,1'``; empty trains on the CPU.
    """

    count: int = 1
    threads: int = 0
    gpus: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.count < 1 or self.threads < 0:
            raise ValueError(
                f'there must be at least one slot and no negative number of threads, got {self.count} and '
                f'{self.threads}.'
            )

    def environment(self, slot: int) -> dict[str, str]:
        """Return the variables of the tools in one slot."""
        values = thread_variables(self.threads)
        if self.gpus:
            values['CUDA_VISIBLE_DEVICES'] = self.gpus[slot % len(self.gpus)]
        return values

    def check(self, batch: Batch) -> None:
        """Raise if torch does not see as many GPUs as are asked for."""
        named = {device for group in self.gpus for device in group.split(',')}
        wanted = max(batch.gpu_count, len(named))
        if not wanted:
            return
        present = process.count_gpus(batch.tools.python)
        if wanted > present:
            raise ValueError(
                f'`gpu_count` must be at most the number of GPUs that torch sees, {present}, got '
                f'{wanted}; take {present or "0 (CPU)"}, or look at CUDA_VISIBLE_DEVICES and the '
                'torch build.'
            )

    def run(
        self, batch: Batch, jobs: Sequence[Job], show: Callable[[str], None], finished: Callable[[Job, JobState], None]
    ) -> None:
        """Run jobs in order, ``count`` at a time."""
        context = multiprocessing.get_context('spawn')
        waiting, running = list(jobs), {}
        try:
            while waiting or running:
                for slot in range(self.count):
                    if slot not in running and waiting:
                        job = waiting.pop(0)
                        worker = context.Process(
                            target=work, args=(self._of_slot(batch, slot), job, show), name=job.label
                        )
                        worker.start()
                        running[slot] = worker, job
                for slot, (worker, job) in list(running.items()):
                    if not worker.is_alive():
                        worker.join()
                        del running[slot]
                        finished(job, state_of(batch, job, f'its process ended with exit code {worker.exitcode}'))
                time.sleep(_POLL_SECONDS)
        except BaseException:
            _stop([worker for worker, _ in running.values()])
            raise

    def _of_slot(self, batch: Batch, slot: int) -> Batch:
        environment = {**batch.environment, **self.environment(slot)}
        count = len(self.gpus[slot % len(self.gpus)].split(',')) if self.gpus else batch.gpu_count
        return replace(batch, environment=environment, gpu_count=count)


def thread_variables(threads: int) -> dict[str, str]:
    """Return the variables that limit the libraries to so many threads; 0 sets none."""
    return {name: str(threads) for name in _THREADS} if threads else {}


def work(batch: Batch, job: Job, show: Callable[[str], None]) -> None:
    """Run one job in a process made for it."""
    with process.stop_signals():
        try:
            run_job(batch, job, lambda line: show(f'{job.label} | {line}'))
        except process.Interrupted as err:
            raise SystemExit(128 + err.number) from None


def state_of(batch: Batch, job: Job, what_happened: str) -> JobState:
    """Return the state that a job was left in.

    Raises:
        RuntimeError: if there is none.
    """
    state = states.read_state(batch.job_dir(job))
    if state is None:
        raise RuntimeError(f'{job.name} must leave a state, but {what_happened}; see its output above.')
    return state


def _stop(workers: Sequence[BaseProcess]) -> None:
    for worker in workers:
        if worker.is_alive() and worker.pid is not None:
            os.kill(worker.pid, signal.SIGTERM)
    for worker in workers:
        worker.join()
