"""Is one way to train better than another? Mean and spread over seeds, intervals, a verdict in words, and warnings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

import numpy as np

from mmdefect.experiments import statistics
from mmdefect.experiments.comparison_warnings import warn
from mmdefect.experiments.evidence.counts import metrics as count_metrics
from mmdefect.experiments.statistics import Interval
from mmdefect.experiments.tested_run import Evidence

BETTER, WORSE, SAME, UNKNOWN = 'better', 'worse', 'not distinguishable', 'unknown'
#: Metrics of which less is better.
LOWER_IS_BETTER = ('*loss*', '*false_alarm*', 'FA*', '*FPR*', '*fpr*', '*_error*')
#: Percentage points by which a metric recomputed from counts may miss the logged one (logs are rounded).
LOG_TOLERANCE = 0.02


@dataclass(frozen=True)
class Difference:
    """One metric of one arm against the reference.

    Attributes:
        metric: its name.
        interval: of ``arm - reference``.
        adjusted_p: p-value for the number of arms compared.
        verdict: ``better``, ``worse``, ``not distinguishable`` or ``unknown``.
        basis: what the interval covers, ``seeds and images``, ``images`` or ``seeds``.
    """

    metric: str
    interval: Interval
    adjusted_p: float
    verdict: str
    basis: str


@dataclass(frozen=True)
class Comparison:
    """Result of :func:`compare`.

    Attributes:
        reference: arm that the others are compared with.
        values: ``{arm: {metric: value of each seed}}``.
        differences: ``{arm: {metric: Difference}}``, without the reference.
        images: number of test images; 0 without counts.
        seeds: ``{arm: seeds}``.
        warnings: sentences.
    """

    reference: str
    values: dict[str, dict[str, list[float]]]
    differences: dict[str, dict[str, Difference]]
    images: int
    seeds: dict[str, list[int | None]]
    warnings: list[str]


def compare(
    arms: Mapping[str, Sequence[Evidence]],
    reference: str,
    metrics: Sequence[str],
    factor_keys: Sequence[str] = (),
    level: float = 0.95,
    draws: int = 4000,
) -> Comparison:
    """Compare every arm with the reference.

    A metric that follows from the counts gets an interval over seeds and test images; another one, such as a
    threshold-free one, over seeds only. P-values are adjusted (Holm) for the number of arms; the verdict is that of
    the adjusted value, the interval is that of the single comparison.

    Args:
        arms: ``{arm: runs}``.
        reference: name of an arm.
        metrics: names, of test metrics or of :func:`mmdefect.experiments.evidence.counts.metrics`.
        factor_keys: patterns of settings in which arms may differ without a warning.
        level: coverage of the intervals.
        draws: resamples.
    """
    if reference not in arms:
        raise ValueError(f'`reference` must be one of the arms {list(arms)}, got {reference!r}.')
    empty = [name for name, runs in arms.items() if not runs]
    if empty:
        raise ValueError(f'every arm must have at least one run, but {empty} have none.')
    arms = {name: sorted(runs, key=lambda run: (run.seed is None, run.seed or 0)) for name, runs in arms.items()}
    counted = _same_images(arms)
    notes = warn(arms, reference, factor_keys)
    if not counted:
        notes.append('no counts of the same test images for all runs: intervals cover the seeds only.')
    values = {
        name: {metric: [_value(run, metric, counted, notes) for run in runs] for metric in metrics}
        for name, runs in arms.items()
    }
    notes += [
        f'`{metric}` is zero in every run: nothing was learned, so nothing can be compared.'
        for metric in metrics
        if all(value == 0 for row in values.values() for value in row[metric])
    ]
    differences: dict[str, dict[str, Difference]] = {name: {} for name in arms if name != reference}
    for metric in metrics:
        found = {
            name: _interval(
                arms[reference],
                arms[name],
                values[reference][metric],
                values[name][metric],
                metric,
                counted,
                level,
                draws,
            )
            for name in differences
        }
        adjusted = statistics.holm([interval.p for interval, _ in found.values()])
        for (name, (interval, basis)), p in zip(found.items(), adjusted, strict=True):
            differences[name][metric] = Difference(metric, interval, p, _verdict(interval, p, metric, level), basis)
    images = len(next(iter(arms.values()))[0].counts.names) if counted else 0
    return Comparison(
        reference, values, differences, images, {n: [r.seed for r in runs] for n, runs in arms.items()}, notes
    )


def lower_is_better(metric: str) -> bool:
    """Tell whether less of a metric is better."""
    return any(fnmatch(metric, pattern) for pattern in LOWER_IS_BETTER)


def published_rule(
    values: Mapping[str, Mapping[str, float]], reference: str, metrics: Sequence[str]
) -> tuple[list[str], dict[str, list[str]]]:
    """The published selection of data sets: drop each that lowers any metric of the reference, rank the rest.

    It looks at means only and knows no noise: with several metrics a harmless arm is dropped as often as not. It is
    here so that published choices can be made again.

    Args:
        values: ``{arm: {metric: mean}}``.
        reference: arm without the studied data.
        metrics: those that must not fall; the first one ranks.

    Returns:
        The arms kept, best first, and ``{dropped arm: metrics that it lowered}``.
    """
    dropped: dict[str, list[str]] = {}
    kept = []
    for name, row in values.items():
        if name == reference:
            continue
        worse = [
            m
            for m in metrics
            if (row[m] > values[reference][m] if lower_is_better(m) else row[m] < values[reference][m])
        ]
        if worse:
            dropped[name] = worse
        else:
            kept.append(name)
    sign = 1 if lower_is_better(metrics[0]) else -1
    return sorted(kept, key=lambda name: sign * values[name][metrics[0]]), dropped


def _same_images(arms: Mapping[str, Sequence[Evidence]]) -> bool:
    found = [run.counts for runs in arms.values() for run in runs]
    if any(counts is None for counts in found):
        return False
    return len({(counts.names, counts.classes) for counts in found}) == 1


def _value(run: Evidence, metric: str, counted: bool, notes: list[str]) -> float:
    logged = run.test.get(metric)
    exact = None
    if counted:
        exact = count_metrics(run.counts.values.sum(0), run.counts.classes).get(metric)
    if exact is None:
        return math.nan if logged is None else float(logged)
    if logged is not None and abs(float(exact) - logged) > LOG_TOLERANCE:
        notes.append(
            f'{run.name}: `{metric}` is {logged:.2f} in the log, but {float(exact):.2f} from the predictions; '
            'they belong to different tests.'
        )
    return float(exact)


def _interval(
    first: Sequence[Evidence],
    second: Sequence[Evidence],
    values_1: Sequence[float],
    values_2: Sequence[float],
    metric: str,
    counted: bool,
    level: float,
    draws: int,
) -> tuple[Interval, str]:
    seeds = [[run.seed for run in runs] for runs in (first, second)]
    paired = seeds[0] == seeds[1] and None not in seeds[0]
    if not counted or metric not in count_metrics(first[0].counts.values.sum(0), first[0].counts.classes):
        return statistics.compare_values(values_1, values_2, paired, level), 'seeds'
    stacks = [np.stack([run.counts.values for run in runs]) for runs in (first, second)]
    classes = first[0].counts.classes
    interval = statistics.compare_counts(
        *stacks, lambda summed: count_metrics(summed, classes)[metric], paired, draws, level
    )
    return interval, 'seeds and images' if max(map(len, seeds)) > 1 else 'images'


def _verdict(interval: Interval, adjusted_p: float, metric: str, level: float) -> str:
    if not math.isfinite(adjusted_p):
        return UNKNOWN
    if adjusted_p >= 1 - level or interval.value == 0.0:
        return SAME
    return BETTER if (interval.value > 0) != lower_is_better(metric) else WORSE
