"""Tables as Markdown and CSV, and numbers as they stand in them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from mmdefect.experiments.statistics import Interval, mean_and_sd


def markdown_table(header: Sequence[str], lines: Iterable[Sequence[str]], text: Collection[int] = (0,)) -> str:
    """Return an aligned Markdown table; the columns of the numbers ``text`` are text, the others numbers."""
    cells = [list(header), *map(list, lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    out = [[c.ljust(widths[k]) if k in text else c.rjust(widths[k]) for k, c in enumerate(line)] for line in cells]
    rows = ['| ' + ' | '.join(line) + ' |\n' for line in out]
    rule = '|'.join('-' * (width + 1) + ('-' if k in text else ':') for k, width in enumerate(widths))
    return ''.join([rows[0], f'|{rule}|\n', *rows[1:]])


def csv_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of the same keys as CSV; ``None`` is an empty cell."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def format_mean(values: Sequence[float]) -> str:
    """Return ``mean ± sd`` of the seeds; the mean alone for one seed, a dash without a value."""
    if not values or any(math.isnan(value) for value in values):
        return '–'
    mean, sd = mean_and_sd(values)
    return f'{mean:.2f}' if math.isnan(sd) else f'{mean:.2f} ± {sd:.2f}'


def format_difference(interval: Interval) -> str:
    """Return ``+1.20 [-0.30, +2.70]``."""
    if math.isnan(interval.value):
        return '–'
    reach = '' if math.isnan(interval.low) else f' [{interval.low:+.2f}, {interval.high:+.2f}]'
    return f'{interval.value:+.2f}{reach}'


def format_p(p: float) -> str:
    """Return a probability with three digits, or a dash."""
    return '–' if math.isnan(p) else f'{p:.3f}'
