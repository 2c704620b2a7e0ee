"""Figures of a report, drawn once with matplotlib: as SVG that follows the page's theme, and as files."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from mmdefect.experiments.statistics import Interval

#: Told apart also by most colour-blind readers, on white and on black.
COLOURS = ('#2f7ed8', '#e07b16', '#1f9e78', '#c2468f', '#8a6fd1', '#a08a00', '#d1495b', '#5c8a99')
#: Drawn in these, so that a page can put its own colours in their place.
INK, LINE = '#1b2330', '#c9d0da'
_STYLE = {
    'svg.fonttype': 'none',
    'svg.hashsalt': 'mmdefect',
    'font.size': 9.0,
    'font.family': 'sans-serif',
    'text.color': INK,
    'axes.edgecolor': LINE,
    'axes.labelcolor': INK,
    'xtick.color': INK,
    'ytick.color': INK,
    'axes.grid': True,
    'grid.color': LINE,
    'grid.linewidth': 0.6,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'figure.titlesize': 9.5,
    'figure.titleweight': 'bold',
    'legend.frameon': False,
    'legend.fontsize': 8.0,
    'xtick.labelsize': 8.0,
    'ytick.labelsize': 8.0,
    'lines.linewidth': 1.6,
    'figure.dpi': 100,
}
Curve = Sequence[tuple[float, float]]


def line_figure(
    curves: Mapping[str, Curve],
    title: str,
    x_label: str,
    y_label: str = '',
    log_y: bool = False,
    marks: Mapping[str, tuple[float, float]] | None = None,
    unit_square: bool = False,
) -> Figure:
    """Draw named curves.

    Args:
        curves: ``{name: [(x, y), ...]}``; values that are no number are left out.
        title: above the axes.
        x_label: below.
        y_label: to the left.
        log_y: logarithmic values, if they span enough.
        marks: ``{name: (x, y)}`` points on a curve, such as the chosen checkpoint.
        unit_square: both axes from 0 to 1.
    """
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(4.3, 2.9), layout='constrained')
        for k, (name, points) in enumerate(curves.items()):
            points = [(x, y) for x, y in points if math.isfinite(y)]
            colour = COLOURS[k % len(COLOURS)]
            axes.plot(
                [x for x, _ in points],
                [y for _, y in points],
                color=colour,
                label=short(name),
                markersize=2.6,
                marker='o' if len(points) < 20 else None,
                linestyle='-' if k < len(COLOURS) else '--',
            )
            if marks and name in marks:
                axes.plot(*marks[name], 'o', color=colour, markersize=7, markerfacecolor='none', markeredgewidth=1.6)
        _title(figure, title)
        axes.set(xlabel=x_label, ylabel=y_label)
        values = [y for points in curves.values() for _, y in points if math.isfinite(y)]
        if log_y and min(values, default=0) > 0 and max(values) > 8 * min(values):
            axes.set_yscale('log')
        if unit_square:
            axes.set(xlim=(0, 1), ylim=(0, 1.02))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.xaxis.set_major_formatter(StrMethodFormatter('{x:,.0f}'))
        if len(curves) > 1:
            # Below the axes: inside it would lie on a curve sooner or later.
            figure.legend(loc='outside lower center', ncols=2 if max(map(len, curves)) > 14 else min(4, len(curves)))
        return figure


def bar_figure(bars: Mapping[str, Mapping[str, Interval]], title: str, x_label: str = '%') -> Figure:
    """Draw horizontal bars with intervals, grouped.

    Args:
        bars: ``{group: {row: interval}}``; rows of one name have one colour in all groups.
        title: above the axes.
        x_label: below.
    """
    rows = list(dict.fromkeys(row for group in bars.values() for row in group))
    total = sum(len(group) for group in bars.values()) + 0.8 * len(bars)
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(4.3, 0.75 + 0.2 * total), layout='constrained')
        position, ticks = 0.0, []
        for group, values in bars.items():
            start = position
            for row, interval in values.items():
                value = interval.value if math.isfinite(interval.value) else 0.0
                axes.barh(
                    position,
                    value,
                    height=0.78,
                    color=COLOURS[rows.index(row) % len(COLOURS)],
                    alpha=0.85,
                    label=row if group == next(iter(bars)) else None,
                )
                if math.isfinite(interval.low):
                    axes.plot(
                        [interval.low, interval.high], [position] * 2, color=INK, linewidth=1.3, solid_capstyle='butt'
                    )
                    axes.plot([interval.low, interval.high], [position] * 2, '|', color=INK, markersize=5)
                text = f'{interval.value:.1f}' if math.isfinite(interval.value) else 'undefined'
                axes.annotate(
                    text,
                    (max(value, interval.high if math.isfinite(interval.high) else 0.0), position),
                    xytext=(4, 0),
                    textcoords='offset points',
                    va='center',
                    fontsize=7.5,
                )
                position += 1.0
            ticks.append(((start + position - 1) / 2, group))
            position += 0.8
        axes.set_yticks([place for place, _ in ticks], [short(name) for _, name in ticks])
        axes.tick_params(axis='y', length=0)
        _title(figure, title)
        axes.set(xlabel=x_label)
        axes.grid(visible=False, axis='y')
        axes.set_axisbelow(True)
        axes.invert_yaxis()
        axes.margins(x=0.14)
        axes.set_xlim(left=0)
        if len(rows) > 1:
            figure.legend(loc='outside lower center', ncols=2 if max(map(len, rows)) > 14 else min(4, len(rows)))
        return figure


def short(name: str, most: int = 22) -> str:
    """Return a name cut in its middle: figures are as narrow as a phone."""
    return name if len(name) <= most else f'{name[: most // 2]}…{name[-(most // 2 - 1) :]}'


def _title(figure: Figure, title: str) -> None:
    # Above the whole figure: above the axes, long names to their left would push it out.
    figure.suptitle(title, x=0.01, ha='left')


def to_svg(figure: Figure, themed: bool) -> str:
    """Return the SVG element; themed, its ink and lines are the page's variables ``--ink`` and ``--line``."""
    out = io.StringIO()
    with plt.rc_context(_STYLE):
        figure.savefig(out, format='svg', transparent=themed, metadata={'Date': None})
    text = out.getvalue()
    text = text[text.index('<svg') :]
    text = re.sub(r' (?:width|height)="[\d.]+pt"', '', text, count=2)
    if themed:
        text = text.replace(INK, 'var(--ink)').replace(LINE, 'var(--line)')
        text = re.sub(r'<metadata>.*?</metadata>', '', text, flags=re.DOTALL)
        # Text keeps its size and anchor, but takes the font of the page.
        text = re.sub(r'font: ([^;\"]*?)px [^;\"]*', r'font-size: \1px', text)
    return text


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write ``name.png`` and ``name.svg`` and return both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f'{name}.png', folder / f'{name}.svg']
    with plt.rc_context(_STYLE):
        figure.savefig(paths[0], dpi=160, facecolor='white')
        figure.savefig(paths[1], facecolor='white', metadata={'Date': None})
    return paths


def close(figure: Figure) -> None:
    """Free a figure."""
    plt.close(figure)
