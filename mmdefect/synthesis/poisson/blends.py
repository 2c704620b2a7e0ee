"""Blends in the gradient domain as tensors, for any mask: exact on the mask, or spectral over the whole crop.

:func:`poisson_blend` imports the gradients of a defect instead of its colours (Perez et al., SIGGRAPH 2003): it solves
on exactly the pixels of the mask; everything else stays bit-identical, and derivatives reach both images.
``docs/derivations/poisson.md`` has the equations. Not covered: textureless clamps such as OpenCV's colour change or
flattening.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmdefect.synthesis.poisson.membrane import MembraneBatch, boundary_of


def poisson_blend(target: Tensor, source: Tensor, mask: Tensor, mixed: bool = False, clamp: bool = True) -> Tensor:
    """Continue ``target`` into the mask with the gradients of ``source``.

    Args:
        target: ``(C, h, w)`` or ``(B, C, h, w)`` float in [0, 1]; the crop around the defect with a ring of at least
            one pixel, except where the image ends.
        source: shape, dtype and range of ``target``; read inside the mask and one pixel around it.
        mask: ``(1, h, w)``, for all of a batch, or ``(B, 1, h, w)``; bool or float in [0, 1], of which the pixels from
            0.5 on are solved for. Those on the edge of the crop are taken to lie on the edge of the image. No gradient.
        mixed: keep, for every pair of neighbours and every channel, the stronger of both gradients. The choice is held
            fixed in the derivative, which makes it a sub-gradient.
        clamp: limit the result to [0, 1]; a limited value passes no gradient.

    Returns:
        Shape and dtype of ``target``; a new tensor. Outside the mask the bits of ``target``.

    Raises:
        ValueError: if shapes do not match, or no pixel is left free.
    """
    if target.dim() not in (3, 4) or source.shape != target.shape or not target.is_floating_point():
        raise ValueError(
            '`target` and `source` must be float tensors of one shape (C, h, w) or (B, C, h, w), got '
            f'{tuple(target.shape)} {target.dtype} and {tuple(source.shape)} {source.dtype}; divide bytes by 255.'
        )
    size_hw = tuple(target.shape[-2:])
    many = mask.dim() == 4 and target.dim() == 4 and len(mask) in (1, len(target))
    if mask.shape[-3:] != (1, *size_hw) or not (mask.dim() == 3 or many):
        raise ValueError(
            f'`mask` must have shape (1, h, w) or (B, 1, h, w) with h, w and B of `target` {tuple(target.shape)}, '
            f'got {tuple(mask.shape)}.'
        )
    inside = (mask if mask.dtype == torch.bool else mask >= 0.5).detach().view(-1, 1, *size_hw)
    if inside.flatten(1).all(1).any():
        raise ValueError(f'`mask` {size_hw} must leave a pixel free, the boundary condition; cut a larger crop.')
    boundaries = [boundary_of(plane) for plane in inside[:, 0].cpu().numpy()]
    # Systems at the border of the image are not definite, and lose too much in single precision.
    dtype = torch.float64 if any(len(ghosts) for _, ghosts in boundaries) else target.dtype
    # Images that share a mask are further channels of one system.
    old, new = (image.to(dtype).reshape(len(inside), -1, *size_hw) for image in (target, source))
    membranes = MembraneBatch(boundaries, size_hw, max(len(r) + len(g) for r, g in boundaries), old)
    if mixed:
        pasted = old + membranes.solve(mixed_guidance(old, new) * inside)
    else:
        beside = membranes.beside[:, None].expand(-1, old.shape[1], -1)
        pasted = new + membranes.extend((old - new).flatten(2).gather(2, beside))
    pasted = (pasted.clamp(0, 1) if clamp else pasted).to(target.dtype).view(target.shape)
    return torch.where(inside if target.dim() == 4 else inside[0], pasted, target)


def mixed_guidance(target: Tensor, source: Tensor) -> Tensor:
    """Sum ``(S - T)_p - (S - T)_q`` over the neighbours q of every pixel p where the gradient of S is the stronger."""
    difference = source - target
    total = torch.zeros_like(difference)
    for axis, before, after in ((-2, (0, 0, 1, 0), (0, 0, 0, 1)), (-1, (1, 0), (0, 1))):
        flow = difference.diff(dim=axis)
        flow = flow * (source.detach().diff(dim=axis).abs() > target.detach().diff(dim=axis).abs())
        total = total + torch.nn.functional.pad(flow, before) - torch.nn.functional.pad(flow, after)
    return total


def spectral_blend(target: Tensor, source: Tensor, mask: Tensor, clamp: bool = True) -> Tensor:
    """Integrate the gradients of ``source`` inside the mask and of ``target`` outside over the whole frame.

    As in the Synth4Seg code (Mou et al.), with its faults fixed: the image is mirrored to twice its size, derivatives
    are spectral, and every pixel may change; a narrow mask rings. The original shifted the mean of every sample by that
    of the first of the batch and left values outside [0, 1]; here each sample has its own shift and the result is
    limited. For exact borders use :func:`poisson_blend`.

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
    size = 2 * height, 2 * width
    options = dict(device=target.device, dtype=target.dtype)
    # Factors of d/dy and d/dx; a derivative at the Nyquist frequency of a real signal is 0, whatever its phase.
    down = torch.fft.fftfreq(2 * height, **options) * (2j * math.pi)
    across = torch.fft.rfftfreq(2 * width, **options) * (2j * math.pi)
    down[height], across[width] = 0, 0
    down, across = down[:, None], across[None]
    spectrum, mirrored = torch.fft.rfft2(_mirror(source - target)), _mirror(weight)
    flow_down, flow_across = (
        torch.fft.rfft2(torch.fft.irfft2(spectrum * factor, s=size) * mirrored) for factor in (down, across)
    )
    power = down.abs().square() + across.abs().square()
    power[power == 0] = math.inf  # the mean and the alternating patterns have no gradient
    change = (flow_down * down.conj() + flow_across * across.conj()) / power
    change = torch.fft.irfft2(change, s=size)[..., :height, :width]
    outside = 1 - weight
    outside = torch.where(outside.sum(dim=(-2, -1), keepdim=True) > 0, outside, torch.ones_like(outside))
    shift = (change * outside).sum(dim=(-2, -1), keepdim=True) / outside.sum(dim=(-2, -1), keepdim=True)
    result = target + (change - shift)
    return result.clamp(0, 1) if clamp else result


def _mirror(image: Tensor) -> Tensor:
    """Even extension to twice the size: the sample beside an edge is the edge itself."""
    image = torch.cat([image, image.flip(-1)], dim=-1)
    return torch.cat([image, image.flip(-2)], dim=-2)
