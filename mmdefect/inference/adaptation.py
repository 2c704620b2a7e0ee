"""What has to be different in a model that leaves training: no randomness, and operations that export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional


def fix_random_bases(model: nn.Module, seed: int = 0) -> int:
    """Give matrix decompositions (SegNeXt) one set of starting bases instead of new ones for every image.

    mmseg draws them anew in every forward pass, also when predicting, so the same image gives other scores each time.

    Returns:
        How many modules were changed.
    """
    changed = 0
    for module in model.modules():
        if hasattr(module, '_build_bases') and getattr(module, 'rand_init', False):
            module._build_bases = _FixedBases(seed)
            changed += 1
    return changed


class _FixedBases:
    """Draws bases once per shape, from its own generator, and repeats them for each image of a batch."""

    def __init__(self, seed: int) -> None:
        self.seed, self.drawn = seed, {}

    def __call__(self, batch: int, spatial: int, depth: int, rank: int, device=None) -> Tensor:
        key = int(spatial), int(depth), int(rank)
        if key not in self.drawn:
            drawn = torch.rand(key, generator=torch.Generator().manual_seed(self.seed))
            self.drawn[key] = functional.normalize(drawn, dim=1)
        return self.drawn[key].to(device or 'cpu').repeat(batch, 1, 1)


@contextmanager
def exportable_operations() -> Iterator[None]:
    """Replace adaptive average pooling by products with two small matrices, which export for every size.

    ONNX knows no adaptive pooling, and the exporter unrolls it only where the size is fixed and divides evenly.
    """
    with mock.patch.object(functional, 'adaptive_avg_pool2d', pool_by_matrices):
        yield


def pool_by_matrices(inputs: Tensor, output_size: int | tuple[int | None, int | None]) -> Tensor:
    """Return what ``adaptive_avg_pool2d`` returns.

    Args:
        inputs: ``(N, C, H, W)`` float.
        output_size: rows and columns; ``None`` keeps that side.
    """
    rows, columns = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    if rows == 1 and columns == 1:
        return inputs.mean((2, 3), keepdim=True)
    pooled = inputs
    if rows is not None:
        pooled = torch.matmul(_pooling_matrix(inputs.shape[2], rows, inputs), pooled)
    if columns is not None:
        pooled = torch.matmul(pooled, _pooling_matrix(inputs.shape[3], columns, inputs).transpose(0, 1))
    return pooled


def _pooling_matrix(length, parts: int, like: Tensor) -> Tensor:
    """Return ``(parts, length)``: the mean over pixels ``floor(i L / parts)`` to ``ceil((i + 1) L / parts)``."""
    position = torch.arange(length, device=like.device)[None]
    part = torch.arange(parts, device=like.device)[:, None]
    first = torch.div(part * length, parts, rounding_mode='floor')
    after = torch.div((part + 1) * length + parts - 1, parts, rounding_mode='floor')
    inside = ((position >= first) & (position < after)).to(like.dtype)
    return inside / (after - first).to(like.dtype)
