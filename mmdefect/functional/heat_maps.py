"""Heat maps: a dense grid of patches, scores of a grid spread back over the pixels, and Grad-CAM.

Upsampling by receptive field: every patch gives its score to its pixels with a Gaussian weight around its centre
(Liznerski et al., Explainable deep one-class classification, ICLR 2021). A pixel gets the weighted mean of the patches
that cover it; with ``normalize=False`` the weighted sum of the paper, whose borders are dim because fewer patches reach
them. Grad-CAM (Selvaraju et al., ICCV 2017) shows which places of a layer raise a score.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: See :func:`decide_heat`; the stretch is a little too long, so that rounding never leaves the maximum short.
LEAST_HEAT, STRETCH = 1e-5, 1 + 2.0**-18


def grid_shape(size_hw: tuple[int, int], patch: int, stride: int) -> tuple[int, int]:
    """Return rows and columns of the grid of patches; it must cover the whole image."""
    for name, value in (('patch', patch), ('stride', stride)):
        if value < 1:
            raise ValueError(f'`{name}` must be at least 1 pixel, got {value}.')
    for size in size_hw:
        if size < patch or (size - patch) % stride:
            fitting = patch + max(0, math.ceil((size - patch) / stride)) * stride
            raise ValueError(
                f'image sides must be {patch} plus a multiple of the stride {stride}, got {size_hw[0]}x{size_hw[1]}; '
                f'resize to {fitting}, or take another patch or stride.'
            )
    return (size_hw[0] - patch) // stride + 1, (size_hw[1] - patch) // stride + 1


def unfold_patches(image: Tensor, patch: int, stride: int) -> Tensor:
    """Return every patch of ``(B, C, H, W)`` images, row by row: ``(B, rows, columns, C, patch, patch)``, a view.

    Patch ``[b, i, j]`` is the crop of image ``b`` at row ``i * stride`` and column ``j * stride``.
    """
    grid_shape(tuple(image.shape[-2:]), patch, stride)
    return image.unfold(2, patch, stride).unfold(3, patch, stride).permute(0, 2, 3, 1, 4, 5)


def default_std(patch: int) -> float:
    """Return the standard deviation of the weights in pixels: 10 from 32 pixels on, else it shrinks with the patch."""
    return 10.0 if patch >= 32 else math.log10(0.45 * patch + 1) + 0.25


def upsample_scores(scores: Tensor, patch: int, stride: int, normalize: bool = True) -> Tensor:
    """Spread scores of patches over the pixels, ``(B, H, W)`` with ``H = (rows - 1) * stride + patch``.

    Args:
        scores: ``(B, rows, columns)`` float.
        patch: side of a patch in pixels.
        stride: distance of neighbouring patches in pixels.
        normalize: divide by the sum of the weights, so that equal scores give an even map.
    """
    if scores.ndim != 3:
        raise ValueError(f'`scores` must be (B, rows, columns), got {tuple(scores.shape)}.')
    # The weights are a product of rows and columns, so a transposed convolution is two small matrix products.
    down, across = (
        _weights(count, patch, stride, normalize).to(scores.device, scores.dtype) for count in scores.shape[1:]
    )
    return down @ scores @ across.T


def upsample_cells(scores: Tensor, size_hw: tuple[int, int], patch: int) -> Tensor:
    """Spread scores of evenly spaced cells, as those of a feature map, over the pixels.

    Args:
        scores: ``(B, rows, columns)`` float; cell ``i`` of ``n`` has its centre at ``(i + 1/2) / n`` of the side.
        size_hw: height and width of the map.
        patch: pixels that a cell describes.

    Returns:
        ``(B, H, W)``: weighted means of the cells whose patches cover a pixel.
    """
    down, across = (
        _cell_weights(count, size, patch).to(scores.device, scores.dtype)
        for count, size in zip(scores.shape[1:], size_hw, strict=True)
    )
    return down @ scores @ across.T


@lru_cache(maxsize=32)
def _cell_weights(count: int, size: int, patch: int) -> Tensor:
    centres = (torch.arange(count, dtype=torch.float64)[None] + 0.5) * (size / count) - 0.5
    offset = torch.arange(size, dtype=torch.float64)[:, None] - centres
    reach = max(patch / 2, size / count)  # every pixel has a cell
    weights = torch.where(offset.abs() <= reach, torch.exp(-0.5 * (offset / default_std(patch)) ** 2), 0.0)
    return weights / weights.sum(1, keepdim=True)


@lru_cache(maxsize=32)
def _weights(count: int, patch: int, stride: int, normalize: bool) -> Tensor:
    """Return ``(pixels, count)``: the weight of each patch at each pixel of one axis."""
    pixels = torch.arange((count - 1) * stride + patch, dtype=torch.float64)[:, None]
    starts = torch.arange(count, dtype=torch.float64)[None] * stride
    offset = pixels - starts
    weights = torch.exp(-0.5 * ((offset - (patch - 1) / 2) / default_std(patch)) ** 2)
    weights = torch.where((offset >= 0) & (offset < patch), weights, 0.0)
    return weights / (weights.sum(1, keepdim=True) if normalize else 1.0)


def decide_heat(heat: Tensor, score: Tensor) -> Tensor:
    """Bring the maximum of a heat map to the score of its image: one decision for both.

    A hotter map is bounded by the score, a cooler one stretched to it, so whatever the threshold, some pixel exceeds it
    exactly when the score does. Heat below ``LEAST_HEAT`` counts as that.

    Args:
        heat: ``(B, H, W)`` on its scale.
        score: ``(B, 1, 1)``, or the same over ``(B, H, W)``, on its scale.
    """
    heat = heat.clamp(min=LEAST_HEAT)
    stretched = heat * (STRETCH * score / heat.amax((1, 2), keepdim=True)).clamp(min=1)
    return torch.minimum(stretched, score)


def find_layer(module: nn.Module, name: str) -> nn.Module:
    """Return a part of a network by its dotted name."""
    parts = dict(module.named_modules())
    if not name or name not in parts:
        known = [n for n, m in parts.items() if n and n.count('.') <= 1]
        raise ValueError(f'`layer` must name a part of the network, got {name!r}; for example {", ".join(known[:12])}.')
    return parts[name]


@contextmanager
def layer_outputs(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Keep what parts of a network put out while it runs, by dotted name; of several outputs the last."""
    kept: dict[str, Tensor] = {}

    def keep(name: str, _module, _inputs, output) -> None:
        kept[name] = output[-1] if isinstance(output, (tuple, list)) else output

    handles = [find_layer(network, name).register_forward_hook(partial(keep, name)) for name in names]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def grad_cam(network: nn.Module, layer: str, images: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Return where a layer raises a score, ``(B, H, W)`` float32 in [0, 1]; all zero where nothing raises it.

    Args:
        network: holds the layer.
        layer: dotted name of a part whose output is a map ``(B, C, h, w)``.
        images: ``(B, 3, H, W)`` what ``score`` takes.
        score: maps the images to one score each, ``(B,)``, through the network.
    """
    with layer_outputs(network, [layer]) as kept, torch.enable_grad():
        total = score(images.detach().requires_grad_()).sum()
    activation = kept.get(layer)
    if activation is None or activation.ndim != 4:
        shape = 'nothing' if activation is None else tuple(activation.shape)
        raise ValueError(
            f'`layer` must put out a map (B, C, h, w), but {layer} gives {shape}; choose a convolution or a stage.'
        )
    (gradient,) = torch.autograd.grad(total, activation)
    heat = torch.relu((gradient.mean((2, 3), keepdim=True) * activation).sum(1))
    heat = F.interpolate(heat[:, None].float(), images.shape[-2:], mode='bilinear', align_corners=False)[:, 0]
    low, high = heat.amin((1, 2), keepdim=True), heat.amax((1, 2), keepdim=True)
    return ((heat - low) / (high - low).clamp_min(1e-12)).detach()
