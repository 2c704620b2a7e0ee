"""The page of a study, ``docs/results/<study>.md``, from its records alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdefect.experiments.compare import Comparison, compare
from mmdefect.experiments.comparison_text import markdown_table, render
from mmdefect.experiments.records import write_text
from mmdefect.experiments.statistics import mean_and_sd
from mmdefect.experiments.study import Study
from mmdefect.experiments.study_pairs import each_pair_section, pairs_section
from mmdefect.experiments.study_records import read_records, records_of
from mmdefect.experiments.tested_run import from_record


def compare_study(study: Study, records: Mapping[str, Any], metrics: Sequence[str] = ()) -> Comparison | None:
    """Compare the arms of a study that have records; ``None`` as long as the reference has none."""
    found = records_of(study.name, records)
    arms = {arm.name: [from_record(r) for r in found[arm.name].values()] for arm in study.arms if arm.name in found}
    if study.reference not in arms:
        return None
    return compare(arms, study.reference, metrics or present_metrics(study, found), study.factor_keys)


def present_metrics(study: Study, found: Mapping[str, Mapping[int, Any]]) -> list[str]:
    """Return the metrics of a study that its runs have measured, the first one always among them."""
    measured = {key for seeds in found.values() for record in seeds.values() for key in record['test']}
    return [metric for k, metric in enumerate(study.metrics) if k == 0 or metric in measured]


def write_study_page(study: Study, folder: Path, command: str) -> Path:
    """Write ``<folder>/<study>.md`` from ``<folder>/records`` and return its path.

    Args:
        study: the study.
        folder: results folder.
        command: what makes the records, printed beside the tables.
    """
    records = read_records(folder / 'records')
    found = records_of(study.name, records)
    comparison = compare_study(study, records)
    planned = [(arm.name, seed + arm.seed_offset) for arm in study.arms for seed in study.seeds_of(arm)]
    done = sum(seed in found.get(arm, {}) for arm, seed in planned)
    parts = [f'# {study.title or study.name}\n']
    if study.text:
        parts.append(study.text.strip() + '\n')
    parts.append(f'```\n{command}\n```\n')
    parts.append(
        f'{done} of {len(planned)} runs are here. Base `{study.base}`, factor: {study.factor or "not named"}, '
        f'checkpoint: {_rule(study)}; the test set was read once by each run.\n'
    )
    if comparison is None:
        parts.append(f'The reference arm `{study.reference}` has no run yet.\n')
    else:
        parts += ['## Test\n', render(comparison, {arm.name: arm.note for arm in study.arms})]
        sections = [
            section(study, found, present_metrics(study, found)) for section in (each_pair_section, pairs_section)
        ]
        parts += filter(None, sections)
        parts += ['## Validation, at the chosen checkpoint\n', _validation_table(study, found)]
        parts += ['## Runs\n', _runs_table(study, found), _origin(found)]
    path = folder / f'{study.name}.md'
    write_text(path, '\n'.join(parts))
    return path


def _rule(study: Study) -> str:
    rule = study.rule
    return (
        f'best `{rule.metric}`{" without background" if rule.exclude_background else ""} on validation, '
        f'{rule.tie} of equals'
    )


def _validation_table(study: Study, found: Mapping[str, Mapping[int, Any]]) -> str:
    keys = list(dict.fromkeys([study.rule.metric, *study.metrics]))
    rows = {arm.name: list(found[arm.name].values()) for arm in study.arms if arm.name in found}
    keys = [key for key in keys if any(key in record['validation'] for runs in rows.values() for record in runs)]
    lines = []
    for name, runs in rows.items():
        cells = [_cell([r['validation'].get(key) for r in runs]) for key in keys]
        lines.append([name, *cells, ' '.join(str(r['best'].get('iter')) for r in runs)])
    return markdown_table(['arm', *keys, 'iteration of each seed'], lines)


def _runs_table(study: Study, found: Mapping[str, Mapping[int, Any]]) -> str:
    lines = []
    for arm in study.arms:
        for seed, r in found.get(arm.name, {}).items():
            values = [_cell([r['test'].get(metric)]) for metric in study.metrics[:1]]
            lines.append(
                [
                    arm.name,
                    f'[`{r["key"]}`](records/{r["key"]}.json)',
                    str(seed),
                    *values,
                    str(r['budget']['iterations']),
                    f'{r["train_seconds"] / 60:.1f}',
                    str(r.get('commit', '')) + ('*' if r.get('modified') else ''),
                ]
            )
    return markdown_table(['arm', 'record', 'seed', study.metrics[0], 'updates', 'minutes', 'commit'], lines, left=2)


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return '–'
    mean, sd = mean_and_sd(known)
    return f'{mean:.2f}' + (f' ± {sd:.2f}' if len(known) > 1 else '')


def _origin(found: Mapping[str, Mapping[int, Any]]) -> str:
    records = [record for seeds in found.values() for record in seeds.values()]
    hardware = sorted(
        {', '.join(str(v) + (' cores' if k == 'cores' else '') for k, v in r['hardware'].items()) for r in records}
    )
    torch = sorted({r['versions'].get('torch', '?') for r in records})
    data = sorted({f'{name} {value}' for r in records for name, value in r['data'].items()})
    return (
        f'Hardware: {"; ".join(hardware)}. torch {", ".join(torch)}. Data (hash of all files): {", ".join(data)}. '
        'A star marks a commit with local changes.\n'
    )
