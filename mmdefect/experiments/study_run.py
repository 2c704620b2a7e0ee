"""Carry out a study: what is recorded is not run, the rest goes to the slots, every finished run leaves its record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdefect.experiments import states
from mmdefect.experiments.engine import Engine
from mmdefect.experiments.evidence.truth import Truth
from mmdefect.experiments.records import write_text
from mmdefect.experiments.spec import Batch, Job, Tools
from mmdefect.experiments.states import JobState
from mmdefect.experiments.study import Run, Study
from mmdefect.experiments.study_records import claim_records, make_record, record_path, write_record
from mmdefect.experiments.study_table import write_study_page

#: All studies share one project, so that an arm of two studies has one folder.
PROJECT = 'studies'


@dataclass(frozen=True)
class Places:
    """Where a study works and writes.

    Attributes:
        work_dir: folder of all projects.
        results: folder of the pages; records lie in its ``records``.
        root: repository.
    """

    work_dir: Path
    results: Path
    root: Path

    @property
    def records(self) -> Path:
        return self.results / 'records'


def make_jobs(study: Study, runs: Sequence[Run], places: Places) -> dict[str, Job]:
    """Return a job for each different run, by key, in order; writes the config of each that has none yet."""
    jobs: dict[str, Job] = {}
    for run in runs:
        if run.key in jobs:
            continue
        config = places.work_dir / PROJECT / 'configs' / f'{run.key}.py'
        folder = Path(study.base).stem
        jobs[run.key] = Job(f'{folder}/{run.key}', config, f'{run.arm.name} seed {run.seed}')
    return jobs


def make_batch(study: Study, jobs: Sequence[Job], places: Places, tools: Tools, gpu_count: int = 0) -> Batch:
    """Return the plan that the jobs of a study belong to."""
    return Batch(places.work_dir, PROJECT, tuple(jobs), gpu_count, tools, study.rule)


def run_study(
    study: Study,
    runs: Sequence[Run],
    places: Places,
    tools: Tools,
    engine: Engine,
    load_truth: Callable[[dict[str, Any]], Truth],
    command: str,
    show: Callable[[str], None] = print,
    gpu_count: int = 0,
) -> dict[str, JobState]:
    """Train, select and test what has no record yet; write a record and the study's page after every run.

    Args:
        study: the study.
        runs: of :func:`mmdefect.experiments.study.expand`.
        places: folders.
        tools: programs that do the work.
        engine: what runs them side by side.
        load_truth: gives the test set of a run's settings.
        command: printed on the page.
        show: gets every line of output; must be a plain function of a module (it is sent to other processes).
        gpu_count: devices of each run, for engines that hand them out.

    Returns:
        The final states by key, of the runs that were not recorded before.
    """
    jobs = make_jobs(study, runs, places)
    by_key = {run.key: run for run in reversed(runs)}
    open_keys = [key for key in jobs if not record_path(places.records, key).is_file()]
    show(f'{study.name}: {len(jobs)} runs, {len(jobs) - len(open_keys)} recorded before, {len(open_keys)} to do')
    batch = make_batch(study, list(jobs.values()), places, tools, gpu_count)
    for key in open_keys:
        _write_config(batch, jobs[key], by_key[key].text)
    results: dict[str, JobState] = {}

    def finished(job: Job, state: JobState) -> None:
        key = job.config.stem
        results[key] = state
        if state.status == 'done':
            truth = load_truth(by_key[key].settings)
            record = make_record(study, by_key[key], state, batch.job_dir(job), truth, places.root, command)
            write_record(places.records, record)
            show(f'{job.label}: done, {_summary(study, state)} ({len(results)}/{len(open_keys)})')
        else:
            show(f'{job.label}: {state.status}: {state.error}')
        publish(study, runs, places, command)

    publish(study, runs, places, command)
    if open_keys:
        engine.check(batch)
        engine.run(batch, [jobs[key] for key in open_keys], show, finished)
    return results


def publish(study: Study, runs: Sequence[Run], places: Places, command: str) -> Path:
    """Note the study's cells in the records and write its page."""
    places.records.mkdir(parents=True, exist_ok=True)
    claim_records(places.records, study, runs)
    return write_study_page(study, places.results, command)


def _write_config(batch: Batch, job: Job, text: str) -> None:
    state = states.read_state(batch.job_dir(job))
    if state is None or not state.attempts or not job.config.is_file():  # what was begun goes on as it began
        write_text(job.config, text)
    write_text(batch.job_dir(job) / states.TITLE_NAME, job.label + '\n')


def _summary(study: Study, state: JobState) -> str:
    values = [f'{key} {state.metrics[key]:.2f}' for key in study.metrics if state.metrics.get(key) is not None]
    return ', '.join(values) or 'no metric of the study in the log'
