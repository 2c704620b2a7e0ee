"""One small JSON file for each run of a study: everything its tables and comparisons are made from."""

from __future__ import annotations

import ast
import contextlib
import json
import math
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from mmdefect.experiments.evidence.counts import Truth, count_predictions
from mmdefect.experiments.logs import console_logs, per_class, read_validations, training_logs
from mmdefect.experiments.settings import digest, hash_files
from mmdefect.experiments.states import JobState
from mmdefect.experiments.study import Run, Study
from mmdefect.files import read_json, write_text
from mmdefect.functional.metrics.images import EVIDENCE_NAME, pack_evidence

VERSION = 1
DISTRIBUTIONS = (
    *('mmdefect', 'torch', 'torchvision', 'numpy', 'opencv-python', 'mmengine', 'mmcv', 'mmsegmentation'),
    *('kornia', 'scipy', 'timm', 'mmpretrain'),
    *('onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation'),
)
#: What, untracked, still decides a result: where modules and configs are found.
CODE = ('mmdefect/', 'configs/', 'tools/', 'bash/')
#: Packages that a training does not pass.
_AFTERWARDS = frozenset({'experiments', 'visualization', 'deployment', 'doctor', 'demo', 'diffusion', 'inference'})
_LIBRARY = re.compile(r'library of defects in (.+):$', re.MULTILINE)


def record_path(folder: Path, key: str) -> Path:
    """Return the file of a record."""
    return folder / f'{key}.json'


def make_record(
    study: Study,
    run: Run,
    state: JobState,
    job_dir: Path,
    truth: Truth | None,
    root: Path,
    command: str = '',
    origin: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Collect what a finished run of a study proves, from its state and its ``train/`` and ``test/``.

    ``origin`` is what :func:`commit` said before the run, and further entries of the record, such as the digest of the
    preregistration; a tree that has changed since counts as modified.

    Without the test set the record has no counts of each image, and no interval can be had from it. Paths are stored
    relative to ``root``, the repository.
    """
    logs = console_logs(job_dir / 'train')
    log = logs[-1].read_text(encoding='utf-8', errors='replace') if logs else ''
    validations = read_validations(training_logs(job_dir / 'train'), lambda line: None)
    best = state.best or {}
    shown = {*study.metrics, study.rule.metric}
    names = _hidden_places(run, root)
    curve = {str(step): {key: v for key, v in values.items() if key in shown} for step, values in validations.items()}
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
        'curve': {step: _numbers(values) for step, values in curve.items()},
        'test': _numbers({**per_class(state.classes), **state.metrics}),
        'tests': state.tests,
        'command': command,
        'train_seconds': round(state.train_seconds, 1),
        'attempts': len(state.attempts),
        'finished': time.strftime('%Y-%m-%d %H:%M'),
        'versions': versions(),
        'hardware': hardware(log),
        **_joined(origin or {}, commit(root)),
        'code': run.code,
        'leaks': donor_leaks(job_dir, truth, run.data),
    }
    if truth is not None:
        counts, matrix = count_predictions(job_dir / 'test', truth)
        record['confusion'], record['counts'] = matrix.tolist(), counts.to_json()
        evidence = job_dir / 'test' / EVIDENCE_NAME
        if evidence.is_file():
            record['images'] = pack_evidence(evidence)
    return record


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write a record with its short lists on one line each, so that it is small and still readable."""
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    text = re.sub(r'\[\s*([^\[\]{}]*?)\s*\]', lambda m: '[' + re.sub(r'\s*\n\s*', ' ', m[1]) + ']', text)
    write_text(record_path(folder, record['key']), text + '\n')


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """Return all records of a folder by key; ``ValueError`` names a file that is none of this version."""
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
    arms = {arm.name for arm in study.arms}
    for key, record in read_records(folder).items():
        kept = [
            use
            for use in record['used_by']
            if use['study'] != study.name or (use['arm'] in arms and cells.get((use['arm'], use['seed']), key) == key)
        ]
        for (arm, seed), found in cells.items():
            use = {'study': study.name, 'arm': arm, 'seed': seed}
            if found == key and use not in kept:
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
    limits = {'iterations': loop.get('max_iters'), 'val_interval': loop.get('val_interval')}
    return {**limits, 'batch_size': loader.get('batch_size')}


def donor_leaks(job_dir: Path, truth: Truth | None, folders: Iterable[str] = ()) -> list[str] | None:
    """Return the test images that donors of the training were cut from; ``None`` if no list of donors is found.

    Lists are ``donors.json`` and ``library.json`` below ``train/``, and ``library.json`` in the given folders and in
    those that the training log names; each names its images in ``sources``. Images are compared by path, and by
    content where the file is still there.
    """
    train_dir = job_dir / 'train'
    logs = [log.read_text(encoding='utf-8', errors='replace') for log in console_logs(train_dir)]
    named = {*folders, *(name for log in logs for name in _LIBRARY.findall(log))}
    found = [*train_dir.rglob('donors.json'), *train_dir.rglob('library.json')]
    found += [path for path in (Path(folder) / 'library.json' for folder in named) if path.is_file()]
    if truth is None or not found:
        return None
    sources = {Path(source) for path in found for source in read_json(path)['sources']}
    places = {source.resolve() for source in sources}
    contents = {hash_files(source) for source in sources if source.is_file()}
    leaks = (s.name for s in truth.samples if s.image.resolve() in places or hash_files(s.image) in contents)
    return sorted(leaks)


def versions() -> dict[str, str]:
    """Return the versions of what trains a model, as far as installed; nothing is imported for it."""
    found = {'python': platform.python_version()}
    for name in DISTRIBUTIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def hardware(log: str = '') -> dict[str, str | int]:
    """Return processor, cores, and the GPUs that a training log names."""
    info = Path('/proc/cpuinfo')  # there is none outside Linux
    models = re.findall(r'^model name\s*:\s*(.+?)\s*$', info.read_text() if info.is_file() else '', re.MULTILINE)
    processor = models[0] if models else platform.processor() or platform.machine()
    gpus = sorted(set(re.findall(r'^\s*GPU [\d,]+: (.+?)\s*$', log, re.MULTILINE)))
    cores = len(os.sched_getaffinity(0))
    return {'cpu': processor, 'cores': cores, **({'gpu': ', '.join(gpus)} if gpus else {})}


def commit(folder: Path) -> dict[str, str | bool]:
    """Return ``commit`` and ``modified`` (whether what decides a result differs from it); empty outside a repository.

    What a study itself writes, and other documents, do not decide anything.
    """
    git = ['git', '-C', str(folder)]
    commands = [*git, 'rev-parse', '--short=12', 'HEAD'], [*git, 'status', '--porcelain', '--', '.', ':(exclude)docs']
    try:
        head, changes = (subprocess.run(c, check=True, capture_output=True, text=True).stdout for c in commands)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return {}
    places = [line[3:] for line in changes.splitlines() if line[:2] != '??' or line[3:].startswith(CODE)]
    return {'commit': head.strip(), 'modified': bool(places)}


def check_clean(folder: Path, allowed: bool) -> dict[str, str | bool]:
    """Return :func:`commit`; ``ValueError`` if the tree is modified, or no repository, unless that is ``allowed``."""
    found = commit(folder)
    if not allowed and found.get('modified', True):
        what = 'has local changes' if found else 'is no git repository'
        raise ValueError(
            f'a study must run from a clean commit, so that its records can be made again, but {folder} {what}; commit '
            'them, or use a clone, or give --allow-modified, which its page then says on top.'
        )
    return found


def _joined(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    modified = bool(before.get('modified') or after.get('modified'))
    return {**after, **before, **({'modified': modified} if before or after else {})}


def code_digest(root: Path) -> str:
    """Return 16 hex digits of the package code that can decide a result; comments, docstrings and layout do not count.

    Only statements count, of all modules but those that come before or after a training.
    """
    package = root / 'mmdefect'
    files = [p for p in sorted(package.rglob('*.py')) if p.relative_to(package).parts[0] not in _AFTERWARDS]
    trees = {p.relative_to(root).as_posix(): ast.parse(p.read_text(encoding='utf-8')) for p in files}
    for node in (node for tree in trees.values() for node in ast.walk(tree)):
        body = getattr(node, 'body', None)
        if isinstance(body, list) and body and isinstance(getattr(body[0], 'value', None), ast.Constant):
            node.body = body[1:]
    return digest([[name, ast.dump(tree)] for name, tree in trees.items()])


def _numbers(values: Mapping[str, Any]) -> dict[str, float | None]:
    known = {key: value for key, value in values.items() if value is None or isinstance(value, (int, float))}
    finite = {key: value is not None and math.isfinite(value) for key, value in known.items()}
    return {key: round(float(value), 4) if finite[key] else None for key, value in known.items()}


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
