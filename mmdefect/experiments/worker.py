"""Run one job of a written plan: what an engine that starts programs, such as Slurm, starts.

``python -m mmdefect.experiments.worker PLAN.json NUMBER``. Exit code: 0 done, 1 not, 128 + n stopped by signal n.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mmdefect.experiments import process
from mmdefect.experiments.job import disown, run_job
from mmdefect.experiments.spec import read_batch


def main(argv: list[str]) -> int:
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
