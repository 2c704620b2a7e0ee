"""What the converters hand to the writers: images with a label that is made when it is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class SourceImage:
    """One image to convert.

    Attributes:
        path: the image file.
        place: its path inside the source without suffix, forward slashes; keeps names apart.
        split: ``'train'``, ``'val'``, ``'test'`` or ``None``.
        read_label: returns the ``(H, W)`` uint8 label map, 0 normal, 1..K defects, 255 ignore. It counts what it had to
            decide in the counter it is given.
        type_hint: defect type that the source names, or ``None``.
    """

    path: str
    place: str
    split: str | None
    read_label: Callable[[Counter], np.ndarray]
    type_hint: str | None = None


@dataclass(frozen=True)
class Source:
    """A data set to convert.

    Attributes:
        images: the images, in a stable order.
        classes: class names, the normal class first.
        notes: what was left out and why, in sentences.
    """

    images: tuple[SourceImage, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass
class ConversionReport:
    """What was written.

    Attributes:
        folder: the new data set.
        images: number of images by split (``'all'`` without splits) and then by type, ``'good'`` without defects.
        decisions: how often the converter had to decide something, by a phrase that says what.
        notes: what was left out and why.
    """

    folder: str
    images: dict[str, Counter] = field(default_factory=dict)
    decisions: Counter = field(default_factory=Counter)
    notes: tuple[str, ...] = ()


def paint(label: np.ndarray, regions: list[tuple[np.ndarray, int]], decisions: Counter) -> np.ndarray:
    """Draw regions into a label map, large ones first, so that a small defect on a large one stays visible.

    Args:
        label: ``(H, W)`` uint8 to start from; not modified.
        regions: ``(H, W)`` bool masks with their class.
        decisions: counts the pixels that two classes claimed.

    Returns:
        ``(H, W)`` uint8.
    """
    label = label.copy()
    for mask, value in sorted(regions, key=lambda region: -int(region[0].sum())):
        claimed = int((mask & (label != 0) & (label != value)).sum())
        if claimed:
            decisions['pixels claimed by two classes, given to the smaller region'] += claimed
        label[mask] = value
    return label
