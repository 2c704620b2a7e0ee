"""Whole-image gradient mix in the frequency domain, as in the Synth4Seg code (Mou et al.), with its faults mended.

The image is mirrored to twice its size, derivatives are spectral, and the mix of gradients is integrated over the whole
frame, not over the mask. Every pixel may therefore change; a narrow mask rings. The original shifted the mean of every
sample by that of the first of the batch and left values outside [0, 1]; here each sample has its own shift and the
result is limited. For exact borders use ``poisson_blend``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def spectral_blend(target: Tensor, source: Tensor, mask: Tensor, clamp: bool = True) -> Tensor:
    """Integrate the gradients of ``source`` inside the mask and of ``target`` outside over the whole frame.

    Args:
        target: ``(C, H, W)`` or ``(B, C, H, W)`` float in [0, 1].
        source: shape, dtype and range of ``target``.
        mask: ``(1, H, W)`` or ``(B, 1, H, W)``; bool or float in [0, 1].
        clamp: limit the result to [0, 1].

    Returns:
        Shape and dtype of ``target``; its mean over the unmasked area is that of ``target``, per sample and channel
        (before limiting). Differentiable with respect to all three arguments. An empty mask returns ``target`` up to
        rounding; a mask without an unmasked pixel keeps the mean of the whole frame.
    """
    height, width = target.shape[-2:]
    weight = mask.to(target.dtype)
    down, across = _frequencies(height, width, target)
    spectrum = torch.fft.rfft2(_mirror(source - target))
    mirrored = _mirror(weight)
    flow_down = torch.fft.rfft2(torch.fft.irfft2(spectrum * down, s=mirrored.shape[-2:]) * mirrored)
    flow_across = torch.fft.rfft2(torch.fft.irfft2(spectrum * across, s=mirrored.shape[-2:]) * mirrored)
    power = down.abs().square() + across.abs().square()
    # The mean and the alternating patterns have no gradient.
    power[power == 0] = math.inf
    change = (flow_down * down.conj() + flow_across * across.conj()) / power
    change = torch.fft.irfft2(change, s=mirrored.shape[-2:])[..., :height, :width]
    outside = 1 - weight
    area = outside.sum(dim=(-2, -1), keepdim=True)
    outside = torch.where(area > 0, outside, torch.ones_like(outside))
    shift = (change * outside).sum(dim=(-2, -1), keepdim=True) / outside.sum(dim=(-2, -1), keepdim=True)
    result = target + (change - shift)
    return result.clamp(0, 1) if clamp else result


def _mirror(image: Tensor) -> Tensor:
    """Even extension to twice the size: the sample beside an edge is the edge itself."""
    image = torch.cat([image, image.flip(-1)], dim=-1)
    return torch.cat([image, image.flip(-2)], dim=-2)


def _frequencies(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of d/dy and d/dx in the layout of ``rfft2`` of the mirrored image: ``(2H, 1)`` and ``(1, W + 1)``.

    A derivative at the Nyquist frequency of a real signal is 0, whatever its phase.
    """
    down = torch.fft.fftfreq(2 * height, device=like.device, dtype=like.dtype) * (2j * math.pi)
    across = torch.fft.rfftfreq(2 * width, device=like.device, dtype=like.dtype) * (2j * math.pi)
    down[height], across[width] = 0, 0
    return down[:, None], across[None]
