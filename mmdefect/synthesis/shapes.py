"""Geometry and bookkeeping that the generators share: boxes, rotated sizes, what really changed, label rules."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator, Tensor

from mmdefect.synthesis.types import IGNORE_LABEL, Synthesis

#: A pixel changed when one colour moved by more than this: 1.5 grey levels, so that the change outlives rounding.
VISIBLE_TOLERANCE = 1.5 / 255


def find_box(mask: Tensor) -> tuple[tuple[int, int, int, int], int] | None:
    """Return the box and the number of the set pixels of an ``(H, W)`` bool mask, or None when it is empty.

    The box is top, left, bottom, right; bottom and right are exclusive.
    """
    array = mask.detach().cpu().numpy()
    rows, columns = array.any(1).nonzero()[0], array.any(0).nonzero()[0]
    if rows.size == 0:
        return None
    return (int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1), int(np.count_nonzero(array))


def rotated_size(size_hw: tuple[int, int], degrees: float) -> tuple[int, int]:
    """Return height and width of the upright canvas that holds a rectangle after its rotation."""
    height, width = size_hw
    cosine, sine = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    # a full turn must not grow by a pixel because a sine is 1e-16
    return (
        max(1, math.ceil(height * cosine + width * sine - 1e-6)),
        max(1, math.ceil(width * cosine + height * sine - 1e-6)),
    )


def visible_change(new: Tensor, old: Tensor, tolerance: float) -> Tensor:
    """Return ``(..., H, W)`` bool: where any colour of ``(..., C, H, W)`` moved by more than the tolerance."""
    return (new - old).detach().abs_().amax(-3) > tolerance


def write_label(label: Tensor, pasted: Tensor, class_id: int, overwrite_ignore: bool = False) -> Tensor:
    """Write a defect into a label: pasted pixels win over every class; ignored pixels stay ignored unless asked.

    Args:
        label: ``(H, W)`` int64, changed in place: hand over a copy.
        pasted: ``(H, W)`` bool.

    Returns:
        ``(H, W)`` bool, the pixels that now carry the class because of this paste.
    """
    if not overwrite_ignore:
        pasted = pasted & (label != IGNORE_LABEL)
    label.masked_fill_(pasted, class_id)
    return pasted


def fresh_label(image: Tensor, label: Tensor | None) -> Tensor:
    """Return a copy of the label, or an all-normal one for the ``(C, H, W)`` image, after checking both."""
    if not image.is_floating_point():
        raise TypeError(f'`image` must be float in [0, 1], got {image.dtype}. Divide uint8 pixels by 255 first.')
    if image.ndim != 3:
        raise ValueError(
            f'`image` must be (C, H, W), or (B, C, H, W) with one generator per sample, got shape {tuple(image.shape)}.'
        )
    if label is None:
        return torch.zeros(image.shape[1:], dtype=torch.int64, device=image.device)
    if label.dtype != torch.int64 or label.shape != image.shape[1:]:
        raise ValueError(
            f'`label` must be int64 of shape {tuple(image.shape[1:])} like the image, got {label.dtype} '
            f'of shape {tuple(label.shape)}.'
        )
    return label.clone()


def check_generators(image: Tensor, generator: Generator | Sequence[Generator]) -> Sequence[Generator]:
    """Return the generators of a ``(B, C, H, W)`` batch: one a sample, so that batch mates never change a sample."""
    if isinstance(generator, Generator) or len(generator) != len(image):
        got = 'one generator' if isinstance(generator, Generator) else f'{len(generator)} generators'
        raise ValueError(f'A batch of {len(image)} needs a list of {len(image)} generators, one per sample, got {got}.')
    return generator


def stack_samples(samples: Sequence[Synthesis]) -> Synthesis:
    """Return single samples as one batch; what was skipped is summed by reason."""
    skipped: Counter[str] = Counter()
    for sample in samples:
        skipped.update(sample.skipped)
    return Synthesis(
        torch.stack([sample.image for sample in samples]),
        torch.stack([sample.label for sample in samples]),
        [sample.instances for sample in samples],
        skipped=dict(skipped),
    )


def check_range(name: str, value: Sequence[float], low: float, high: float, hint: str) -> None:
    """Raise when a range is not ``low <= first <= second <= high``."""
    if len(value) != 2 or not low <= value[0] <= value[1] <= high:
        raise ValueError(f'`{name}` must satisfy {low} <= low <= high <= {high}, got {value!r}. {hint}')
