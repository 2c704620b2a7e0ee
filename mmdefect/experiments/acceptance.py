"""May a model be put to work? Limits held against exact intervals, and whether a new model is nowhere worse.

Both read ``parts.csv``, which testing leaves in its work dir (of a batch in ``test/`` of a run): one line a part with
whether it is bad, whether it was rejected, its score, and the pixels of each class. A limit is kept when the whole 95 %
interval of the share (Clopper-Pearson) lies within it, broken when the whole interval lies above it, and else unknown:
then this many parts do not tell. Parts are taken as independent draws from what the plant makes; several images of one
piece are fewer parts than images.
"""

import csv
import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy import ndarray
from scipy import stats

from mmdefect.experiments.evidence.counts import Counts, metrics
from mmdefect.experiments.evidence.run_folder import read_test_log
from mmdefect.experiments.states import PARTS_NAME
from mmdefect.experiments.statistics import LEVEL, Interval, compare_left_out, format_p, holm, leave_out
from mmdefect.files import write_text
from mmdefect.functional.parts import exact_interval

PASS, FAIL, UNKNOWN = 'pass', 'fail', 'cannot be known'
#: More parts than this are not asked for.
MOST_PARTS = 10**7


@dataclass(frozen=True)
class Parts:
    """The parts of a test, ordered by name."""

    run: Path  # as it was named
    folder: Path  # in which the table lies
    names: tuple[str, ...]  # paths of the images below the folder they share
    bad: ndarray  # (N,) bool
    rejected: ndarray  # (N,) bool
    scores: ndarray  # (N,) float64, the largest log-odds of any defect; NaN where not counted
    counts: Counts  # pixels by the decision that was judged
    digest: str  # of the file, 16 hex digits

    def labelled(self, class_id: int) -> ndarray:
        """Return which parts have a labelled pixel of a class, ``(N,)`` bool."""
        return self.counts.values[:, class_id, 2] > 0


def read_parts(run: Path) -> Parts:
    """Read the parts of a tested run.

    Raises:
        FileNotFoundError: if there are none; the message says how to get them.
        ValueError: if the table is not one of ours.
    """
    places = [run / PARTS_NAME, run / 'test' / PARTS_NAME]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f'{run} must be the folder of a tested run, with {PARTS_NAME} in it or in its test/, but it has none; test '
            f'the checkpoint once more: tools/test.py CONFIG CHECKPOINT --work-dir {run}.'
        )
    with path.open(newline='', encoding='utf-8') as file:
        rows = [row for row in csv.DictReader(file) if row.get('defective') != '']  # '': all of it is ignored
    columns = list(rows[0]) if rows else []
    classes = [name.removeprefix('labelled.') for name in columns if name.startswith('labelled.')]
    if not {'image', 'defective', 'rejected'} <= set(columns) or len(classes) < 2:
        raise ValueError(
            f'{path} must hold parts with `image`, `defective`, `rejected` and the pixels of each class, but has '
            f'{columns or "no part"}; test with the groups pixel and parts of DefectMetric, as the base configs do.'
        )
    images = [row['image'] for row in rows]
    start = os.path.commonpath([os.path.dirname(image) for image in images])
    names = [os.path.splitext(os.path.relpath(image, start))[0] for image in images]
    order = sorted(range(len(rows)), key=lambda k: names[k])
    rows, names = [rows[k] for k in order], tuple(names[k] for k in order)
    values = [[[int(row[f'{kind}.{c}']) for kind in ('hit', 'predicted', 'labelled')] for c in classes] for row in rows]
    return Parts(
        run,
        path.parent,
        names,
        np.array([row['defective'] == 'True' for row in rows]),
        np.array([row['rejected'] == 'True' for row in rows]),
        np.array([float(row.get('score') or 'nan') for row in rows]),
        Counts(names, tuple(classes), np.array(values, np.int64)),
        hashlib.sha256(path.read_bytes()).hexdigest()[:16],
    )


@dataclass(frozen=True)
class Limit:
    """A share of parts that must not be larger, and what a test says about it."""

    name: str  # `overkill`: good parts rejected; `escape`: bad parts accepted
    limit: float  # in [0, 1]
    count: int  # parts that went wrong, of
    total: int
    low: float  # exact interval of the share
    high: float
    answer: str  # `pass`, `fail` or `cannot be known`
    #: further parts that could pass the limit, if every one of them goes right; None where it is not unknown
    needed: int | None = None
    likely: int | None = None  # the same if parts go wrong as often as so far; None if none has, or it would never pass

    @property
    def kind(self) -> str:
        """Which parts count, ``good`` or ``bad``."""
        return 'good' if self.name == 'overkill' else 'bad'


def check_limit(name: str, limit: float, count: int, total: int, confidence: float = LEVEL) -> Limit:
    """Hold a count against a limit, see the head of this module."""
    if not 0 < limit < 1:
        raise ValueError(f'the limit of {name} must be a share between 0 and 1, got {limit}; write .5% or .005.')
    low, high = exact_interval(count, total, confidence)
    answer = PASS if high <= limit else FAIL if low > limit else UNKNOWN
    needed = likely = None
    if answer == UNKNOWN:
        needed = parts_needed(limit, lambda more: exact_interval(count, total + more, confidence)[1])
        share = count / total if total else 0.0
        if 0 < share < limit:
            # counts come in whole parts: the next larger one, so that none is promised too early
            likely = parts_needed(
                limit, lambda more: exact_interval(count + math.ceil(share * more), total + more, confidence)[1]
            )
    return Limit(name, limit, count, total, low, high, answer, needed, likely)


def parts_needed(limit: float, high: Callable[[int], float]) -> int | None:
    """Return the fewest more parts with which the upper end ``high(more)`` is within the limit, at most a doubling.

    ``high`` falls, but for the steps of whole parts; ``None`` beyond :data:`MOST_PARTS`.
    """
    most = 1
    while high(most) > limit:
        most *= 2
        if most > MOST_PARTS:
            return None
    least = most // 2  # not enough, or 0
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if high(middle) <= limit else (middle, most)
    return most


@dataclass(frozen=True)
class Costs:
    """What mistakes cost, in any one unit, and how many parts are bad."""

    escape: float  # of a bad part that is accepted
    overkill: float  # of a good part that is rejected
    bad_share: float  # of the parts that the plant makes, in [0, 1]

    def __post_init__(self) -> None:
        if min(self.escape, self.overkill) < 0 or not 0 < self.bad_share < 1:
            raise ValueError(
                f'costs must not be negative and the share of bad parts must lie between 0 and 1, got {self.escape}, '
                f'{self.overkill} and {self.bad_share}.'
            )

    def of(self, escaped: float | ndarray, killed: float | ndarray) -> float | ndarray:
        """Return the cost of 1000 parts for the shares of bad parts accepted and good parts rejected."""
        return 1000 * (self.bad_share * self.escape * escaped + (1 - self.bad_share) * self.overkill * killed)


@dataclass(frozen=True)
class Acceptance:
    """The answer to ``tools/accept.py``."""

    parts: Parts
    limits: tuple[Limit, Limit]  # overkill, escape
    classes: tuple[Limit, ...]  # escape of the bad parts of each class
    verdict: str  # of the test log, if there is one
    costs: Costs | None = None
    curve: tuple[tuple[float, float], ...] = ()  # (threshold of the score, cost of 1000 parts)
    cost: Interval | None = None  # of the decision that was tested, by the ends of both intervals

    @property
    def answer(self) -> str:
        """``fail`` if any limit is broken, ``pass`` if both are kept, else ``cannot be known``."""
        answers = {limit.answer for limit in self.limits}
        return FAIL if FAIL in answers else UNKNOWN if UNKNOWN in answers else PASS

    def sentence(self) -> str:
        """Return the answer in words."""
        texts = [f'{limit.kind.capitalize()} parts: {in_words(limit)}' for limit in self.limits]
        if self.answer != UNKNOWN:
            return f'{self.answer.upper()}. ' + ' '.join(texts)
        open_limits = [limit for limit in self.limits if limit.answer == UNKNOWN]
        more = ' and '.join(f'{_number(limit.needed)} more {limit.kind} parts' for limit in open_limits)
        return f'CANNOT BE KNOWN from this many parts, {more} are needed. ' + ' '.join(texts)


def in_words(limit: Limit) -> str:
    """Return what a test says about a limit as a sentence."""
    wrong = 'rejected' if limit.name == 'overkill' else 'accepted'
    text = f'{limit.count} of {limit.total} {wrong} (95 %: {percent(limit.low)} to {percent(limit.high)})'
    text += f', the limit is {percent(limit.limit)}: {limit.answer}'
    if limit.answer == UNKNOWN:
        text += f' ({_number(limit.needed)} more, if not one of them is {wrong}'
        text += f'; some {_number(limit.likely)} if it goes on like this)' if limit.likely else ')'
    return f'{text}.'


def percent(share: float) -> str:
    """Return a share in percent with two digits that count."""
    return f'{100 * share:.3g} %'


def _number(count: int | None) -> str:
    return f'over {MOST_PARTS:,}' if count is None else f'{count:,}'


def accept(run: Path, overkill: float, escape: float, costs: Costs | None = None) -> Acceptance:
    """Hold the parts of a tested run against the largest shares of good ones rejected and of bad ones accepted."""
    parts = read_parts(run)
    good, bad, missed = ~parts.bad, parts.bad, parts.bad & ~parts.rejected
    limits = (
        check_limit('overkill', overkill, int((good & parts.rejected).sum()), int(good.sum())),
        check_limit('escape', escape, int(missed.sum()), int(bad.sum())),
    )
    classes = []
    for k, name in enumerate(parts.counts.classes[1:], 1):
        own = parts.labelled(k)
        classes.append(check_limit(name, escape, int((own & missed).sum()), int(own.sum())))
    log, _ = read_test_log(parts.folder)
    verdict = log.verdict if log else ''
    if costs is None:
        return Acceptance(parts, limits, tuple(classes), verdict)
    if not good.any() or not bad.any():
        raise ValueError(
            f'costs need good and bad parts, but {parts.folder} has {int(good.sum())} and {int(bad.sum())}; test on '
            'both, or leave the costs out.'
        )
    shares = [(limit.count / limit.total, limit.low, limit.high) for limit in limits]
    cost = Interval(*(float(costs.of(escaped, killed)) for killed, escaped in zip(*shares, strict=True)))
    curve = cost_curve(parts, costs) if np.isfinite(parts.scores).all() else ()
    return Acceptance(parts, limits, tuple(classes), verdict, costs, curve, cost)


def cost_curve(parts: Parts, costs: Costs) -> tuple[tuple[float, float], ...]:
    """Return ``(threshold, cost of 1000 parts)`` if parts were rejected from a score on; the last rejects none."""
    bad, good = (np.sort(parts.scores[mask]) for mask in (parts.bad, ~parts.bad))
    edges = np.unique(parts.scores)
    escaped = np.append(np.searchsorted(bad, edges) / len(bad), 1.0)
    killed = np.append(1 - np.searchsorted(good, edges) / len(good), 0.0)
    thresholds = np.append(edges, edges[-1] + 1e-3 * max(1.0, float(np.ptp(edges))))
    return tuple(zip(thresholds.tolist(), costs.of(escaped, killed).tolist(), strict=True))


def write_acceptance(acceptance: Acceptance, page: Path, signatures: Sequence[str] = ('checked', 'released')) -> None:
    """Write the page that is printed and signed."""
    from mmdefect.experiments.evidence import figures  # matplotlib, which the answer alone does not need
    from mmdefect.visualization.pages import render_page

    figure = ''
    if acceptance.curve:
        limit = acceptance.cost.value
        curves = {
            'from a score on': acceptance.curve,
            'as tested': [(acceptance.curve[0][0], limit), (acceptance.curve[-1][0], limit)],
        }
        drawn = figures.line_figure(curves, 'Cost of 1000 parts', 'score (log-odds) from which a part is rejected')
        figure = figures.to_svg(drawn)
    text = render_page(
        'acceptance',
        title=f'Acceptance: {acceptance.parts.run.resolve().name}',
        lead=acceptance.sentence(),
        acceptance=acceptance,
        percent=percent,
        in_words=in_words,
        figure=figure,
        signatures=signatures,
    )
    write_text(page, text)


def read_share(text: str) -> float:
    """Read ``.5%`` or ``0.005`` as a share."""
    try:
        return float(text.strip().removesuffix('%')) / (100 if text.strip().endswith('%') else 1)
    except ValueError:
        raise ValueError(f'a share must be written as .5% or .005, got {text!r}.') from None


@dataclass(frozen=True)
class Change:
    """One quantity of two models on the same parts."""

    name: str  # `IoU of crack`, `crack parts found`, `good parts accepted`; more is better
    old: float  # in percent
    new: float
    low: float  # 95 % interval of the difference; NaN where only p is known
    high: float
    p: float  # two-sided, of no difference
    adjusted: float = math.nan  # for the number of quantities (Holm)

    @property
    def worse(self) -> bool:
        """Whether the new model is worse outside the noise."""
        return self.new < self.old and self.adjusted < 1 - LEVEL


@dataclass(frozen=True)
class Gate:
    """The answer to ``tools/gate.py``."""

    changes: tuple[Change, ...]
    parts: int
    unknown: tuple[str, ...] = field(default=())  # quantities of which these parts say nothing

    @property
    def promoted(self) -> bool:
        """Whether nothing is worse outside the noise."""
        return not any(change.worse for change in self.changes)

    def report(self) -> str:
        """Return the table and the answer."""
        from mmdefect.experiments.tables import markdown_table

        rows = []
        for c in self.changes:
            reach = f' [{c.low:+.2f}, {c.high:+.2f}]' if math.isfinite(c.low) else ''
            verdict = 'worse' if c.worse else 'better' if c.new > c.old and c.adjusted < 1 - LEVEL else 'in the noise'
            change = f'{c.new - c.old:+.2f}{reach}'
            rows.append([c.name, f'{c.old:.2f}', f'{c.new:.2f}', change, format_p(c.adjusted), verdict])
        table = markdown_table(['%', 'old', 'new', 'difference [95 %]', 'p (Holm)', 'verdict'], rows, text=(0, 5))
        worse = [c.name for c in self.changes if c.worse]
        answer = f'KEEP THE OLD ONE: worse in {", ".join(worse)}.' if worse else 'PROMOTE: nothing is worse'
        answer += '' if worse else f' outside the noise of {self.parts} parts.'
        silent = f' These parts say nothing of {", ".join(self.unknown)}.' if self.unknown else ''
        return f'{table}\n{answer}{silent}'


def gate(old: Path, new: Path) -> Gate:
    """Compare two tested runs part by part.

    The IoU of a class has a Student interval over images (leaving out one at a time, paired); parts found and accepted
    have the exact test of those that only one model got right (McNemar). Probabilities are adjusted for the number of
    quantities, as everywhere.

    Raises:
        ValueError: if the two were not tested on the same parts, labels and classes.
    """
    first, second = read_parts(old), read_parts(new)
    _check_same(first, second)
    changes, unknown = [], []
    classes = first.counts.classes

    def judge(name: str, mask: ndarray, right: Callable[[Parts], ndarray]) -> None:
        if not mask.any():
            unknown.append(name)
            return
        before, after = right(first)[mask], right(second)[mask]
        lost, won = int((before & ~after).sum()), int((after & ~before).sum())
        p = float(stats.binomtest(lost, lost + won).pvalue) if lost + won else 1.0
        changes.append(Change(name, 100 * before.mean(), 100 * after.mean(), math.nan, math.nan, p))

    judge('good parts accepted', ~first.bad, lambda parts: ~parts.rejected)
    for k, name in enumerate(classes[1:], 1):
        judge(f'{name} parts found', first.labelled(k), lambda parts: parts.rejected)
        table = [_left_out(parts.counts, f'IoU.{name}') for parts in (first, second)]
        if not first.labelled(k).any() or not all(np.isfinite(left).all() for _, left in table):
            unknown.append(f'IoU of {name}')
            continue
        interval = compare_left_out(*table, paired_seeds=True)
        values = (float(value[0]) for value, _ in table)
        changes.append(Change(f'IoU of {name}', *values, interval.low, interval.high, interval.p))
    adjusted = holm([change.p for change in changes])
    judged = [Change(**{**vars(c), 'adjusted': p}) for c, p in zip(changes, adjusted, strict=True)]
    return Gate(tuple(judged), len(first.names), tuple(unknown))


def _left_out(counts: Counts, metric: str) -> tuple[ndarray, ndarray]:
    def measure(summed: ndarray) -> ndarray:
        return metrics(summed, counts.classes)[metric]

    return measure(counts.values.sum(0)[None]), leave_out(counts.values, measure)[None]


def _check_same(first: Parts, second: Parts) -> None:
    facts: Mapping[str, tuple] = {
        'classes': (first.counts.classes, second.counts.classes),
        'parts': (first.names, second.names),
        'labelled pixels': (first.counts.values[..., 2].tolist(), second.counts.values[..., 2].tolist()),
    }
    for what, (one, other) in facts.items():
        if one != other:
            shown = f': {list(one)} and {list(other)}' if what == 'classes' else f' ({len(one)} and {len(other)})'
            raise ValueError(
                f'both runs must be tested on the same {what}, but {first.folder} and {second.folder} differ'
                f'{shown}; test both checkpoints on one data set.'
            )
