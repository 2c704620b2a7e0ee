"""One map of class ids, labelled or predicted, looked at once for all metrics."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class LabelMap:
    """What the metrics need of one map.

    Attributes:
        size_hw: height and width.
        num_classes: classes including the background, which is class 0.
        values: ``(N,)`` int16 class ids, ``N = H * W``, on the CPU.
        defect: flat indices of the defect pixels that count, ``(D,)`` int64, ascending, on the CPU.
        defect_class: their classes, ``(D,)`` int64 in ``1 .. num_classes - 1``.
        ignored: flat indices of the ignored pixels, ``(I,)`` int64.
    """

    size_hw: tuple[int, int]
    num_classes: int
    values: Tensor
    defect: Tensor
    defect_class: Tensor
    ignored: Tensor
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

    def has(self, class_id: int | None) -> bool:
        """Whether a class occurs, or any defect for ``None``."""
        return bool(self.present) if class_id is None else class_id in self.present

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
    """Look at a map.

    Args:
        label: ``(H, W)`` class ids, or ``ignore_index``; any number type.
        num_classes: classes including the background.
        ignore_index: value that is left out.
        name: what errors call it.

    Raises:
        ValueError: if it is no map, or a value lies outside the classes.
    """
    if label.ndim != 2:
        raise ValueError(
            f'`{name}` must be one map (H, W), got the shape {tuple(label.shape)}; give one image at a time.'
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
                f'`{name}` must lie in 0..{num_classes - 1}, got {int(classes.min())}..{int(classes.max())}; '
                'check the class list of the data set.'
            )
    return LabelMap(size_hw, num_classes, values, marked, classes, ignored)


def read_prediction(prediction: Tensor, truth: LabelMap) -> LabelMap:
    """Look at a predicted map; what the label leaves out is left out.

    Args:
        prediction: ``(H, W)`` class ids, any number type.
        truth: its label.

    Raises:
        ValueError: if it has another shape than the label, or a value lies outside the classes.
    """
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
    counts = torch.ones_like(seen.values, dtype=torch.bool)
    counts[truth.ignored] = False
    keep = counts[seen.defect]
    defect, defect_class = seen.defect[keep], seen.defect_class[keep]
    return replace(seen, defect=defect, defect_class=defect_class, ignored=truth.ignored, _cache={})


def regions(pixels: Tensor, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Group pixels that touch, diagonally too.

    Args:
        pixels: ``(D,)`` int64 flat indices, ascending.
        size_hw: height and width of the map.

    Returns:
        The region of every pixel, ``(D,)`` int64 in ``0 .. R - 1``, and the area of every region, ``(R,)`` int64.
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
