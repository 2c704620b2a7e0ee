"""Which figures a report has, and what they show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from mmdefect.experiments.evidence import figures
from mmdefect.experiments.evidence.results import Results, defect_classes
from mmdefect.experiments.evidence.run import RunEvidence

_WORDS = {'fg_mIoU': 'fg mIoU', 'fg_mAcc': 'fg recall', 'fg_mF1': 'fg F1', 'Acc': 'recall', 'Precision': 'precision'}
#: A loss curve has a point every few iterations; more than this many make the page heavy and no clearer.
_MOST_POINTS = 160


def spoken(key: str) -> str:
    """Return a metric in words: ``Acc.broken`` is the recall of broken."""
    kind, dot, name = key.partition('.')
    return f'{name} {_WORDS.get(kind, kind)}' if dot else _WORDS.get(key, key)


def class_bars(results: Results) -> Iterator[tuple[str, Figure]]:
    """Yield ``(name, figure)``: one run: all metrics of a class; several: IoU, recall and precision of each."""
    counted = [run for run in results.runs if run.name in results.intervals]
    classes = defect_classes(results)
    if not counted or not classes:
        return
    if len(counted) == 1:
        table = results.intervals[counted[0].name]
        bars = {
            name: {_WORDS.get(kind, kind): table[f'{kind}.{name}'] for kind in ('IoU', 'F1', 'Precision', 'Acc')}
            for name in classes
            if f'IoU.{name}' in table
        }
        yield 'classes', figures.bar_figure(bars, 'Per class, with 95 % intervals')
        return
    for kind in ('IoU', 'Acc', 'Precision'):
        bars = {
            run.name: {name: results.intervals[run.name][f'{kind}.{name}'] for name in run.classes[1:]}
            for run in counted
        }
        yield (
            f'classes_{kind.lower()}',
            figures.bar_figure(
                bars, f'{_WORDS.get(kind, kind).capitalize() if kind != "IoU" else kind} per class, with 95 % intervals'
            ),
        )


def learning_curves(runs: Sequence[RunEvidence]) -> Iterator[tuple[str, Figure]]:
    """Yield ``(name, figure)`` of the losses and of the most telling validation metrics."""
    losses = {run.name: _thin(run.training['loss']) for run in runs if run.training.get('loss')}
    if losses:
        yield 'loss', figures.line_figure(losses, 'Training loss (running mean)', 'iteration', log_y=True)
    for key in validation_keys(runs):
        curves = {run.name: run.validation[key] for run in runs if key in run.validation}
        marks = {
            run.name: (run.best, dict(run.validation[key])[run.best])
            for run in runs
            if run.best is not None and run.best in dict(run.validation.get(key, []))
        }
        note = ' (with background)' if key in ('mIoU', 'mAcc', 'aAcc') else ''
        yield (
            f'validation_{key}',
            figures.line_figure(curves, f'Validation {spoken(key)}{note}', 'iteration', '%', marks=marks),
        )
    rates = {run.name: _thin(run.training['lr']) for run in runs if run.training.get('lr')}
    if rates and len({tuple(points) for points in rates.values()}) == 1:
        rates = {'all runs': next(iter(rates.values()))} if len(rates) > 1 else rates
    if rates:
        yield 'learning_rate', figures.line_figure(rates, 'Learning rate', 'iteration')


def validation_keys(runs: Sequence[RunEvidence]) -> list[str]:
    """Return the validation metrics worth a figure: of the defects where they are logged, else the means."""
    logged = list(dict.fromkeys(key for run in runs for key in run.validation))
    telling = [key for key in ('fg_mIoU', 'fg_mAcc', 'fg_AP') if key in logged]
    background = {f'IoU.{run.classes[0]}' for run in runs if run.classes}
    telling += [key for key in logged if key.startswith('IoU.') and key not in background][:4]
    return telling or [key for key in ('mIoU', 'mAcc') if key in logged]


def ranking_curves(runs: Sequence[RunEvidence]) -> Iterator[tuple[str, Figure]]:
    """Yield ``(name, figure)``: precision-recall and per-region overlap, of runs that recorded score histograms."""
    kinds = (('pr', 'recall', 'precision', 'Precision-recall'), ('pro', 'fpr', 'pro', 'Per-region overlap'))
    names = list(dict.fromkeys(name for run in runs for name in run.curves.get('classes', {})))
    for kind, x, y, title in kinds:
        for name in names:
            curves = {
                run.name: list(zip(c[x], c[y], strict=True))
                for run in runs
                for c in [run.curves.get('classes', {}).get(name, {})]
                if x in c and y in c
            }
            if curves:
                yield f'{kind}_{name}', figures.line_figure(curves, f'{title}, {name}', x, y, unit_square=kind == 'pr')


def class_figures(results: Results) -> list[str]:
    """Return the SVG elements of :func:`class_bars`."""
    return _svgs(class_bars(results))


def learning_figures(runs: Sequence[RunEvidence]) -> list[str]:
    """Return the SVG elements of :func:`learning_curves`."""
    return _svgs(learning_curves(runs))


def ranking_figures(runs: Sequence[RunEvidence]) -> list[str]:
    """Return the SVG elements of :func:`ranking_curves`."""
    return _svgs(ranking_curves(runs))


def _svgs(drawn: Iterator[tuple[str, Figure]]) -> list[str]:
    out = []
    for _, figure in drawn:
        out.append(figures.to_svg(figure, themed=True))
        figures.close(figure)
    return out


def _thin(points: list[tuple[int, float]]) -> list[tuple[float, float]]:
    """Average neighbours so that at most :data:`_MOST_POINTS` points are left."""
    size = -(-len(points) // _MOST_POINTS)
    groups = [points[k : k + size] for k in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]
