"""Jobs side by side: a number of slots, each a process of its own, on CPU threads or on a queue of GPUs."""

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
    """Where jobs run.

    Attributes:
        count: jobs at the same time.
        threads: threads of the libraries in each; 0 leaves them as they are.
        gpus: device of each slot, taken in turn; empty trains on the CPU.
    """

    count: int = 1
    threads: int = 0
    gpus: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.count < 1 or self.threads < 0:
            raise ValueError(f'there must be at least one slot and no negative number of threads, got {self.count} and '
                             f'{self.threads}.')

    def environment(self, slot: int) -> dict[str, str]:
        """Return the variables of the tools in one slot."""
        values = {name: str(self.threads) for name in _THREADS} if self.threads else {}
        if self.gpus:
            values['CUDA_VISIBLE_DEVICES'] = self.gpus[slot % len(self.gpus)]
        return values


def run_jobs(batch: Batch, jobs: Sequence[Job], slots: Slots, show: Callable[[str], None],
             finished: Callable[[Job, JobState], None]) -> None:
    """Run jobs in order, ``slots.count`` at a time; those that another process runs are left to it.

    Args:
        batch: tools, rule and folder of the project; its own jobs do not matter here.
        jobs: what to run.
        slots: see :class:`Slots`.
        show: gets every line of output; called in the slot's process, so it should print.
        finished: called here after each job with its state.

    Raises:
        KeyboardInterrupt: if asked to stop; the running jobs are stopped and can be resumed.
    """
    context = multiprocessing.get_context('spawn')
    waiting, running = list(jobs), {}
    try:
        while waiting or running:
            for slot in range(slots.count):
                if slot not in running and waiting:
                    job = waiting.pop(0)
                    environment = {**batch.environment, **slots.environment(slot)}
                    mine = replace(batch, environment=environment, gpu_count=1 if slots.gpus else 0)
                    worker = context.Process(target=_work, args=(mine, job, show), name=job.label)
                    worker.start()
                    running[slot] = worker, job
            for slot, (worker, job) in list(running.items()):
                if not worker.is_alive():
                    worker.join()
                    del running[slot]
                    finished(job, _state(batch, job, worker))
            time.sleep(_POLL_SECONDS)
    except BaseException:
        _stop([worker for worker, _ in running.values()])
        raise


def _work(batch: Batch, job: Job, show: Callable[[str], None]) -> None:
    with process.stop_signals():
        try:
            run_job(batch, job, lambda line: show(f'{job.label} | {line}'))
        except process.Interrupted as err:
            raise SystemExit(128 + err.number) from None


def _state(batch: Batch, job: Job, worker: BaseProcess) -> JobState:
    state = states.read_state(batch.job_dir(job))
    if state is None:
        raise RuntimeError(f'the process of {job.name} must leave a state, but ended with exit code {worker.exitcode}; '
                           'see its output above.')
    return state


def _stop(workers: Sequence[BaseProcess]) -> None:
    for worker in workers:
        if worker.is_alive() and worker.pid is not None:
            os.kill(worker.pid, signal.SIGTERM)
    for worker in workers:
        worker.join()
