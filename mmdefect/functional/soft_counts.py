"""How much of a class is predicted, labelled, and both, with probabilities in place of decisions.

The losses that compare areas (Dice, Tversky, centre lines) all start here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmdefect.functional.focal_map import working_dtype
from mmdefect.functional.reduction import check_logits_and_label, expand_weight, per_class, reduce_loss


@dataclass(frozen=True)
class Membership:
    """Predicted and true membership of every pixel in every class of interest; both 0 where ignored.

    Attributes:
        probability: ``(B, K, ...)`` float in [0, 1].
        truth: ``(B, K, ...)`` float, 0 or 1.
        weight: ``(B, 1, ...)`` float, 0 where ignored.
        classes: ids of the K classes.
    """

    probability: Tensor
    truth: Tensor
    weight: Tensor
    classes: tuple[int, ...]


def membership(
    logits: Tensor, label: Tensor, *, defects_only: bool = False, weight: Tensor | None = None, ignore_index: int = 255
) -> Membership:
    """Turn logits and labels into memberships.

    Args:
        logits: ``(B, C, ...)`` float; softmax over the classes, or a sigmoid for class 1 when ``C = 1``.
        label: ``(B, ...)`` int64 in ``0 .. C - 1``, or ``ignore_index``.
        defects_only: whether class 0 is left out.
        weight: per sample ``(B,)`` or per pixel ``(B, ...)``.
        ignore_index: label of the pixels that count nowhere.

    Raises:
        ValueError: if shapes do not fit.
    """
    check_logits_and_label(logits, label)
    if logits.shape[1] == 1:
        probability, classes = logits.to(working_dtype(logits)).sigmoid(), (1,)
    else:
        first = 1 if defects_only else 0
        probability = torch.softmax(logits, 1, dtype=working_dtype(logits))[:, first:]
        classes = tuple(range(first, logits.shape[1]))
    valid = (label != ignore_index).unsqueeze(1)
    ids = torch.tensor(classes, device=label.device).view(1, -1, *[1] * (label.dim() - 1))
    truth = ((label.unsqueeze(1) == ids) & valid).to(probability.dtype)
    counted = valid.to(probability.dtype)
    if weight is not None:
        counted = counted * expand_weight(weight, label).unsqueeze(1).to(probability.dtype)
    return Membership(probability * valid, truth, counted, classes)


def area(values: Tensor, per_image: bool) -> Tensor:
    """Sum ``(B, K, ...)`` to ``(K,)`` over the batch, or to ``(B, K)`` for each image."""
    return values.flatten(2).sum(2) if per_image else values.transpose(0, 1).flatten(1).sum(1)


def mean_over_classes(
    loss: Tensor,
    members: Membership,
    *,
    class_weight: Sequence[float] | Tensor | None,
    present_only: bool,
    reduction: str,
    avg_factor: float | Tensor | None,
    num_classes: int,
) -> Tensor:
    """Reduce one loss per class.

    Args:
        loss: ``(K,)``, or ``(B, K)`` per image.
        members: what the loss was made from.
        class_weight: one weight per class of the model, the left out one included; the mean is the weighted one.
        present_only: whether classes without a labelled pixel (in the batch, or the image) are left out.
        reduction: ``'none'`` (the shape of ``loss``, weighted), ``'mean'`` or ``'sum'``.
        avg_factor: what ``'mean'`` divides by, instead of the weights.
        num_classes: channels of the model.
    """
    scale = torch.ones_like(loss)
    if class_weight is not None:
        weights = per_class(class_weight, max(num_classes, 2), loss, 'class_weight')
        scale = scale * weights[list(members.classes)]
    if present_only:
        scale = scale * (area(members.truth, loss.dim() == 2) > 0)
    # Without a pixel that counts there is no error, but a smoothed ratio may say otherwise.
    counted = area(members.weight.expand_as(members.truth), loss.dim() == 2) > 0
    scale = scale * counted
    return reduce_loss(loss * scale, reduction, scale.sum(), avg_factor)
