"""What all metrics count with: a map of class ids, looked at once, and named integer sums that add up.

A counter sees one image after the other and keeps sums whose size does not depend on how many it saw. Fractions are
kept as fixed-point integers, so that shards merged in any order equal the whole bit for bit, and ranks need nothing
but one all-reduce.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch
from torch import Tensor

#: One unit of a fixed-point sum: a share of 1 is stored as this integer. 2**63 / 2**40 leaves room for 8 million.
UNIT = 2**40


class Counter:
    """Sums by name: int64 tensors of fixed shapes. A subclass names the shapes and adds to ``sums`` in ``update``."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        self.sums: dict[str, Tensor] = {name: torch.zeros(shape, dtype=torch.int64) for name, shape in shapes.items()}

    def merge(self, other: Counter) -> None:
        """Add what another counter of the same kind saw."""
        for name, value in other.sums.items():
            self.sums[name] += value.to(self.sums[name].device)


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


@dataclass(frozen=True)
class LabelMap:
    """What the metrics need of one map of class ids, labelled or predicted; tensors on the CPU."""

    size_hw: tuple[int, int]
    num_classes: int  # with the background, which is class 0
    values: Tensor  # (N,) int16 class ids, N = H * W
    defect: Tensor  # (D,) int64 flat indices of the defect pixels that count, ascending
    defect_class: Tensor  # (D,) int64, their classes in 1 .. num_classes - 1
    ignored: Tensor  # (I,) int64 flat indices of the ignored pixels
    _cache: dict = field(default_factory=dict, repr=False, compare=False)

    @property
    def valid(self) -> int:
        """How many pixels count."""
        return self.size_hw[0] * self.size_hw[1] - self.ignored.numel()

    @property
    def clean(self) -> bool:
        """Whether pixels count and none of them is a defect."""
        return self.valid > 0 and self.defect.numel() == 0

    @property
    def present(self) -> list[int]:
        """The defect classes that occur."""
        return self._once('present', lambda: self.defect_class.unique().tolist())

    @property
    def counted(self) -> np.ndarray:
        """Which pixels count, ``(N,)`` bool; made anew each time."""
        counted = np.ones(len(self.values), bool)
        counted[self.ignored.numpy()] = False
        return counted

    def pixels_of(self, class_id: int | None) -> Tensor:
        """Return the flat indices of one class, or of any defect for ``None``."""
        if class_id is None or self.present == [class_id]:
            return self.defect
        return self._once(class_id, lambda: self.defect[self.defect_class == class_id])

    def regions_of(self, class_id: int | None) -> tuple[Tensor, Tensor]:
        """Return :func:`regions` of :meth:`pixels_of`."""
        if len(self.present) == 1 and class_id == self.present[0]:
            class_id = None
        return self._once(('regions', class_id), lambda: regions(self.pixels_of(class_id), self.size_hw))

    def _once(self, key, make):
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]


def read_label(label: Tensor, num_classes: int, ignore_index: int = 255, name: str = 'label') -> LabelMap:
    """Look at a map, ``(H, W)`` class ids of any number type; ``ignore_index`` is left out, errors call it ``name``."""
    if label.ndim != 2:
        raise ValueError(
            f'`{name}` must be one map (H, W), got the shape {tuple(label.shape)}; pass images one by one.'
        )
    values, size_hw = label.to(torch.int16).cpu().flatten(), (label.shape[0], label.shape[1])
    none = torch.zeros(0, dtype=torch.int64)
    # NumPy finds the few non-zero pixels of a map four times as fast as torch.
    marked = torch.from_numpy(np.flatnonzero(values.numpy() != 0 if ignore_index != 0 else np.ones(len(values), bool)))
    if not marked.numel():
        return LabelMap(size_hw, num_classes, values, none, none, none)
    classes = values[marked].long()
    ignored = none
    low, high = (int(v) for v in classes.aminmax())
    if low < 0 or high >= num_classes or 0 <= ignore_index < num_classes:
        keep = classes != ignore_index
        marked, classes, ignored = marked[keep], classes[keep], marked[~keep]
        if classes.numel() and (int(classes.min()) < 0 or int(classes.max()) >= num_classes):
            raise ValueError(
                f'`{name}` must lie in 0..{num_classes - 1}, got {int(classes.min())}..{int(classes.max())}; check the '
                'class list of the data set.'
            )
    return LabelMap(size_hw, num_classes, values, marked, classes, ignored)


def read_prediction(prediction: Tensor, truth: LabelMap) -> LabelMap:
    """Look at a predicted map, ``(H, W)`` class ids of any number type; what its label leaves out is left out."""
    if tuple(prediction.shape) != truth.size_hw:
        raise ValueError(
            f'`prediction` and `label` must have one shape, got {tuple(prediction.shape)} and {truth.size_hw}; '
            'predict at the resolution of the label.'
        )
    seen = read_label(prediction, truth.num_classes, ignore_index=-1, name='prediction')
    if seen.ignored.numel():
        raise ValueError(f'`prediction` must lie in 0..{truth.num_classes - 1}, got -1.')
    if not truth.ignored.numel():
        return seen
    keep = torch.from_numpy(truth.counted)[seen.defect]
    defect, defect_class = seen.defect[keep], seen.defect_class[keep]
    return replace(seen, defect=defect, defect_class=defect_class, ignored=truth.ignored, _cache={})


def regions(pixels: Tensor, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Group pixels, ``(D,)`` int64 flat indices, ascending, that touch, diagonally too.

    Returns the region of every pixel, ``(D,)`` int64 in ``0 .. R - 1``, and the area of every region, ``(R,)`` int64.
    """
    if not pixels.numel():
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    rows, columns = np.divmod(pixels.numpy(), size_hw[1])
    rows, columns = rows - rows[0], columns - columns.min()  # only the box around the pixels is looked at
    mask = np.zeros((rows[-1] + 1, columns.max() + 1), np.uint8)
    mask[rows, columns] = 1
    _, found = cv2.connectedComponents(mask, connectivity=8, ltype=cv2.CV_32S)
    region = torch.from_numpy(found[rows, columns].astype(np.int64)) - 1
    return region, torch.bincount(region)
