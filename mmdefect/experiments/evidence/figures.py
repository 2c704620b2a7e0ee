"""Which figures a report has, drawn once with matplotlib: as SVG that follows the page's theme, and as files."""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from mmdefect.experiments.evidence.run_folder import Results, RunFolder, in_words
from mmdefect.experiments.statistics import Interval

#: Told apart also by most colour-blind readers, on white and on black.
COLOURS = ('#2f7ed8', '#e07b16', '#1f9e78', '#c2468f', '#8a6fd1', '#a08a00', '#d1495b', '#5c8a99')
#: Drawn in these, so that a page can put its own colours in their place.
INK, LINE = '#1b2330', '#c9d0da'
_STYLE = {
    **dict.fromkeys(('text.color', 'axes.labelcolor', 'xtick.color', 'ytick.color'), INK),
    **dict.fromkeys(('axes.edgecolor', 'grid.color'), LINE),
    **dict.fromkeys(('legend.fontsize', 'xtick.labelsize', 'ytick.labelsize'), 8.0),
    **dict.fromkeys(('axes.spines.top', 'axes.spines.right', 'legend.frameon'), False),
    'axes.grid': True,
    'figure.dpi': 100,
    'figure.titlesize': 9.5,
    'figure.titleweight': 'bold',
    'font.family': 'sans-serif',
    'font.size': 9.0,
    'grid.linewidth': 0.6,
    'lines.linewidth': 1.6,
    'svg.fonttype': 'none',
    'svg.hashsalt': 'mmdefect',
}
#: A loss curve has a point every few iterations; more than this many make the page heavy and no clearer.
_MOST_POINTS = 160
Points = Mapping[str, tuple[float, float]]
Curves = Mapping[str, Sequence[tuple[float, float]]]


def class_figures(results: Results) -> Iterator[tuple[str, Figure]]:
    """Yield ``(name, figure)``: one run: all metrics of a class; several: IoU, recall and precision of each."""
    counted = [run for run in results.runs if run.name in results.intervals]
    classes = results.defect_classes()
    if not counted or not classes:
        return
    words = {'IoU': 'IoU', 'F1': 'F1', 'Precision': 'precision', 'Acc': 'recall'}
    if len(counted) == 1:
        table = results.intervals[counted[0].name]
        known = [name for name in classes if f'IoU.{name}' in table]
        bars = {name: {word: table[f'{kind}.{name}'] for kind, word in words.items()} for name in known}
        yield 'classes', bar_figure(bars, 'Per class, with 95 % intervals')
        return
    for kind, word in (('IoU', 'IoU'), ('Acc', 'Recall'), ('Precision', 'Precision')):
        bars = {run.name: {c: results.interval(run, f'{kind}.{c}') for c in run.classes[1:]} for run in counted}
        yield f'classes_{kind.lower()}', bar_figure(bars, f'{word} per class, with 95 % intervals')


def learning_figures(results: Results) -> Iterator[tuple[str, Figure]]:
    """Yield ``(name, figure)`` of the losses and of the most telling validation metrics."""
    runs = results.runs
    losses = {run.name: _thin(run.training['loss']) for run in runs if run.training.get('loss')}
    if losses:
        yield 'loss', line_figure(losses, 'Training loss (running mean)', 'iteration', scale='log')
    for key in validation_keys(runs):
        curves = {run.name: run.validation[key] for run in runs if key in run.validation}
        best = {run.name: [point for point in run.validation.get(key, ()) if point[0] == run.best] for run in runs}
        marks = {name: points[0] for name, points in best.items() if points}
        note = ' (with background)' if key in ('mIoU', 'mAcc', 'aAcc') else ''
        title = f'Validation {in_words(key)}{note}'
        yield f'validation_{key}', line_figure(curves, title, 'iteration', '%', marks=marks)
    rates = {run.name: _thin(run.training['lr']) for run in runs if run.training.get('lr')}
    if len(rates) > 1 and len({tuple(points) for points in rates.values()}) == 1:
        rates = {'all runs': next(iter(rates.values()))}
    if rates:
        yield 'learning_rate', line_figure(rates, 'Learning rate', 'iteration')


def validation_keys(runs: Sequence[RunFolder]) -> list[str]:
    """Return the validation metrics worth a figure: of the defects where they are logged, else the means."""
    logged = list(dict.fromkeys(key for run in runs for key in run.validation))
    telling = [key for key in ('fg_mIoU', 'fg_mAcc', 'fg_AP') if key in logged]
    background = {f'IoU.{run.classes[0]}' for run in runs if run.classes}
    telling += [key for key in logged if key.startswith('IoU.') and key not in background][:4]
    return telling or [key for key in ('mIoU', 'mAcc') if key in logged]


def ranking_figures(results: Results) -> Iterator[tuple[str, Figure]]:
    """Yield ``(name, figure)``: precision-recall and per-region overlap, of runs that recorded score histograms."""
    tables = {run.name: run.curves.get('classes', {}) for run in results.runs}
    names = list(dict.fromkeys(name for table in tables.values() for name in table))
    pr, pro = ('recall', 'precision', 'Precision-recall', 'unit'), ('fpr', 'pro', 'Per-region overlap', 'linear')
    for kind, (x, y, title, scale) in (('pr', pr), ('pro', pro)):
        for name in names:
            found = {run: table[name] for run, table in tables.items() if {x, y} <= table.get(name, {}).keys()}
            curves = {run: list(zip(points[x], points[y], strict=True)) for run, points in found.items()}
            if curves:
                yield f'{kind}_{name}', line_figure(curves, f'{title}, {name}', x, y, scale=scale)


def _thin(points: list[tuple[int, float]]) -> list[tuple[float, float]]:
    """Average neighbours so that at most :data:`_MOST_POINTS` points are left."""
    size = -(-len(points) // _MOST_POINTS)
    groups = [points[k : k + size] for k in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def line_figure(
    curves: Curves, title: str, x_label: str, y_label: str = '', marks: Points | None = None, scale: str = 'linear'
) -> Figure:
    """Draw named curves ``{name: [(x, y), ...]}``; values that are no number are left out.

    ``marks`` are points on a curve, such as the chosen checkpoint. The scale is ``linear``, ``log`` (of the values, if
    they span enough), or ``unit`` for both axes from 0 to 1.
    """
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(4.3, 2.9), layout='constrained')
        values = []
        for k, (name, points) in enumerate(curves.items()):
            points = [(x, y) for x, y in points if math.isfinite(y)]
            xs, ys = [x for x, _ in points], [y for _, y in points]
            values += ys
            colour, line = COLOURS[k % len(COLOURS)], '-' if k < len(COLOURS) else '--'
            marker = 'o' if len(points) < 20 else None
            axes.plot(xs, ys, color=colour, label=_short(name), markersize=2.6, marker=marker, linestyle=line)
            if marks and name in marks:
                axes.plot(*marks[name], 'o', color=colour, markersize=7, markerfacecolor='none', markeredgewidth=1.6)
        figure.suptitle(title, x=0.01, ha='left')  # above the axes, long names to their left would push it out
        axes.set(xlabel=x_label, ylabel=y_label)
        if scale == 'log' and min(values, default=0) > 0 and max(values) > 8 * min(values):
            axes.set_yscale('log')
        if scale == 'unit':
            axes.set(xlim=(0, 1), ylim=(0, 1.02))
        elif max((x for points in curves.values() for x, _ in points), default=0) > 5:  # iterations, not shares
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.xaxis.set_major_formatter(StrMethodFormatter('{x:,.0f}'))
        _add_legend(figure, list(curves))
        return figure


def bar_figure(bars: Mapping[str, Mapping[str, Interval]], title: str, x_label: str = '%') -> Figure:
    """Draw horizontal bars with intervals, ``{group: {row: interval}}``; a row has one colour in all groups."""
    rows = list(dict.fromkeys(row for group in bars.values() for row in group))
    total = sum(len(group) for group in bars.values()) + 0.8 * len(bars)
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(4.3, 0.75 + 0.2 * total), layout='constrained')
        position, ticks = 0.0, []
        for group, values in bars.items():
            start = position
            for row, interval in values.items():
                value = interval.value if math.isfinite(interval.value) else 0.0
                colour = COLOURS[rows.index(row) % len(COLOURS)]
                label = row if group == next(iter(bars)) else None
                axes.barh(position, value, height=0.78, color=colour, alpha=0.85, label=label)
                end, ends = value, [interval.low, interval.high]
                if math.isfinite(interval.low):
                    axes.plot(ends, [position] * 2, color=INK, linewidth=1.3, solid_capstyle='butt')
                    axes.plot(ends, [position] * 2, '|', color=INK, markersize=5)
                    end = max(value, interval.high)
                text = f'{interval.value:.1f}' if math.isfinite(interval.value) else 'undefined'
                offset = dict(xytext=(4, 0), textcoords='offset points')
                axes.annotate(text, (max(end, 0.0), position), **offset, va='center', fontsize=7.5)
                position += 1.0
            ticks.append(((start + position - 1) / 2, group))
            position += 0.8
        axes.set_yticks([place for place, _ in ticks], [_short(name) for _, name in ticks])
        axes.tick_params(axis='y', length=0)
        figure.suptitle(title, x=0.01, ha='left')
        axes.set(xlabel=x_label)
        axes.grid(visible=False, axis='y')
        axes.set_axisbelow(True)
        axes.invert_yaxis()
        axes.margins(x=0.14)
        axes.set_xlim(left=0)
        _add_legend(figure, rows)
        return figure


def _add_legend(figure: Figure, names: Sequence[str]) -> None:
    """Put a legend below the axes: inside it would lie on a curve sooner or later."""
    if len(names) > 1:
        figure.legend(loc='outside lower center', ncols=2 if max(map(len, names)) > 14 else min(4, len(names)))


def _short(name: str, most: int = 22) -> str:
    """Return a name cut in its middle: figures are as narrow as a phone."""
    return name if len(name) <= most else f'{name[: most // 2]}…{name[-(most // 2 - 1) :]}'


def to_svg(figure: Figure) -> str:
    """Return the SVG element, its ink and lines in the page's variables ``--ink`` and ``--line``; close the figure."""
    out = io.StringIO()
    with plt.rc_context(_STYLE):
        figure.savefig(out, format='svg', transparent=True, metadata={'Date': None})
    plt.close(figure)
    text = out.getvalue()
    text = re.sub(r' (?:width|height)="[\d.]+pt"', '', text[text.index('<svg') :], count=2)
    text = text.replace(INK, 'var(--ink)').replace(LINE, 'var(--line)')
    text = re.sub(r'<metadata>.*?</metadata>', '', text, flags=re.DOTALL)
    # Text keeps its size and anchor, but takes the font of the page.
    return re.sub(r'font: ([^;\"]*?)px [^;\"]*', r'font-size: \1px', text)


def save(figure: Figure, folder: Path, name: str) -> Path:
    """Write ``name.png`` and ``name.svg``, return the PNG, and close the figure."""
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(_STYLE):
        figure.savefig(folder / f'{name}.png', dpi=160, facecolor='white')
        figure.savefig(folder / f'{name}.svg', facecolor='white', metadata={'Date': None})
    plt.close(figure)
    return folder / f'{name}.png'
