"""A comparison as Markdown: values, differences, warnings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from mmdefect.experiments.compare import Comparison, Difference, published_rule
from mmdefect.experiments.statistics import mean_and_sd


def markdown_table(header: Sequence[str], lines: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return an aligned Markdown table; the first ``left`` columns are text, the others numbers."""
    cells = [list(header), *map(list, lines)]
    widths = [max(len(line[k]) for line in cells) for k in range(len(header))]
    out = [
        '| '
        + ' | '.join(c.ljust(w) if k < left else c.rjust(w) for k, (c, w) in enumerate(zip(line, widths, strict=True)))
        + ' |'
        for line in cells
    ]
    out.insert(1, '|' + '|'.join('-' * (w + 1) + ('-' if k < left else ':') for k, w in enumerate(widths)) + '|')
    return '\n'.join(out) + '\n'


def format_mean(values: Sequence[float]) -> str:
    """Return ``mean ± sd`` of the seeds; the mean alone for one seed, a dash without a value."""
    if not values or any(math.isnan(value) for value in values):
        return '–'
    mean, sd = mean_and_sd(values)
    return f'{mean:.2f}' if math.isnan(sd) else f'{mean:.2f} ± {sd:.2f}'


def format_difference(difference: Difference) -> str:
    """Return ``+1.20 [-0.30, +2.70]``."""
    interval = difference.interval
    if math.isnan(interval.value):
        return '–'
    if math.isnan(interval.low):
        return f'{interval.value:+.2f}'
    return f'{interval.value:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]'


def values_table(comparison: Comparison, notes: Mapping[str, str] | None = None) -> str:
    """Return one row an arm: mean ± sd of every metric, and the number of seeds."""
    metrics = list(next(iter(comparison.values.values())))
    header = ['arm', *metrics, 'n'] + (['note'] if notes and any(notes.values()) else [])
    lines = []
    for name, row in comparison.values.items():
        line = [name, *(format_mean(row[metric]) for metric in metrics), str(len(comparison.seeds[name]))]
        lines.append(line + ([notes.get(name, '')] if len(header) > len(line) else []))
    return markdown_table(header, lines)


def differences_table(comparison: Comparison) -> str:
    """Return one row an arm and metric: difference, interval, p, verdict."""
    lines = [
        [
            name,
            d.metric,
            d.verdict,
            format_difference(d),
            '–' if math.isnan(d.adjusted_p) else f'{d.adjusted_p:.3f}',
            d.basis,
        ]
        for name, row in comparison.differences.items()
        for d in row.values()
    ]
    return markdown_table(['arm', 'metric', 'verdict', 'difference [95 %]', 'p (Holm)', 'interval over'], lines, left=3)


def verdict_sentences(comparison: Comparison, metric: str) -> list[str]:
    """Return one sentence an arm on one metric."""
    sentences = []
    for name, row in comparison.differences.items():
        d = row[metric]
        words = {
            'better': f'better than `{comparison.reference}`',
            'worse': f'worse than `{comparison.reference}`',
            'not distinguishable': f'not distinguishable from `{comparison.reference}`',
        }
        if d.verdict in words:
            sentences.append(f'`{name}` is {words[d.verdict]} in {metric} ({format_difference(d)}).')
        else:
            sentences.append(
                f'`{name}` cannot be compared with `{comparison.reference}` in {metric} ({format_difference(d)}): '
                'it takes several seeds or counts of images.'
            )
    return sentences


def published_sentences(comparison: Comparison) -> str:
    """Return what the published selection rule says about the arms, and that it knows no noise."""
    values = {
        name: {metric: mean_and_sd(found)[0] for metric, found in row.items()}
        for name, row in comparison.values.items()
    }
    metrics = list(next(iter(values.values())))
    kept, dropped = published_rule(values, comparison.reference, metrics)
    lines = [
        f'Published rule (drop what lowers any of {", ".join(metrics)}, rank by {metrics[0]}; it knows no noise):\n'
    ]
    lines += [f'{k}. `{name}`' for k, name in enumerate(kept, start=1)] or ['Nothing is kept.']
    lines += [''] + [f'- dropped `{name}`: lower {", ".join(worse)}' for name, worse in dropped.items()]
    return '\n'.join(lines) + '\n'


def render(comparison: Comparison, notes: Mapping[str, str] | None = None) -> str:
    """Return the whole comparison as Markdown, without a headline."""
    parts = [values_table(comparison, notes)]
    if comparison.differences:
        first = next(iter(next(iter(comparison.differences.values()))))
        parts += [
            '\n'.join(f'- {line}' for line in verdict_sentences(comparison, first)) + '\n',
            f'Difference to `{comparison.reference}`:\n',
            differences_table(comparison),
        ]
    if comparison.warnings:
        parts.append('Warnings:\n\n' + '\n'.join(f'- {line}' for line in comparison.warnings) + '\n')
    scope = f'{comparison.images} test images. ' if comparison.images else ''
    parts.append(
        f'{scope}Values are percent, mean ± standard deviation over seeds. Intervals: bootstrap over seeds and test '
        'images with Student quantiles (docs/studies.md); p is adjusted for the number of arms.\n'
    )
    return '\n'.join(parts)
