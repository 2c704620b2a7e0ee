"""Perlin noise anomalies: patches of another texture in the shape of thresholded gradient noise.

Sources: Perlin noise with the quintic fade; its use for anomalies in DRAEM (Zavrtanik et al., ICCV 2021) and MemSeg
(Yang et al., 2023), whose numbers are the defaults: 2^0..2^5 cells an axis, threshold 0.5, the image shows through by
U(0, 0.8), the noise rotated by up to 90 degrees. Any image size works: the cells divide the sides without padding.

The noise is a sum of products of one function of the row and one of the column, so it is two thin matrix products.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mmdefect.synthesis.operations import adjust_color
from mmdefect.synthesis.places import rotated_size
from mmdefect.synthesis.records import (
    VISIBLE_TOLERANCE,
    Synthesis,
    check_generators,
    check_range,
    fresh_label,
    instance_at,
    stack_samples,
    visible_change,
    write_label,
)

#: A rotated field is sampled at about this many pixels a side, but 8 a cell, and then enlarged: it is smooth by nature.
_FIELD_SIZE, _SAMPLES_PER_CELL = 256, 8
_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
#: What can happen to a texture, three of them at a time: lowest and highest value, and the one that changes nothing.
ADJUSTMENTS = dict(
    brightness=(0.6, 1.4, 1.0),
    contrast=(0.5, 1.7, 1.0),
    saturation=(0.4, 1.8, 1.0),
    hue=(-0.15, 0.15, 0.0),
    gamma=(0.5, 2.0, 1.0),
    solarize=(0.5, 1.0, 2.0),
    posterize=(4, 16, 0.0),
)


@dataclass(frozen=True)
class TextureParameters:
    """What was sampled for one texture."""

    index: int  # image of the folder, -1 for the image itself
    seed: int  # of the order of the tiles
    shift_y: float  # in [0, 1), offset as a fraction of the texture
    shift_x: float
    brightness: float  # this and the next two are factors
    contrast: float
    saturation: float
    hue: float  # fraction of a turn
    gamma: float  # exponent
    solarize: float  # values above are inverted; above 1 none is
    posterize: float  # number of grey levels, 0 for all


class TextureSource(Protocol):
    """Where textures come from; it answers for a list of pixels, not for a frame: an anomaly covers little of it."""

    adjustments: Sequence[str]  # names of those that suit the source
    num_images: int  # images to choose from, 0 when the image itself is used

    def pixels(self, image: Tensor, places: Tensor, texture: TextureParameters) -> Tensor:
        """Return ``(C, N)`` texture pixels in [0, 1] for places in the flattened ``(C, H, W)`` image."""

    def name(self, texture: TextureParameters) -> str:
        """Return the id of the texture for the record."""


def sample_texture(generator: Generator, source: TextureSource) -> TextureParameters:
    """Sample an image, an offset and three adjustments; all sources take as many random numbers."""
    uniform = torch.rand(4 + 2 * len(ADJUSTMENTS), generator=generator, dtype=torch.float64).tolist()
    order, amounts = (dict(zip(ADJUSTMENTS, uniform[start:], strict=False)) for start in (4, 4 + len(ADJUSTMENTS)))
    chosen = sorted((name for name in ADJUSTMENTS if name in source.adjustments), key=order.__getitem__)[:3]
    values = {
        name: low + (high - low) * amounts[name] if name in chosen else neutral
        for name, (low, high, neutral) in ADJUSTMENTS.items()
    }
    values['posterize'] = float(int(values['posterize']))
    index = int(uniform[0] * source.num_images) if source.num_images else -1
    return TextureParameters(index, int(uniform[1] * 2**53), uniform[2], uniform[3], **values)


def adjust_texture(pixels: Tensor, texture: TextureParameters) -> Tensor:
    """Apply the adjustments to ``(C, N)`` pixels in [0, 1]; contrast keeps their own mean grey."""
    values = texture.brightness, texture.contrast, texture.saturation, texture.hue
    if values != (1, 1, 1, 0):
        pixels = adjust_color(pixels[None], values)[0]
    if texture.gamma != 1:
        pixels = pixels.clamp_min(1e-6) ** texture.gamma
    if texture.solarize <= 1:
        pixels = torch.where(pixels > texture.solarize, 1 - pixels, pixels)
    if texture.posterize:
        pixels = (pixels * texture.posterize).floor().clamp_max(texture.posterize - 1) / (texture.posterize - 1)
    return pixels


@dataclass(frozen=True)
class ShuffledTiles:
    """The image itself, cut into tiles that change places.

    Args:
        tiles: per axis; 8 is MemSeg's number. A remainder of the sides takes its pixels from wrapped-around tiles.
        adjustments: allowed for the texture; the drastic ones are left to foreign images.
    """

    tiles: int = 8
    adjustments: tuple[str, ...] = ('brightness', 'contrast', 'saturation', 'hue', 'gamma')
    num_images = 0

    def pixels(self, image: Tensor, places: Tensor, texture: TextureParameters) -> Tensor:
        """Return ``(C, N)`` pixels of the shuffled image, adjusted."""
        height, width = image.shape[1:]
        down, across = min(self.tiles, height), min(self.tiles, width)
        tile_h, tile_w = height // down, width // across
        order = torch.randperm(down * across, generator=torch.Generator().manual_seed(texture.seed)).to(places.device)
        # the place of every row and column is small to tabulate; per pixel remain three look-ups
        rows, columns = torch.arange(height, device=places.device), torch.arange(width, device=places.device)
        y = places.div(width, rounding_mode='floor')
        x = places - y * width
        tile = order[(rows // tile_h % down * across)[y] + (columns // tile_w % across)[x]]
        tiles = torch.arange(down * across, device=places.device)
        target = tiles // across * (tile_h * width) + tiles % across * tile_w
        inside = (rows % tile_h * width)[y] + (columns % tile_w)[x]
        return adjust_texture(image.flatten(1)[:, target[tile] + inside], texture)

    def name(self, texture: TextureParameters) -> str:
        """Return the id of the texture."""
        return f'background:tiles-{self.tiles}'


class TextureFolder:
    """Images below a folder, decoded when needed and kept while they fit; at their own scale, mirrored at the ends.

    Args:
        folder: searched recursively, in sorted order.
        cache_mebibytes: of decoded images kept in this process.
        adjustments: allowed for the texture.

    Raises:
        ValueError: if there is no image.
    """

    def __init__(
        self, folder: str | Path, cache_mebibytes: float = 256, adjustments: Sequence[str] = tuple(ADJUSTMENTS)
    ) -> None:
        self.folder = Path(folder)
        self.paths = sorted(path for path in self.folder.rglob('*') if path.suffix.lower() in _SUFFIXES)
        if not self.paths:
            raise ValueError(f'`folder` must hold images ({", ".join(_SUFFIXES)}), but {folder} holds none.')
        self.adjustments, self.num_images = adjustments, len(self.paths)
        self.cache_bytes = int(cache_mebibytes * 2**20)
        self._cache: OrderedDict[int, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name not in ('_cache', '_lock')}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _cache=OrderedDict(), _lock=threading.Lock())

    def read(self, index: int) -> Tensor:
        """Return ``(H, W, 3)`` uint8 RGB of one image."""
        with self._lock:
            if index in self._cache:
                self._cache.move_to_end(index)
                return self._cache[index]
        # imdecode of the bytes: imread cannot open every path that Python can
        array = cv2.imdecode(np.fromfile(self.paths[index], np.uint8), cv2.IMREAD_COLOR)
        if array is None:
            raise ValueError(f'{self.paths[index]} must be a readable image; replace it or take it out of the folder.')
        rgb = torch.from_numpy(cv2.cvtColor(array, cv2.COLOR_BGR2RGB))
        with self._lock:
            self._cache[index] = rgb
            while len(self._cache) > 1 and sum(kept.nbytes for kept in self._cache.values()) > self.cache_bytes:
                self._cache.popitem(last=False)
        return rgb

    def pixels(self, image: Tensor, places: Tensor, texture: TextureParameters) -> Tensor:
        """Return ``(C, N)`` pixels of the sampled image from the sampled offset on, adjusted."""
        rgb = self.read(texture.index).to(image.device)
        height, width = rgb.shape[:2]
        rows = _mirrored(image.shape[1], height, texture.shift_y, places.device) * width
        columns = _mirrored(image.shape[2], width, texture.shift_x, places.device)
        y = places.div(image.shape[2], rounding_mode='floor')
        chosen = rgb.view(-1, 3)[rows[y] + columns[places - y * image.shape[2]]].T.to(image.dtype) / 255
        if len(image) != 3:
            chosen = chosen.mean(0, keepdim=True).expand(len(image), -1)
        return adjust_texture(chosen, texture)

    def name(self, texture: TextureParameters) -> str:
        """Return the path of the image relative to the folder."""
        return self.paths[texture.index].relative_to(self.folder).as_posix()


def _mirrored(size: int, available: int, shift: float, device: torch.device) -> Tensor:
    """Return which of the available lines each of ``size`` lines takes: consecutive, mirrored at the ends."""
    start = int(shift * (max(available - size, available // 2) + 1))
    lines = (torch.arange(size, device=device) + start) % (2 * available)
    return torch.minimum(lines, 2 * available - 1 - lines)


@dataclass(frozen=True)
class PerlinRanges:
    """What may be sampled."""

    octave_range: tuple[int, int] = (0, 6)  # number of cells as exponents of 2, the second excluded; for each axis
    threshold: float = 0.5  # noise above it is anomaly; the noise lies within about +-1
    transparency_range: tuple[float, float] = (0.0, 0.8)  # share of the image that shows through
    rotation_range: tuple[float, float] = (-90, 90)  # degrees of the noise; (0, 0) is faster, and exact at every size

    def __post_init__(self) -> None:
        low, high = self.octave_range
        if not 0 <= low < high <= 11:
            raise ValueError(f'`octave_range` must hold 0 <= low < high <= 11, high excluded, got {low} and {high}.')
        if not -1 < self.threshold < 1:
            raise ValueError(f'`threshold` must be in (-1, 1), got {self.threshold}. The noise lies within about +-1.')
        check_range('transparency_range', self.transparency_range, 0, 1, 'It is the share of the image that is seen.')
        check_range('rotation_range', self.rotation_range, -180, 180, 'It is in degrees.')


@dataclass(frozen=True)
class PerlinParameters:
    """One sampled anomaly; the gradients of the noise follow from ``seed``."""

    cells_y: int
    cells_x: int
    seed: int
    degrees: float
    transparency: float
    texture: TextureParameters

    def record(self) -> dict[str, float]:
        """Return everything that was sampled as floats, for the record of the instance."""
        own = {name: float(value) for name, value in vars(self).items() if name != 'texture'}
        return own | {f'texture_{name}': float(value) for name, value in vars(self.texture).items()}


def sample_perlin(generator: Generator, source: TextureSource, ranges: PerlinRanges | None = None) -> PerlinParameters:
    """Sample one anomaly whose texture comes from ``source``."""
    ranges = ranges or PerlinRanges()
    octave_y, octave_x, seed, turn, clear = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
    first, end = ranges.octave_range
    cells_y, cells_x = (2 ** (first + int(value * (end - first))) for value in (octave_y, octave_x))
    (low, high), (least, most) = ranges.rotation_range, ranges.transparency_range
    degrees, transparency = low + (high - low) * turn, least + (most - least) * clear
    texture = sample_texture(generator, source)
    return PerlinParameters(cells_y, cells_x, int(seed * 2**53), degrees, transparency, texture)


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
        seed: of the gradients, made on the CPU: the same field on every device.
        degrees: counter-clockwise turn of the field about the centre.

    Returns:
        ``(H, W)`` float within about +-1.
    """
    generator = torch.Generator().manual_seed(seed)
    field_hw, shrink = size_hw, 1
    if degrees:
        cell = min(size / cells for size, cells in zip(size_hw, cells_yx, strict=True))
        shrink = max(1, min(math.ceil(max(size_hw) / _FIELD_SIZE), int(cell / _SAMPLES_PER_CELL)))
    small_hw = tuple(math.ceil(size / shrink) for size in size_hw)
    per_pixel = cells_yx[0] / small_hw[0], cells_yx[1] / small_hw[1]
    counts = [cells + 1 for cells in cells_yx]
    if degrees:
        field_hw = tuple(size + 2 for size in rotated_size(small_hw, degrees))
        counts = [math.floor(size * per) + 2 for size, per in zip(field_hw, per_pixel, strict=True)]
    angles = torch.rand(*counts, generator=generator) * (2 * math.pi)
    like = dict(dtype=dtype, device=device)
    rows, columns = (torch.arange(size, **like) * per for size, per in zip(field_hw, per_pixel, strict=True))
    field = gradient_noise(rows, columns, angles.to(device))
    if not degrees:
        return field
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    rows, columns = (torch.arange(size, **like) - (size - 1) / 2 for size in small_hw)
    matrix = torch.tensor([[cosine, -sine], [sine, cosine]], **like)
    matrix = matrix * torch.tensor([[2 / (field_hw[1] - 1)], [2 / (field_hw[0] - 1)]], **like)
    grid = ((rows[:, None] * matrix[:, 1])[:, None] + (columns[:, None] * matrix[:, 0])[None])[None]
    turned = F.grid_sample(field[None, None], grid, align_corners=True)
    if shrink > 1:
        turned = F.interpolate(turned, size_hw, mode='bilinear', align_corners=False)
    return turned[0, 0]


def apply_perlin(
    image: Tensor, mask: Tensor, source: TextureSource, anomaly: PerlinParameters
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the new pixels under the mask; nothing else is touched, nothing of the full frame is computed.

    Args:
        image: ``(C, H, W)`` float in [0, 1], RGB.
        mask: ``(H, W)`` bool.

    Returns:
        places: ``(N,)`` int64 places in the flattened frame; old, new: ``(C, N)`` pixels before and after.
    """
    places = mask.flatten().nonzero()[:, 0]
    old = image.flatten(1)[:, places]
    texture = source.pixels(image, places, anomaly.texture)
    return places, old, torch.lerp(texture, old, anomaly.transparency)


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
        attempts: anomalies that are tried until some pixel is labelled; after the last the image stays as it is and the
            skip is counted.

    Returns:
        Synthesis: new tensors; ``skipped`` counts ``empty`` (no noise above the threshold on the foreground),
        ``invisible`` and ``ignored`` anomalies.
    """
    options = dict(source=source, class_id=class_id, ranges=ranges, tolerance=tolerance)
    options |= dict(overwrite_ignore=overwrite_ignore, attempts=attempts)
    if image.ndim == 4:
        labels, regions = ([None] * len(image) if value is None else value for value in (label, foreground))
        samples = zip(image, check_generators(image, generator), labels, regions, strict=True)
        return stack_samples([perlin_anomaly(*one, foreground=region, **options) for *one, region in samples])
    new_label = fresh_label(image, label)
    if foreground is not None and (foreground.dtype != torch.bool or foreground.shape != new_label.shape):
        want, got = tuple(new_label.shape), tuple(foreground.shape)
        raise ValueError(f'`foreground` must be bool {want} like the image, got {foreground.dtype} {got}.')
    source, ranges, reason = ShuffledTiles() if source is None else source, ranges or PerlinRanges(), 'empty'
    size_hw = tuple(image.shape[1:])
    for _ in range(attempts):
        anomaly = sample_perlin(generator, source, ranges)
        cells_yx = anomaly.cells_y, anomaly.cells_x
        noise = perlin_noise(size_hw, cells_yx, anomaly.seed, anomaly.degrees, device=image.device)
        mask = noise > ranges.threshold
        if foreground is not None:
            mask &= foreground
        places, old, new = apply_perlin(image, mask, source, anomaly)
        if len(places) == 0:
            continue
        changed = mask[mask] if tolerance is None else visible_change(new[..., None], old[..., None], tolerance)[:, 0]
        covered = new_label.view(-1)[places]
        shown = write_label(covered, changed, class_id, overwrite_ignore or label is None)
        if not shown.any():
            reason = 'ignored' if changed.any() else 'invisible'
            continue
        new_label.view(-1)[places] = covered
        mask.view(-1)[places] = shown
        new_image = image.clone(memory_format=torch.contiguous_format)
        new_image.view(len(image), -1)[:, places] = new
        facts = source.name(anomaly.texture), 'perlin', 'alpha', anomaly.record()
        return Synthesis(new_image, new_label, [instance_at(mask.numpy(force=True), (0, 0), class_id, *facts)])
    return Synthesis(image.clone(), new_label, [], skipped={reason: 1})
