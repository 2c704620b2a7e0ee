"""Embeddings of images, of single patches, and of the places of a feature map, from any backbone."""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdefect.functional.density import normalize_rows
from mmdefect.functional.heat_maps import find_layer, layer_outputs, unfold_patches

#: Of the pixels of ImageNet in 0..255, per channel, RGB.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def pool(features: Tensor | Sequence) -> Tensor:
    """Return one vector an image, ``(B, C)``, of what a backbone puts out: its last map, tokens or vector."""
    while isinstance(features, (tuple, list)):
        features = features[-1]
    if features.ndim == 4:
        return features.mean((2, 3))
    if features.ndim == 3:
        return features.mean(1)
    if features.ndim == 2:
        return features
    raise ValueError(
        f'a backbone must put out maps (B, C, h, w), tokens (B, N, C) or vectors (B, C), got {tuple(features.shape)}.'
    )


class BackboneFeatures(nn.Module):
    """A backbone in evaluation mode whose layers are read.

    Args:
        backbone: network.
        layers: dotted names of parts whose outputs are read; none means what the backbone puts out.
        mean, std: per channel, RGB, of pixels in 0..255.
        normalize: scale the embedding of each layer to length 1.
    """

    def __init__(
        self,
        backbone: nn.Module,
        layers: Sequence[str] = (),
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        backbone.eval()  # backbones of OpenMMLab return nothing here
        self.backbone, self.layers, self.normalize = backbone, tuple(layers), normalize
        self.register_buffer('mean', torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        object.__setattr__(self, '_fast', None)  # fused on first use; no part of the module, so it is not saved
        for name in self.layers:
            find_layer(self.backbone, name)

    def prepare(self, images: Tensor) -> Tensor:
        """Return ``(B, 3, H, W)`` uint8 RGB as the network takes it."""
        return (images.float() - self.mean) / self.std

    def read(self, inputs: Tensor, network: nn.Module | None = None) -> list[Tensor]:
        """Return the output of each layer for prepared inputs."""
        network = network or self.backbone
        if not self.layers:
            output = network(inputs)
            return [output[-1] if isinstance(output, (tuple, list)) else output]
        with layer_outputs(network, self.layers) as kept:
            network(inputs)
        return [kept[name] for name in self.layers]

    def embed(self, inputs: Tensor, network: nn.Module | None = None) -> Tensor:
        """Return one embedding for each prepared input, ``(B, D)`` float32; differentiable."""
        return self.pooled([output.float() for output in self.read(inputs, network)])

    def pooled(self, outputs: list[Tensor]) -> Tensor:
        """Return one embedding for each image, ``(B, D)``, of the outputs of all layers."""
        return torch.cat([self._scaled(pool(output)) for output in outputs], 1)

    @torch.inference_mode()
    def embed_patches(self, images: Tensor, patch: int, stride: int, batch: int = 256) -> Tensor:
        """Return an embedding for each patch of the grid, each seen by itself, ``(B, rows, columns, D)`` float32.

        ``images`` are ``(B, 3, H, W)`` uint8 RGB; ``batch`` patches are seen at a time, to save memory.
        """
        patches = unfold_patches(self.prepare(images), patch, stride)
        shape = patches.shape[:3]
        network = self._fused((patch, patch))
        rows = max(1, batch // shape[2])  # whole rows: the copy out of the view is one block a row
        flat = patches.flatten(0, 1)
        done = []
        for start in range(0, len(flat), rows):
            piece = flat[start : start + rows].flatten(0, 1).contiguous(memory_format=torch.channels_last)
            done.append(self.embed(piece, network))
        return torch.cat(done).view(*shape, -1)

    @torch.inference_mode()
    def embed_map(self, images: Tensor, patch: int) -> Tensor:
        """Return an embedding for each cell of the finest map, ``(B, rows, columns, D)`` float32, from one pass.

        Each map is averaged over the ``patch`` pixels around a cell. A cell therefore sees what lies around its patch,
        and no border of zeros, which is how it differs from :meth:`embed_patches`.
        """
        return self._cells(self._read_fused(images), patch, tuple(images.shape[2:]))

    @torch.inference_mode()
    def embed_with_map(self, images: Tensor, patch: int) -> tuple[Tensor, Tensor]:
        """Return one embedding for each image, ``(B, D)``, and those of :meth:`embed_map`, from one pass."""
        maps = self._read_fused(images)
        return self.pooled(maps), self._cells(maps, patch, tuple(images.shape[2:]))

    def _read_fused(self, images: Tensor) -> list[Tensor]:
        inputs = self.prepare(images).contiguous(memory_format=torch.channels_last)
        return [m.float() for m in self.read(inputs, self._fused(inputs.shape[2:]))]

    def _cells(self, maps: list[Tensor], patch: int, size_hw: tuple[int, int]) -> Tensor:
        if any(m.ndim != 4 for m in maps):
            raise ValueError('a heat map needs layers that put out maps (B, C, h, w); name such `layers`.')
        size = max(tuple(m.shape[2:]) for m in maps)
        cells = []
        for m in maps:
            window = max(1, round(patch * m.shape[2] / size_hw[0]))
            if window > 1:
                window += 1 - window % 2  # odd, so that the window is centred on its cell
                m = F.avg_pool2d(m, window, 1, window // 2, count_include_pad=False)
            if tuple(m.shape[2:]) != size:
                m = F.interpolate(m, size, mode='bilinear', align_corners=False)
            cells.append(self._scaled(m.permute(0, 2, 3, 1).flatten(0, 2)))
        return torch.cat(cells, 1).view(len(maps[0]), *size, -1)

    def _scaled(self, rows: Tensor) -> Tensor:
        return normalize_rows(rows) if self.normalize else rows

    def _fused(self, size_hw: Sequence[int]) -> nn.Module:
        """Return the backbone with its batch norms folded into the convolutions, channels last; made once.

        ``size_hw`` is of inputs that it takes, to try it on.
        """
        if self._fast is None or next(self._fast.parameters()).device != next(self.backbone.parameters()).device:
            from mmcv.cnn.utils import fuse_conv_bn

            fused = fuse_conv_bn(copy.deepcopy(self.backbone)).to(memory_format=torch.channels_last)
            fused.eval()
            probe = torch.linspace(-2, 2, 3 * size_hw[0] * size_hw[1], device=next(fused.parameters()).device)
            probe = probe.view(1, 3, *size_hw)
            with torch.no_grad():
                pairs = zip(self.read(probe, fused), self.read(probe), strict=True)
                same = all(torch.allclose(a, b, 1e-3, 1e-3 * float(b.abs().max())) for a, b in pairs)
            if not same:
                # parts that do not run in the order in which they are named cannot be folded
                fused = copy.deepcopy(self.backbone).to(memory_format=torch.channels_last).eval()
            object.__setattr__(self, '_fast', fused)
        return self._fast
