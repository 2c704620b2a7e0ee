"""Perlin noise anomalies: patches of another texture in the shape of thresholded gradient noise.

Sources: Perlin noise with the quintic fade; its use for anomalies in DRAEM (Zavrtanik et al., ICCV 2021) and MemSeg
(Yang et al., 2023), whose numbers are the defaults: 2^0..2^5 cells an axis, threshold 0.5, the image shows through by
U(0, 0.8), the noise rotated by up to 90 degrees. Any image size works: the cells divide the sides without padding.

The noise is a sum of products of one function of the row and one of the column, so it is two thin matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mmdefect.synthesis.shapes import (
    VISIBLE_TOLERANCE,
    check_generators,
    check_range,
    fresh_label,
    rotated_size,
    stack_samples,
)
from mmdefect.synthesis.texture import ShuffledTiles, TextureDraw, TextureSource, sample_texture
from mmdefect.synthesis.types import IGNORE_LABEL, Instance, Synthesis

#: A rotated field is sampled at about this many pixels a side, but 8 a cell, and then enlarged: it is smooth by nature.
_FIELD_SIZE, _SAMPLES_PER_CELL = 256, 8


@dataclass(frozen=True)
class PerlinRanges:
    """What is drawn.

    Attributes:
        octave_range: exponents of 2, the second excluded: number of cells along each axis, drawn for each on its own.
        threshold: noise above it is anomaly; the noise lies within about +-1.
        transparency_range: share of the image that shows through.
        rotation_range: degrees by which the noise is turned; (0, 0) is faster and keeps it exact at every size.
    """

    octave_range: tuple[int, int] = (0, 6)
    threshold: float = 0.5
    transparency_range: tuple[float, float] = (0.0, 0.8)
    rotation_range: tuple[float, float] = (-90, 90)

    def __post_init__(self) -> None:
        if not 0 <= self.octave_range[0] < self.octave_range[1] <= 11:
            raise ValueError(
                f'`octave_range` must satisfy 0 <= low < high <= 11, got {self.octave_range!r}. They are '
                'exponents of 2 and the second is excluded.'
            )
        if not -1 < self.threshold < 1:
            raise ValueError(f'`threshold` must be in (-1, 1), got {self.threshold}. The noise lies within about +-1.')
        check_range('transparency_range', self.transparency_range, 0, 1, 'It is the share of the image that is seen.')
        check_range('rotation_range', self.rotation_range, -180, 180, 'It is in degrees.')


@dataclass(frozen=True)
class PerlinDraw:
    """One drawn anomaly; the gradients of the noise follow from ``seed``."""

    cells_y: int
    cells_x: int
    seed: int
    degrees: float
    transparency: float
    texture: TextureDraw

    def parameters(self) -> dict[str, float]:
        """Return everything drawn as floats, for the record of the instance."""
        own = ('cells_y', 'cells_x', 'seed', 'degrees', 'transparency')
        return {name: float(getattr(self, name)) for name in own} | self.texture.parameters()


def sample_perlin(generator: Generator, source: TextureSource, ranges: PerlinRanges | None = None) -> PerlinDraw:
    """Draw one anomaly whose texture comes from ``source``."""
    ranges = ranges or PerlinRanges()
    low, high = ranges.octave_range
    octave_y, octave_x, seed, turn, clear = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
    return PerlinDraw(
        2 ** (low + int(octave_y * (high - low))),
        2 ** (low + int(octave_x * (high - low))),
        int(seed * 2**53),
        _between(ranges.rotation_range, turn),
        _between(ranges.transparency_range, clear),
        sample_texture(generator, source),
    )


def _between(value_range: tuple[float, float], draw: float) -> float:
    return value_range[0] + (value_range[1] - value_range[0]) * draw


def gradient_noise(rows: Tensor, columns: Tensor, angles: Tensor) -> Tensor:
    """Return Perlin noise at every crossing of rows and columns.

    Args:
        rows: ``(H,)`` float positions in cells, from 0 to ``n``; ``columns``: ``(W,)`` likewise, from 0 to ``m``.
        angles: ``(n + 1, m + 1)`` float radians of the gradients at the corners of the cells.

    Returns:
        ``(H, W)`` within about +-1: scaled by the root of 2.
    """
    down, right = (angles.sin() * math.sqrt(2)).to(rows), (angles.cos() * math.sqrt(2)).to(rows)
    ramp_y, fade_y = _profiles(rows, angles.shape[0])
    ramp_x, fade_x = _profiles(columns, angles.shape[1])
    # sum over corners of ramp_y * fade_x * down + fade_y * ramp_x * right, through the shorter of the two axes
    if angles.shape[0] <= angles.shape[1]:
        return torch.cat((ramp_y, fade_y), 1) @ torch.cat((down @ fade_x.T, right @ ramp_x.T), 0)
    return torch.cat((ramp_y @ down, fade_y @ right), 1) @ torch.cat((fade_x, ramp_x), 1).T


def _profiles(positions: Tensor, corners: int) -> tuple[Tensor, Tensor]:
    """Return the faded distance to, and the fade weight of, every corner: each ``(N, corners)``."""
    distance = positions[:, None] - torch.arange(corners, dtype=positions.dtype, device=positions.device)
    near = distance.abs().clamp_(max=1)
    fade = 1 - near * near * near * (near * (near * 6 - 15) + 10)
    return distance * fade, fade


def perlin_noise(
    size_hw: tuple[int, int],
    cells_yx: tuple[int, int],
    seed: int,
    degrees: float = 0.0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = 'cpu',
) -> Tensor:
    """Return a field of Perlin noise of any size.

    Args:
        size_hw: height and width in pixels.
        cells_yx: cells along height and width.
        seed: of the gradients, drawn on the CPU: the same field on every device.
        degrees: counter-clockwise turn of the field about the centre.

    Returns:
        ``(H, W)`` float within about +-1.
    """
    generator = torch.Generator().manual_seed(seed)
    if degrees == 0:
        angles = torch.rand(cells_yx[0] + 1, cells_yx[1] + 1, generator=generator) * (2 * math.pi)
        rows, columns = (
            torch.arange(size, dtype=dtype, device=device) * (cells / size)
            for size, cells in zip(size_hw, cells_yx, strict=True)
        )
        return gradient_noise(rows, columns, angles.to(device))
    cell = min(size / cells for size, cells in zip(size_hw, cells_yx, strict=True))
    shrink = max(1, min(math.ceil(max(size_hw) / _FIELD_SIZE), int(cell / _SAMPLES_PER_CELL)))
    height, width = (math.ceil(size / shrink) for size in size_hw)
    field_hw = tuple(size + 2 for size in rotated_size((height, width), degrees))
    per_pixel = cells_yx[0] / height, cells_yx[1] / width
    counts = [math.floor(size * per) + 2 for size, per in zip(field_hw, per_pixel, strict=True)]
    angles = torch.rand(*counts, generator=generator) * (2 * math.pi)
    rows, columns = (
        torch.arange(size, dtype=dtype, device=device) * per for size, per in zip(field_hw, per_pixel, strict=True)
    )
    field = gradient_noise(rows, columns, angles.to(device))
    turned = F.grid_sample(
        field[None, None], _rotation_grid((height, width), field_hw, degrees, dtype, device), align_corners=True
    )
    if shrink > 1:
        turned = F.interpolate(turned, size_hw, mode='bilinear', align_corners=False)
    return turned[0, 0]


def _rotation_grid(
    size_hw: tuple[int, int], field_hw: tuple[int, int], degrees: float, dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    rows, columns = (torch.arange(size, dtype=dtype, device=device) - (size - 1) / 2 for size in size_hw)
    matrix = torch.tensor([[cosine, -sine], [sine, cosine]], dtype=dtype, device=device)
    matrix = matrix * torch.tensor([[2 / (field_hw[1] - 1)], [2 / (field_hw[0] - 1)]], dtype=dtype, device=device)
    return ((rows[:, None] * matrix[:, 1])[:, None] + (columns[:, None] * matrix[:, 0])[None])[None]


def apply_perlin(image: Tensor, mask: Tensor, source: TextureSource, draw: PerlinDraw) -> tuple[Tensor, Tensor, Tensor]:
    """Return the new pixels under the mask; nothing else is touched, nothing of the full frame is computed.

    Args:
        image: ``(C, H, W)`` float in [0, 1], RGB.
        mask: ``(H, W)`` bool.

    Returns:
        places: ``(N,)`` int64 places in the flattened frame; old, new: ``(C, N)`` pixels before and after.
    """
    places = mask.flatten().nonzero()[:, 0]
    old = image.flatten(1)[:, places]
    texture = source.pixels(image, places, draw.texture)
    return places, old, torch.lerp(texture, old, draw.transparency)


def perlin_anomaly(
    image: Tensor,
    generator: Generator | Sequence[Generator],
    label: Tensor | None = None,
    *,
    source: TextureSource | None = None,
    foreground: Tensor | None = None,
    class_id: int = 1,
    ranges: PerlinRanges | None = None,
    tolerance: float | None = VISIBLE_TOLERANCE,
    overwrite_ignore: bool = False,
    attempts: int = 5,
) -> Synthesis:
    """Cover noise-shaped parts of every image by another texture.

    Args:
        image: ``(C, H, W)`` or ``(B, C, H, W)`` float in [0, 1], RGB.
        generator: CPU generator, for a batch one per sample.
        label: ``(H, W)`` or ``(B, H, W)`` int64 to write into; None for all normal. Pasted pixels win over classes.
        source: of the texture; None shuffles tiles of the image itself.
        foreground: ``(H, W)`` or ``(B, H, W)`` bool, outside of which nothing is changed.
        tolerance: a pixel is labelled when a colour moved by more than this; None labels all pasted pixels.
        overwrite_ignore: whether pasted pixels also replace label 255.
        attempts: draws until some pixel is labelled; then the image stays as it is and the skip is counted.

    Returns:
        Synthesis: new tensors; ``skipped`` counts ``empty`` (no noise above the threshold on the foreground),
        ``invisible`` and ``ignored`` anomalies.
    """
    if image.ndim == 4:
        generators = check_generators(image, generator)
        return stack_samples(
            [
                perlin_anomaly(
                    image[i],
                    generators[i],
                    None if label is None else label[i],
                    source=source,
                    foreground=None if foreground is None else foreground[i],
                    class_id=class_id,
                    ranges=ranges,
                    tolerance=tolerance,
                    overwrite_ignore=overwrite_ignore,
                    attempts=attempts,
                )
                for i in range(len(image))
            ]
        )
    new_label = fresh_label(image, label)
    if foreground is not None and (foreground.dtype != torch.bool or foreground.shape != new_label.shape):
        raise ValueError(
            f'`foreground` must be bool of shape {tuple(new_label.shape)} like the image, got '
            f'{foreground.dtype} of shape {tuple(foreground.shape)}.'
        )
    source, ranges, reason = ShuffledTiles() if source is None else source, ranges or PerlinRanges(), 'empty'
    size_hw = tuple(image.shape[1:])
    for _ in range(attempts):
        draw = sample_perlin(generator, source, ranges)
        noise = perlin_noise(size_hw, (draw.cells_y, draw.cells_x), draw.seed, draw.degrees, device=image.device)
        mask = noise > ranges.threshold
        if foreground is not None:
            mask &= foreground
        places, old, new = apply_perlin(image, mask, source, draw)
        if len(places) == 0:
            continue
        labelled = places
        if tolerance is not None:
            labelled = labelled[(new - old).detach().abs_().amax(0) > tolerance]
        reason = 'ignored' if len(labelled) else 'invisible'
        if not overwrite_ignore and label is not None:
            labelled = labelled[new_label.view(-1)[labelled] != IGNORE_LABEL]
        if len(labelled) == 0:
            continue
        new_label.view(-1)[labelled] = class_id
        new_image = image.clone(memory_format=torch.contiguous_format)
        new_image.view(len(image), -1)[:, places] = new
        instance = Instance(
            class_id,
            _box(labelled, size_hw[1]),
            len(labelled),
            source.name(draw.texture),
            'perlin',
            'alpha',
            draw.parameters(),
        )
        return Synthesis(new_image, new_label, [instance])
    return Synthesis(image.clone(), new_label, [], skipped={reason: 1})


def _box(places: Tensor, width: int) -> tuple[int, int, int, int]:
    """Return the box of sorted places in a flattened frame."""
    columns = places % width
    left, right = columns.aminmax()
    return int(places[0]) // width, int(left), int(places[-1]) // width + 1, int(right) + 1
