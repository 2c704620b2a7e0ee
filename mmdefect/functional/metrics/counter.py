"""What all streaming counters share: named integer tensors that add up.

A counter sees one image after the other and keeps sums whose size does not depend on how many it saw. Fractions are
kept as fixed-point integers, so that shards merged in any order equal the whole bit for bit, and ranks need nothing
but one all-reduce.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

#: One unit of a fixed-point sum: a share of 1 is stored as this integer. 2**63 / 2**40 leaves room for 8 million.
UNIT = 2**40


class Counter:
    """Sums by name; a subclass fills ``sums`` in its constructor and adds to it in ``update``.

    Attributes:
        sums: int64 tensors of fixed shapes.
    """

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        self.sums: dict[str, Tensor] = {name: torch.zeros(shape, dtype=torch.int64) for name, shape in shapes.items()}

    def merge(self, other: Counter) -> None:
        """Add what another counter of the same kind saw."""
        for name, value in other.sums.items():
            self.sums[name] += value.to(self.sums[name].device)

    def to(self, device: torch.device) -> None:
        """Move the sums."""
        self.sums = {name: value.to(device) for name, value in self.sums.items()}


def pack(counters: Iterable[Counter]) -> Tensor:
    """Return all sums as one int64 vector on the CPU, for a single all-reduce."""
    return torch.cat([value.flatten().cpu() for counter in counters for value in counter.sums.values()])


def unpack(vector: Tensor, counters: Iterable[Counter]) -> None:
    """Put a vector made by :func:`pack` of like counters back into ``counters``, in place."""
    start = 0
    for counter in counters:
        for name, value in counter.sums.items():
            counter.sums[name] = vector[start : start + value.numel()].reshape(value.shape).clone()
            start += value.numel()


def fixed_point(values: Tensor) -> Tensor:
    """Return shares in [0, 1] as int64 multiples of 1 / :data:`UNIT`."""
    return (values.double() * UNIT).round().long()
