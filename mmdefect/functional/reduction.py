"""What every loss over pixels shares: weights, values per class, and the mean that is not fooled by ignored pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

REDUCTIONS = ('none', 'mean', 'sum')
#: Up to this ignore index a table holds one value per label; it makes the look-up a single read.
LARGEST_TABLE = 4096


def check_logits_and_label(logits: Tensor, label: Tensor) -> None:
    """Check that there is one label per predicted pixel.

    Raises:
        ValueError: if ``label`` is not ``logits`` without its channel axis.
    """
    if logits.dim() < 2 or label.shape != logits.shape[:1] + logits.shape[2:]:
        raise ValueError(
            '`label` must have the shape of `logits` without axis 1, got logits '
            f'{tuple(logits.shape)} and label {tuple(label.shape)}; resize the logits to the label and '
            'squeeze its channel.'
        )


def check_classes(label: Tensor, num_classes: int, ignore_index: int) -> None:
    """Check that every label is a class; on a CPU only, because looking stops a GPU.

    Raises:
        ValueError: if one is not.
    """
    if label.device.type != 'cpu':
        return
    wrong = label[((label < 0) | (label >= num_classes)) & (label != ignore_index)]
    if wrong.numel():
        raise ValueError(
            f'`label` must be 0..{num_classes - 1} or {ignore_index} (ignore), got '
            f'{wrong.unique().tolist()[:8]}; check the class list of the data set. One output channel '
            'means two classes, more classes need one channel each.'
        )


def expand_weight(weight: Tensor, label: Tensor) -> Tensor:
    """Return ``weight`` in a shape that multiplies a map of the shape of ``label``.

    Args:
        weight: one value per sample, ``(B,)`` or ``(B, 1, ...)``, or per pixel, ``(B, ...)`` or ``(B, 1, ...)``.
        label: ``(B, ...)``.

    Raises:
        ValueError: if the weight is neither per sample nor per pixel.
    """
    batch = label.shape[0]
    if weight.shape == label.shape:
        return weight
    if weight.numel() == batch and weight.shape[:1] == (batch,):
        return weight.reshape(batch, *[1] * (label.dim() - 1))
    if weight.shape == (batch, 1, *label.shape[1:]):
        return weight.squeeze(1)
    raise ValueError(
        f'`weight` must hold one value per sample, ({batch},), or per pixel, {tuple(label.shape)}, got '
        f'{tuple(weight.shape)}.'
    )


def per_class(values: Sequence[float] | Tensor, num_classes: int, like: Tensor, name: str) -> Tensor:
    """Return ``values`` as a ``(num_classes,)`` float32 tensor on the device of ``like``.

    Raises:
        ValueError: if there is not one value per class.
    """
    tensor = torch.as_tensor(
        values, dtype=torch.float64 if like.dtype == torch.float64 else torch.float32, device=like.device
    )
    if tensor.shape != (num_classes,):
        raise ValueError(
            f'`{name}` must hold one number per class, {num_classes}, got {tuple(tensor.shape)}; class 0 '
            'is the normal class and has its own number.'
        )
    return tensor


def values_at_labels(values: Tensor, label: Tensor, ignore_index: int) -> Tensor:
    """Look up one value per pixel.

    Args:
        values: ``(K,)`` float, one value per class; gradients flow into it.
        label: any shape, int64 in ``0 .. K - 1``, or ``ignore_index``.
        ignore_index: label of the pixels that get 0.

    Returns:
        The shape of ``label``, dtype of ``values``.
    """
    num_classes = values.shape[0]
    if num_classes <= ignore_index <= LARGEST_TABLE:
        values = torch.cat([values, values.new_zeros(ignore_index + 1 - num_classes)])
        return values.index_select(0, label.reshape(-1)).view(label.shape)
    ignored = label == ignore_index
    found = values.index_select(0, label.masked_fill(ignored, 0).reshape(-1)).view(label.shape)
    return found.masked_fill(ignored, 0.0)


def safe_divide(total: Tensor, count: Tensor | float) -> Tensor:
    """Return ``total / count``, or ``total`` (zero, with its gradient) where nothing was counted."""
    count = torch.as_tensor(count, dtype=total.dtype, device=total.device)
    return total / torch.where(count > 0, count, torch.ones_like(count))


def reduce_loss(
    loss: Tensor, reduction: str, count: Tensor | float, avg_factor: Tensor | float | None = None
) -> Tensor:
    """Reduce a map of losses.

    Args:
        loss: any shape; what must not count is 0.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        count: what ``'mean'`` divides by.
        avg_factor: takes the place of ``count``.

    Raises:
        ValueError: if the reduction is unknown, or ``avg_factor`` comes with ``'sum'``.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f'`reduction` must be one of {REDUCTIONS}, got {reduction!r}.')
    if reduction == 'none':
        return loss
    if reduction == 'sum':
        if avg_factor is not None:
            raise ValueError(f"`avg_factor` must be None with reduction='sum', got {avg_factor}; use 'mean'.")
        return loss.sum()
    return safe_divide(loss.sum(), count if avg_factor is None else avg_factor)


def count_pixels(
    label: Tensor, ignore_index: int, avg_non_ignore: bool, class_weight: Tensor | None = None
) -> Tensor | int:
    """Return the denominator of a mean over pixels.

    Args:
        label: any shape, int64.
        ignore_index: label of the pixels that do not count.
        avg_non_ignore: whether only labelled pixels are counted (PyTorch) or all (mmseg's default).
        class_weight: ``(K,)``; the labelled pixels then count by the weight of their class, as in PyTorch.
    """
    if class_weight is not None:
        return values_at_labels(class_weight, label, ignore_index).sum()
    return torch.count_nonzero(label != ignore_index) if avg_non_ignore else label.numel()
