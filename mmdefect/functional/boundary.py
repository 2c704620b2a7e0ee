r"""Boundary term: probability far outside a defect costs more than close to its border.

With :math:`\phi` the signed distance to the border of the labelled region of a class (negative inside), clipped to
:math:`\pm d` pixels and divided by :math:`d`,

.. math:: \ell = \frac{1}{\sum v} \sum v \, \phi \, p

(Kervadec et al., "Boundary loss for highly unbalanced segmentation", 2019, without the clipping). It is linear in the
probabilities, falls below 0 for a good prediction, and is meant beside a loss over areas. A class that an image does
not show has :math:`\phi = 1` everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from mmdefect.functional.reduction import per_class, reduce_loss
from mmdefect.functional.soft_counts import membership


def signed_distance(truth: np.ndarray, max_distance: float) -> np.ndarray:
    """Return the clipped signed distance to the border of a region, divided by ``max_distance``.

    Args:
        truth: ``(H, W)`` bool.
        max_distance: pixels.

    Returns:
        ``(H, W)`` float32 in [-1, 1]: the distance to the nearest pixel of the other kind, less half a pixel; negative
        inside. 1 everywhere for an empty region, -1 for a full one.
    """
    if not truth.any() or truth.all():
        return np.full(truth.shape, -1 if truth.any() else 1, np.float32)
    distance = np.where(truth, 0.5 - distance_transform_edt(truth), distance_transform_edt(~truth) - 0.5)
    return (np.clip(distance, -max_distance, max_distance) / max_distance).astype(np.float32)


def signed_distance_loss(
    logits: Tensor,
    label: Tensor,
    *,
    max_distance: float = 20.0,
    class_weight: Sequence[float] | Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int = 255,
    reduction: str = 'mean',
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    """Return the boundary term, the mean over labelled pixels and defect classes.

    Distances are computed on the CPU, image by image; a class that an image does not show costs nothing.

    Args:
        logits: ``(B, C, H, W)`` float; softmax, or a sigmoid for class 1 when ``C = 1``.
        label: ``(B, H, W)`` int64 in ``0 .. C - 1``, or ``ignore_index``.
        max_distance: pixels beyond which a pixel costs no more.
        class_weight: one weight per class, class 0 included; the mean over classes is the weighted one.
        weight: per sample ``(B,)`` or per pixel ``(B, H, W)``; it enters the denominator.
        ignore_index: label of the pixels that count nowhere.
        reduction: ``'none'`` (``(B, K, H, W)``), ``'mean'`` or ``'sum'``.
        avg_factor: what ``'mean'`` divides by, instead of the weights.

    Returns:
        float32 (float64 for float64 logits); 0 with a gradient of 0 when every pixel is ignored.

    Raises:
        ValueError: if shapes, class counts or the distance do not fit.
    """
    if max_distance <= 0:
        raise ValueError(f'`max_distance` must be above 0 pixels, got {max_distance}.')
    members = membership(logits, label, defects_only=True, weight=weight, ignore_index=ignore_index)
    regions = members.truth.bool().cpu().numpy()
    phi = np.stack([[signed_distance(region, max_distance) for region in image] for image in regions])
    scale = members.weight
    if class_weight is not None:
        weights = per_class(class_weight, max(logits.shape[1], 2), logits, 'class_weight')
        scale = scale * weights[list(members.classes)].view(1, -1, 1, 1)
    scale = scale.expand_as(members.probability)
    loss = members.probability * torch.from_numpy(phi).to(members.probability) * scale
    return reduce_loss(loss, reduction, scale.sum(), avg_factor)
