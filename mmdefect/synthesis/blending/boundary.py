"""A guard for the boundary of a Poisson paste: what deviates there from the common step bleeds into the whole defect.

The paste adds a membrane to the defect that carries the step from donor to picture along the boundary. A step that is
the same everywhere is a difference of light, and right. Where the defect itself reaches its outline, the step is the
colour of the defect instead, and the membrane spreads its opposite over the inside: a yellow rim makes it blue.
"""
from __future__ import annotations

import numpy as np
from numpy import ndarray


def limit_step(step: ndarray, max_shade: float, max_cast: float) -> tuple[ndarray, float]:
    """Limit how far the step at a boundary pixel departs from the median of all.

    Args:
        step: ``(m, C)`` float, picture minus donor at the pixels beside the mask, in [-1, 1].
        max_shade: largest departure of the mean over the channels.
        max_cast: largest departure, in any channel, of what remains without that mean.

    Returns:
        The limited step, shape and dtype of ``step``, bit-identical at pixels within the limits; and the share of
        pixels that were limited.
    """
    if len(step) == 0:
        return step, 0.0
    shade = step.mean(1, keepdims=True)
    cast = step - shade
    middle_shade, middle_cast = _median(shade), _median(cast)
    shade_off, cast_off = shade - middle_shade, cast - middle_cast
    beyond = ((np.abs(shade_off) > max_shade) | (np.abs(cast_off).max(1, keepdims=True) > max_cast))
    count = np.count_nonzero(beyond)
    if not count:
        return step, 0.0
    limited = middle_shade + middle_cast + np.clip(shade_off, -max_shade, max_shade) + np.clip(
        cast_off, -max_cast, max_cast)
    return np.where(beyond, limited, step), count / len(step)


def _median(values: ndarray) -> ndarray:
    middle = (len(values) - 1) // 2
    return np.partition(values, middle, axis=0)[middle]
