r"""Losses that compare regions: Dice, focal Tversky, centre-line Dice, and signed distances.

For one class, with :math:`p` the probability, :math:`y` the truth, :math:`v` the weight of a pixel and :math:`s` the
smoothing in pixels:

Dice, with :math:`e = 1` (Sudre et al., 2017), or 2 (Milletari et al., "V-Net", 2016), which pulls less on pixels that
are nearly decided:

.. math:: \ell = 1 - \frac{2 \sum v p y + s}{\sum v p^e + \sum v y + s}

Focal Tversky (Salehi et al., "Tversky loss function for image segmentation", 2017; Abraham and Khan, "A novel focal
Tversky loss", 2018, write the exponent as 1/gamma with gamma = 4/3: here ``gamma=0.75``). ``alpha = beta = 0.5`` with
``gamma=1`` is the Dice loss; ``beta > alpha`` asks for recall:

.. math::
    TP = \sum v p y, \quad FP = \sum v p (1 - y), \quad FN = \sum v (1 - p) y, \qquad
    T = \frac{TP + s}{TP + \alpha FP + \beta FN + s}, \qquad \ell = (1 - T)^\gamma

Centre-line Dice (Shit et al., "clDice", 2021), with :math:`S(\cdot)` the skeleton: whether the middle of a scratch is
found, whatever its width. A gap in a long scratch costs more than as many pixels missing along its edges:

.. math::
    P = \frac{\sum v S(p) y + s}{\sum v S(p) + s}, \qquad R = \frac{\sum v S(y) p + s}{\sum v S(y) + s}, \qquad
    \ell = 1 - \frac{2 P R}{P + R}

Boundary term (Kervadec et al., "Boundary loss for highly unbalanced segmentation", 2019, without the clipping), with
:math:`\phi` the signed distance to the border of the labelled region (negative inside), clipped to :math:`\pm d` pixels
and divided by :math:`d`: probability far outside a defect costs more than close to its border. It is linear in the
probabilities, falls below 0 for a good prediction, and is meant beside a loss over areas:

.. math:: \ell = \frac{1}{\sum v} \sum v \, \phi \, p
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from mmdefect.functional.reduction import (
    ClassValues,
    check_logits_and_label,
    expand_weight,
    per_class,
    reduce_loss,
    working_dtype,
)

#: Keeps the slope of powers below 1 finite at a perfect prediction.
_SMALLEST = 1e-7


def membership(
    logits: Tensor, label: Tensor, defects_only: bool, weight: Tensor | None, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """Return predicted and true membership of pixels in the K classes of interest; arguments of :func:`region_loss`.

    Probability and truth are ``(B, K, ...)`` float in [0, 1], the weight is ``(B, 1, ...)``; all are 0 where ignored.
    Last come the ids of the K classes.
    """
    check_logits_and_label(logits, label)
    if logits.shape[1] == 1:
        probability, classes = logits.to(working_dtype(logits)).sigmoid(), [1]
    else:
        classes = list(range(int(defects_only), logits.shape[1]))
        probability = torch.softmax(logits, 1, dtype=working_dtype(logits))[:, classes[0] :]
    valid = (label != ignore_index).unsqueeze(1)
    ids = torch.tensor(classes, device=label.device).view(1, -1, *[1] * (label.dim() - 1))
    truth = ((label.unsqueeze(1) == ids) & valid).to(probability.dtype)
    counted = valid.to(probability.dtype)
    if weight is not None:
        counted = counted * expand_weight(weight, label).unsqueeze(1).to(probability.dtype)
    return probability * valid, truth, counted, classes


def region_loss(
    formula: Callable[[Tensor, Tensor, Tensor, Callable[[Tensor], Tensor]], Tensor],
    logits: Tensor,
    label: Tensor,
    *,
    defects_only: bool = False,
    per_image: bool = False,
    present_only: bool = False,
    class_weight: ClassValues | None = None,
    weight: Tensor | None = None,
    ignore_index: int = 255,
    reduction: str = 'mean',
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    """Return the mean over classes of a loss that is made of areas.

    Areas are summed over the batch by default: most images have no defect at all, and a mean over images would be
    dominated by their empty classes.

    Args:
        formula: maps probability and truth ``(B, K, ...)``, weight ``(B, 1, ...)`` and a function that sums a map to an
            area to the loss of each class.
        logits: ``(B, C, ...)`` float; softmax, or a sigmoid for class 1 when ``C = 1``.
        label: ``(B, ...)`` int64 in ``0 .. C - 1``, or ``ignore_index``.
        defects_only: whether class 0 is left out; it is nearly all of the image and nearly always right.
        per_image: whether areas are summed for each image.
        present_only: whether classes without a labelled pixel (in the batch, or the image) are left out.
        class_weight: one weight per class, class 0 included; the mean over classes is the weighted one.
        weight: per sample ``(B,)`` or per pixel ``(B, ...)``.
        ignore_index: label of the pixels that count nowhere.
        reduction: ``'none'`` (``(K,)`` or ``(B, K)``), ``'mean'`` or ``'sum'``.
        avg_factor: what ``'mean'`` divides by, instead of the sum of class weights.

    Returns:
        float32 (float64 for float64 logits); 0 with a gradient of 0 when every pixel is ignored.
    """

    def area(values: Tensor) -> Tensor:
        return values.flatten(2).sum(2) if per_image else values.transpose(0, 1).flatten(1).sum(1)

    p, y, v, classes = membership(logits, label, defects_only, weight, ignore_index)
    loss = formula(p, y, v, area)
    scale = torch.ones_like(loss)
    if class_weight is not None:
        scale = scale * per_class(class_weight, max(logits.shape[1], 2), loss, 'class_weight')[classes]
    if present_only:
        scale = scale * (area(y) > 0)
    # Without a pixel that counts there is no error, but a smoothed ratio may say otherwise.
    scale = scale * (area(v.expand_as(y)) > 0)
    return reduce_loss(loss * scale, reduction, scale.sum(), avg_factor)


def defect_dice_loss(logits: Tensor, label: Tensor, *, exponent: int = 1, smooth: float = 1.0, **options) -> Tensor:
    """Return the Dice loss.

    Args:
        logits, label, **options: see :func:`region_loss`.
        exponent: 1 or 2, of the probability in the denominator.
        smooth: pixels added above and below; must be above 0.
    """
    if exponent not in (1, 2) or smooth <= 0:
        raise ValueError(f'`exponent` must be 1 or 2 and `smooth` above 0, got {exponent} and {smooth}.')

    def formula(p: Tensor, y: Tensor, v: Tensor, area: Callable) -> Tensor:
        return 1 - (2 * area(p * y * v) + smooth) / (area(p.pow(exponent) * v) + area(y * v) + smooth)

    return region_loss(formula, logits, label, **options)


def tversky_focal_loss(
    logits: Tensor,
    label: Tensor,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 0.75,
    smooth: float = 1.0,
    **options,
) -> Tensor:
    """Return the focal Tversky loss.

    Args:
        logits, label, **options: see :func:`region_loss`.
        alpha: price of a false positive.
        beta: price of a false negative.
        gamma: exponent above 0; below 1 it lifts the loss of classes that are nearly right.
        smooth: pixels added above and below; an empty class then costs little, and every false positive something.
    """
    if gamma <= 0 or smooth <= 0:
        raise ValueError(f'`gamma` and `smooth` must be above 0, got {gamma} and {smooth}; gamma=1 is the plain loss.')

    def formula(p: Tensor, y: Tensor, v: Tensor, area: Callable) -> Tensor:
        hit = area(p * y * v)
        wrong = alpha * (area(p * v) - hit) + beta * (area(y * v) - hit)
        # 1 - T as one fraction: the difference of two numbers near 1 would lose the small losses.
        loss = (wrong / (hit + wrong + smooth)).clamp_min(0)
        return loss if gamma == 1 else loss.clamp_min(_SMALLEST).pow(gamma)

    return region_loss(formula, logits, label, **options)


def centerline_dice_loss(
    logits: Tensor, label: Tensor, *, iterations: int = 3, smooth: float = 1.0, **options
) -> Tensor:
    """Return the centre-line Dice loss of the defect classes.

    It says nothing about width: use it beside a loss over pixels, with a small weight.

    Args:
        logits, label, **options: see :func:`region_loss`; (B, C, H, W) and (B, H, W), with ``defects_only``. Ignored
            pixels are background to the skeleton.
        iterations: half the width in pixels of the widest scratch.
        smooth: pixels added above and below; must be above 0.
    """
    if logits.dim() != 4:
        raise ValueError(f'`logits` must be (B, C, H, W), got {tuple(logits.shape)}; lines need two dimensions.')
    if iterations < 0 or smooth <= 0:
        raise ValueError(f'`iterations` must be at least 0 and `smooth` above 0, got {iterations} and {smooth}.')

    def formula(p: Tensor, y: Tensor, v: Tensor, area: Callable) -> Tensor:
        line_p, line_y = soft_skeleton(p, iterations) * v, soft_skeleton(y, iterations) * v
        precision = (area(line_p * y) + smooth) / (area(line_p) + smooth)
        recall = (area(line_y * p) + smooth) / (area(line_y) + smooth)
        return 1 - 2 * precision * recall / (precision + recall)

    return region_loss(formula, logits, label, defects_only=True, **options)


def soft_skeleton(values: Tensor, iterations: int) -> Tensor:
    """Thin ridges of ``(B, K, H, W)`` values in [0, 1] to their centre line, differentiably.

    The skeleton is what an opening removes, after 0, 1, 2, ... ``iterations`` erosions: ridges up to about twice as
    wide are thinned, wider ones keep no centre.
    """
    skeleton = torch.zeros_like(values)
    for _ in range(iterations + 1):
        # the minimum over the plus-shaped neighbourhood, as the smaller of a vertical and a horizontal minimum
        eroded = -torch.maximum(_MaxOfThree.apply(-values, 2), _MaxOfThree.apply(-values, 3))
        opened = _MaxOfThree.apply(_MaxOfThree.apply(eroded, 2), 3)
        ridge = F.relu(values - opened)
        skeleton = skeleton + F.relu(ridge - skeleton * ridge)
        values = eroded
    return skeleton


class _MaxOfThree(torch.autograd.Function):
    """Maximum over a pixel and its two neighbours along one axis.

    PyTorch's pooling walks over windows and keeps int64 indices: on a CPU this is some five times as fast and keeps a
    fifth of the memory. Among equals the gradient goes to the pixel itself, then to the one before.
    """

    @staticmethod
    def forward(values: Tensor, dim: int) -> Tensor:
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


def signed_distance_loss(
    logits: Tensor,
    label: Tensor,
    *,
    max_distance: float = 20.0,
    class_weight: ClassValues | None = None,
    weight: Tensor | None = None,
    ignore_index: int = 255,
    reduction: str = 'mean',
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    """Return the boundary term, the mean over labelled pixels and defect classes.

    Distances are computed on the CPU, image by image; a class that an image does not show is at distance 1 everywhere.

    Args:
        logits: ``(B, C, H, W)`` float; softmax, or a sigmoid for class 1 when ``C = 1``.
        label: ``(B, H, W)`` int64 in ``0 .. C - 1``, or ``ignore_index``.
        max_distance: pixels beyond which a pixel costs no more.
        class_weight, weight, ignore_index, avg_factor: see :func:`region_loss`; both weights enter the denominator.
        reduction: ``'none'`` (``(B, K, H, W)``), ``'mean'`` or ``'sum'``.
    """
    if max_distance <= 0:
        raise ValueError(f'`max_distance` must be above 0 pixels, got {max_distance}.')
    p, y, scale, classes = membership(logits, label, True, weight, ignore_index)
    phi = np.stack([[signed_distance(region, max_distance) for region in image] for image in y.bool().cpu().numpy()])
    if class_weight is not None:
        weights = per_class(class_weight, max(logits.shape[1], 2), logits, 'class_weight')
        scale = scale * weights[classes].view(1, -1, 1, 1)
    scale = scale.expand_as(p)
    return reduce_loss(p * torch.from_numpy(phi).to(p) * scale, reduction, scale.sum(), avg_factor)


def signed_distance(truth: np.ndarray, max_distance: float) -> np.ndarray:
    """Return the clipped signed distance to the border of a ``(H, W)`` bool region, divided by ``max_distance``.

    float32 in [-1, 1]: the distance to the nearest pixel of the other kind, less half a pixel; negative inside. 1
    everywhere for an empty region, -1 for a full one.
    """
    if not truth.any() or truth.all():
        return np.full(truth.shape, -1 if truth.any() else 1, np.float32)
    distance = np.where(truth, 0.5 - distance_transform_edt(truth), distance_transform_edt(~truth) - 0.5)
    return (np.clip(distance, -max_distance, max_distance) / max_distance).astype(np.float32)
