"""Choose the best checkpoint of a training from its validations.

``score`` is (aAcc + mAcc + mIoU) / 3, ``score2`` is (mAcc + mIoU) / 3; both include the background, which on
defect images is nearly 100 %. With ``exclude_background`` the means run over the defect classes only and
``score`` becomes (fg_mAcc + fg_mIoU) / 2: aAcc is a share of all pixels and cannot be had without background.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmdefect.experiments.records import report_to_stderr

SCORES = {'score': ('aAcc', 'mAcc', 'mIoU'), 'score2': ('mAcc', 'mIoU')}
_FOREGROUND_OF = {'mIoU': 'IoU', 'mAcc': 'Acc', 'fg_mIoU': 'IoU', 'fg_mAcc': 'Acc'}


class MissingMetric(ValueError):
    """A log does not hold the values that the asked metric needs."""


@dataclass(frozen=True)
class Rule:
    """How the best step is chosen.

    Attributes:
        metric: ``score``, ``score2`` or any key of the validations; ``fg_mIoU`` and ``fg_mAcc`` are computed from
            per-class values where they are not logged.
        exclude_background: leave class 0 out of all means.
        tie: which of equally good steps wins, ``first`` or ``last``.
        mode: whether large (``max``) or small (``min``) values are good.
        background: name of the background class; the first class of the log if not given.
    """

    metric: str = 'score'
    exclude_background: bool = False
    tie: str = 'last'
    mode: str = 'max'
    background: str | None = None

    def __post_init__(self) -> None:
        for name, choices in (('tie', ('first', 'last')), ('mode', ('max', 'min'))):
            if getattr(self, name) not in choices:
                raise ValueError(f'`{name}` must be one of {choices}, got {getattr(self, name)!r}.')


@dataclass(frozen=True)
class Choice:
    """The chosen step, its value, and the value of every candidate by step (not-a-number ones excluded)."""

    step: int
    value: float
    candidates: dict[int, float]


def value_of(metrics: dict[str, Any], rule: Rule) -> float:
    """Return the value of one validation under a rule; NaN where a needed value is NaN.

    Raises:
        MissingMetric: if a needed key is not there; the message lists the keys that are.
    """
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
    if rule.exclude_background and key.startswith(('m', 'aAcc')) and key in metrics:
        raise MissingMetric(f'`{key}` cannot be had without the background: only mIoU, mAcc, fg_mIoU, fg_mAcc and the '
                            'scores can. Leave `--exclude-background` away or choose one of those.')
    value = metrics.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        found = sorted(k for k, v in metrics.items() if isinstance(v, (int, float)))
        raise MissingMetric(f'`{key}` must be a key of the validations, but the log has only {found}; '
                            'choose one of those or a score.')
    return float(value)


def _foreground_mean(metrics: dict[str, Any], kind: str, background: str | None) -> float:
    prefix = f'{kind}.'
    classes = {key[len(prefix):]: float(value) for key, value in metrics.items() if key.startswith(prefix)}
    if not classes:
        raise MissingMetric(f'a mean without background needs per-class values (`{prefix}<class>`) or `fg_m{kind}` in '
                            f'the log, but it has only {sorted(metrics)}; validate with a metric that logs them or '
                            'select by the mean over all classes.')
    background = background if background is not None else next(iter(classes))
    if background not in classes:
        raise MissingMetric(f'`background` must be a class of the log, one of {list(classes)}, got {background!r}.')
    # A class that neither occurs nor is predicted has no IoU; as in mmseg it does not count in the mean.
    values = [value for name, value in classes.items() if name != background and not math.isnan(value)]
    return sum(values) / len(values) if values else math.nan


def choose_best(validations: dict[int, dict[str, Any]], rule: Rule = Rule(),
                report: Callable[[str], None] = report_to_stderr) -> Choice:
    """Choose the best step of ``{step: metrics}``.

    Validations whose value is NaN or infinite, and those without the metric while others have it, are reported
    and cannot win.

    Raises:
        MissingMetric: if no validation has the metric.
        ValueError: if none has a finite value, or there is no validation at all.
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
        raise ValueError(f'`{rule.metric}` must be finite in at least one validation, but it is NaN or infinite in all '
                         f'{len(validations)}; choose another metric or look at the training.')
    # Rounded, so that equal metrics added in another order still tie.
    ranks = {step: round(value, 9) * (1 if rule.mode == 'max' else -1) for step, value in candidates.items()}
    best = max(ranks.values())
    tied = [step for step, rank in ranks.items() if rank == best]
    step = tied[0] if rule.tie == 'first' else tied[-1]
    return Choice(step, candidates[step], candidates)
