"""A guard for the boundary of a Poisson paste: what deviates there from the common step bleeds into the whole defect.

The paste adds a membrane to the defect that carries the step from donor to image along the boundary. A step that is
the same everywhere is a difference of light, and right. Where the defect itself reaches its outline, the step is the
colour of the defect instead, and the membrane spreads its opposite over the inside: a yellow rim makes it blue.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray


def limit_step(step: ndarray, max_shade: float, max_cast: float) -> tuple[ndarray, float]:
    """Limit how far the step at a boundary pixel departs from the median of all.

    Args:
        step: ``(m, C)`` float, image minus donor at the pixels beside the mask, in [-1, 1].
        max_shade: largest departure of the mean over the channels.
        max_cast: largest departure, in any channel, of what remains without that mean.

    Returns:
        The limited step, shape and dtype of ``step``, bit-identical at pixels within the limits; and the share of
        pixels that were limited.
    """
    if len(step) == 0 or min(max_shade, max_cast) >= 2:
        return step, 0.0
    parts = np.empty((step.shape[1] + 1, len(step)), step.dtype)
    step.mean(1, out=parts[0])
    np.subtract(step.T, parts[0], out=parts[1:])
    middle = (len(step) - 1) // 2
    medians = np.partition(parts, middle, axis=1)[:, middle : middle + 1]
    off = parts - medians
    far = np.abs(off)
    beyond = (far[0] > max_shade) | (far[1:].max(0) > max_cast)
    count = int(np.count_nonzero(beyond))
    if not count:
        return step, 0.0
    limits = np.full((len(off), 1), max_cast, step.dtype)
    limits[0] = max_shade
    limited = np.minimum(np.maximum(off, -limits), limits) + medians
    return np.where(beyond[:, None], (limited[1:] + limited[0]).T, step), count / len(step)
