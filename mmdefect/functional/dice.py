r"""Dice loss, over all classes or over the defect classes alone.

For one class, with :math:`p` the probability, :math:`y` the truth and :math:`v` the weight of a pixel,

.. math:: \ell = 1 - \frac{2 \sum v p y + s}{\sum v p^e + \sum v y + s}

with :math:`e = 1` (Sudre et al., 2017), or 2 (Milletari et al., "V-Net", 2016), which pulls less on pixels that are
nearly decided.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mmdefect.functional.soft_counts import area, mean_over_classes, membership


def defect_dice_loss(
    logits: Tensor,
    label: Tensor,
    *,
    exponent: int = 1,
    smooth: float = 1.0,
    defects_only: bool = False,
    per_image: bool = False,
    present_only: bool = False,
    class_weight: Sequence[float] | Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int = 255,
    reduction: str = 'mean',
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    """Return the Dice loss, the mean over classes; areas are summed over the batch by default.

    Args:
        logits: ``(B, C, ...)`` float; softmax, or a sigmoid for class 1 when ``C = 1``.
        label: ``(B, ...)`` int64 in ``0 .. C - 1``, or ``ignore_index``.
        exponent: 1 or 2, of the probability in the denominator.
        smooth: pixels added above and below; must be above 0.
        defects_only: whether class 0 is left out; it is nearly all of the image and nearly always right.
        per_image: whether areas are summed for each image.
        present_only: whether classes without a labelled pixel are left out.
        class_weight: one weight per class, class 0 included.
        weight: per sample ``(B,)`` or per pixel ``(B, ...)``.
        ignore_index: label of the pixels that count nowhere.
        reduction: ``'none'`` (``(K,)`` or ``(B, K)``), ``'mean'`` or ``'sum'``.
        avg_factor: what ``'mean'`` divides by, instead of the sum of class weights.

    Returns:
        float32 (float64 for float64 logits); 0 with a gradient of 0 when every pixel is ignored.

    Raises:
        ValueError: if shapes, class counts or the exponent do not fit.
    """
    if exponent not in (1, 2) or smooth <= 0:
        raise ValueError(f'`exponent` must be 1 or 2 and `smooth` above 0, got {exponent} and {smooth}.')
    members = membership(logits, label, defects_only=defects_only, weight=weight, ignore_index=ignore_index)
    hit = area(members.probability * members.truth * members.weight, per_image)
    predicted = area(members.probability.pow(exponent) * members.weight, per_image)
    labelled = area(members.truth * members.weight, per_image)
    loss = 1 - (2 * hit + smooth) / (predicted + labelled + smooth)
    return mean_over_classes(
        loss,
        members,
        class_weight=class_weight,
        present_only=present_only,
        reduction=reduction,
        avg_factor=avg_factor,
        num_classes=logits.shape[1],
    )
