r"""Focal loss over independent sigmoids: one class against the rest, for each class, or one channel for "defect".

With :math:`z` the logit of a channel and :math:`y` whether the pixel belongs to its class, :math:`s = 2y - 1`,

.. math:: \ell = a \, \sigma(-s z)^\gamma \, \mathrm{softplus}(-s z), \qquad a = \alpha y + (1 - \alpha)(1 - y)

(Lin et al., 2017). :math:`\sigma(-sz)^\gamma` is taken as ``exp(-gamma * softplus(s z))``, which is finite with a
finite gradient for every logit. Plain PyTorch: it runs on every device and can be differentiated any number of times.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdefect.functional.focal_map import working_dtype
from mmdefect.functional.reduction import (
    check_classes,
    check_logits_and_label,
    count_pixels,
    expand_weight,
    per_class,
    reduce_loss,
)


def sigmoid_focal_loss(
    logits: Tensor,
    label: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float | Sequence[float] | Tensor | None = 0.25,
    class_weight: Sequence[float] | Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int = 255,
    reduction: str = 'mean',
    avg_factor: float | Tensor | None = None,
    avg_non_ignore: bool = True,
) -> Tensor:
    """Return the focal loss of one sigmoid per channel.

    The mean is over channels and labelled pixels; neither ``class_weight`` nor ``weight`` enters its denominator.

    Args:
        logits: ``(B, C, ...)`` float. ``C = 1`` is the binary case: channel 0 is the logit of label 1.
        label: ``(B, ...)`` int64 in ``0 .. C - 1`` (``0 .. 1`` for ``C = 1``), or ``ignore_index``.
        gamma: focusing exponent, at least 0.
        alpha: weight of a pixel of the class against ``1 - alpha`` of all others, in [0, 1]; one number or one per
            channel; ``None`` weighs neither.
        class_weight: one weight per channel.
        weight: per sample ``(B,)`` or per pixel ``(B, ...)``.
        ignore_index: label of the pixels without loss and gradient.
        reduction: ``'none'`` (the shape of ``logits``), ``'mean'`` or ``'sum'``.
        avg_factor: what ``'mean'`` divides by, instead of the count.
        avg_non_ignore: whether ``'mean'`` divides by the labelled pixels only.

    Returns:
        float32 (float64 for float64 logits); 0 with a gradient of 0 when every pixel is ignored.

    Raises:
        ValueError: if shapes, class counts or labels do not fit.

    Example:
        >>> sigmoid_focal_loss(torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.long), gamma=1.0, alpha=None)
        tensor(0.3466)
    """
    check_logits_and_label(logits, label)
    if gamma < 0:
        raise ValueError(f'`gamma` must be at least 0, got {gamma}.')
    channels = logits.shape[1]
    valid = (label != ignore_index).unsqueeze(1)
    classes = torch.arange(channels, device=label.device) if channels > 1 else label.new_ones(1)
    check_classes(label, max(channels, 2), ignore_index)
    shape = (1, channels, *[1] * (label.dim() - 1))
    positive = label.unsqueeze(1) == classes.view(shape)
    z = logits.to(working_dtype(logits))
    z = torch.where(positive, -z, z)  # large where the prediction is wrong
    loss = torch.exp(-gamma * F.softplus(-z)) * F.softplus(z)
    if alpha is not None:
        values = [alpha] * channels if isinstance(alpha, (int, float)) else alpha
        alpha = per_class(values, channels, logits, 'alpha').view(shape)
        loss = loss * torch.where(positive, alpha, 1 - alpha)
    if class_weight is not None:
        loss = loss * per_class(class_weight, channels, logits, 'class_weight').view(shape)
    if weight is not None:
        loss = loss * expand_weight(weight, label).unsqueeze(1).to(loss.dtype)
    loss = torch.where(valid, loss, loss.new_zeros(()))
    if reduction != 'mean' or avg_factor is not None:
        return reduce_loss(loss, reduction, 1, avg_factor)
    return reduce_loss(loss, reduction, channels * count_pixels(label, ignore_index, avg_non_ignore))
