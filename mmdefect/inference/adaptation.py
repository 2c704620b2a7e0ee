"""What has to be different in a model that leaves training: no randomness, and operations that export."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from mmcv.cnn.bricks import Conv2dAdaptivePadding
from mmseg.models.backbones import VisionTransformer
from mmseg.models.utils import Upsample
from mmseg.models.utils.embed import AdaptivePadding
from torch import Tensor, nn
from torch.nn import functional


def fix_random_bases(model: nn.Module, seed: int = 0) -> None:
    """Give matrix decompositions (SegNeXt) one set of starting bases instead of new ones for every image.

    mmseg samples new ones in every forward pass, also when predicting, so the same image gives other scores each time.
    """
    for module in model.modules():
        if hasattr(module, '_build_bases') and getattr(module, 'rand_init', False):
            module._build_bases = _FixedBases(seed)


class _FixedBases:
    """Samples bases once per shape, from its own generator, and repeats them for each image of a batch."""

    def __init__(self, seed: int) -> None:
        self.seed, self.bases = seed, {}

    def __call__(self, batch: int, spatial: int, depth: int, rank: int, device=None) -> Tensor:
        shape = int(spatial), int(depth), int(rank)
        if shape not in self.bases:
            sampled = torch.rand(shape, generator=torch.Generator().manual_seed(self.seed))
            self.bases[shape] = functional.normalize(sampled, dim=1)
        return self.bases[shape].to(device or 'cpu').repeat(batch, 1, 1)


@contextmanager
def exportable_operations(open_size: bool = True) -> Iterator[None]:
    """Replace what does not export, or exports for the traced size only; with ``open_size`` files take any size.

    ONNX knows no adaptive pooling, and the exporter unrolls it only where the size is fixed and divides evenly: here it
    is a product with two small matrices. PyTorch's attention bakes the number of patches into the trace; so do the
    positions of a ViT where the traced size is the trained one, and padding to whole strides (MobileNetV3, patches).
    """
    positions = _add_positions if open_size else VisionTransformer._pos_embeding
    with (
        mock.patch.object(functional, 'adaptive_avg_pool2d', pool_by_matrices),
        mock.patch.object(functional, 'multi_head_attention_forward', _attend),
        mock.patch.object(VisionTransformer, '_pos_embeding', positions),
        mock.patch.object(Conv2dAdaptivePadding, 'forward', _pad_and_convolve),
        mock.patch.object(AdaptivePadding, 'forward', _pad_adaptively),
        mock.patch.object(Upsample, 'forward', _upsample),
    ):
        yield


def _upsample(module: Upsample, inputs: Tensor) -> Tensor:
    """Return what mmseg's ``Upsample`` (UNet) returns, without making the size of the trace a constant."""
    factors = module.scale_factor if isinstance(module.scale_factor, tuple) else (module.scale_factor,) * 2
    size = module.size
    if not size:
        if any(float(f) != int(f) for f in factors):
            raise ValueError(f'an upsampling must be by a whole factor to export, got {factors}.')
        size = [side * int(f) for side, f in zip(inputs.shape[2:], factors, strict=True)]
    return functional.interpolate(inputs, size, mode=module.mode, align_corners=module.align_corners)


def _pad_and_convolve(module: Conv2dAdaptivePadding, inputs: Tensor) -> Tensor:
    """Return what mmcv's convolution returns."""
    padded = _pad(inputs, module, 'same')
    sizes = module.stride, module.padding, module.dilation, module.groups
    return functional.conv2d(padded, module.weight, module.bias, *sizes)


def _pad_adaptively(module: AdaptivePadding, inputs: Tensor) -> Tensor:
    """Return what mmseg's padding of patches returns."""
    return _pad(inputs, module, module.padding)


def _pad(inputs: Tensor, module: nn.Module, where: str) -> Tensor:
    """Pad for as many outputs as strides fit into a side, rounded up: at both ends (``same``) or one (``corner``)."""
    padding, sizes = [], (module.kernel_size[::-1], module.stride[::-1], module.dilation[::-1])
    for side, kernel, stride, dilation in zip(inputs.shape[:1:-1], *sizes, strict=True):
        reach = (kernel - 1) * dilation + 1
        if reach < stride:
            raise ValueError(f'a convolution must reach as far as its stride of {stride} to export, got {reach}.')
        missing = ((side + stride - 1) // stride - 1) * stride + reach - side
        before = missing // 2 if where == 'same' else 0
        padding += [before, missing - before]
    return functional.pad(inputs, padding)


def _add_positions(module: VisionTransformer, patches: Tensor, grid_hw, embedding: Tensor) -> Tensor:
    """Return what mmseg's ViT does, but resize its positions to the traced size even where that is their own."""
    trained_hw = tuple(side // module.patch_size for side in module.img_size)
    if embedding.shape[1] != trained_hw[0] * trained_hw[1] + 1:
        expected = f'{trained_hw[0]} x {trained_hw[1]} patches and a class'
        raise ValueError(f'the positions of a ViT must be those of {expected}, got {embedding.shape[1]}.')
    resized = module.resize_pos_embed(embedding, grid_hw, trained_hw, module.interpolate_mode)
    return module.drop_after_pos(patches + resized)


_attention = functional.multi_head_attention_forward


def _attend(query: Tensor, key: Tensor, value: Tensor, width: int, heads: int, *rest, **options):
    """Return what PyTorch's attention returns, for ``(L, N, E)`` without masks; anything else is left to PyTorch."""
    in_weight, in_bias, bias_k, _, add_zero, _, out_weight, out_bias = rest
    special = ('key_padding_mask', 'attn_mask', 'use_separate_proj_weight', 'is_causal')
    masked = any(options.get(name) is not None and options[name] is not False for name in special)
    if bias_k is not None or add_zero or in_weight is None or masked:
        return _attention(query, key, value, width, heads, *rest, **options)
    biases = (None,) * 3 if in_bias is None else in_bias.chunk(3)
    queries, keys, values = (
        functional.linear(x, w, b).unflatten(2, (heads, width // heads)).permute(1, 2, 0, 3)
        for x, w, b in zip((query, key, value), in_weight.chunk(3), biases, strict=True)
    )
    weights = ((queries * (width // heads) ** -0.5) @ keys.transpose(2, 3)).softmax(3)
    mixed = (weights @ values).permute(2, 0, 1, 3).flatten(2)
    return functional.linear(mixed, out_weight, out_bias), weights.mean(1)


def pool_by_matrices(inputs: Tensor, output_size: int | tuple[int | None, int | None]) -> Tensor:
    """Return what ``adaptive_avg_pool2d`` returns for ``(N, C, H, W)`` float; a size of ``None`` keeps that side."""
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
