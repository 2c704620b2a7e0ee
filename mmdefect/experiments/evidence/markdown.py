"""The report as Markdown, for a pull request: numbers, verdict-free, and the figures beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmdefect.experiments.comparison_text import markdown_table
from mmdefect.experiments.evidence import figures, plots
from mmdefect.experiments.evidence.gallery import image_rows
from mmdefect.experiments.evidence.results import Results, foreground_keys, result_columns


def write_figures(results: Results, folder: Path) -> dict[str, Path]:
    """Write every figure as PNG and SVG and return ``{name: PNG}``."""
    paths = {}
    for drawn in (plots.class_bars(results), plots.learning_curves(results.runs), plots.ranking_curves(results.runs)):
        for name, figure in drawn:
            paths[name] = figures.save(figure, folder, name)[0]
            figures.close(figure)
    return paths


def render_markdown(title: str, results: Results, lead: str, images: Mapping[str, Path], folder: Path) -> str:
    """Return the report as Markdown.

    Args:
        title: headline.
        results: numbers of all runs.
        lead: sentence below the headline.
        images: of :func:`write_figures`.
        folder: where the Markdown file will lie; images are linked relative to it.
    """
    columns = result_columns(results)
    with_interval = [key for key in foreground_keys(results) if key in columns]
    lines = []
    for run in results.runs:
        cells = []
        for key in columns:
            value, interval = results.value(run, key), results.intervals.get(run.name, {}).get(key)
            text = '–' if value is None or value != value else f'{value:.2f}'
            if interval is not None and key in with_interval[:1] and interval.low == interval.low:
                text += f' [{interval.low:.1f}, {interval.high:.1f}]'
            cells.append(text)
        lines.append([run.name, *cells, '–' if run.best is None else str(run.best)])
    parts = [f'# {title}\n', lead + '\n', markdown_table(['run', *map(plots.spoken, columns), 'iteration'], lines)]
    if results.notes:
        parts.append('\n'.join(f'- {note}' for note in results.notes) + '\n')
    for run in results.runs:
        if run.counts is None:
            continue
        rows = sorted(image_rows(run.counts), key=lambda row: -(row.missed + row.false))[:5]
        table = [
            [
                row.name,
                str(row.labelled),
                str(row.missed),
                str(row.false),
                '–' if row.iou != row.iou else f'{row.iou:.1f}',
            ]
            for row in rows
        ]
        parts += [
            f'<details><summary>{run.name}: the five images with most wrong pixels</summary>\n',
            markdown_table(['image', 'defect px', 'missed', 'false', 'IoU'], table),
            '</details>\n',
        ]
    parts += [f'![{name}]({path.relative_to(folder).as_posix()})\n' for name, path in images.items()]
    return '\n'.join(parts)
