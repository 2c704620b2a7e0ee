"""The map of the focal loss with its analytic gradient.

Autograd would keep five maps of the size of the labels and one of the size of the logits, and walk over each of them
from memory. :class:`FocalMap` keeps one map beside the logits and works on pieces that fit the cache of a CPU. When a
graph of the gradient is asked for (``create_graph=True``), the gradient is made of differentiable operations, so
derivatives of every order are exact.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdefect.functional.reduction import LARGEST_TABLE, check_classes, values_at_labels

#: Below it ``1 - p`` counts as this: its powers below 1 have no finite slope at 0.
_SMALLEST = 1e-12
#: Logits per piece; 1 MiB in float32.
_PIECE = 2**18


def working_dtype(logits: Tensor) -> torch.dtype:
    """Return the dtype losses are computed in: half precision is too coarse for them."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def cross_entropy_map(logits: Tensor, label: Tensor, ignore_index: int, **kwargs) -> Tensor:
    """Return the map of the cross entropy, 0 where ignored, in float32 or float64."""
    try:
        if kwargs:
            return F.cross_entropy(logits.to(working_dtype(logits)), label, ignore_index=ignore_index,
                                   reduction='none', **kwargs)
        log_p = F.log_softmax(logits, 1, dtype=working_dtype(logits))
        return F.nll_loss(log_p, label, ignore_index=ignore_index, reduction='none')
    except IndexError:  # on a CUDA device the kernel asserts instead
        check_classes(label, logits.shape[1], ignore_index)
        raise


def plain_focal_map(logits: Tensor, label: Tensor, gamma: float, ignore_index: int, class_weight: Tensor | None,
                    label_smoothing: float) -> Tensor:
    """Return the map of the focal loss by plain autograd, 0 where ignored."""
    entropy = cross_entropy_map(logits, label, ignore_index)
    cost = entropy
    if class_weight is not None or label_smoothing:
        cost = cross_entropy_map(logits, label, ignore_index, weight=class_weight, label_smoothing=label_smoothing)
    return cost if gamma == 0 else cost * focal_error(entropy).pow(gamma)


def focal_error(entropy: Tensor) -> Tensor:
    """Return ``1 - p`` of the labelled class, without cancellation."""
    return torch.expm1(-entropy).neg().clamp_min(_SMALLEST)


def _slope(entropy: Tensor, error: Tensor, lower: Tensor, gamma: float) -> Tensor:
    """Return the derivative of ``(1 - p)^gamma * c`` by ``c``; ``lower`` is ``(1 - p)^(gamma - 1)``."""
    return torch.add(error, (1 - error) * entropy, alpha=gamma) * lower


def _power(base: Tensor, exponent: float) -> Tensor:
    return base if exponent == 1 else base.pow(exponent)  # the usual gamma of 2 needs no power at all


def _pieces(logits: Tensor) -> list[slice]:
    """Cut the batch so that the temporaries of one piece stay in the cache of a CPU; a GPU gets it whole."""
    batch = logits.shape[0]
    if logits.device.type != 'cpu' or logits.numel() <= _PIECE:
        return [slice(None)]
    step = max(1, _PIECE * batch // logits.numel())
    return [slice(start, start + step) for start in range(0, batch, step)]


class FocalMap(torch.autograd.Function):
    """Map of ``a_t (1 - p)^gamma * c`` and its derivative by ``c``, both 0 where ignored; the first has a gradient.

    ``class_factor`` is ``a``, ``(C,)`` or ``None``; it gets no gradient.
    """

    @staticmethod
    def forward(logits: Tensor, label: Tensor, gamma: float, ignore_index: int,
                class_factor: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return loss and slope; the slope is kept instead of the probabilities, at 1/C of their size."""
        loss = torch.empty(label.shape, dtype=working_dtype(logits), device=logits.device)
        slope = torch.empty_like(loss)
        if class_factor is None:
            class_factor = torch.ones(logits.shape[1], dtype=loss.dtype, device=loss.device)
        for piece in _pieces(logits):
            entropy, factor = _entropy_and_factor(logits[piece], label[piece], ignore_index, class_factor)
            if gamma == 0:
                slope[piece] = factor
            else:
                error = focal_error(entropy)
                lower = _power(error, gamma - 1)
                torch.mul(_slope(entropy, error, lower, gamma), factor, out=slope[piece])
                entropy.mul_(error).mul_(lower)
            torch.mul(entropy, factor, out=loss[piece])
        return loss, slope

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple) -> None:
        logits, label, ctx.gamma, ctx.ignore_index, ctx.class_factor = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(logits, label, output[1])

    @staticmethod
    def backward(ctx, grad: Tensor | None, _: Tensor | None) -> tuple:
        """By the logit of class j: ``slope * (p_j - [j is the label])``."""
        if grad is None:
            return (None, ) * 5
        logits, label, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # a graph of the gradient is asked for: the slope depends on the logits again
            entropy = cross_entropy_map(logits, label, ctx.ignore_index)
            slope = torch.ones_like(entropy)
            if ctx.gamma:
                error = focal_error(entropy)
                slope = _slope(entropy, error, _power(error, ctx.gamma - 1), ctx.gamma)
            slope = slope.masked_fill(label == ctx.ignore_index, 0.0)
            if ctx.class_factor is not None:
                slope = slope * values_at_labels(ctx.class_factor, label, ctx.ignore_index)
            scale = (slope * grad).unsqueeze(1)
            result = F.softmax(logits, 1, dtype=slope.dtype) * scale
            return (result.scatter_add(1, _index(logits, label), -scale).to(logits.dtype), ) + (None, ) * 4
        result = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        for piece in _pieces(logits):
            _write_gradient(result[piece], logits[piece], label[piece], slope[piece] * grad[piece])
        return (result, ) + (None, ) * 4


def _entropy_and_factor(logits: Tensor, label: Tensor, ignore_index: int,
                        class_factor: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maps of the cross entropy and of the class factor; their product is 0 where ignored.

    PyTorch's ``nll_loss`` takes more than twice as long on a CPU as picking from a table, where a label of no class
    meets a NaN.
    """
    num_classes = logits.shape[1]
    if logits.device.type != 'cpu' or not num_classes <= ignore_index <= LARGEST_TABLE:
        return (cross_entropy_map(logits, label, ignore_index), values_at_labels(class_factor, label, ignore_index))
    table = class_factor.new_full((ignore_index + 1, ), float('nan'))
    table[:num_classes], table[ignore_index] = class_factor, 0.0
    try:
        factor = table.index_select(0, label.reshape(-1)).view(label.shape)
    except IndexError:
        check_classes(label, num_classes, ignore_index)
        raise
    if factor.sum().isnan():
        check_classes(label, num_classes, ignore_index)
    log_p = F.log_softmax(logits, 1, dtype=class_factor.dtype)
    return log_p.gather(1, _index(logits, label)).squeeze(1).neg_(), factor


def _index(logits: Tensor, label: Tensor) -> Tensor:
    """Return an index without gaps for scattering over the classes; ignored pixels scatter zeros, anywhere."""
    return label.clamp(0, logits.shape[1] - 1).unsqueeze(1)


def _write_gradient(result: Tensor, logits: Tensor, label: Tensor, scale: Tensor) -> None:
    scale = scale.unsqueeze(1)
    if result.dtype == scale.dtype:
        torch.softmax(logits, 1, out=result)
        result.mul_(scale).scatter_add_(1, _index(logits, label), scale.neg_())
    else:
        probability = F.softmax(logits, 1, dtype=scale.dtype)
        result.copy_(probability.mul_(scale).scatter_add_(1, _index(logits, label), scale.neg_()))
