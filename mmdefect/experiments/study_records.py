"""One small JSON file for each run of a study: everything its tables and comparisons are made from."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdefect.experiments import environment
from mmdefect.experiments.evidence.truth import Truth, count_predictions
from mmdefect.experiments.records import read_json, read_validations, training_logs, write_text
from mmdefect.experiments.settings import hash_files
from mmdefect.experiments.states import JobState
from mmdefect.experiments.study import Run, Study

VERSION = 1
_LIBRARY = re.compile(r'library of defects in (.+):$', re.MULTILINE)


def record_path(folder: Path, key: str) -> Path:
    """Return the file of a record."""
    return folder / f'{key}.json'


def make_record(
    study: Study, run: Run, state: JobState, job_dir: Path, truth: Truth | None, root: Path, command: str = ''
) -> dict[str, Any]:
    """Collect what a finished run proves.

    Args:
        study: the study that asked for it.
        run: what was run.
        state: its final state.
        job_dir: folder with ``train/`` and ``test/``.
        truth: test set; without it the record has no counts of each image, and no interval can be had from it.
        root: repository; paths are stored relative to it.
        command: what made the run.
    """
    logs = sorted((job_dir / 'train').glob('train_log_*.txt'))
    log = logs[-1].read_text(encoding='utf-8', errors='replace') if logs else ''
    validations = read_validations(training_logs(job_dir / 'train'), lambda line: None)
    best = state.best or {}
    names = _hidden_places(run, root)
    record = {
        'version': VERSION,
        'key': run.key,
        'used_by': [],
        'base': study.base,
        'seed': run.seed,
        'diff': {key: [_hide(v, names) for v in values] for key, values in run.diff.items()},
        'data': {names.get(path, Path(path).name): value for path, value in run.data.items()},
        'budget': budget(run.settings),
        'rule': state.rule,
        'best': best,
        'validation': _numbers(validations.get(best.get('iter'), {})),
        'curve': {
            str(step): _numbers({k: v for k, v in values.items() if k in {*study.metrics, study.rule.metric}})
            for step, values in validations.items()
        },
        'test': _numbers({**_per_class(state.classes), **state.metrics}),
        'tests': state.tests,
        'command': command,
        'train_seconds': round(state.train_seconds, 1),
        'attempts': len(state.attempts),
        'finished': time.strftime('%Y-%m-%d %H:%M'),
        'versions': environment.versions(),
        'hardware': environment.hardware(log),
        **environment.commit(root),
        'leaks': donor_leaks(job_dir, truth, run.data),
    }
    if truth is not None:
        counts, matrix = count_predictions(job_dir / 'test', truth)
        record['confusion'], record['counts'] = matrix.tolist(), counts.to_json()
    return record


def write_record(folder: Path, record: Mapping[str, Any]) -> Path:
    """Write a record with its short lists on one line each, so that it is small and still readable."""
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    text = re.sub(r'\[\s*([^\[\]{}]*?)\s*\]', lambda m: '[' + re.sub(r'\s*\n\s*', ' ', m[1]) + ']', text)
    write_text(record_path(folder, record['key']), text + '\n')
    return record_path(folder, record['key'])


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """Return all records of a folder by key.

    Raises:
        ValueError: naming the file that is none of this version.
    """
    records = {}
    for path in sorted(folder.glob('*.json')):
        value = read_json(path)
        if not isinstance(value, dict) or value.get('version') != VERSION or value.get('key') != path.stem:
            raise ValueError(f'{path} must be a record of version {VERSION} named by its key, but is not; remove it.')
        records[path.stem] = value
    return records


def claim_records(folder: Path, study: Study, runs: Sequence[Run]) -> None:
    """Note in each record which cells of the study it fills, and take back cells that other records filled before."""
    cells = {(run.arm.name, run.seed): run.key for run in runs}
    for key, record in read_records(folder).items():
        kept = [
            use
            for use in record['used_by']
            if use['study'] != study.name
            or (cells.get((use['arm'], use['seed']), key) == key and use['arm'] in {arm.name for arm in study.arms})
        ]
        for run in runs:
            use = {'study': study.name, 'arm': run.arm.name, 'seed': run.seed}
            if run.key == key and use not in kept:
                kept.append(use)
        if kept != record['used_by']:
            write_record(folder, {**record, 'used_by': kept})


def records_of(study_name: str, records: Mapping[str, dict[str, Any]]) -> dict[str, dict[int, dict[str, Any]]]:
    """Return ``{arm: {seed: record}}`` of a study."""
    arms: dict[str, dict[int, dict[str, Any]]] = {}
    for record in records.values():
        for use in record['used_by']:
            if use['study'] == study_name:
                arms.setdefault(use['arm'], {})[use['seed']] = record
    return {arm: dict(sorted(seeds.items())) for arm, seeds in arms.items()}


def budget(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be equal for a fair comparison: updates, images of each update, validations."""
    loop, loader = settings.get('train_cfg') or {}, settings.get('train_dataloader') or {}
    return {
        'iterations': loop.get('max_iters'),
        'val_interval': loop.get('val_interval'),
        'batch_size': loader.get('batch_size'),
    }


def donor_leaks(job_dir: Path, truth: Truth | None, folders: Iterable[str] = ()) -> list[str] | None:
    """Return the test images that donors of the training were cut from; ``None`` if no list of donors is found.

    Lists are ``donors.json`` and ``library.json`` below ``train/``, and ``library.json`` in the given folders and in
    those that the training log names; each names its images in ``sources``. Images are compared by path, and by
    content where the file is still there.
    """
    logs = (job_dir / 'train').glob('train_log_*.txt')
    logged = {name for log in logs for name in _LIBRARY.findall(log.read_text(encoding='utf-8', errors='replace'))}
    found = [
        *(job_dir / 'train').rglob('donors.json'),
        *(job_dir / 'train').rglob('library.json'),
        *(Path(folder) / 'library.json' for folder in {*folders, *logged}),
    ]
    found = [path for path in found if path.is_file()]
    if truth is None or not found:
        return None
    sources = {Path(source) for path in found for source in read_json(path)['sources']}
    places = {source.resolve() for source in sources}
    contents = {hash_files(source) for source in sources if source.is_file()}
    return sorted(
        sample.name
        for sample in truth.samples
        if sample.image.resolve() in places or hash_files(sample.image) in contents
    )


def _per_class(classes: Mapping[str, Mapping[str, float | None]]) -> dict[str, float | None]:
    return {f'{column}.{name}': value for name, row in classes.items() for column, value in row.items()}


def _numbers(values: Mapping[str, Any]) -> dict[str, float | None]:
    return {
        key: (round(float(value), 4) if value is not None and math.isfinite(value) else None)
        for key, value in values.items()
        if value is None or isinstance(value, (int, float))
    }


def _hidden_places(run: Run, root: Path) -> dict[str, str]:
    """Names for the places of this machine; the longest first, so that a folder does not hide what lies in it."""
    places = {path: f'<{Path(path).name}>' for path in run.data if Path(path).is_absolute()}
    places[str(root)] = '.'
    return dict(sorted(places.items(), key=lambda item: -len(item[0])))


def _hide(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, (list, tuple)):
        return [_hide(part, names) for part in value]
    if isinstance(value, str):
        for path, name in names.items():
            value = value.replace(path, name)
        return re.sub(r'^/\S*/(?=[^/\s]+$)', '', value)
    return value
