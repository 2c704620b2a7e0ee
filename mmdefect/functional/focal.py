r"""Focal losses: a softmax over the classes, or independent sigmoids, for images with a handful of defect pixels.

With :math:`p_t` the predicted probability of the labelled class and :math:`c = -\log p_t` its cross entropy, a pixel
costs

.. math:: \ell = w_t \, \alpha_t \, (1 - p_t)^\gamma \, c

(Lin et al., "Focal Loss for Dense Object Detection", 2017, carried over to several classes with one alpha per class).
``gamma=0`` without ``alpha`` is the cross entropy, to the last bit of the loss.

Autograd would keep five maps of the size of the labels and one of the size of the logits, and walk over each of them
from memory. :class:`FocalMap` has an analytic gradient: it keeps one map beside the logits and works on pieces that fit
the cache of a CPU. When a graph of the gradient is asked for (``create_graph=True``), the gradient is made of
differentiable operations, so derivatives of every order are exact. ``fused=False`` takes plain autograd throughout
(forward-mode derivatives, tracing).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdefect.functional.reduction import (
    LARGEST_TABLE,
    ClassValues,
    check_classes,
    check_logits_and_label,
    count_pixels,
    expand_weight,
    per_class,
    reduce_loss,
    values_at_labels,
    working_dtype,
)

#: Below it ``1 - p`` counts as this: its powers below 1 have no finite slope at 0.
_SMALLEST = 1e-12
#: Logits per piece; 1 MiB in float32.
_PIECE = 2**18


def softmax_focal_loss(
    logits: Tensor,
    label: Tensor,
    *,
    gamma: float = 2.0,
    alpha: ClassValues | None = None,
    class_weight: ClassValues | None = None,
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

    Args:
        logits: ``(B, C, ...)`` float, of differences that are finite in float32; the gradient has its dtype.
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

    Example:
        >>> softmax_focal_loss(torch.zeros(1, 2, 1), torch.ones(1, 1, dtype=torch.long), gamma=1.0)
        tensor(0.3466)
    """
    check_logits_and_label(logits, label)
    if gamma < 0:
        raise ValueError(f'`gamma` must be at least 0, got {gamma}.')
    if class_weight is not None:
        class_weight = per_class(class_weight, logits.shape[1], logits, 'class_weight')
    if alpha is not None:
        alpha = per_class(alpha, logits.shape[1], logits, 'alpha')
    if fused and not label_smoothing:
        factors = [f for f in (class_weight, alpha) if f is not None]
        inside = [f for f in factors if not f.requires_grad]
        outside = [f for f in factors if f.requires_grad]
        total = reduction != 'none' and weight is None and not outside
        loss, _, labelled = FocalMap.apply(
            logits, label, float(gamma), ignore_index, math.prod(inside) if inside else None, total
        )
    else:
        outside, labelled = [] if alpha is None else [alpha], None
        entropy = loss = _cross_entropy_map(logits, label, ignore_index)
        if class_weight is not None or label_smoothing:
            smoothed = dict(weight=class_weight, label_smoothing=label_smoothing)
            loss = _cross_entropy_map(logits, label, ignore_index, **smoothed)
        if gamma:
            loss = loss * _error(entropy).pow(gamma)
    for factor in outside:
        loss = loss * values_at_labels(factor, label, ignore_index)
    if weight is not None:
        loss = loss * expand_weight(weight, label).to(loss.dtype)
    if reduction != 'mean' or avg_factor is not None:
        return reduce_loss(loss, reduction, 1, avg_factor)
    if labelled is None or class_weight is not None or not avg_non_ignore:
        labelled = count_pixels(label, ignore_index, avg_non_ignore, class_weight)
    return reduce_loss(loss, reduction, labelled)


def sigmoid_focal_loss(
    logits: Tensor,
    label: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float | ClassValues | None = 0.25,
    class_weight: ClassValues | None = None,
    weight: Tensor | None = None,
    ignore_index: int = 255,
    reduction: str = 'mean',
    avg_factor: float | Tensor | None = None,
    avg_non_ignore: bool = True,
) -> Tensor:
    r"""Return the focal loss of one sigmoid per channel: one class against the rest, or one channel for "defect".

    With :math:`z` the logit of a channel and :math:`y` whether the pixel belongs to its class, :math:`s = 2y - 1`,

    .. math:: \ell = a \, \sigma(-s z)^\gamma \, \mathrm{softplus}(-s z), \qquad a = \alpha y + (1 - \alpha)(1 - y)

    :math:`\sigma(-sz)^\gamma` is taken as ``exp(-gamma * softplus(s z))``, which is finite with a finite gradient for
    every logit. The mean is over channels and labelled pixels; neither ``class_weight`` nor ``weight`` enters its
    denominator.

    Args:
        logits: ``(B, C, ...)`` float. ``C = 1`` is the binary case: channel 0 is the logit of label 1.
        label: ``(B, ...)`` int64 in ``0 .. C - 1`` (``0 .. 1`` for ``C = 1``), or ``ignore_index``.
        gamma: focusing exponent, at least 0.
        alpha: weight of a pixel of the class against ``1 - alpha`` of all others, in [0, 1]; one number or one per
            channel; ``None`` weighs neither.
        class_weight: one weight per channel.
        weight, ignore_index, avg_factor, avg_non_ignore: as in :func:`softmax_focal_loss`.
        reduction: ``'none'`` (the shape of ``logits``), ``'mean'`` or ``'sum'``.

    Returns:
        float32 (float64 for float64 logits); 0 with a gradient of 0 when every pixel is ignored.

    Example:
        >>> sigmoid_focal_loss(torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.long), gamma=1.0, alpha=None)
        tensor(0.3466)
    """
    check_logits_and_label(logits, label)
    if gamma < 0:
        raise ValueError(f'`gamma` must be at least 0, got {gamma}.')
    channels = logits.shape[1]
    check_classes(label, max(channels, 2), ignore_index)
    shape = (1, channels, *[1] * (label.dim() - 1))
    classes = torch.arange(channels, device=label.device) if channels > 1 else label.new_ones(1)
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
    loss = torch.where((label != ignore_index).unsqueeze(1), loss, loss.new_zeros(()))
    if reduction != 'mean' or avg_factor is not None:
        return reduce_loss(loss, reduction, 1, avg_factor)
    return reduce_loss(loss, reduction, channels * count_pixels(label, ignore_index, avg_non_ignore))


def _cross_entropy_map(logits: Tensor, label: Tensor, ignore_index: int, **kwargs) -> Tensor:
    """Return the map of the cross entropy, 0 where ignored, in float32 or float64."""
    try:
        if kwargs:
            logits = logits.to(working_dtype(logits))
            return F.cross_entropy(logits, label, ignore_index=ignore_index, reduction='none', **kwargs)
        log_p = F.log_softmax(logits, 1, dtype=working_dtype(logits))
        return F.nll_loss(log_p, label, ignore_index=ignore_index, reduction='none')
    except IndexError:  # on a CUDA device the kernel asserts instead
        check_classes(label, logits.shape[1], ignore_index)
        raise


def _error(entropy: Tensor) -> Tensor:
    """Return ``1 - p`` of the labelled class, without cancellation."""
    return torch.expm1(-entropy).neg().clamp_min(_SMALLEST)


def _pieces(logits: Tensor) -> list[slice]:
    """Cut the batch so that the temporaries of one piece stay in the cache of a CPU; a GPU gets it whole."""
    batch = logits.shape[0]
    if logits.device.type != 'cpu' or logits.numel() <= _PIECE:
        return [slice(None)]
    step = max(1, _PIECE * batch // logits.numel())
    return [slice(start, start + step) for start in range(0, batch, step)]


class FocalMap(torch.autograd.Function):
    """Map of ``a_t (1 - p)^gamma * c``, or its sum, and the derivative of the map by ``c``; both maps 0 where ignored.

    ``class_factor`` is ``a``, ``(C,)`` or ``None``; neither it nor the slope has a gradient. ``total`` asks for the
    sum: a map that is not needed is not written, which on a CPU saves a tenth of the time. The third output is the
    number of labelled pixels, counted on the way.
    """

    @staticmethod
    def forward(
        logits: Tensor, label: Tensor, gamma: float, ignore_index: int, class_factor: Tensor | None, total: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        slope = torch.empty(label.shape, dtype=working_dtype(logits), device=logits.device)
        loss = slope.new_zeros(()) if total else torch.empty_like(slope)
        count = torch.zeros((), dtype=torch.long, device=logits.device)
        if class_factor is None:
            class_factor = torch.ones(logits.shape[1], dtype=slope.dtype, device=slope.device)
        space, table = _Workspace(logits), _table(class_factor, ignore_index)
        all_count = table is not None and bool((class_factor != 0).all())
        for piece in _pieces(logits):
            if table is None:
                entropy = _cross_entropy_map(logits[piece], label[piece], ignore_index)
                factor = values_at_labels(class_factor, label[piece], ignore_index)
            else:
                entropy, factor = _look_up(logits[piece], label[piece], ignore_index, table, space)
            # a factor of 0 may be that of a class: then the labels themselves have to be asked
            count += torch.count_nonzero(factor if all_count else label[piece] != ignore_index)
            if gamma == 0:
                slope[piece] = factor
                both, lower = entropy, factor
            else:
                error = torch.neg(entropy, out=space('error', entropy)).expm1_().neg_()
                both = torch.mul(error, entropy, out=space('both', entropy))
                rest = torch.sub(entropy, both, out=entropy)
                torch.add(error, rest, alpha=gamma, out=rest)  # (1 - p) + gamma p c
                lower = error if gamma == 2 else error.clamp_min_(_SMALLEST).pow_(gamma - 1)
                lower.mul_(factor)
                torch.mul(rest, lower, out=slope[piece])
            if total:
                loss += both.mul_(lower).sum()
            else:
                torch.mul(both, lower, out=loss[piece])
        return loss, slope, count

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple) -> None:
        logits, label, ctx.gamma, ctx.ignore_index, ctx.class_factor, _ = inputs
        ctx.mark_non_differentiable(output[1], output[2])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(logits, label, output[1])

    @staticmethod
    def backward(ctx, grad: Tensor | None, *_: Tensor | None) -> tuple:
        """By the logit of class j: ``slope * (p_j - [j is the label])``."""
        if grad is None:
            return (None,) * 6
        logits, label, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # a graph of the gradient is asked for: the slope depends on the logits again
            entropy = _cross_entropy_map(logits, label, ctx.ignore_index)
            slope = torch.ones_like(entropy)
            if ctx.gamma:  # the derivative of (1 - p)^gamma * c by c; the usual gamma of 2 needs no power at all
                error = _error(entropy)
                lower = error if ctx.gamma == 2 else error.pow(ctx.gamma - 1)
                slope = torch.add(error, (1 - error) * entropy, alpha=ctx.gamma) * lower
            slope = slope.masked_fill(label == ctx.ignore_index, 0.0)
            if ctx.class_factor is not None:
                slope = slope * values_at_labels(ctx.class_factor, label, ctx.ignore_index)
            scale = (slope * grad).unsqueeze(1)
            result = F.softmax(logits, 1, dtype=slope.dtype) * scale
            return (result.scatter_add(1, _index(logits, label), -scale).to(logits.dtype),) + (None,) * 5
        result = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        space = _Workspace(logits)
        for piece in _pieces(logits):
            scale = torch.mul(slope[piece], grad[piece] if grad.dim() else grad, out=space('scale', slope[piece]))
            _write_gradient(result[piece], logits[piece], label[piece], scale, space)
        return (result,) + (None,) * 5


class _Workspace:
    """Buffers that the pieces of a batch share: asking the system for fresh memory costs as much as the arithmetic."""

    def __init__(self, logits: Tensor) -> None:
        self.device = logits.device
        self.buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, like: Tensor) -> Tensor:
        """Return an uninitialised buffer of the shape and dtype of ``like``; the first piece is the largest."""
        if name not in self.buffers:
            self.buffers[name] = torch.empty(like.numel(), dtype=like.dtype, device=self.device)
        return self.buffers[name][: like.numel()].view(like.shape)


def _table(class_factor: Tensor, ignore_index: int) -> Tensor | None:
    """Return the factor by label: 0 where ignored, NaN for labels of no class; ``None`` where a table does not pay."""
    num_classes = class_factor.shape[0]
    if class_factor.device.type != 'cpu' or not num_classes <= ignore_index <= LARGEST_TABLE:
        return None
    table = class_factor.new_full((ignore_index + 1,), float('nan'))
    table[:num_classes], table[ignore_index] = class_factor, 0.0
    return table


def _look_up(
    logits: Tensor, label: Tensor, ignore_index: int, table: Tensor, space: _Workspace
) -> tuple[Tensor, Tensor]:
    """Return the maps of the cross entropy and of the class factor; their product is 0 where ignored.

    PyTorch's ``nll_loss`` takes more than twice as long on a CPU as picking from a table and from the probabilities.
    """
    factor = space('factor', table.new_empty(()).expand(label.shape))
    try:
        torch.index_select(table, 0, label.reshape(-1), out=factor.view(-1))
    except IndexError:
        check_classes(label, logits.shape[1], ignore_index)
        raise
    if factor.sum().isnan():
        check_classes(label, logits.shape[1], ignore_index)
    log_p = space('log_p', table.new_empty(()).expand(logits.shape))
    torch.log_softmax(logits, 1, dtype=table.dtype, out=log_p)
    entropy = space('entropy', factor)
    torch.gather(log_p, 1, _index(logits, label, space), out=entropy.unsqueeze(1))
    return entropy.neg_(), factor


def _index(logits: Tensor, label: Tensor, space: _Workspace | None = None) -> Tensor:
    """Return an index without gaps for scattering over the classes; ignored pixels scatter zeros, anywhere."""
    out = None if space is None else space('index', label)
    return torch.clamp(label, 0, logits.shape[1] - 1, out=out).unsqueeze(1)


def _write_gradient(result: Tensor, logits: Tensor, label: Tensor, scale: Tensor, space: _Workspace) -> None:
    scale = scale.unsqueeze(1)
    same = result.dtype == scale.dtype
    probability = result if same else space('probability', scale.expand(result.shape))
    torch.softmax(logits, 1, dtype=scale.dtype, out=probability)
    index = _index(logits, label, space)
    probability.scatter_add_(1, index, scale.new_tensor(-1.0).expand(index.shape)).mul_(scale)
    if not same:
        result.copy_(probability)
