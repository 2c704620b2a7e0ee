r"""Focal loss for labels that are boxes: inside a box, only what already looks like a defect counts.

A box says "somewhere in here"; most of its pixels are normal. With :math:`q` the probability of any defect
(:math:`1 - p_0`, without gradient) and :math:`b` whether a pixel lies in a box, the counted pixels are

.. math:: m = [q > \tau] \vee \neg b, \qquad L = \frac{\sum m v \ell}{\sum m}

with :math:`\ell` the softmax focal loss (Gui et al., "AnoGen", 2024, for one class and without the normalisation). A
network that starts with "all normal" would never see a defect, hence :class:`BoxSchedule`: first every pixel counts,
then :math:`\tau` moves from one value to another.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmdefect.functional.focal import softmax_focal_loss
from mmdefect.functional.reduction import (
    ClassValues,
    check_classes,
    check_logits_and_label,
    count_pixels,
    reduce_loss,
    working_dtype,
)


@dataclass(frozen=True)
class BoxSchedule:
    """The threshold over the iterations."""

    tau: float = 0.1  # at the end, in [0, 1]
    start: float | None = None  # after the warm-up; None is ``tau``
    warmup: int = 0  # iterations in which every pixel counts
    ramp: int = 0  # iterations from ``start`` to ``tau``, linear

    def __post_init__(self) -> None:
        start = self.tau if self.start is None else self.start
        if not (0 <= self.tau <= 1 and 0 <= start <= 1):
            raise ValueError(f'`tau` and `start` must be probabilities in [0, 1], got {self.tau} and {self.start}.')
        if self.warmup < 0 or self.ramp < 0:
            raise ValueError(f'`warmup` and `ramp` must not be negative, got {self.warmup} and {self.ramp}.')

    def at(self, iteration: int) -> float | None:
        """Return the threshold, or ``None`` while every pixel counts."""
        if iteration < self.warmup:
            return None
        start = self.tau if self.start is None else self.start
        done = 1.0 if self.ramp == 0 else min(1.0, (iteration - self.warmup) / self.ramp)
        return start + done * (self.tau - start)


def counted_in_boxes(logits: Tensor, label: Tensor, tau: float | None, boxes: Tensor | None = None) -> Tensor:
    """Return which pixels count, ``(B, ...)`` bool, ignored ones not considered; arguments of :func:`weak_box_loss`."""
    boxes = label > 0 if boxes is None else boxes.bool()
    if tau is None:
        return torch.ones_like(boxes)
    with torch.no_grad():
        defect = 1 - torch.softmax(logits, 1, dtype=working_dtype(logits))[:, 0]
    return (defect > tau) | ~boxes


def weak_box_loss(
    logits: Tensor,
    label: Tensor,
    *,
    tau: float | None = 0.1,
    boxes: Tensor | None = None,
    class_weight: ClassValues | None = None,
    ignore_index: int = 255,
    reduction: str = 'mean',
    avg_factor: float | Tensor | None = None,
    **focal,
) -> Tensor:
    """Return the focal loss over the pixels that count.

    Args:
        logits: ``(B, C, ...)`` float with ``C >= 2``.
        label: ``(B, ...)`` int64 in ``0 .. C - 1``, or ``ignore_index``; a box holds its class.
        tau: threshold on the probability of any defect; ``None`` counts every pixel.
        boxes: ``(B, ...)`` bool, where the label is a box; ``None``: every defect label is one.
        class_weight: one weight per class; enters the denominator.
        ignore_index: label of the pixels without loss and gradient.
        reduction: ``'none'``, ``'mean'`` (over the counted pixels) or ``'sum'``.
        avg_factor: what ``'mean'`` divides by, instead of the count.
        **focal: ``gamma``, ``alpha`` and ``weight`` of :func:`~mmdefect.functional.focal.softmax_focal_loss`.
    """
    if logits.shape[1] < 2:
        raise ValueError(
            f'`logits` must have the normal class and at least one defect class, got {logits.shape[1]} channel; set '
            '`out_channels` of the head to 2.'
        )
    check_logits_and_label(logits, label)
    check_classes(label, logits.shape[1], ignore_index)  # before wrong labels are masked out
    label = label.masked_fill(~counted_in_boxes(logits, label, tau, boxes), ignore_index)
    options = dict(class_weight=class_weight, ignore_index=ignore_index, reduction='none')
    loss = softmax_focal_loss(logits, label, **options, **focal)
    if class_weight is not None:
        class_weight = torch.as_tensor(class_weight, dtype=loss.dtype, device=loss.device)
    return reduce_loss(loss, reduction, count_pixels(label, ignore_index, True, class_weight), avg_factor)
