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
            return F.cross_entropy(
                logits.to(working_dtype(logits)), label, ignore_index=ignore_index, reduction='none', **kwargs
            )
        log_p = F.log_softmax(logits, 1, dtype=working_dtype(logits))
        return F.nll_loss(log_p, label, ignore_index=ignore_index, reduction='none')
    except IndexError:  # on a CUDA device the kernel asserts instead
        check_classes(label, logits.shape[1], ignore_index)
        raise


def plain_focal_map(
    logits: Tensor, label: Tensor, gamma: float, ignore_index: int, class_weight: Tensor | None, label_smoothing: float
) -> Tensor:
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
    """Map of ``a_t (1 - p)^gamma * c``, or its sum, and the derivative of the map by ``c``; both maps 0 where ignored.

    ``class_factor`` is ``a``, ``(C,)`` or ``None``; neither it nor the slope has a gradient. ``total`` asks for the
    sum: a map that is not needed is not written, which on a CPU saves a tenth of the time. The third output is the
    number of labelled pixels, counted on the way.
    """

    @staticmethod
    def forward(
        logits: Tensor, label: Tensor, gamma: float, ignore_index: int, class_factor: Tensor | None, total: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return loss, slope and count; the slope is kept instead of the probabilities, at 1/C of their size."""
        slope = torch.empty(label.shape, dtype=working_dtype(logits), device=logits.device)
        loss = slope.new_zeros(()) if total else torch.empty_like(slope)
        count = torch.zeros((), dtype=torch.long, device=logits.device)
        if class_factor is None:
            class_factor = torch.ones(logits.shape[1], dtype=slope.dtype, device=slope.device)
        space, table = _Workspace(logits), _table(class_factor, ignore_index)
        all_count = table is not None and bool((class_factor != 0).all())
        for piece in _pieces(logits):
            if table is None:
                entropy = cross_entropy_map(logits[piece], label[piece], ignore_index)
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
