"""The engine for Ray: every job is a task; a job whose worker is lost goes on elsewhere from its last checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mmdefect.experiments import process
from mmdefect.experiments.job import disown, run_job
from mmdefect.experiments.pool import state_of, thread_variables
from mmdefect.experiments.ray_cluster import connected, import_ray
from mmdefect.experiments.spec import Batch, Job
from mmdefect.experiments.states import JobState

#: Seconds that stopped jobs get to write their state before the connection is closed.
STOP_SECONDS = 45.0


@dataclass(frozen=True)
class RayTasks:
    """See :class:`mmdefect.experiments.engine.Engine`. All machines must see the project, the data and this package.

    Attributes:
        address: of the cluster; by default ``$RAY_ADDRESS``, else a Ray of this machine.
        count: CPU slots of a Ray that is started here, in jobs; 0 takes all cores.
        threads: cores that a job asks for, and threads of its libraries; 0 asks for one and leaves the threads.
        gpus: devices of a Ray that is started here; 0 takes those that it finds.
        retries: how often a job is started again after its worker was lost.
    """

    address: str | None = None
    count: int = 0
    threads: int = 0
    gpus: int = 0
    retries: int = 3

    def check(self, batch: Batch) -> None:
        """Raise if Ray is not installed; how many GPUs there are is the cluster's business."""
        import_ray()

    def run(
        self, batch: Batch, jobs: Sequence[Job], show: Callable[[str], None], finished: Callable[[Job, JobState], None]
    ) -> None:
        """Run jobs in order, as many at a time as the cluster has room for."""
        batch = replace(batch, environment={**batch.environment, **thread_variables(self.threads)})
        cores = max(1, self.threads)
        with connected(self.address, self.count * cores or None, self.gpus or None) as ray:
            self._warn_of_too_little(ray, cores, batch.gpu_count, show)
            task = ray.remote(num_cpus=cores, num_gpus=batch.gpu_count, max_retries=0)(_work)

            def start(job: Job):
                return task.options(name=job.label).remote(batch, job, show, os.getcwd())

            running = {start(job): (job, 0) for job in jobs}
            try:
                while running:
                    for ref in ray.wait(list(running), num_returns=1, timeout=1.0)[0]:
                        job, tries = running[ref]
                        try:
                            ray.get(ref)
                        except _losses(ray) as err:
                            lost = f'its worker was lost {tries + 1} times ({type(err).__name__})'
                            del running[ref]
                            disown(batch, job, '' if tries < self.retries else lost)
                            if tries < self.retries:
                                show(f'{job.label}: {lost}; it goes on from the last checkpoint')
                                running[start(job)] = job, tries + 1
                                continue
                        else:
                            del running[ref]
                        finished(job, state_of(batch, job, 'its worker was lost'))
            except BaseException:
                for ref in running:
                    ray.cancel(ref)
                if running:
                    ray.wait(list(running), num_returns=len(running), timeout=STOP_SECONDS)
                raise

    @staticmethod
    def _warn_of_too_little(ray, cores: int, gpus: int, show: Callable[[str], None]) -> None:
        there = ray.cluster_resources()
        for name, wanted in (('CPU', cores), ('GPU', gpus)):
            if there.get(name, 0) < wanted:
                show(
                    f'warning: a job asks for {wanted} {name}, but the cluster has {there.get(name, 0):g} now; '
                    'jobs wait until a machine with enough joins'
                )


def _work(batch: Batch, job: Job, show: Callable[[str], None], folder: str) -> None:
    os.chdir(folder)  # relative paths in configs mean what they mean where the batch was started
    with process.stop_signals():
        run_job(batch, job, lambda line: show(f'{job.label} | {line}'))


def _losses(ray) -> tuple[type[BaseException], ...]:
    """What Ray raises when the process or the machine of a task is gone; nothing that the task itself did."""
    errors = ray.exceptions
    return errors.WorkerCrashedError, errors.NodeDiedError, errors.LocalRayletDiedError, errors.OutOfMemoryError
