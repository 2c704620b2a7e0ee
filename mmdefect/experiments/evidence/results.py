"""The numbers of a report: metrics of every run with intervals over the test images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mmdefect.experiments.compare import LOG_TOLERANCE
from mmdefect.experiments.evidence.counts import metrics
from mmdefect.experiments.evidence.run import RunEvidence
from mmdefect.experiments.statistics import Interval, image_interval

MEANS = ('fg_mIoU', 'fg_mAcc', 'fg_mF1')
WITH_BACKGROUND = ('mIoU', 'mAcc', 'aAcc')


@dataclass(frozen=True)
class Results:
    """Numbers of all runs.

    Attributes:
        runs: in the order of the page.
        intervals: ``{run: {metric: interval}}`` of the runs with counts.
        notes: what a reader must know, one sentence each.
    """

    runs: tuple[RunEvidence, ...]
    intervals: dict[str, dict[str, Interval]]
    notes: tuple[str, ...]

    def best(self) -> str | None:
        """Return the run with the best foreground mIoU; ``None`` if no run has one."""
        values = {run.name: self.value(run, 'fg_mIoU') for run in self.runs}
        known = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        return max(known, key=known.__getitem__) if known else None

    def value(self, run: RunEvidence, metric: str) -> float | None:
        """Return a metric from the counts, or else from the log."""
        interval = self.intervals.get(run.name, {}).get(metric)
        return interval.value if interval is not None else run.test.get(metric)


def make_results(runs: Sequence[RunEvidence], draws: int = 1000) -> Results:
    """Compute the metrics of all runs and check them against their logs."""
    intervals, notes = {}, []
    for run in runs:
        if run.counts is None:
            continue
        classes, table = run.counts.classes, {}
        for key in metrics(run.counts.values.sum(0), classes):
            table[key] = image_interval(run.counts.values, lambda summed, key=key: metrics(summed, classes)[key], draws)
        intervals[run.name] = table
        off = {
            key: (run.test[key], table[key].value)
            for key in table
            if run.test.get(key) is not None
            and math.isfinite(run.test[key])
            and not abs(run.test[key] - table[key].value) <= LOG_TOLERANCE
        }
        if off:
            key, (logged, counted) = next(iter(off.items()))
            notes.append(
                f'{run.name}: the predictions do not give the logged metrics ({key}: {logged:.2f} in the log, '
                f'{counted:.2f} counted); they belong to different tests or labels.'
            )
        undefined = [c for c in classes[1:] if not math.isfinite(table[f'IoU.{c}'].value)]
        if undefined:
            notes.append(
                f'{run.name}: no pixel of {", ".join(undefined)} is labelled or predicted; its IoU is undefined and '
                'left out of the means.'
            )
    return Results(tuple(runs), intervals, tuple(notes))


def defect_classes(results: Results) -> list[str]:
    """Return the names of the defect classes of all runs."""
    return list(dict.fromkeys(name for run in results.runs for name in run.classes[1:]))


def foreground_keys(results: Results) -> list[str]:
    """Return the metrics of the defects: the means, then each class."""
    return [
        *MEANS,
        *(f'{kind}.{name}' for kind in ('IoU', 'Acc', 'Precision', 'F1') for name in defect_classes(results)),
    ]


def result_columns(results: Results) -> list[str]:
    """Return the columns of the table: those that some run has; further metrics of the logs come last."""
    columns = [
        *MEANS,
        *(f'{kind}.{c}' for c in defect_classes(results) for kind in ('IoU', 'Acc', 'Precision')),
        *WITH_BACKGROUND,
    ]
    present = [key for key in columns if any(results.value(run, key) is not None for run in results.runs)]
    logged = list(dict.fromkeys(key for run in results.runs for key, value in run.test.items() if value is not None))
    skipped = {
        f'{kind}.{run.classes[0]}' for run in results.runs if run.classes for kind in ('IoU', 'Acc', 'Precision', 'F1')
    }
    return present + [key for key in logged if key not in present and key not in skipped]
