"""The page of a study, ``docs/results/<study>.md``, from its records alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdefect.experiments.compare import Comparison, compare, compare_groups, compare_runs, render, run_of_record
from mmdefect.experiments.preregistration import preregistered_section
from mmdefect.experiments.settings import digest
from mmdefect.experiments.statistics import format_difference, format_mean, format_p, holm
from mmdefect.experiments.study import Study
from mmdefect.experiments.study_records import read_records, records_of
from mmdefect.experiments.tables import markdown_table
from mmdefect.files import write_text

_OVER = ' Intervals are over seeds and test images where all runs know what each image adds, else over seeds.'
#: ``{arm: {seed: record}}``, or finished runs in place of records.
Found = Mapping[str, Mapping[int, Any]]


def compare_study(study: Study, records: Mapping[str, Any], metrics: Sequence[str] = ()) -> Comparison | None:
    """Compare the arms of a study that have records; ``None`` as long as the reference has none."""
    found = records_of(study.name, records)
    arms = {arm.name: [run_of_record(r) for r in found[arm.name].values()] for arm in study.arms if arm.name in found}
    if study.reference not in arms:
        return None
    return compare(arms, study.reference, metrics or present_metrics(study, found), study.factor_keys)


def present_metrics(study: Study, found: Found) -> list[str]:
    """Return the metrics of a study that its runs have measured, the first one always among them."""
    measured = {key for seeds in found.values() for record in seeds.values() for key in record['test']}
    return [metric for k, metric in enumerate(study.metrics) if k == 0 or metric in measured]


def write_study_page(study: Study, folder: Path, command: str) -> Path:
    """Write ``<folder>/<study>.md`` from ``<folder>/records`` and return its path; the page names the command."""
    records = read_records(folder / 'records')
    found = records_of(study.name, records)
    comparison = compare_study(study, records)
    planned = [(arm.name, seed + arm.seed_offset) for arm in study.arms for seed in study.seeds_of(arm)]
    done = sum(seed in found.get(arm, {}) for arm, seed in planned)
    rule, without = study.rule, ' without background' if study.rule.exclude_background else ''
    parts = [f'# {study.title or study.name}\n', *_caveats(study, found)]
    if study.text:
        parts.append(study.text.strip() + '\n')
    parts.append(f'```\n{command}\n```\n')
    chosen = (
        f'best `{rule.metric}`{without} on validation, {rule.tie} of equals; the test set was read once by each run'
    )
    counted = f'{done} of {len(planned)} runs are here'
    factor = study.factor or 'not named'
    parts.append(f'{counted}. Base `{study.base}`, factor: {factor}, checkpoint: {chosen}.\n')
    if comparison is None:
        parts.append(f'The reference arm `{study.reference}` has no run yet.\n')
    else:
        metrics = present_metrics(study, found)
        runs = {arm: {seed: run_of_record(r) for seed, r in seeds.items()} for arm, seeds in found.items()}
        parts += preregistered_section(study, folder, found, runs)
        parts += ['## Test\n', render(comparison, {arm.name: arm.note for arm in study.arms})]
        parts += filter(None, (section(study, runs, metrics) for section in (each_pair_section, pairs_section)))
        parts += ['## Validation, at the chosen checkpoint\n', _validation_table(study, found)]
        parts += ['## Runs\n', _runs_table(study, found), _origin(found)]
    path = folder / f'{study.name}.md'
    write_text(path, '\n'.join(parts))
    return path


def each_pair_section(study: Study, found: Found, metrics: list[str]) -> str:
    """Return the section on the difference within each of ``study.pairs``, over the seeds that have both arms."""
    pairs = list(dict.fromkeys(pair for group in study.pairs.values() for pair in group))
    columns: dict[str, dict[str, str]] = {}
    for metric in metrics:
        intervals = {}
        for pair in pairs:
            without, with_it = (found.get(arm, {}) for arm in pair)
            seeds = [seed for seed in study.seeds if seed in without and seed in with_it]
            values = [runs[seed].test.get(metric) for seed in seeds for runs in (without, with_it)]
            if seeds and None not in values:
                both = ([runs[seed] for seed in seeds] for runs in (without, with_it))
                intervals[f'`{pair[1]}` - `{pair[0]}`, n = {len(seeds)}'] = compare_runs(*both, metric, True)[0]
        tested = [name for name, interval in intervals.items() if not math.isnan(interval.p)]
        adjusted = dict(zip(tested, holm([intervals[name].p for name in tested]), strict=True))
        marks = {name: ' *' if adjusted.get(name, 1) < 0.05 else '' for name in intervals}
        columns[metric] = {name: format_difference(interval) + marks[name] for name, interval in intervals.items()}
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    if not names:
        return ''
    shown = [metric for metric in columns if columns[metric]]
    lines = [[name, *(columns[metric].get(name, '–') for metric in shown)] for name in names]
    return (
        '## Each pair\n\nDifference in pairs over seeds. * p below .05 after Holm over the pairs, not adjusted for the '
        f'number of metrics.{_OVER}\n\n' + markdown_table(['pair', *shown], lines)
    )


def pairs_section(study: Study, found: Found, metrics: list[str]) -> str:
    """Return the section of a page on each group of ``study.pairs``; nothing as long as no seed has all of a group."""
    sections = (_group_section(study, title, pairs, found, metrics) for title, pairs in study.pairs.items())
    return '\n'.join(filter(None, sections))


def _group_section(study: Study, title: str, pairs: Sequence[tuple[str, str]], found: Found, metrics: list[str]) -> str:
    """A seed is one observation, for its pairs share images: its value is the mean over the pairs."""
    seeds = [seed for seed in study.seeds if all(seed in found.get(arm, {}) for pair in pairs for arm in pair)]
    lines = []
    for metric in metrics if seeds else ():
        values = [[[found[arm][seed].test.get(metric) for arm in pair] for pair in pairs] for seed in seeds]
        if any(value is None for of_seed in values for pair in of_seed for value in pair):
            continue
        without, with_it = ([sum(pair[k] for pair in of_seed) / len(of_seed) for of_seed in values] for k in (0, 1))
        groups = ([[found[pair[k]][seed] for pair in pairs] for seed in seeds] for k in (0, 1))
        interval, over = compare_groups(*groups, metric, True)
        won = sum(pair[1] > pair[0] for of_seed in values for pair in of_seed)
        difference = [format_difference(interval), format_p(interval.p), f'{won} of {len(seeds) * len(pairs)}', over]
        lines.append([metric, format_mean(without), format_mean(with_it), *difference])
    if not lines:
        return ''
    header = ['metric', 'first of the pair', 'second', 'difference [95 %]', 'p', 'higher in', 'interval over']
    names = ', '.join(f'`{b}` against `{a}`' for a, b in pairs)
    return (
        f'## Pairs together{": " * bool(title)}{title}\n\n{names}. Mean over the pairs, ± over {len(seeds)} '
        'seeds; p is not adjusted for the number of metrics; the last but one column counts pairs and seeds in which '
        'the value went up.\n\n' + markdown_table(header, lines)
    )


def _validation_table(study: Study, found: Found) -> str:
    rows = {arm.name: list(found[arm.name].values()) for arm in study.arms if arm.name in found}
    logged = {key for runs in rows.values() for record in runs for key in record['validation']}
    keys = [key for key in dict.fromkeys([study.rule.metric, *study.metrics]) if key in logged]
    lines = []
    for name, runs in rows.items():
        cells = [_mean([r['validation'].get(key) for r in runs]) for key in keys]
        lines.append([name, *cells, ' '.join(str(r['best'].get('iter')) for r in runs)])
    return markdown_table(['arm', *keys, 'iteration of each seed'], lines)


def _runs_table(study: Study, found: Found) -> str:
    metric, lines = study.metrics[0], []
    for arm in study.arms:
        for seed, r in found.get(arm.name, {}).items():
            minutes, commit = f'{r["train_seconds"] / 60:.1f}', r.get('commit', '') + '*' * bool(r.get('modified'))
            cells = [str(seed), _mean([r['test'].get(metric)]), str(r['budget']['iterations']), minutes, commit]
            lines.append([arm.name, f'[`{r["key"]}`](records/{r["key"]}.json)', *cells])
    return markdown_table(['arm', 'record', 'seed', metric, 'updates', 'minutes', 'commit'], lines, text=(0, 1))


def _mean(values: Sequence[float | None]) -> str:
    return format_mean([value for value in values if value is not None])


def _caveats(study: Study, found: Found) -> list[str]:
    """Return what a reader must know first: runs from modified trees, from before keys held the code, and drift."""
    records = [record for seeds in found.values() for record in seeds.values()]
    notes, count = [], len(records)
    modified = sum(bool(r.get('modified', True)) for r in records)
    if modified:
        notes.append(f'{modified} of {count} runs come from **modified trees**: no commit can make them again.')
    old = sum('code' not in r for r in records)
    if old:
        notes.append(
            f'{old} of {count} runs were made before a key held code and versions and before records held what each '
            'image adds: their keys may give other numbers now, and their intervals leave images out in most metrics.'
        )
    for what in study.tolerates:
        states = {digest(r[what]) for r in records if r.get(what)}
        if len(states) > 1:
            notes.append(f'Tolerated drift: the runs come from {len(states)} states of the {what} that trains.')
    return [f'> {note}\n' for note in notes]


def _origin(found: Found) -> str:
    records = [record for seeds in found.values() for record in seeds.values()]
    hardware = {', '.join(f'{v} cores' if k == 'cores' else str(v) for k, v in r['hardware'].items()) for r in records}
    torch = {r['versions'].get('torch', '?') for r in records}
    data = {f'{name} {value}' for r in records for name, value in r['data'].items()}
    return (
        f'Hardware: {"; ".join(sorted(hardware))}. torch {", ".join(sorted(torch))}. Data (hash of all files): '
        f'{", ".join(sorted(data))}. A star marks a commit with local changes.\n'
    )
