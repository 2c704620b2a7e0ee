r"""Centre-line Dice: whether the middle of a scratch is found, whatever its width.

With :math:`S(\cdot)` the skeleton, :math:`p` the probability and :math:`y` the truth of a class,

.. math::
    P = \frac{\sum v S(p) y + s}{\sum v S(p) + s}, \qquad R = \frac{\sum v S(y) p + s}{\sum v S(y) + s}, \qquad
    \ell = 1 - \frac{2 P R}{P + R}

(Shit et al., "clDice", 2021). The skeleton is made of minima and maxima over neighbours, so it is differentiable: what
an opening removes, after 0, 1, 2, ... erosions. A gap in a long scratch costs more here than as
many pixels missing along its edges.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdefect.functional.soft_counts import area, mean_over_classes, membership


def soft_skeleton(values: Tensor, iterations: int) -> Tensor:
    """Thin ridges to their centre line.

    Args:
        values: ``(B, K, H, W)`` float in [0, 1].
        iterations: erosions; ridges up to about twice as wide are thinned, wider ones keep no centre.

    Returns:
        The shape of ``values``, in [0, 1].
    """
    skeleton = torch.zeros_like(values)
    for _ in range(iterations + 1):
        eroded = _erode(values)
        ridge = F.relu(values - _dilate(eroded))  # what an opening removes
        skeleton = skeleton + F.relu(ridge - skeleton * ridge)
        values = eroded
    return skeleton


def centerline_dice_loss(
    logits: Tensor,
    label: Tensor,
    *,
    iterations: int = 3,
    smooth: float = 1.0,
    per_image: bool = False,
    present_only: bool = False,
    class_weight: Sequence[float] | Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int = 255,
    reduction: str = 'mean',
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    """Return the centre-line Dice loss, the mean over the defect classes.

    It says nothing about width: use it beside a loss over pixels, with a small weight.

    Args:
        logits: ``(B, C, H, W)`` float; softmax, or a sigmoid for class 1 when ``C = 1``.
        label: ``(B, H, W)`` int64 in ``0 .. C - 1``, or ``ignore_index``.
        iterations: half the width in pixels of the widest scratch.
        smooth: pixels added above and below; must be above 0.
        per_image: whether lengths are summed for each image.
        present_only: whether classes without a labelled pixel are left out.
        class_weight: one weight per class, class 0 included.
        weight: per sample ``(B,)`` or per pixel ``(B, H, W)``.
        ignore_index: label of the pixels that count nowhere; they are background to the skeleton.
        reduction: ``'none'`` (``(K,)`` or ``(B, K)``), ``'mean'`` or ``'sum'``.
        avg_factor: what ``'mean'`` divides by, instead of the sum of class weights.

    Returns:
        float32 (float64 for float64 logits); 0 with a gradient of 0 when every pixel is ignored.

    Raises:
        ValueError: if shapes, class counts or numbers do not fit.
    """
    if logits.dim() != 4:
        raise ValueError(f'`logits` must be (B, C, H, W), got {tuple(logits.shape)}; lines need two dimensions.')
    if iterations < 0 or smooth <= 0:
        raise ValueError(f'`iterations` must be at least 0 and `smooth` above 0, got {iterations} and {smooth}.')
    members = membership(logits, label, defects_only=True, weight=weight, ignore_index=ignore_index)
    p, y, v = members.probability, members.truth, members.weight
    line_p, line_y = soft_skeleton(p, iterations) * v, soft_skeleton(y, iterations) * v
    precision = (area(line_p * y, per_image) + smooth) / (area(line_p, per_image) + smooth)
    recall = (area(line_y * p, per_image) + smooth) / (area(line_y, per_image) + smooth)
    loss = 1 - 2 * precision * recall / (precision + recall)
    return mean_over_classes(
        loss,
        members,
        class_weight=class_weight,
        present_only=present_only,
        reduction=reduction,
        avg_factor=avg_factor,
        num_classes=logits.shape[1],
    )


class _MaxOfThree(torch.autograd.Function):
    """Maximum over a pixel and its two neighbours along one axis.

    PyTorch's pooling walks over windows and keeps int64 indices: on a CPU this is some five times as fast and keeps a
    fifth of the memory. Among equals the gradient goes to the pixel itself, then to the one before.
    """

    @staticmethod
    def forward(values: Tensor, dim: int) -> Tensor:
        """Return the shape of ``values``."""
        size = values.shape[dim] - 1
        result = values.clone()
        for here, there in ((1, 0), (0, 1)):
            part = result.narrow(dim, here, size)
            torch.maximum(part, values.narrow(dim, there, size), out=part)
        return result

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        values, ctx.dim = inputs
        ctx.save_for_backward(values, output)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        """Send each gradient to the pixel that was largest."""
        values, largest = ctx.saved_tensors
        dim, size = ctx.dim, values.shape[ctx.dim] - 1
        zero = grad.new_zeros(())
        result = torch.where(values == largest, grad, zero)
        rest = grad - result
        before = values.narrow(dim, 0, size) == largest.narrow(dim, 1, size)
        to_before = torch.where(before, rest.narrow(dim, 1, size), zero)
        rest.narrow(dim, 1, size).sub_(to_before)
        result.narrow(dim, 0, size).add_(to_before)
        result.narrow(dim, 1, size).add_(rest.narrow(dim, 0, size))
        return result, None


def _largest(values: Tensor, dim: int) -> Tensor:
    return _MaxOfThree.apply(values, dim)


def _erode(values: Tensor) -> Tensor:
    """Minimum over the plus-shaped neighbourhood, as the smaller of a vertical and a horizontal minimum."""
    return -torch.maximum(_largest(-values, 2), _largest(-values, 3))


def _dilate(values: Tensor) -> Tensor:
    return _largest(_largest(values, 2), 3)
