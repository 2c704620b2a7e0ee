"""What a study will do and what it will claim, written down and committed before its first run."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmdefect.experiments.compare import FinishedRun, compare_runs
from mmdefect.experiments.settings import difference, digest, flatten
from mmdefect.experiments.statistics import format_difference
from mmdefect.experiments.study import Study
from mmdefect.experiments.study_records import commit, read_records, records_of
from mmdefect.experiments.tables import markdown_table
from mmdefect.files import read_json, write_json

FORMAT = 'mmdefect-preregistration/1'


def plan_of(study: Study) -> dict[str, Any]:
    """Return what decides a study: arms with their seeds, settings, metric, budget, stopping rule and decision."""
    whole = asdict(study)
    arms = {arm.name: {**asdict(arm), 'seeds': study.seeds_of(arm)} for arm in study.arms}
    hidden = {'name', 'title', 'text', 'arms', 'factor', 'metrics'}
    plan = {key: value for key, value in whole.items() if key not in hidden}
    return {
        **plan,
        'metric': study.metrics[0],
        'arms': {n: {k: a[k] for k in a if k != 'note'} for n, a in arms.items()},
    }


def path_of(study: Study, results: Path) -> Path:
    """Return the file of a study's preregistration."""
    return results / 'preregistered' / f'{study.name}.json'


def preregister(study: Study, results: Path, root: Path) -> Path:
    """Write the preregistration of a study that has no record yet, a stopping rule and a decision."""
    path = path_of(study, results)
    if not (study.stopping and study.decision):
        raise ValueError(f'{study.name} must have `stopping` and `decision` to be preregistered; add them to its file.')
    if path.is_file() or records_of(study.name, read_records(results / 'records')):
        raise ValueError(
            f'a study must be preregistered once, before its first run, but {study.name} has '
            f'{f"the file {path.name}" if path.is_file() else "records"}; give a changed study another name.'
        )
    head = commit(root).get('commit', '')
    body = {'format': FORMAT, 'study': study.name, 'commit': head, 'written': time.strftime('%Y-%m-%d %H:%M')}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**body, 'plan': plan_of(study)})
    return path


def registered(study: Study, results: Path, root: Path) -> dict[str, Any]:
    """Return what a record notes of the preregistration, if there is one; it must be committed as it is."""
    path = path_of(study, results)
    if not path.is_file():
        return {}
    git = ['git', '-C', str(root)]
    tracked = subprocess.run([*git, 'ls-files', '--', str(path)], capture_output=True, text=True, check=False).stdout
    changed = subprocess.run([*git, 'diff', 'HEAD', '--stat', '--', str(path)], capture_output=True, check=False).stdout
    if not tracked or changed:
        raise ValueError(f'{path} must be committed before a run, but is not; commit it first.')
    return {'preregistered': {study.name: digest(read_json(path)['plan'])}}


def preregistered_section(
    study: Study, results: Path, records: Mapping[str, Mapping[int, Any]], runs: Mapping[str, Mapping[int, FinishedRun]]
) -> list[str]:
    """Return the section of a page that compares a study with its preregistration; nothing if there is none."""
    path = path_of(study, results)
    if not path.is_file():
        return []
    body = read_json(path)
    deviations = [
        f'`{key}` was planned as {old!r} and is {new!r}.'
        for key, (old, new) in difference(flatten(body['plan']), flatten(plan_of(study))).items()
    ]
    planned = {(name, seed) for name, arm in body['plan']['arms'].items() for seed in arm['seeds']}
    cells = {
        (name, seed - study_arm.seed_offset): records[name][seed]
        for study_arm in study.arms
        if (name := study_arm.name) in records
        for seed in records[name]
    }
    other = {cell for cell, r in cells.items() if r.get('preregistered', {}).get(study.name) != digest(body['plan'])}
    odd = {
        'planned runs are missing': planned - cells.keys(),
        'runs were not planned': cells.keys() - planned,
        'runs were not made under this plan': other,
    }
    deviations += [f'{len(found)} {words}, the first is {min(found)}.' for words, found in odd.items() if found]
    lines = []
    for claim in body['plan']['decision']:
        first, second = (runs.get(name, {}) for name in claim['pair'])
        seeds = sorted(first.keys() & second.keys())
        words = [f'`{claim["pair"][1]}` - `{claim["pair"][0]}`', f'{claim["metric"]} above {claim["above"]:+g}']
        if not seeds:
            lines.append([*words, 'no runs yet', '–', '–'])
            continue
        pair = ([arm[seed] for seed in seeds] for arm in (first, second))
        interval, over = compare_runs(*pair, claim['metric'], True)
        verdict = 'met' if interval.low > claim['above'] else 'missed' if interval.high < claim['above'] else 'open'
        lines.append([*words, verdict, format_difference(interval), over])
    table = markdown_table(['pair', 'claim', 'verdict', 'difference [95 %]', 'interval over'], lines, text=(0, 1, 2))
    where = f'`preregistered/{path.name}`, written {body["written"]} after commit {body["commit"]}'
    kept = ''.join(f'- {line}\n' for line in deviations) or '- None: the study is what was planned.\n'
    stopping = f'Stopping rule: {body["plan"]["stopping"]}'
    return [f'## As planned beforehand\n\n{where}. {stopping}\n\n{table}\nDeviations:\n\n{kept}']
