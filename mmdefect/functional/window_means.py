"""Average pooling whose window is no larger than what it pools, written so that every size can be exported."""

from __future__ import annotations

import torch
from torch import Tensor


def window_means(features: Tensor, window: int, stride: tuple[int, int]) -> Tensor:
    """Return means over windows, cut down to the features where these are smaller: products with two small matrices.

    Args:
        features: ``(B, C, H, W)`` float.
        window: side of a window in pixels.
        stride: rows and columns between neighbouring windows.

    Returns:
        ``(B, C, h, w)`` with ``h = (H - min(window, H)) // stride + 1``, and ``w`` alike.
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
