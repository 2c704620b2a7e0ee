"""Layers of decode heads as plain functions: criss-cross attention, and average pooling that can be exported."""

import torch
from torch import Tensor


def criss_cross_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Mix ``value`` along rows and columns (Huang et al., CCNet, ICCV 2019).

    The weights of pixel ``(i, j)`` are one softmax over the ``H`` pixels of column ``j`` and the ``W`` pixels of row
    ``i``; the pixel itself is counted once, in its row.

    Args:
        query, key: ``(B, D, H, W)`` float.
        value: ``(B, C, H, W)`` float, as is what is returned.
    """
    height = query.shape[2]
    along_column = torch.einsum('bdij,bdkj->bijk', query, key)
    rows = torch.arange(height, device=query.device)
    itself = (rows[:, None] == rows)[None, :, None, :]  # not torch.eye: ONNX Runtime has no EyeLike of bool
    along_column = along_column.masked_fill(itself, float('-inf'))
    along_row = torch.einsum('bdij,bdik->bijk', query, key)
    weights = torch.softmax(torch.cat([along_column, along_row], dim=3), dim=3)
    mixed = torch.einsum('bijk,bckj->bcij', weights[..., :height], value)
    return mixed + torch.einsum('bijk,bcik->bcij', weights[..., height:], value)


def window_means(features: Tensor, window: int, stride: tuple[int, int]) -> Tensor:
    """Return means over windows, cut down to the features where these are smaller: products with two small matrices.

    It is average pooling, written so that a traced model pools features of every size.

    Args:
        features: ``(B, C, H, W)`` float.
        window: side of a window in pixels; ``h = (H - min(window, H)) // stride + 1`` of them fit into ``H`` rows.
        stride: rows and columns between neighbouring windows.
    """
    rows, columns = (
        _mean_matrix(side, window, step, features) for side, step in zip(features.shape[2:], stride, strict=True)
    )
    return rows @ features @ columns.transpose(0, 1)


def _mean_matrix(length, window: int, step: int, like: Tensor) -> Tensor:
    """Return ``(h, length)``: each row has equal weights within its window; a traced length stays open."""
    length = torch.as_tensor(length, device=like.device)
    width = length.clamp(max=window)
    first = step * torch.arange((length - width) // step + 1, device=like.device)[:, None]
    position = torch.arange(length, device=like.device)[None]
    return ((position >= first) & (position < first + width)).to(like.dtype) / width.to(like.dtype)
