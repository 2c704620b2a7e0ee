"""Tables as Markdown and CSV."""

import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any


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
