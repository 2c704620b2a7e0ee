"""Brightness, contrast, saturation and hue as one matrix per defect: exact products, one pass over the pixels.

Brightness multiplies; saturation stretches the distance from the pixel's own grey; hue turns the chroma plane of YIQ
(a fraction of a full turn, luma kept: cheaper than HSV and differentiable everywhere); contrast stretches the distance
from the mean grey of the masked pixels. All four commute, so there is no order to draw, and only the sum is clipped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)
# in-phase and quadrature axes of YIQ (FCC weights)
_CHROMA = ((0.599, -0.2773, -0.3217), (0.213, -0.5251, 0.3121))


@lru_cache(maxsize=8)
def _basis(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return ``(3, 9)``: onto grey, onto chroma, and chroma turned by a quarter."""
    to_yiq = torch.tensor([_LUMA, *_CHROMA], dtype=torch.float64)
    to_yiq[1:] -= to_yiq[1:].mean(1, keepdim=True)  # the rounded weights must not give grey a colour
    to_rgb = torch.linalg.inv(to_yiq)
    quarter = torch.tensor([[0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)
    grey = torch.tensor([1, 0, 0], dtype=torch.float64).diag()
    parts = [to_rgb @ part @ to_yiq for part in (grey, torch.eye(3, dtype=torch.float64) - grey, quarter)]
    return torch.stack(parts).view(3, 9).to(device, dtype)


def adjust_color(
    image: Tensor, values: Tensor | Sequence[float], mask: Tensor | None = None, clip: bool = True
) -> Tensor:
    """Change brightness, contrast, saturation and hue in one pass.

    Args:
        image: ``(B, C, N)`` float in [0, 1], RGB when C is 3. With any other C saturation and hue do nothing.
        values: ``(B, 4)`` float: brightness, contrast and saturation factors (1 keeps), hue as a fraction of a turn;
            or these four numbers for a batch of one.
        mask: ``(B, N)`` float weights of the pixels whose mean grey contrast keeps; None for all of them.
        clip: to [0, 1]; without it, clip after what follows.

    Returns:
        ``(B, C, N)``; differentiable in image, values and mask.
    """
    batch, channels, _ = image.shape
    if mask is None:
        mean = image.mean(2, keepdim=True)
    else:
        mean = image @ mask[:, :, None] / mask.sum(1).clamp_min(1e-6).view(-1, 1, 1)
    if channels != 3:
        brightness, contrast = torch.as_tensor(values).reshape(batch, 4).to(image)[:, :2, None, None].unbind(1)
        gain = brightness * contrast
        result = image * gain + (brightness - gain) * mean.mean(1, keepdim=True)
        return result.clamp_(0, 1) if clip else result
    coefficients = _coefficients(values).to(image.device, image.dtype)
    matrices = (coefficients @ _basis(image.dtype, image.device)).view(batch, 2, 3, 3)
    result = torch.baddbmm(matrices[:, 1] @ mean, matrices[:, 0], image)
    return result.clamp_(0, 1) if clip else result


def color_matrix(values: Sequence[float], mean: ndarray, scale: float = 1.0) -> ndarray:
    """Return the same change for one defect as one affine map of its colours.

    Args:
        values: brightness, contrast and saturation factors, hue as a fraction of a turn.
        mean: ``(3,)`` colour whose grey contrast keeps, in [0, 1].
        scale: factor that brings the colours to [0, 1].

    Returns:
        ``(3, 4)`` float64: matrix and offset.
    """
    brightness, contrast, saturation, hue = values
    gain = brightness * contrast
    chroma, angle = gain * saturation * scale, 2 * math.pi * hue
    straight, crossed, gain_here = chroma * math.cos(angle), chroma * math.sin(angle), gain * scale
    luma = sum(weight * part for weight, part in zip(_LUMA, mean, strict=True))
    offset = (brightness - gain) * float(luma)
    # Nine sums of plain numbers take less time than five operations on arrays of nine.
    return np.array(
        [
            [gain_here * grey + straight * kept + crossed * turned for grey, kept, turned in row] + [offset]
            for row in _plain_basis()
        ]
    )


@lru_cache(maxsize=1)
def _plain_basis() -> list[list[list[float]]]:
    """Return the three parts of each entry of the matrix."""
    return _basis(torch.float64, torch.device('cpu')).reshape(3, 3, 3).permute(1, 2, 0).tolist()


def _coefficients(values: Tensor | Sequence[float]) -> Tensor:
    """Return ``(B, 2, 3)``: shares of grey, chroma and turned chroma in every pixel, and those of the mean grey."""
    if not isinstance(values, Tensor):  # plain numbers: a tenth of the time
        brightness, contrast, saturation, hue = values
        gain = brightness * contrast
        chroma, angle = gain * saturation, 2 * math.pi * hue
        return torch.tensor(
            [[[gain, chroma * math.cos(angle), chroma * math.sin(angle)], [brightness - gain, 0, 0]]],
            dtype=torch.float64,
        )
    brightness, contrast, saturation, hue = values.unbind(1)
    gain = brightness * contrast
    chroma, angle = gain * saturation, hue * (2 * math.pi)
    zero = torch.zeros_like(gain)
    shares = (gain, chroma * angle.cos(), chroma * angle.sin(), brightness - gain, zero, zero)
    return torch.stack(shares, 1).view(-1, 2, 3)
