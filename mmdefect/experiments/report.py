"""The results of a project as ``results.csv`` and ``results.md``: one row a model, from the states on disk."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from mmdefect.experiments.records import write_text
from mmdefect.experiments.states import STATE_NAME, JobState, read_state

SUMMARY = ('aAcc', 'mIoU', 'mAcc', 'fg_mIoU', 'fg_mAcc')
Row = dict[str, 'str | float | int | None']


def read_states(project_dir: Path, order: Iterable[str] = ()) -> list[JobState]:
    """Read the states of all jobs of a project: first those of ``order``, then the others by name."""
    found = {}
    for path in sorted((project_dir / 'exp').glob(f'*/*/{STATE_NAME}')):
        state = read_state(path.parent)
        found[state.job] = state
    known = [name for name in order if name in found]
    return [found[name] for name in [*known, *(name for name in found if name not in known)]]


def rows(states: Iterable[JobState]) -> list[Row]:
    """Return one row a model; every row has the same columns, the classes of all models included."""
    states = list(states)
    classes = list(dict.fromkeys(name for state in states for name in state.classes))
    table = []
    for state in states:
        best = state.best or {}
        row: Row = {'model': state.job, 'state': state.status, 'best_iter': best.get('iter')}
        metrics = {**_foreground(state.classes), **state.metrics}
        row.update({key: metrics.get(key) for key in SUMMARY})
        for name in classes:
            for column in ('IoU', 'Acc'):
                row[f'{column}.{name}'] = state.classes.get(name, {}).get(column)
        row['train_seconds'] = round(state.train_seconds, 1)
        row['error'] = state.error or best.get('note', '')
        table.append(row)
    return table


def _foreground(classes: dict[str, dict[str, float | None]]) -> dict[str, float]:
    """Mean over all classes but the first, for logs that do not state it; undefined classes do not count."""
    means = {}
    for key, column in (('fg_mIoU', 'IoU'), ('fg_mAcc', 'Acc')):
        values = [row[column] for row in list(classes.values())[1:] if row.get(column) is not None]
        if values:
            means[key] = round(sum(values) / len(values), 2)
    return means


def to_csv(table: list[Row]) -> str:
    """Return the table as CSV; an unknown value is an empty cell."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(table[0]), lineterminator='\n')
    writer.writeheader()
    writer.writerows({key: '' if value is None else value for key, value in row.items()} for row in table)
    return out.getvalue()


def to_markdown(table: list[Row]) -> str:
    """Return the table as Markdown with aligned columns; columns that are empty everywhere are left out."""
    columns = [key for key in table[0] if key in ('model', 'state') or any(row[key] not in (None, '') for row in table)]
    cells = [columns] + [[_cell(row[key]) for key in columns] for row in table]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    numeric = [i > 1 and key != 'error' for i, key in enumerate(columns)]
    lines = [
        '| ' + ' | '.join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, numeric, strict=True)) + ' |'
        for line in cells
    ]
    rule = '|' + '|'.join('-' * (w + 1) + (':' if n else '-') for w, n in zip(widths, numeric, strict=True)) + '|'
    return '\n'.join([lines[0], rule, *lines[1:]]) + '\n'


def _cell(value: str | float | int | None) -> str:
    if value is None:
        return ''
    if isinstance(value, float):
        return f'{value:.2f}'
    return ' '.join(str(value).replace('|', '\\|').split())[:160]


def write_results(project_dir: Path, order: Iterable[str] = ()) -> str:
    """Write ``results.csv`` and ``results.md`` of a project and return the Markdown table."""
    states = read_states(project_dir, order)
    if not states:
        return ''
    table = rows(states)
    markdown = to_markdown(table)
    rules = {
        (s.rule['metric'] + (' without background' if s.rule['exclude_background'] else ''), s.rule['tie'])
        for s in states
        if s.rule
    }
    chosen = '; '.join(f'best `{metric}` on the validation set, {tie} of equals' for metric, tie in sorted(rules))
    write_text(project_dir / 'results.csv', to_csv(table))
    write_text(
        project_dir / 'results.md',
        f'# {project_dir.name}\n\n{markdown}\n'
        'Percent on the test set. mIoU and mAcc include the background, fg_mIoU and fg_mAcc are means over the '
        f'defect classes.\nCheckpoint: {chosen or "none chosen yet"}.\n',
    )
    return markdown
