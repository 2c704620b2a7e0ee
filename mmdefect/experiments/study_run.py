"""Carry out a study: what is recorded is not run, the rest goes to the engine, every finished run leaves its record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdefect.experiments.batch import Batch, Job, Tools
from mmdefect.experiments.engines import Engine
from mmdefect.experiments.evidence.counts import Truth
from mmdefect.experiments.preregistration import registered
from mmdefect.experiments.process import Show
from mmdefect.experiments.states import TITLE_NAME, JobState, read_state
from mmdefect.experiments.study import Run, Study
from mmdefect.experiments.study_page import write_study_page
from mmdefect.experiments.study_records import check_clean, claim_records, make_record, record_path, write_record
from mmdefect.files import write_text

#: All studies share one project, so that an arm of two studies has one folder.
PROJECT = 'studies'


@dataclass(frozen=True)
class Places:
    """Where a study works and writes."""

    work_dir: Path  # folder of all projects
    results: Path  # folder of the pages; records lie in its `records`
    root: Path  # repository

    @property
    def records(self) -> Path:
        return self.results / 'records'


def run_study(
    study: Study,
    runs: Sequence[Run],
    places: Places,
    tools: Tools,
    engine: Engine,
    load_truth: Callable[[dict[str, Any]], Truth],
    command: str,
    show: Show = print,
    gpu_count: int = 0,
    allow_modified: bool = False,
) -> dict[str, JobState]:
    """Train, select and test what has no record yet; write a record and the study's page after every run.

    ``load_truth`` gives the test set of a run's settings; ``command`` is printed on the page; ``show`` gets every line
    of output and must be a function of a module (it is sent to other processes); each run gets ``gpu_count`` devices.
    A modified tree, or one without version control, is refused unless ``allow_modified``.

    Returns:
        The final states by key, of the runs that were not recorded before.
    """
    by_key = {run.key: run for run in reversed(runs)}
    jobs = {}  # one for each different run, in order
    for key in dict.fromkeys(run.key for run in runs):
        run, config = by_key[key], places.work_dir / PROJECT / 'configs' / f'{key}.py'
        jobs[key] = Job(f'{Path(study.base).stem}/{key}', config, f'{run.arm.name} seed {run.seed}')
    open_keys = [key for key in jobs if not record_path(places.records, key).is_file()]
    show(f'{study.name}: {len(jobs)} runs, {len(jobs) - len(open_keys)} recorded before, {len(open_keys)} to do')
    origin = check_clean(places.root, allow_modified) if open_keys else {}
    origin |= registered(study, places.results, places.root) if open_keys else {}
    batch = Batch(places.work_dir, PROJECT, tuple(jobs.values()), gpu_count, tools, study.rule)
    for key in open_keys:
        folder = batch.job_dir(jobs[key])
        state = read_state(folder)
        if state is None or not state.attempts or not jobs[key].config.is_file():  # what was begun goes on as it began
            write_text(jobs[key].config, by_key[key].text)
        write_text(folder / TITLE_NAME, jobs[key].label + '\n')
    results: dict[str, JobState] = {}

    def publish() -> None:
        places.records.mkdir(parents=True, exist_ok=True)
        claim_records(places.records, study, runs)
        write_study_page(study, places.results, command)

    def finished(job: Job, state: JobState) -> None:
        run = by_key[job.config.stem]
        results[run.key] = state
        if state.status == 'done':
            truth = load_truth(run.settings)
            record = make_record(study, run, state, batch.job_dir(job), truth, places.root, command, origin)
            write_record(places.records, record)
            values = [f'{key} {state.metrics[key]:.2f}' for key in study.metrics if state.metrics.get(key) is not None]
            summary = ', '.join(values) or 'no metric of the study in the log'
            show(f'{job.label}: done, {summary} ({len(results)}/{len(open_keys)})')
        else:
            show(f'{job.label}: {state.status}: {state.error}')
        publish()

    publish()
    if open_keys:
        engine.check(batch)
        engine.run(batch, [jobs[key] for key in open_keys], show, finished)
    return results
