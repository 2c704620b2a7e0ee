"""The loss of every sample of a batch, for any segmentor of mmseg with any loss, main and auxiliary heads together."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: Layers that behave otherwise in training and have no place in an outer step: running statistics and noise.
NOISE = ('Dropout', 'DropPath', 'AlphaDropout')


@dataclass
class SampleLosses:
    """What :func:`weighted_heads` collects: ``(B,)``, the sum over heads and losses, differentiable."""

    values: Tensor | float = 0


def heads_of(model: nn.Module) -> list[nn.Module]:
    """Return decode and auxiliary heads of a segmentor.

    Raises:
        ValueError: if it has none that computes its loss from logits, or its losses share extras of the whole batch.
    """
    heads = []
    for name in ('decode_head', 'auxiliary_head'):
        head = getattr(model, name, None)
        heads += list(head) if isinstance(head, nn.ModuleList) else [head] if head is not None else []
    if not heads or not all(callable(getattr(h, 'loss_by_feat', None)) for h in heads):
        raise ValueError(
            f'a model must have heads with `loss_by_feat` to weigh its samples, as the segmentors of mmseg have, '
            f'but {type(model).__name__} has none.'
        )
    if any(getattr(m, 'label_extras', None) is not None for m in model.modules()):
        raise ValueError(
            'a loss with weights or boxes beside the label (LabelExtrasHook) reads the whole batch and cannot be '
            'taken by sample; use another loss while a policy is learned.'
        )
    return heads


@contextmanager
def weighted_heads(model: nn.Module, weights: Tensor | None = None) -> Iterator[SampleLosses]:
    """Let the heads compute their losses sample by sample inside the block, each times its weight over the batch size.

    The features still pass through the heads as one batch. Keys of the losses stay what they are.

    Args:
        model: the segmentor, unwrapped.
        weights: ``(B,)``; all 1 when absent.
    """
    found, heads = SampleLosses(), heads_of(model)
    try:
        for head in heads:
            head.loss_by_feat = _by_sample(head.loss_by_feat, weights, found)
        yield found
    finally:
        for head in heads:
            head.__dict__.pop('loss_by_feat', None)


def _by_sample(loss_by_feat, weights: Tensor | None, found: SampleLosses):

    def compute(logits, batch_data_samples: Sequence, *args, **kwargs) -> dict:
        count = len(batch_data_samples)
        parts = [loss_by_feat(_one(logits, i, count), [batch_data_samples[i]], *args, **kwargs) for i in range(count)]
        losses = {}
        for key in parts[0]:
            values = torch.stack([_scalar(part[key]) for part in parts])
            if 'loss' in key:
                found.values = found.values + values
                values = values if weights is None else values * weights.to(values)
            losses[key] = values.mean()
        return losses

    return compute


def _one(logits, index: int, count: int):
    """Return one sample of what a head gives out: a tensor, or tensors in lists and dicts."""
    if isinstance(logits, Tensor):
        return logits[index : index + 1] if logits.dim() and len(logits) == count else logits
    if isinstance(logits, Mapping):
        return {k: _one(v, index, count) for k, v in logits.items()}
    if isinstance(logits, (list, tuple)):
        return type(logits)(_one(v, index, count) for v in logits)
    return logits


def _scalar(value) -> Tensor:
    return sum(v.mean() for v in value) if isinstance(value, (list, tuple)) else value.mean()


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Use the running statistics of batch norms and no dropout inside the block; nothing of the model changes.

    The model itself stays in training mode: backbones give out the features of auxiliary heads only there.
    """
    norms = nn.modules.batchnorm._BatchNorm
    frozen = [m for m in model.modules() if isinstance(m, norms) or type(m).__name__.startswith(NOISE)]
    modes = [m.training for m in frozen]
    try:
        for m in frozen:
            m.training = False
        yield
    finally:
        for m, mode in zip(frozen, modes, strict=True):
            m.training = mode


@contextmanager
def fixed_noise(seed: int, device: torch.device) -> Iterator[None]:
    """Give the same random numbers at every entry and leave the generators of torch as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == 'cuda' else []):
        torch.manual_seed(seed)
        yield
