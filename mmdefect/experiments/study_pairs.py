"""What one change does in pairs of arms, such as pasted defects at every number of real ones: in each and on their average."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmdefect.experiments.comparison_text import format_mean, markdown_table
from mmdefect.experiments.statistics import Interval, compare_values, holm
from mmdefect.experiments.study import Study


def pairs_section(study: Study, found: Mapping[str, Mapping[int, Any]], metrics: list[str]) -> str:
    """Return the section of a page on each group of ``study.pairs``; nothing as long as no seed has all of a group.

    A seed is one observation, for its pairs share images: its value is the mean over the pairs.
    """
    sections = (_together(title, pairs, study.seeds, found, metrics) for title, pairs in study.pairs.items())
    return '\n'.join(filter(None, sections))


def _together(
    title: str,
    pairs: Sequence[tuple[str, str]],
    all_seeds: Sequence[int],
    found: Mapping[str, Mapping[int, Any]],
    metrics: list[str],
) -> str:
    seeds = [seed for seed in all_seeds if all(seed in found.get(arm, {}) for pair in pairs for arm in pair)]
    if not seeds:
        return ''
    lines = []
    for metric in metrics:
        values = [[[found[arm][seed]['test'].get(metric) for arm in pair] for pair in pairs] for seed in seeds]
        if any(value is None for of_seed in values for pair in of_seed for value in pair):
            continue
        without, with_it = ([sum(pair[k] for pair in of_seed) / len(of_seed) for of_seed in values] for k in (0, 1))
        interval = compare_values(without, with_it, paired=True)
        won = sum(pair[1] > pair[0] for of_seed in values for pair in of_seed)
        lines.append(
            [
                metric,
                format_mean(without),
                format_mean(with_it),
                _with_reach(interval),
                '–' if math.isnan(interval.p) else f'{interval.p:.3f}',
                f'{won} of {len(seeds) * len(pairs)}',
            ]
        )
    if not lines:
        return ''
    names = ', '.join(f'`{b}` against `{a}`' for a, b in pairs)
    return (
        f'## Pairs together{": " * bool(title)}{title}\n\n{names}. Mean over the pairs, ± over seeds; interval and p over '
        f'{len(seeds)} seeds, not adjusted for the number of metrics; the last column counts pairs and seeds in which the '
        'value went up.\n\n'
        + markdown_table(['metric', 'first of the pair', 'second', 'difference [95 %]', 'p', 'higher in'], lines)
    )


def each_pair_section(study: Study, found: Mapping[str, Mapping[int, Any]], metrics: list[str]) -> str:
    """Return the section of a page on the difference within each of ``study.pairs``, over the seeds that have both arms."""
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
        columns[metric] = {
            name: _with_reach(interval) + (' *' if adjusted.get(name, 1) < 0.05 else '')
            for name, interval in intervals.items()
        }
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    if not names:
        return ''
    shown = [metric for metric in columns if columns[metric]]
    lines = [[name, *(columns[metric].get(name, '–') for metric in shown)] for name in names]
    return (
        '## Each pair\n\nDifference in pairs over seeds. * p below .05 after Holm over the pairs, not adjusted for the '
        'number of metrics.\n\n' + markdown_table(['pair', *shown], lines)
    )


def _with_reach(interval: Interval) -> str:
    reach = '' if math.isnan(interval.low) else f' [{interval.low:+.2f}, {interval.high:+.2f}]'
    return f'{interval.value:+.2f}{reach}'
