r"""Focal loss over a softmax, for segmentation with a handful of defect pixels.

With :math:`p_t` the predicted probability of the labelled class and :math:`c = -\log p_t` its cross entropy, a pixel
costs

.. math:: \ell = w_t \, \alpha_t \, (1 - p_t)^\gamma \, c

(Lin et al., "Focal Loss for Dense Object Detection", 2017, carried over to several classes with one alpha per class).
``gamma=0`` without ``alpha`` is the cross entropy, to the last bit of the loss.

The default has an analytic gradient (:mod:`mmdefect.functional.focal_map`), which can itself be differentiated;
``fused=False`` takes plain autograd throughout (forward-mode derivatives, tracing).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from mmdefect.functional.focal_map import FocalMap, plain_focal_map
from mmdefect.functional.reduction import (
    check_logits_and_label,
    count_pixels,
    expand_weight,
    per_class,
    reduce_loss,
    values_at_labels,
)


def softmax_focal_loss(
    logits: Tensor,
    label: Tensor,
    *,
    gamma: float = 2.0,
    alpha: Sequence[float] | Tensor | None = None,
    class_weight: Sequence[float] | Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int = 255,
    label_smoothing: float = 0.0,
    reduction: str = 'mean',
    avg_factor: float | Tensor | None = None,
    avg_non_ignore: bool = True,
    fused: bool = True,
) -> Tensor:
    r"""Return the focal loss of a softmax.

    The mean is :math:`\sum_i v_i \ell_i / \sum_i w_{t_i}` over the labelled pixels, :math:`v` being ``weight``:
    ``class_weight`` enters the denominator, as in PyTorch's cross entropy; ``alpha`` and ``weight`` do not. With label
    smoothing :math:`\epsilon` the cross entropy of the smoothed target takes the place of :math:`w_t c`, with PyTorch's
    meaning of class weights; :math:`p_t` stays the probability of the labelled class.

    Half precision logits are taken to float32 inside; the gradient has the dtype of the logits.

    Args:
        logits: ``(B, C, ...)`` float, any magnitude whose differences are finite in float32.
        label: ``(B, ...)`` int64 in ``0 .. C - 1``, or ``ignore_index``.
        gamma: focusing exponent, at least 0.
        alpha: one factor per class; gradients flow into a tensor.
        class_weight: one weight per class.
        weight: per sample ``(B,)`` or per pixel ``(B, ...)``; gradients flow into it.
        ignore_index: label of the pixels without loss and gradient.
        label_smoothing: share of the target spread over all classes, in [0, 1].
        reduction: ``'none'`` (a map of the shape of ``label``, 0 where ignored), ``'mean'`` or ``'sum'``.
        avg_factor: what ``'mean'`` divides by, instead of the count.
        avg_non_ignore: whether ``'mean'`` divides by the labelled pixels only; without effect with ``class_weight``.
        fused: whether to use the analytic gradient.

    Returns:
        float32 (float64 for float64 logits); 0 with a gradient of 0 when every pixel is ignored.

    Raises:
        ValueError: if shapes, class counts or labels do not fit.

    Example:
        >>> softmax_focal_loss(torch.zeros(1, 2, 1), torch.ones(1, 1, dtype=torch.long), gamma=1.0)
        tensor(0.3466)
    """
    check_logits_and_label(logits, label)
    if gamma < 0:
        raise ValueError(f'`gamma` must be at least 0, got {gamma}.')
    num_classes = logits.shape[1]
    factors = {}
    for name, values in (('class_weight', class_weight), ('alpha', alpha)):
        if values is not None:
            factors[name] = per_class(values, num_classes, logits, name)
    class_weight = factors.get('class_weight')
    if fused and not label_smoothing:
        inside = [f for f in factors.values() if not f.requires_grad]
        outside = [f for f in factors.values() if f.requires_grad]
        total = reduction != 'none' and weight is None and not outside
        loss, _, labelled = FocalMap.apply(
            logits, label, float(gamma), ignore_index, math.prod(inside) if inside else None, total
        )
    else:
        outside = [factors['alpha']] if 'alpha' in factors else []
        loss, labelled = plain_focal_map(logits, label, gamma, ignore_index, class_weight, label_smoothing), None
    for factor in outside:
        loss = loss * values_at_labels(factor, label, ignore_index)
    if weight is not None:
        loss = loss * expand_weight(weight, label).to(loss.dtype)
    if reduction != 'mean' or avg_factor is not None:
        return reduce_loss(loss, reduction, 1, avg_factor)
    if labelled is None or class_weight is not None or not avg_non_ignore:
        labelled = count_pixels(label, ignore_index, avg_non_ignore, class_weight)
    return reduce_loss(loss, reduction, labelled)
