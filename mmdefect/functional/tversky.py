r"""Tversky index with a focusing exponent.

For one class, with :math:`p` the probability, :math:`y` the truth and :math:`v` the weight of a pixel,

.. math::
    TP = \sum v p y, \quad FP = \sum v p (1 - y), \quad FN = \sum v (1 - p) y, \qquad
    T = \frac{TP + s}{TP + \alpha FP + \beta FN + s}, \qquad \ell = (1 - T)^\gamma

(Salehi et al., "Tversky loss function for image segmentation", 2017; Abraham and Khan, "A novel focal Tversky loss",
2018, write the exponent as 1/gamma with gamma = 4/3: here ``gamma=0.75``). ``alpha = beta = 0.5`` with ``gamma=1`` is
the Dice loss. ``beta > alpha`` asks for recall.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mmdefect.functional.soft_counts import area, mean_over_classes, membership

#: Keeps the slope of powers below 1 finite at a perfect prediction.
_SMALLEST = 1e-7


def tversky_focal_loss(
    logits: Tensor,
    label: Tensor,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 0.75,
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
    """Return the focal Tversky loss, the mean over classes.

    Areas are summed over the batch by default: most images have no defect at all, and a mean over images would be
    dominated by their empty classes.

    Args:
        logits: ``(B, C, ...)`` float; softmax, or a sigmoid for class 1 when ``C = 1``.
        label: ``(B, ...)`` int64 in ``0 .. C - 1``, or ``ignore_index``.
        alpha: price of a false positive.
        beta: price of a false negative.
        gamma: exponent above 0; below 1 it lifts the loss of classes that are nearly right.
        smooth: pixels added above and below; an empty class then costs little, and every false positive something.
        defects_only: whether class 0 is left out.
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
        ValueError: if shapes, class counts or exponents do not fit.
    """
    if gamma <= 0 or smooth <= 0:
        raise ValueError(f'`gamma` and `smooth` must be above 0, got {gamma} and {smooth}; gamma=1 is the plain loss.')
    members = membership(logits, label, defects_only=defects_only, weight=weight, ignore_index=ignore_index)
    hit = area(members.probability * members.truth * members.weight, per_image)
    predicted = area(members.probability * members.weight, per_image)
    labelled = area(members.truth * members.weight, per_image)
    wrong = alpha * (predicted - hit) + beta * (labelled - hit)
    # 1 - T as one fraction: the difference of two numbers near 1 would lose the small losses.
    loss = (wrong / (hit + wrong + smooth)).clamp_min(0)
    if gamma != 1:
        loss = loss.clamp_min(_SMALLEST).pow(gamma)
    return mean_over_classes(
        loss,
        members,
        class_weight=class_weight,
        present_only=present_only,
        reduction=reduction,
        avg_factor=avg_factor,
        num_classes=logits.shape[1],
    )
