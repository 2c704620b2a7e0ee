"""The numbers of a report: metrics of every run with intervals over the test images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mmdefect.experiments.evidence.counts import LOG_TOLERANCE, metrics
from mmdefect.experiments.evidence.run_folder import RunFolder
from mmdefect.experiments.statistics import Interval, image_interval

MEANS = ('fg_mIoU', 'fg_mAcc', 'fg_mF1')
WITH_BACKGROUND = ('mIoU', 'mAcc', 'aAcc')
_WORDS = {'fg_mIoU': 'fg mIoU', 'fg_mAcc': 'fg recall', 'fg_mF1': 'fg F1', 'Acc': 'recall', 'Precision': 'precision'}


def in_words(key: str) -> str:
    """Return a metric in words: ``Acc.broken`` is the recall of broken."""
    kind, dot, name = key.partition('.')
    return f'{name} {_WORDS.get(kind, kind)}' if dot else _WORDS.get(key, key)


@dataclass(frozen=True)
class Results:
    """Numbers of all runs.

    Attributes:
        runs: in the order of the page.
        intervals: ``{run: {metric: interval}}`` of the runs with counts.
        notes: what a reader must know, one sentence each.
    """

    runs: tuple[RunFolder, ...]
    intervals: dict[str, dict[str, Interval]]
    notes: tuple[str, ...]

    def best(self) -> RunFolder | None:
        """Return the run with the best foreground mIoU; ``None`` if no run has one."""
        values = [(self.value(run, 'fg_mIoU'), run) for run in self.runs]
        known = [(value, run) for value, run in values if value is not None and math.isfinite(value)]
        return max(known, key=lambda pair: pair[0])[1] if known else None

    def interval(self, run: RunFolder, metric: str) -> Interval | None:
        """Return the interval of a metric, if the run has counts."""
        return self.intervals.get(run.name, {}).get(metric)

    def value(self, run: RunFolder, metric: str) -> float | None:
        """Return a metric from the counts, or else from the log."""
        interval = self.interval(run, metric)
        return interval.value if interval is not None else run.test.get(metric)

    def defect_classes(self) -> list[str]:
        """Return the names of the defect classes of all runs."""
        return list(dict.fromkeys(name for run in self.runs for name in run.classes[1:]))

    def columns(self) -> list[str]:
        """Return the columns of the table: those that some run has; further metrics of the logs come last."""
        kinds = ('IoU', 'Acc', 'Precision')
        columns = [*MEANS, *(f'{kind}.{c}' for c in self.defect_classes() for kind in kinds), *WITH_BACKGROUND]
        present = [key for key in columns if any(self.value(run, key) is not None for run in self.runs)]
        logged = dict.fromkeys(key for run in self.runs for key, value in run.test.items() if value is not None)
        background = {f'{kind}.{run.classes[0]}' for run in self.runs if run.classes for kind in (*kinds, 'F1')}
        return present + [key for key in logged if key not in present and key not in background]

    def is_of_defects(self, metric: str) -> bool:
        """Tell whether a metric leaves the background out."""
        kind, _, name = metric.partition('.')
        return metric in MEANS or (kind in ('IoU', 'Acc', 'Precision', 'F1') and name in self.defect_classes())


def make_results(runs: Sequence[RunFolder], resamples: int = 1000) -> Results:
    """Compute the metrics of all runs and check them against their logs."""
    intervals, notes = {}, []
    for run in runs:
        if run.counts is None:
            continue
        values, classes = run.counts.values, run.counts.classes
        table = intervals[run.name] = {
            key: image_interval(
                values, lambda summed, key=key, classes=classes: metrics(summed, classes)[key], resamples
            )
            for key in metrics(values.sum(0), classes)
        }
        logged = {key: run.test[key] for key in table if run.test.get(key) is not None and math.isfinite(run.test[key])}
        off = [key for key, value in logged.items() if not abs(value - table[key].value) <= LOG_TOLERANCE]
        if off:
            notes.append(
                f'{run.name}: the predictions do not give the logged metrics ({off[0]}: {logged[off[0]]:.2f} in the '
                f'log, {table[off[0]].value:.2f} counted); they belong to different tests or labels.'
            )
        undefined = [c for c in classes[1:] if not math.isfinite(table[f'IoU.{c}'].value)]
        if undefined:
            notes.append(
                f'{run.name}: no pixel of {", ".join(undefined)} is labelled or predicted; its IoU is undefined and '
                'left out of the means.'
            )
    return Results(tuple(runs), intervals, tuple(notes))
