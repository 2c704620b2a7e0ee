"""From probabilities to classes, with a threshold per defect class.

A pixel goes to defect class k when its probability against normal, ``p_k / (p_k + p_0)``, exceeds ``t_k``; of several
such classes to the one that exceeds it most in log-odds. That is ``argmax(p_k (1 - t_k) / t_k)`` with 1 as the factor
of normal, and in logits ``argmax(logit_k + offset_k)`` with ``offset_k = log((1 - t_k) / t_k)``: the offsets that a
validation fits (``functional/calibration.py``) and the thresholds given here are one thing. 0.5 for all is argmax; with
one defect class a threshold is the usual one on its probability.
"""

from collections.abc import Sequence

import numpy as np
from numpy import ndarray

#: Thresholds are kept this far from 0 and 1; an offset of 16 is beyond all that a validation fits.
SMALLEST = 1e-7


def check_thresholds(thresholds: Sequence[float], classes: Sequence[str]) -> tuple[float, ...]:
    """Return the thresholds as a tuple; ``ValueError`` unless there is one in (0, 1) for each defect class."""
    values = tuple(float(t) for t in thresholds)
    if len(values) != len(classes) - 1 or not all(0 < t < 1 for t in values):
        raise ValueError(
            f'`thresholds` must be {len(classes) - 1} probabilities between 0 and 1, one for each of '
            f'{list(classes[1:])}, got {list(values)}.'
        )
    return values


def thresholds_from_offsets(offsets: Sequence[float]) -> tuple[float, ...]:
    """Return the thresholds of the defect classes for fitted offsets, of which the first is that of normal."""
    values = np.asarray(offsets, np.float64)
    thresholds = 1.0 / (1.0 + np.exp(values[1:] - values[0]))
    return tuple(float(t) for t in np.clip(thresholds, SMALLEST, 1 - SMALLEST))


def decide_labels(probabilities: ndarray, thresholds: Sequence[float]) -> ndarray:
    """Return the label map, ``(...)`` uint8; of equals the lower class wins.

    Args:
        probabilities: ``(K + 1, ...)`` float32 in [0, 1], normal first.
        thresholds: one per defect class, in (0, 1).
    """
    values = np.asarray(thresholds, np.float64)
    factors = ((1.0 - values) / values).astype(np.float32)
    best = probabilities[0]
    chosen = np.zeros(best.shape, np.uint8)
    for k, factor in enumerate(factors, 1):
        value = probabilities[k] * factor
        chosen[value > best] = k
        if k < len(factors):
            best = np.maximum(best, value)
    return chosen
