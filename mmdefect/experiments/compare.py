"""Is one way to train better than another? Mean and spread over seeds, intervals, a verdict in words, and warnings."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from mmdefect.experiments import settings as st
from mmdefect.experiments import statistics
from mmdefect.experiments.evidence.counts import LOG_TOLERANCE, Counts
from mmdefect.experiments.evidence.counts import metrics as count_metrics
from mmdefect.experiments.evidence.run_folder import SearchPlaces, find_runs, load_run
from mmdefect.experiments.states import read_state
from mmdefect.experiments.statistics import Interval, format_difference, format_mean, format_p, mean_and_sd
from mmdefect.experiments.study_records import budget, donor_leaks
from mmdefect.experiments.tables import markdown_table
from mmdefect.functional.metrics.images import unpack_evidence, without_each

BETTER, WORSE, SAME, UNKNOWN = 'better', 'worse', 'not distinguishable', 'unknown'
#: Metrics of which less is better.
LOWER_IS_BETTER = ('*loss*', '*false_alarm*', 'FA*', '*FPR*', '*fpr*', '*_error*')
_CHECKPOINT = re.compile(r'Load checkpoint from (\S+)')


@dataclass(frozen=True)
class FinishedRun:
    """What one finished run brings to a comparison."""

    name: str  # of the run, for messages
    seed: int | None  # its random seed; `None` if unknown
    test: Mapping[str, float | None]  # metrics on the test set, in percent
    counts: Counts | None = None  # counts of each test image, if there are any
    #: flat settings that can change a result; empty if unknown
    settings: Mapping[str, Any] = field(default_factory=dict)
    budget: Mapping[str, Any] = field(default_factory=dict)  # `iterations`, `batch_size`, `val_interval`
    tests: Sequence[Mapping[str, Any]] = ()  # see `JobState.tests`
    leaks: Sequence[str] | None = None  # test images that donors were cut from; `None` if unknown
    source: Mapping[str, Any] = field(default_factory=dict)  # `data`, `commit`, `versions`, `hardware` of the run
    key: str = ''  # identity of the training
    images: Mapping[str, np.ndarray] | None = None  # what each test image adds (`functional.metrics.images`)

    def without_each(self, metric: str) -> tuple[float, np.ndarray] | None:
        """Return a metric, and ``(N,)`` without each test image; ``None`` where that is not known of it."""
        if self.counts is not None and metric in count_metrics(self.counts.values.sum(0), self.counts.classes):
            classes = self.counts.classes
            left = statistics.leave_out(self.counts.values, lambda summed: count_metrics(summed, classes)[metric])
            return float(count_metrics(self.counts.values.sum(0), classes)[metric]), left
        found, logged = without_each(self.images, metric) if self.images else None, self.test.get(metric)
        if found is None or logged is None:
            return found
        return float(logged), found[1] + (logged - found[0])  # the log has the metric of all scores, not of bins


Arms = Mapping[str, Sequence[FinishedRun]]


def run_of_record(record: Mapping[str, Any]) -> FinishedRun:
    """Return the run of a record of :mod:`mmdefect.experiments.study_records`."""
    return FinishedRun(
        f'{record["key"]} (seed {record["seed"]})',
        record['seed'],
        record['test'],
        Counts.from_json(record['counts']) if 'counts' in record else None,
        {key: value[1] for key, value in record['diff'].items()},
        record['budget'],
        record['tests'],
        record.get('leaks'),
        {key: record[key] for key in ('data', 'commit', 'modified', 'versions', 'hardware') if key in record},
        record['key'],
        unpack_evidence(record['images']) if 'images' in record else None,
    )


def parse_group(text: str) -> tuple[str, list[Path]]:
    """Return name and folders of ``NAME=FOLDER,FOLDER`` or ``FOLDER``, which must exist."""
    name, equals, places = text.partition('=')
    folders = [Path(place) for place in (places if equals else text).split(',') if place]
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing or not folders:
        absent = f'; there is no {", ".join(missing)}' if missing else ''
        raise FileNotFoundError(f'an arm must look like NAME=FOLDER,FOLDER with run folders, got {text!r}{absent}.')
    return (name if equals else folders[0].name), folders


def load_groups(
    groups: Sequence[tuple[str, list[Path]]], places: SearchPlaces, read_settings: Callable[[Path], dict[str, Any]]
) -> dict[str, list[FinishedRun]]:
    """Return the runs of every arm, given by name and folders; a folder with several runs brings all of them."""
    arms: dict[str, list[FinishedRun]] = {}
    for name, folders in groups:
        runs = [path for folder in folders for path in find_runs(folder)]
        arms.setdefault(name, []).extend(_load_run(path, places, read_settings) for path in runs)
    return arms


def _load_run(folder: Path, places: SearchPlaces, read_settings: Callable[[Path], dict[str, Any]]) -> FinishedRun:
    run = load_run(folder, folder.name, places)
    config = next(iter(sorted((folder / 'train').glob('*.py'))), None)
    settings = read_settings(config) if config is not None else {}
    state = read_state(folder)
    logs = [path for path in (folder / 'test' / 'test_log.txt', folder / 'test_log.txt') if path.is_file()]
    loaded = _CHECKPOINT.findall(logs[0].read_text(encoding='utf-8', errors='replace')) if logs else []
    return FinishedRun(
        run.name,
        st.flatten(settings).get(st.SEED),
        run.test,
        run.counts,
        st.with_effect(settings) if settings else {},
        budget(settings),
        state.tests if state else [{'checkpoint': name} for name in loaded],  # a log may hold several tests
        donor_leaks(folder, run.truth),
    )


@dataclass(frozen=True)
class Difference:
    """One metric of one arm against the reference."""

    interval: Interval  # of `arm - reference`
    adjusted_p: float  # p-value for the number of arms compared
    verdict: str  # `better`, `worse`, `not distinguishable` or `unknown`
    basis: str  # what the interval covers, `seeds and images`, `images` or `seeds`


@dataclass(frozen=True)
class Comparison:
    """Result of :func:`compare`."""

    reference: str  # arm that the others are compared with
    values: dict[str, dict[str, list[float]]]  # `{arm: {metric: value of each seed}}`
    differences: dict[str, dict[str, Difference]]  # `{arm: {metric: Difference}}`, without the reference
    images: int  # number of test images; 0 without counts
    seeds: dict[str, list[int | None]]  # `{arm: seeds}`
    warnings: list[str]  # sentences


def compare(arms: Arms, reference: str, metrics: Sequence[str], factor_keys: Sequence[str] = ()) -> Comparison:
    """Compare every arm of ``{arm: runs}`` with the reference.

    A metric of which all runs know what each test image adds gets an interval over seeds and test images, another one
    over seeds only. P-values are adjusted (Holm) for the number of arms; the verdict is that of
    the adjusted value, the interval is that of the single comparison. Arms may differ without a warning in settings
    that match ``factor_keys``.
    """
    if reference not in arms:
        raise ValueError(f'`reference` must be one of the arms {list(arms)}, got {reference!r}.')
    empty = [name for name, runs in arms.items() if not runs]
    if empty:
        raise ValueError(f'every arm must have at least one run, but {empty} have none.')
    arms = {name: sorted(runs, key=lambda run: (run.seed is None, run.seed or 0)) for name, runs in arms.items()}
    seeds = {name: [run.seed for run in runs] for name, runs in arms.items()}
    found = [run.counts for runs in arms.values() for run in runs]
    counted = None not in found and len({(counts.names, counts.classes) for counts in found}) == 1
    notes = _warnings(arms, reference, factor_keys)
    if not counted:
        notes.append('no counts of the same test images for all runs: intervals cover the seeds only.')
    values = {
        name: {m: [_value(run, m, counted, notes) for run in runs] for m in metrics} for name, runs in arms.items()
    }
    for metric in metrics:
        if all(value == 0 for row in values.values() for value in row[metric]):
            notes.append(f'`{metric}` is zero in every run: nothing was learned, so nothing can be compared.')
    differences: dict[str, dict[str, Difference]] = {name: {} for name in arms if name != reference}
    for metric in metrics:
        compared = {}
        for name in differences:
            paired = seeds[reference] == seeds[name] and None not in seeds[name]
            compared[name] = compare_runs(arms[reference], arms[name], metric, paired)
        intervals = [interval for interval, _ in compared.values()]
        adjusted = statistics.holm([interval.p for interval in intervals])
        for name, interval, p in zip(differences, intervals, adjusted, strict=True):
            differences[name][metric] = Difference(interval, p, _verdict(interval, p, metric), compared[name][1])
    images = len(found[0].names) if counted else 0
    return Comparison(reference, values, differences, images, seeds, notes)


def compare_runs(
    first: Sequence[FinishedRun], second: Sequence[FinishedRun], metric: str, paired: bool
) -> tuple[Interval, str]:
    """Return the interval of ``second - first`` in a metric, and what it is over (see :func:`compare_groups`)."""
    return compare_groups([[run] for run in first], [[run] for run in second], metric, paired)


def compare_groups(
    first: Sequence[Sequence[FinishedRun]], second: Sequence[Sequence[FinishedRun]], metric: str, paired: bool
) -> tuple[Interval, str]:
    """Compare the mean over the runs of each seed; also say what the interval is over.

    It is over `seeds and images`, or `images` with one seed; where a run does not know its images, over `seeds`.
    """
    runs = [run for arm in (first, second) for of_seed in arm for run in of_seed]
    tables = {id(run): run.without_each(metric) for run in runs}
    images = {_image_names(run, metric) for run in runs}
    if None in tables.values() or len(images) != 1:
        values = [
            [statistics.mean_and_sd([_logged(run, metric) for run in runs])[0] for runs in arm]
            for arm in (first, second)
        ]
        return statistics.compare_values(*values, paired), 'seeds'
    arms = [
        tuple(np.array([np.mean([tables[id(run)][k] for run in of_seed], axis=0) for of_seed in arm]) for k in (0, 1))
        for arm in (first, second)
    ]
    several = max(len(first), len(second)) > 1
    return statistics.compare_left_out(*arms, paired), 'seeds and images' if several else 'images'


def _image_names(run: FinishedRun, metric: str) -> tuple[str, ...]:
    names = run.counts.names if run.counts is not None else ()
    if run.images is None or (
        run.counts is not None and metric in count_metrics(run.counts.values.sum(0), run.counts.classes)
    ):
        return names
    return tuple(run.images['names'].tolist())


def _logged(run: FinishedRun, metric: str) -> float:
    value = run.test.get(metric)
    return math.nan if value is None else float(value)


def _value(run: FinishedRun, metric: str, counted: bool, notes: list[str]) -> float:
    logged = run.test.get(metric)
    exact = count_metrics(run.counts.values.sum(0), run.counts.classes).get(metric) if counted else None
    if exact is None:
        return math.nan if logged is None else float(logged)
    if logged is not None and abs(float(exact) - logged) > LOG_TOLERANCE:
        values = f'{logged:.2f} in the log, but {float(exact):.2f} from the predictions'
        notes.append(f'{run.name}: `{metric}` is {values}; they belong to different tests.')
    return float(exact)


def _verdict(interval: Interval, adjusted_p: float, metric: str) -> str:
    if not math.isfinite(adjusted_p):
        return UNKNOWN
    if adjusted_p >= 1 - statistics.LEVEL or interval.value == 0.0:
        return SAME
    return BETTER if (interval.value > 0) != lower_is_better(metric) else WORSE


def lower_is_better(metric: str) -> bool:
    """Tell whether less of a metric is better."""
    return any(fnmatch(metric, pattern) for pattern in LOWER_IS_BETTER)


def _warnings(arms: Arms, reference: str, factor_keys: Sequence[str]) -> list[str]:
    """Return what makes a comparison less than it seems, one sentence each."""
    longest, notes = max(map(len, arms.values())), []
    for name, runs in arms.items():
        if len(runs) < longest:
            notes.append(f'seeds missing: `{name}` has {len(runs)} of {longest} ({[run.seed for run in runs]}).')
    if longest < 3:
        notes.append(f'{longest} seed(s): at least three are needed to tell an effect from the luck of one training.')
    for name, runs in arms.items():
        if name != reference:
            notes += _setting_warnings(name, arms[reference][0], runs[0], factor_keys)
            shared = {run.key for run in runs} & {run.key for run in arms[reference]} - {''}
            if shared:
                same = f'share {len(shared)} run(s): the same settings, seed and data'
                notes.append(f'`{name}` and `{reference}` {same}.')
    for name, runs in arms.items():
        inside = {key for run in runs for key in st.difference(runs[0].settings, run.settings)}
        if inside:
            notes.append(f'the runs of `{name}` differ among themselves in {_some(inside)}.')
        for run in runs:
            tested = {entry['checkpoint'] for entry in run.tests}
            if len(tested) > 1:
                reads = f'{len(run.tests)} times with {len(tested)} checkpoints'
                lesson = 'choosing among those would be selection on test'
                notes.append(f'`{name}`, {run.name}: the test set was read {reads}; {lesson}.')
            if run.leaks:
                leaks = f'{len(run.leaks)} donor(s) come from test images, the first is {run.leaks[0]}'
                notes.append(f'`{name}`, {run.name}: {leaks}; its test result does not count.')
    for what in ('data', 'commit', 'versions', 'hardware'):
        if len({st.digest(run.source[what]) for runs in arms.values() for run in runs if what in run.source}) > 1:
            notes.append(f'the runs differ in {what}.')
    return notes


def _setting_warnings(name: str, first: FinishedRun, other: FinishedRun, factor_keys: Sequence[str]) -> list[str]:
    notes = [
        f'unequal budget: `{name}` has {key} {other.budget.get(key)}, the reference {first.budget.get(key)}.'
        for key in ('iterations', 'batch_size')
        if first.budget.get(key) != other.budget.get(key)
    ]
    allowed = ('train_cfg.max_iters', 'train_dataloader.batch_size', *factor_keys)
    different = st.difference(first.settings, other.settings)
    changed = [key for key in different if not any(fnmatch(key, pattern) for pattern in allowed)]
    if changed and factor_keys:
        notes.append(f'`{name}` differs in more than the factor: {_some(changed)}.')
    elif changed:
        notes.append(f'`{name}` differs from the reference in {_some(changed)}; no factor was named.')
    return notes


def _some(keys: Iterable[str], most: int = 6) -> str:
    listed = [f'`{key}`' for key in sorted(keys)]
    return ', '.join(listed[:most]) + (f' and {len(listed) - most} more' if len(listed) > most else '')


def published_rule(
    values: Mapping[str, Mapping[str, float]], reference: str, metrics: Sequence[str]
) -> tuple[list[str], dict[str, list[str]]]:
    """The published selection of data sets: drop each that lowers any metric of the reference, rank by the first.

    It looks at means only (``{arm: {metric: mean}}``) and knows no noise: with several metrics a harmless arm is
    dropped as often as not. It is here so that published choices can be made again.

    Returns:
        The arms kept, best first, and ``{dropped arm: metrics that it lowered}``.
    """
    signs = {metric: -1 if lower_is_better(metric) else 1 for metric in metrics}
    base, others = values[reference], {name: row for name, row in values.items() if name != reference}
    worse = {name: [m for m in metrics if signs[m] * row[m] < signs[m] * base[m]] for name, row in others.items()}
    kept = [name for name, lowered in worse.items() if not lowered]
    first = metrics[0]
    kept.sort(key=lambda name: -signs[first] * values[name][first])
    return kept, {name: lowered for name, lowered in worse.items() if lowered}


def published_sentences(comparison: Comparison) -> str:
    """Return what the published selection rule says about the arms, and that it knows no noise."""
    values = {name: {m: mean_and_sd(v)[0] for m, v in row.items()} for name, row in comparison.values.items()}
    metrics = list(next(iter(values.values())))
    kept, dropped = published_rule(values, comparison.reference, metrics)
    words = f'drop what lowers any of {", ".join(metrics)}, rank by {metrics[0]}; it knows no noise'
    lines = [f'Published rule ({words}):\n']
    lines += [f'{k}. `{name}`' for k, name in enumerate(kept, start=1)] or ['Nothing is kept.']
    lines += [''] + [f'- dropped `{name}`: lower {", ".join(worse)}' for name, worse in dropped.items()]
    return '\n'.join(lines) + '\n'


def render(comparison: Comparison, notes: Mapping[str, str] | None = None) -> str:
    """Return the whole comparison as Markdown, without a headline; ``notes`` are a column of the arms."""
    metrics = list(next(iter(comparison.values.values())))
    has_notes = bool(notes) and any(notes.values())
    lines = []
    for name, row in comparison.values.items():
        line = [name, *(format_mean(row[metric]) for metric in metrics), str(len(comparison.seeds[name]))]
        lines.append([*line, notes.get(name, '')] if has_notes else line)
    parts = [markdown_table(['arm', *metrics, 'n', *['note'] * has_notes], lines)]
    if comparison.differences:
        verdicts = [f'- {_sentence(comparison, name, metrics[0])}\n' for name in comparison.differences]
        parts += [''.join(verdicts), f'Difference to `{comparison.reference}`:\n', _differences_table(comparison)]
    if comparison.warnings:
        parts.append('Warnings:\n\n' + ''.join(f'- {line}\n' for line in comparison.warnings))
    scope = f'{comparison.images} test images. ' if comparison.images else ''
    values = 'Values are percent, mean ± standard deviation over seeds'
    intervals = 't intervals over seeds and test images (docs/studies.md)'
    parts.append(f'{scope}{values}. Intervals: {intervals}; p is adjusted for the number of arms.\n')
    return '\n'.join(parts)


def _sentence(comparison: Comparison, name: str, metric: str) -> str:
    d, reference = comparison.differences[name][metric], comparison.reference
    found = f'in {metric} ({format_difference(d.interval)})'
    if d.verdict == UNKNOWN:
        return f'`{name}` cannot be compared with `{reference}` {found}: it takes several seeds or counts of images.'
    return f'`{name}` is {d.verdict} {"from" if d.verdict == SAME else "than"} `{reference}` {found}.'


def _differences_table(comparison: Comparison) -> str:
    header = ['arm', 'metric', 'verdict', 'difference [95 %]', 'p (Holm)', 'interval over']
    lines = [
        [name, metric, d.verdict, format_difference(d.interval), format_p(d.adjusted_p), d.basis]
        for name, row in comparison.differences.items()
        for metric, d in row.items()
    ]
    return markdown_table(header, lines, text=range(3))
