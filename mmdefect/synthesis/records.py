"""What every generator of defects returns: the image, its exact label, and a record of each defect.

The rules of labelling stand here once, for arrays in loader workers and tensors on a device: which pixels changed
visibly, which of them get the class, when a defect counts as seen, and how it is written down.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy import ndarray
from torch import Generator, Tensor

IGNORE_LABEL = 255
GENERATORS = ('cutpaste-normal', 'cutpaste-scar', 'paste', 'perlin')
BLENDS = ('alpha', 'feather', 'poisson', 'poisson-mixed', 'spectral')
#: A pixel changed when one colour moved by more than this: 1.5 grey levels, so that the change outlives rounding.
VISIBLE_TOLERANCE = 1.5 / 255
Pixels = ndarray | Tensor


@dataclass(frozen=True)
class Instance:
    """One synthetic defect: enough to show it, to audit it and to make it again.

    ``box`` is top, left, bottom, right of the labelled pixels in the image, bottom and right exclusive, ``area`` their
    number; ``source`` names the donor, the texture, or the part of the background that was copied; ``parameters`` are
    what was sampled, enough to replay it.
    """

    class_id: int
    box: tuple[int, int, int, int]
    area: int
    source: str
    generator: str
    blend: str
    parameters: dict[str, float]

    def __post_init__(self) -> None:
        top, left, bottom, right = self.box
        if not 1 <= self.class_id < IGNORE_LABEL:
            raise ValueError(f'`class_id` must be in 1..{IGNORE_LABEL - 1}, got {self.class_id}.')
        if not (0 <= top < bottom and 0 <= left < right):
            raise ValueError(
                '`box` must be (top, left, bottom, right) with 0 <= top < bottom and 0 <= left < right, '
                f'got {self.box}; skip and count a defect that has no visible pixel.'
            )
        if not 1 <= self.area <= (bottom - top) * (right - left):
            raise ValueError(f'`area` must be a number of pixels of `box` {self.box}, got {self.area}.')
        if self.generator not in GENERATORS:
            raise ValueError(f'`generator` must be one of {", ".join(GENERATORS)}, got {self.generator!r}.')
        if self.blend not in BLENDS:
            raise ValueError(f'`blend` must be one of {", ".join(BLENDS)}, got {self.blend!r}.')


@dataclass
class Synthesis:
    """A sample, or a batch, with synthetic defects in it.

    Attributes:
        image: ``(C, H, W)`` or ``(B, C, H, W)`` float in [0, 1], RGB; dtype of the input.
        label: ``(H, W)`` or ``(B, H, W)`` int64; 0 normal, 1..K defect classes, 255 ignore.
        instances: list of :class:`Instance`; for a batch one such list per sample.
        skipped: reason to number of defects that were sampled but not made; a skip is never silent.
    """

    image: Tensor
    label: Tensor
    instances: list
    skipped: dict[str, int] = field(default_factory=dict)


def record_of(instance: Instance) -> dict[str, Any]:
    """Return the JSON record of an instance; ``box_xyxy`` and ``class_index`` are what tools show."""
    top, left, bottom, right = instance.box
    return dict(
        box_xyxy=[left, top, right, bottom],
        class_index=instance.class_id,
        area=instance.area,
        source=instance.source,
        generator=instance.generator,
        blend=instance.blend,
        parameters=dict(instance.parameters),
    )


def instance_at(labelled: ndarray, corner: tuple[int, int], class_id: int, *facts: Any) -> Instance:
    """Return the record of a defect from its labelled pixels, ``(h, w)`` bool and not all false.

    ``corner`` is the place of the array in the image, ``facts`` are source, generator, blend and parameters.
    """
    left, top, width, height = cv2.boundingRect(labelled.view(np.uint8))
    top, left = top + corner[0], left + corner[1]
    return Instance(class_id, (top, left, top + height, left + width), int(np.count_nonzero(labelled)), *facts)


def shows_defect(label: ndarray) -> bool:
    """Return whether a label map shows a defect."""
    return bool(((label > 0) & (label != IGNORE_LABEL)).any())


def checked_image(image: ndarray) -> ndarray:
    """Return an 8-bit image, ``(H, W)`` or ``(H, W, C)``, as ``(H, W, C)`` view."""
    if image.dtype != np.uint8:
        raise ValueError(f'`image` must be uint8, got {image.dtype}; paste before the image is normalised.')
    return image[..., None] if image.ndim == 2 else image


def visible_change(new: Pixels, old: Pixels, tolerance: float) -> Pixels:
    """Return where any colour moved by more than the tolerance, a number in [0, 1]; no gradient.

    Args:
        new, old: ``(H, W, C)`` uint8 arrays, or ``(..., C, H, W)`` float tensors in [0, 1].

    Returns:
        ``(H, W)`` or ``(..., H, W)`` bool.
    """
    if isinstance(new, Tensor):
        return (new - old).detach().abs_().amax(-3) > tolerance
    most = int(min(tolerance, 1.0) * 255)
    return cv2.inRange(cv2.absdiff(old, new), (0,) * 4, (most,) * 4) == 0


def labelled_pixels(new: Pixels, old: Pixels, mask: Pixels, core: Pixels, policy) -> Pixels:
    """Return the pixels of a paste that get its class, ``(..., H, W)`` bool; none when too little of it can be seen.

    Args:
        new, old: as for :func:`visible_change`.
        mask: ``(..., H, W)`` bool, what was pasted.
        core: the same shape, the defect itself.
        policy: ``tolerance``, ``label``, ``label_radius`` and ``min_visible``, see
            :class:`~mmdefect.synthesis.policy.PolicySpec`.
    """
    labelled = visible_change(new, old, policy.tolerance) & mask
    core = core & mask
    if policy.label == 'mask' and policy.label_radius > 0:
        labelled = labelled | (_widened(labelled, policy.label_radius) & core)
    area = _count(labelled)
    seen = (area > 0) & (area >= policy.min_visible * _count(core))
    return labelled & (seen[..., None, None] if isinstance(seen, Tensor) else seen)


def write_label(label: Pixels, pasted: Pixels, class_id: int | Tensor, overwrite_ignore: bool = False) -> Pixels:
    """Write a defect into a label map, in place: pasted pixels win over every class, ignored ones stay unless asked.

    Returns the pixels that now carry the class because of this paste, bool.
    """
    if not overwrite_ignore:
        pasted = pasted & (label != IGNORE_LABEL)
    if isinstance(label, Tensor):
        label.copy_(torch.where(pasted, class_id, label))
    else:
        label[pasted] = class_id
    return pasted


def _widened(mask: Pixels, radius: int) -> Pixels:
    """Return bool pixels within a square of this radius around set ones."""
    size = 2 * radius + 1
    if not isinstance(mask, Tensor):
        return cv2.dilate(mask.view(np.uint8), np.ones((size, size), np.uint8)).view(bool)
    across = F.max_pool2d(mask[:, None].float(), (1, size), 1, (0, radius))
    return F.max_pool2d(across, (size, 1), 1, (radius, 0))[:, 0] > 0


def _count(mask: Pixels) -> int | Tensor:
    return mask.sum((-2, -1)) if isinstance(mask, Tensor) else int(np.count_nonzero(mask))


def fresh_label(image: Tensor, label: Tensor | None) -> Tensor:
    """Return a copy of the label, or an all-normal one for the ``(C, H, W)`` image, after checking both."""
    if not image.is_floating_point():
        raise TypeError(f'`image` must be float in [0, 1], got {image.dtype}; divide uint8 pixels by 255.')
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
        raise ValueError(f'a batch of {len(image)} needs a list of {len(image)} generators, one per sample, got {got}.')
    return generator


def stack_samples(samples: Sequence[Synthesis]) -> Synthesis:
    """Return single samples as one batch; what was skipped is summed by reason."""
    images, labels = (torch.stack([getattr(sample, name) for sample in samples]) for name in ('image', 'label'))
    skipped = sum((Counter(sample.skipped) for sample in samples), Counter())
    return Synthesis(images, labels, [sample.instances for sample in samples], dict(skipped))


def check_range(name: str, value: Sequence[float], low: float, high: float, hint: str) -> None:
    """Raise when a range is not ``low <= first <= second <= high``."""
    if len(value) != 2 or not low <= value[0] <= value[1] <= high:
        raise ValueError(f'`{name}` must satisfy {low} <= low <= high <= {high}, got {value!r}. {hint}')
