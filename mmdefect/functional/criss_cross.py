"""Criss-cross attention (Huang et al., CCNet, ICCV 2019): every pixel looks along its row and its column."""

from __future__ import annotations

import torch
from torch import Tensor


def criss_cross_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Mix ``value`` along rows and columns.

    The weights of pixel ``(i, j)`` are one softmax over the ``H`` pixels of column ``j`` and the ``W`` pixels of row
    ``i``; the pixel itself is counted once, in its row.

    Args:
        query: ``(B, D, H, W)`` float.
        key: ``(B, D, H, W)`` float.
        value: ``(B, C, H, W)`` float.

    Returns:
        ``(B, C, H, W)``, dtype of ``value``.
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
