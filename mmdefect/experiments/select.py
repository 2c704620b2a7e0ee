"""Choose the best checkpoint of a training from its validations.

``score`` is (aAcc + mAcc + mIoU) / 3, ``score2`` is (mAcc + mIoU) / 3; both include the background, which on
defect images is nearly 100 %. With ``exclude_background`` the means run over the defect classes only and
``score`` becomes (fg_mAcc + fg_mIoU) / 2: aAcc is a share of all pixels and cannot be had without background.

A validation set of some dozen images is noisy, and the best of many noisy values is lucky. ``smooth`` compares the
running median (or mean) over neighbouring validations instead.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mmdefect.experiments.logs import report_to_stderr

SCORES = {'score': ('aAcc', 'mAcc', 'mIoU'), 'score2': ('mAcc', 'mIoU')}
#: Metrics in which the background counts; on defect images it is nearly all there is.
WITH_BACKGROUND = ('score', 'score2', 'aAcc', 'mIoU', 'mAcc', 'cal_mIoU', 'cal_mAcc')
AVERAGES = ('median', 'mean')
_FOREGROUND_OF = {'mIoU': 'IoU', 'mAcc': 'Acc', 'fg_mIoU': 'IoU', 'fg_mAcc': 'Acc'}


class MissingMetric(ValueError):
    """A log does not hold the values that the asked metric needs."""


@dataclass(frozen=True)
class Rule:
    """How the best step is chosen."""

    #: `score`, `score2` or a key of the validations; `fg_mIoU` and `fg_mAcc` come from the classes if not logged
    metric: str = 'score'
    exclude_background: bool = False  # leave class 0 out of all means
    tie: str = 'last'  # which of equally good steps wins, `first` or `last`
    mode: str = 'max'  # whether large (`max`) or small (`min`) values are good
    background: str | None = None  # name of the background class; the first class of the log if not given
    #: how many neighbouring validations, the step itself in their middle, are averaged first; odd, 1 for none
    smooth: int = 1
    average: str = 'median'  # `median` or `mean`

    def __post_init__(self) -> None:
        for name, choices in (('tie', ('first', 'last')), ('mode', ('max', 'min')), ('average', AVERAGES)):
            if getattr(self, name) not in choices:
                raise ValueError(f'`{name}` must be one of {choices}, got {getattr(self, name)!r}.')
        if self.smooth < 1 or self.smooth % 2 == 0:
            raise ValueError(f'`smooth` must be an odd number of validations, 1 for none, got {self.smooth}.')

    @property
    def counts_background(self) -> bool:
        """Whether the background is part of what is compared."""
        return self.metric in WITH_BACKGROUND and not self.exclude_background


@dataclass(frozen=True)
class Choice:
    """The chosen step, its own value, and what was compared."""

    step: int  # the best
    value: float  # its value, not smoothed
    candidates: dict[int, float]  # the value of every candidate by step (not-a-number ones excluded), not smoothed
    #: the same after smoothing; the largest (smallest) of these was chosen
    compared: dict[int, float] = field(default_factory=dict)


def value_of(metrics: dict[str, Any], rule: Rule) -> float:
    """Return the value of one validation under a rule; NaN where a needed value is NaN."""
    if rule.metric == 'score' and rule.exclude_background:
        return (_value(metrics, 'mAcc', rule) + _value(metrics, 'mIoU', rule)) / 2
    if rule.metric in SCORES and rule.metric not in metrics:
        return sum(_value(metrics, key, rule) for key in SCORES[rule.metric]) / 3
    return _value(metrics, rule.metric, rule)


def _value(metrics: dict[str, Any], key: str, rule: Rule) -> float:
    kind = _FOREGROUND_OF.get(key)
    if kind is not None and (rule.exclude_background or key.startswith('fg_')):
        logged = metrics.get(f'fg_m{kind}')
        return float(logged) if logged is not None else _foreground_mean(metrics, kind, rule.background)
    if rule.exclude_background and key.startswith(('m', 'aAcc', 'cal_m')) and key in metrics:
        raise MissingMetric(
            f'`{key}` cannot be had without the background: only mIoU, mAcc, fg_mIoU, fg_mAcc and the '
            'scores can (and cal_fg_mIoU, cal_fg_mAcc). Leave `--exclude-background` away or choose one of those.'
        )
    value = metrics.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        found = sorted(k for k, v in metrics.items() if isinstance(v, (int, float)))
        raise MissingMetric(
            f'`{key}` must be a key of the validations, but the log has only {found}; choose one of those or a score.'
        )
    return float(value)


def _foreground_mean(metrics: dict[str, Any], kind: str, background: str | None) -> float:
    prefix = f'{kind}.'
    classes = {key[len(prefix) :]: float(value) for key, value in metrics.items() if key.startswith(prefix)}
    if not classes:
        raise MissingMetric(
            f'a mean without background needs per-class values (`{prefix}<class>`) or `fg_m{kind}` in the log, but it '
            f'has only {sorted(metrics)}; validate with a metric that logs them or select by the mean over all classes.'
        )
    background = background if background is not None else next(iter(classes))
    if background not in classes:
        raise MissingMetric(f'`background` must be a class of the log, one of {list(classes)}, got {background!r}.')
    # A class that neither occurs nor is predicted has no IoU; as in mmseg it does not count in the mean.
    values = [value for name, value in classes.items() if name != background and not math.isnan(value)]
    return sum(values) / len(values) if values else math.nan


def choose_best(
    validations: dict[int, dict[str, Any]], rule: Rule = Rule(), report: Callable[[str], None] = report_to_stderr
) -> Choice:
    """Choose the best step of ``{step: metrics}``.

    Validations whose value is NaN or infinite, and those without the metric while others have it, are reported
    and cannot win; where none can, the error says why.
    """
    if not validations:
        raise ValueError('there must be at least one validation to choose from, got none.')
    candidates: dict[int, float] = {}
    missing: list[tuple[int, MissingMetric]] = []
    for step, metrics in sorted(validations.items()):
        try:
            value = value_of(metrics, rule)
        except MissingMetric as err:
            missing.append((step, err))
            continue
        if math.isfinite(value):
            candidates[step] = value
        else:
            report(f'step {step}: `{rule.metric}` is {value}; this validation cannot be chosen')
    if len(missing) == len(validations):
        raise missing[-1][1]
    for step, err in missing:
        report(f'step {step}: not a candidate: {err}')
    if not candidates:
        words = f'but it is NaN or infinite in all {len(validations)}; choose another metric or look at the training'
        raise ValueError(f'`{rule.metric}` must be finite in at least one validation, {words}.')
    compared = smoothed(candidates, rule.smooth, rule.average, rule.mode)
    # Rounded, so that equal metrics added in another order still tie.
    ranks = {step: round(value, 9) * (1 if rule.mode == 'max' else -1) for step, value in compared.items()}
    best = max(ranks.values())
    tied = [step for step, rank in ranks.items() if rank == best]
    step = tied[0] if rule.tie == 'first' else tied[-1]
    if len(tied) > 1:
        report(f'`{rule.metric}` is equal at the steps {tied}; the {rule.tie} is taken')
    return Choice(step, candidates[step], candidates, compared)


def smoothed(values: dict[int, float], width: int, average: str = 'median', mode: str = 'max') -> dict[int, float]:
    """Return the running median or mean over ``width`` (odd) neighbouring steps, fewer at the ends.

    Where two values are in the middle (at the ends) the median is the worse of them, so that one lucky validation
    does not lift its neighbour.

    Example:
        >>> smoothed({1: 10.0, 2: 90.0, 3: 20.0, 4: 30.0}, 3)
        {1: 10.0, 2: 20.0, 3: 30.0, 4: 20.0}
    """
    median = statistics.median_low if mode == 'max' else statistics.median_high
    middle = median if average == 'median' else statistics.fmean
    steps, reach = list(values), width // 2
    return {step: middle([values[s] for s in steps[max(0, i - reach) : i + reach + 1]]) for i, step in enumerate(steps)}
