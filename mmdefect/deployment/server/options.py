"""What a request asks for beside its image."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mmdefect.deployment.server.refusals import Refusal
from mmdefect.deployment.types import ModelInfo


@dataclass(frozen=True)
class PredictOptions:
    """Arguments of ``predict_batch``; requests with equal ones share a batch."""

    thresholds: tuple[float, ...]
    min_area_px: int = 0
    mm_per_pixel: float | None = None
    with_probabilities: bool = False


def read_thresholds(info: ModelInfo, threshold: float | None, thresholds: str | None) -> tuple[float, ...]:
    """Return one threshold per defect class: those of the model, all of them ``threshold``, then single ones.

    Args:
        info: of the model.
        threshold: for all classes.
        thresholds: ``class:value`` pairs with commas between them.

    Raises:
        Refusal: 422, if a pair is no such pair.
    """
    values = list(info.thresholds) if threshold is None else [threshold] * len(info.thresholds)
    for pair in (thresholds or '').split(',') if thresholds else ():
        name, _, text = pair.rpartition(':')
        if name.strip() not in info.classes[1:]:
            raise _invalid(
                f'`thresholds` must be pairs of class and value of the classes {list(info.classes[1:])}, '
                f'got {pair[:80]!r}; write, for example, {info.classes[1]}:0.5.'
            )
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value < 1:
            raise _invalid(
                f'a threshold must be a probability between 0 and 1, got {text[:80]!r} for the class '
                f'{name.strip()}; write, for example, 0.5.'
            )
        values[info.classes.index(name.strip()) - 1] = value
    return tuple(values)


def _invalid(sentence: str) -> Refusal:
    return Refusal(422, 'invalid_options', sentence)
