"""The operations drawn for one defect, as plain numbers: a hundred tensor scalars cost more than a small paste."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy import ndarray

from mmdefect.synthesis.augment import LIMITS, VALUES, OperationRanges, Operations
from mmdefect.synthesis.elastic import CONTROLS

_CONTROL_NAMES = tuple(f'control_{i}' for i in range(2 * CONTROLS * CONTROLS))
_LOWEST, _HIGHEST = LIMITS.tolist()
#: Numbers in [0, 1) that one draw takes, whatever is applied.
OPERATION_DRAWS = 21 + len(_CONTROL_NAMES)
#: Operation that each column of ``VALUES`` is switched by: scale along x and y are one.
_SWITCH = (0, 1, 2, 3, 3, 4, 5, 6, 7)


@dataclass(frozen=True)
class DrawnOperations:
    """What is applied to one defect.

    Attributes:
        values: in the order of :data:`~mmdefect.synthesis.augment.VALUES`.
        flips: -1 mirrors x or y.
        elastic: fraction of the control spacing, 0 for none.
        control: ``(2, k, k)`` float64 in [-1, 1], directions of the control points; ``None`` without deformation.
    """

    values: tuple[float, ...]
    flips: tuple[float, float]
    elastic: float
    control: ndarray | None

    @property
    def mean_scale(self) -> float:
        """Root of the factor by which the area of the defect grows."""
        return math.sqrt(self.values[3] * self.values[4])

    def with_colours_of(self, other: DrawnOperations) -> DrawnOperations:
        """Return the same shape with the photometric operations of another draw."""
        return DrawnOperations(self.values[:5] + other.values[5:], self.flips, self.elastic, self.control)

    def as_tensors(self) -> Operations:
        """Return the same operations for :func:`~mmdefect.synthesis.augment.apply_operations`."""
        control = np.zeros((1, 2, CONTROLS, CONTROLS)) if self.control is None else self.control[None]
        rows = (torch.tensor([row], dtype=torch.float64) for row in (self.values, self.flips))
        return Operations(*rows, torch.tensor([self.elastic], dtype=torch.float64), torch.from_numpy(control))

    def parameters(self) -> dict[str, float]:
        """Return what was drawn as floats, for the record of an instance."""
        record = dict(zip(VALUES, self.values, strict=True))
        record.update(flip_x=self.flips[0], flip_y=self.flips[1], elastic=self.elastic)
        if self.control is not None:
            record.update(zip(_CONTROL_NAMES, self.control.ravel().tolist(), strict=True))
        return record


def draw_operations(uniforms: ndarray, ranges: OperationRanges) -> DrawnOperations:
    """Turn uniform numbers into what :func:`~mmdefect.synthesis.augment.sample_operations` makes of them.

    Args:
        uniforms: ``(OPERATION_DRAWS,)`` float64 in [0, 1).
        ranges: of floats; ranges to be learned are drawn as tensors there.
    """
    head = uniforms[:21].tolist()
    if ranges.isotropic:
        head[4] = head[3]
    values = []
    for column, (low, high) in enumerate(ranges.plain_bounds):
        if head[9 + _SWITCH[column]] < ranges.chances[_SWITCH[column]]:
            value = low + (high - low) * head[column]
            values.append(min(max(value, _LOWEST[column]), _HIGHEST[column]))
        else:
            values.append(0.0 if column < 3 or column == 8 else 1.0)
    flips = tuple(-1.0 if number < ranges.flip_probability else 1.0 for number in head[17:19])
    low, high = ranges.elastic
    elastic = low + (high - low) * head[19] if head[20] < ranges.elastic_probability else 0.0
    control = (uniforms[21:] * 2 - 1).reshape(2, CONTROLS, CONTROLS) if elastic else None
    return DrawnOperations(tuple(values), flips, elastic, control)


def operations_from(numbers: Mapping[str, float]) -> DrawnOperations:
    """Return the operations that :meth:`DrawnOperations.parameters` wrote down."""
    elastic, control = numbers['elastic'], None
    if elastic:
        control = np.array([numbers[name] for name in _CONTROL_NAMES]).reshape(2, CONTROLS, CONTROLS)
    return DrawnOperations(
        tuple(numbers[name] for name in VALUES), (numbers['flip_x'], numbers['flip_y']), elastic, control
    )


def operations_at(operations: Operations, index: int = 0) -> DrawnOperations:
    """Return one sample of drawn tensors as plain numbers."""
    rows: Sequence = (operations.values[index].tolist(), operations.flips[index].tolist())
    elastic = operations.elastic[index].item()
    return DrawnOperations(
        tuple(rows[0]), tuple(rows[1]), elastic, operations.control[index].detach().numpy() if elastic else None
    )
