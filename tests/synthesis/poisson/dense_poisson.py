"""Poisson composition written out pixel by pixel and solved as a dense system: slow and obvious."""

from __future__ import annotations

import numpy as np

STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))


def dense_paste(
    target: np.ndarray, source: np.ndarray, unknown: np.ndarray, mixed: bool = False, soft: np.ndarray | None = None
) -> np.ndarray:
    """``(C, h, w)`` float64 target with the pixels of ``unknown`` ``(h, w)`` solved for.

    With ``soft`` ``(h, w)`` the gradients of both images are mixed by the mean of the two pixels' weights.
    """
    result = target.copy()
    number = {place: i for i, place in enumerate(zip(*np.nonzero(unknown), strict=True))}
    for channel in range(len(target)):
        matrix, right = np.zeros((len(number), len(number))), np.zeros(len(number))
        for (row, column), i in number.items():
            for down, across in STEPS:
                other = row + down, column + across
                if not (0 <= other[0] < unknown.shape[0] and 0 <= other[1] < unknown.shape[1]):
                    continue
                wanted = source[channel, row, column] - source[(channel, *other)]
                kept = target[channel, row, column] - target[(channel, *other)]
                share = 1.0 if soft is None else (soft[row, column] + soft[other]) / 2
                if mixed and abs(kept) >= abs(wanted):
                    share = 0.0
                matrix[i, i] += 1
                right[i] += share * wanted + (1 - share) * kept
                if other in number:
                    matrix[i, number[other]] -= 1
                else:
                    right[i] += target[(channel, *other)]
        for (row, column), value in zip(number, np.linalg.solve(matrix, right), strict=True):
            result[channel, row, column] = value
    return result
