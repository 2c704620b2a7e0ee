"""Grad-CAM (Selvaraju et al., ICCV 2017): which places of a layer raise a score."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def find_layer(module: nn.Module, name: str) -> nn.Module:
    """Return a part of a network by its dotted name.

    Raises:
        ValueError: if there is none; the message lists some that are.
    """
    parts = dict(module.named_modules())
    if not name or name not in parts:
        known = [n for n, m in parts.items() if n and n.count('.') <= 1]
        raise ValueError(f'`layer` must name a part of the network, got {name!r}; for example {", ".join(known[:12])}.')
    return parts[name]


def grad_cam(network: nn.Module, layer: str, images: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Return where a layer raises a score.

    Args:
        network: holds the layer.
        layer: dotted name of a part whose output is a map ``(B, C, h, w)``.
        images: ``(B, 3, H, W)`` what ``score`` takes.
        score: maps the images to one score each, ``(B,)``, through the network.

    Returns:
        ``(B, H, W)`` float32 in [0, 1], bilinearly enlarged; all zero where nothing raises the score.
    """
    kept: list[Tensor] = []

    def keep(_module, _inputs, output) -> None:
        kept.append(output[-1] if isinstance(output, (tuple, list)) else output)

    handle = find_layer(network, layer).register_forward_hook(keep)
    try:
        with torch.enable_grad():
            total = score(images.detach().requires_grad_()).sum()
    finally:
        handle.remove()
    if not kept or kept[-1].ndim != 4:
        shape = tuple(kept[-1].shape) if kept else 'nothing'
        raise ValueError(
            f'`layer` must put out a map (B, C, h, w), but {layer} gives {shape}; choose a convolution or a stage.'
        )
    activation = kept[-1]
    (gradient,) = torch.autograd.grad(total, activation)
    heat = torch.relu((gradient.mean((2, 3), keepdim=True) * activation).sum(1))
    heat = F.interpolate(heat[:, None].float(), images.shape[-2:], mode='bilinear', align_corners=False)[:, 0]
    low, high = heat.amin((1, 2), keepdim=True), heat.amax((1, 2), keepdim=True)
    return ((heat - low) / (high - low).clamp_min(1e-12)).detach()
