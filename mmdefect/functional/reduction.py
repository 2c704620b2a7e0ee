"""What all losses share: checks, weights, values per class, and a mean that ignored pixels do not change."""

from collections.abc import Sequence

import torch
from torch import Tensor

REDUCTIONS = ('none', 'mean', 'sum')
#: Up to this ignore index a table holds one value per label; it makes the look-up a single read.
LARGEST_TABLE = 4096
Number = Tensor | float
#: One value per class.
ClassValues = Sequence[float] | Tensor


def working_dtype(logits: Tensor) -> torch.dtype:
    """Return the dtype losses are computed in: half precision is too coarse for them."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def check_logits_and_label(logits: Tensor, label: Tensor) -> None:
    """Check that there is one label per predicted pixel."""
    if logits.dim() < 2 or label.shape != logits.shape[:1] + logits.shape[2:]:
        raise ValueError(
            f'`label` must have the shape of `logits` without axis 1, got logits {tuple(logits.shape)} and label '
            f'{tuple(label.shape)}; resize the logits to the label and squeeze its channel.'
        )


def check_classes(label: Tensor, num_classes: int, ignore_index: int) -> None:
    """Check that every label is a class; on a CPU only, because reading the result would stall a GPU."""
    if label.device.type != 'cpu':
        return
    wrong = label[((label < 0) | (label >= num_classes)) & (label != ignore_index)]
    if wrong.numel():
        raise ValueError(
            f'`label` must be 0..{num_classes - 1} or {ignore_index} (ignore), got {wrong.unique().tolist()[:8]}; '
            'check the class list of the data set. One output channel means two classes, more classes one each.'
        )


def expand_weight(weight: Tensor, label: Tensor) -> Tensor:
    """Return a weight per sample, ``(B,)``, or per pixel, ``(B, ...)``, in a shape that multiplies one like ``label``.

    Either may have a channel axis of 1.
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


def per_class(values: ClassValues, num_classes: int, like: Tensor, name: str) -> Tensor:
    """Return ``values`` as a ``(num_classes,)`` float tensor on the device of ``like``."""
    tensor = torch.as_tensor(values, dtype=working_dtype(like), device=like.device)
    if tensor.shape != (num_classes,):
        raise ValueError(
            f'`{name}` must hold one number per class, {num_classes}, got {tuple(tensor.shape)}; class 0 is the normal '
            'class and has its own number.'
        )
    return tensor


def values_at_labels(values: Tensor, label: Tensor, ignore_index: int) -> Tensor:
    """Return the value of each pixel's class, ``values`` being ``(K,)``; 0 where ignored. Gradients flow into it."""
    num_classes = values.shape[0]
    if num_classes <= ignore_index <= LARGEST_TABLE:
        values = torch.cat([values, values.new_zeros(ignore_index + 1 - num_classes)])
        return values.index_select(0, label.reshape(-1)).view(label.shape)
    ignored = label == ignore_index
    found = values.index_select(0, label.masked_fill(ignored, 0).reshape(-1)).view(label.shape)
    return found.masked_fill(ignored, 0.0)


def reduce_loss(loss: Tensor, reduction: str, count: Number, avg_factor: Number | None = None) -> Tensor:
    """Reduce a map of losses that is 0 where nothing counts.

    Args:
        loss: any shape.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        count: what ``'mean'`` divides by; where it is 0 the mean is 0, with its gradient.
        avg_factor: takes the place of ``count``.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f'`reduction` must be one of {REDUCTIONS}, got {reduction!r}.')
    if reduction == 'none':
        return loss
    if reduction == 'sum':
        if avg_factor is not None:
            raise ValueError(f"`avg_factor` must be None with reduction='sum', got {avg_factor}; use 'mean'.")
        return loss.sum()
    count = torch.as_tensor(count if avg_factor is None else avg_factor, dtype=loss.dtype, device=loss.device)
    return loss.sum() / torch.where(count > 0, count, torch.ones_like(count))


def count_pixels(label: Tensor, ignore_index: int, avg_non_ignore: bool, class_weight: Tensor | None = None) -> Number:
    """Return the denominator of a mean over pixels: labelled ones only (``avg_non_ignore``, PyTorch) or all (mmseg).

    With ``class_weight``, ``(K,)``, the labelled pixels count by the weight of their class, as in PyTorch.
    """
    if class_weight is not None:
        return values_at_labels(class_weight, label, ignore_index).sum()
    return torch.count_nonzero(label != ignore_index) if avg_non_ignore else label.numel()
