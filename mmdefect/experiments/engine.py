"""What an engine is: something that runs jobs of a batch side by side, here or elsewhere.

============================== ====================================================================================
:class:`.pool.Slots`           processes of this machine, on CPU threads or a queue of GPUs
:class:`.ray_tasks.RayTasks`   tasks of a Ray cluster, or of a Ray started here
:class:`.slurm.SlurmArray`     an array job of Slurm
============================== ====================================================================================

All of them call :func:`mmdefect.experiments.job.run_job` in the end; all they know of each other is the state files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from mmdefect.experiments.spec import Batch, Job
from mmdefect.experiments.states import JobState


class Engine(Protocol):
    """Runs jobs."""

    def check(self, batch: Batch) -> None:
        """Raise what can be known to be wrong before the first training.

        Raises:
            ValueError, RuntimeError, ModuleNotFoundError: if the machine has not what the batch asks for.
        """

    def run(
        self, batch: Batch, jobs: Sequence[Job], show: Callable[[str], None], finished: Callable[[Job, JobState], None]
    ) -> None:
        """Run jobs in order, several at a time; those that another process runs are left to it.

        Args:
            batch: tools, rule and folder of the project; its own jobs do not matter here.
            jobs: what to run.
            show: gets every line of output, perhaps in another process: a function of a module, which should print.
            finished: called here after each job with its state.

        Raises:
            KeyboardInterrupt: if asked to stop; the running jobs are stopped and can be resumed.
        """
