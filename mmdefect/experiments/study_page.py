"""The page of a study, ``docs/results/<study>.md``, from its records alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdefect.experiments.compare import Comparison, compare, render, run_of_record
from mmdefect.experiments.statistics import compare_values, format_difference, format_mean, format_p, holm
from mmdefect.experiments.study import Study
from mmdefect.experiments.study_records import read_records, records_of
from mmdefect.experiments.tables import markdown_table
from mmdefect.files import write_text

#: ``{arm: {seed: record}}``.
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
    parts = [f'# {study.title or study.name}\n']
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
        parts += ['## Test\n', render(comparison, {arm.name: arm.note for arm in study.arms})]
        parts += filter(None, (section(study, found, metrics) for section in (each_pair_section, pairs_section)))
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
            values = [[runs[seed]['test'].get(metric) for seed in seeds] for runs in (without, with_it)]
            if seeds and None not in values[0] + values[1]:
                intervals[f'`{pair[1]}` - `{pair[0]}`, n = {len(seeds)}'] = compare_values(*values, paired=True)
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
        'number of metrics.\n\n' + markdown_table(['pair', *shown], lines)
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
        values = [[[found[arm][seed]['test'].get(metric) for arm in pair] for pair in pairs] for seed in seeds]
        if any(value is None for of_seed in values for pair in of_seed for value in pair):
            continue
        without, with_it = ([sum(pair[k] for pair in of_seed) / len(of_seed) for of_seed in values] for k in (0, 1))
        interval = compare_values(without, with_it, paired=True)
        won = sum(pair[1] > pair[0] for of_seed in values for pair in of_seed)
        difference = [format_difference(interval), format_p(interval.p), f'{won} of {len(seeds) * len(pairs)}']
        lines.append([metric, format_mean(without), format_mean(with_it), *difference])
    if not lines:
        return ''
    names = ', '.join(f'`{b}` against `{a}`' for a, b in pairs)
    return (
        f'## Pairs together{": " * bool(title)}{title}\n\n{names}. Mean over the pairs, ± over seeds; interval and p '
        f'over {len(seeds)} seeds, not adjusted for the number of metrics; the last column counts pairs and seeds in '
        'which the value went up.\n\n'
        + markdown_table(['metric', 'first of the pair', 'second', 'difference [95 %]', 'p', 'higher in'], lines)
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


def _origin(found: Found) -> str:
    records = [record for seeds in found.values() for record in seeds.values()]
    hardware = {', '.join(f'{v} cores' if k == 'cores' else str(v) for k, v in r['hardware'].items()) for r in records}
    torch = {r['versions'].get('torch', '?') for r in records}
    data = {f'{name} {value}' for r in records for name, value in r['data'].items()}
    return (
        f'Hardware: {"; ".join(sorted(hardware))}. torch {", ".join(sorted(torch))}. Data (hash of all files): '
        f'{", ".join(sorted(data))}. A star marks a commit with local changes.\n'
    )
