"""Where the texture of an anomaly comes from: a folder of images, or the image itself in shuffled tiles.

A source answers for a list of pixels, not for a frame: an anomaly covers a small part of it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Generator, Tensor

from mmdefect.synthesis.color import adjust_color

_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
#: What can happen to a texture; three of them are drawn.
ADJUSTMENTS = ('brightness', 'contrast', 'saturation', 'hue', 'gamma', 'solarize', 'posterize')
_RANGES = dict(
    brightness=(0.6, 1.4),
    contrast=(0.5, 1.7),
    saturation=(0.4, 1.8),
    hue=(-0.15, 0.15),
    gamma=(0.5, 2.0),
    solarize=(0.5, 1.0),
    posterize=(4, 16),
)
_IDENTITY = dict(brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0, gamma=1.0, solarize=2.0, posterize=0.0)


@dataclass(frozen=True)
class TextureDraw:
    """What was drawn for one texture.

    Attributes:
        index: image of the folder, -1 for the image itself.
        seed: of the order of the tiles.
        shift_y, shift_x: in [0, 1), offset as a fraction of the texture.
        brightness, contrast, saturation: factors; hue: fraction of a turn; gamma: exponent.
        solarize: values above are inverted; above 1 none is.
        posterize: number of grey levels, 0 for all.
    """

    index: int
    seed: int
    shift_y: float
    shift_x: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    gamma: float
    solarize: float
    posterize: float

    def parameters(self) -> dict[str, float]:
        """Return everything drawn as floats."""
        return {f'texture_{name}': float(value) for name, value in vars(self).items()}


class TextureSource(Protocol):
    """What an anomaly needs to know of its texture."""

    #: Adjustments that suit the source; three of them, or all when there are fewer, are drawn for a texture.
    adjustments: tuple[str, ...]

    #: Images to choose from, 0 when the image itself is used.
    num_images: int

    def pixels(self, image: Tensor, places: Tensor, draw: TextureDraw) -> Tensor:
        """Return ``(C, N)`` texture pixels in [0, 1] for places in the flattened ``(C, H, W)`` image."""

    def name(self, draw: TextureDraw) -> str:
        """Return the id of the texture for the record."""


def sample_texture(generator: Generator, source: TextureSource) -> TextureDraw:
    """Draw an image, an offset and three adjustments; the number of draws is the same for every source."""
    draws = torch.rand(4 + 2 * len(ADJUSTMENTS), generator=generator, dtype=torch.float64).tolist()
    order, amounts = draws[4 : 4 + len(ADJUSTMENTS)], draws[4 + len(ADJUSTMENTS) :]
    allowed = [i for i, name in enumerate(ADJUSTMENTS) if name in source.adjustments]
    chosen = set(sorted(allowed, key=order.__getitem__)[:3])
    values = {}
    for i, name in enumerate(ADJUSTMENTS):
        low, high = _RANGES[name]
        values[name] = low + (high - low) * amounts[i] if i in chosen else _IDENTITY[name]
    values['posterize'] = float(int(values['posterize']))
    index = int(draws[0] * source.num_images) if source.num_images else -1
    return TextureDraw(index, int(draws[1] * 2**53), draws[2], draws[3], **values)


def adjust_texture(pixels: Tensor, draw: TextureDraw) -> Tensor:
    """Apply the drawn adjustments to ``(C, N)`` pixels in [0, 1]; contrast keeps their own mean grey."""
    values = draw.brightness, draw.contrast, draw.saturation, draw.hue
    if values != (1, 1, 1, 0):
        pixels = adjust_color(pixels[None], values)[0]
    if draw.gamma != 1:
        pixels = pixels.clamp_min(1e-6) ** draw.gamma
    if draw.solarize <= 1:
        pixels = torch.where(pixels > draw.solarize, 1 - pixels, pixels)
    if draw.posterize:
        pixels = (pixels * draw.posterize).floor().clamp_max(draw.posterize - 1) / (draw.posterize - 1)
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

    @property
    def num_images(self) -> int:
        """There is no image but the image."""
        return 0

    def pixels(self, image: Tensor, places: Tensor, draw: TextureDraw) -> Tensor:
        """Return ``(C, N)`` pixels of the shuffled image, adjusted."""
        height, width = image.shape[1:]
        down, across = min(self.tiles, height), min(self.tiles, width)
        tile_h, tile_w = height // down, width // across
        order = torch.randperm(down * across, generator=torch.Generator().manual_seed(draw.seed)).to(places.device)
        # the place of every row and column is small to tabulate; per pixel remain three look-ups
        rows, columns = torch.arange(height, device=places.device), torch.arange(width, device=places.device)
        y = places.div(width, rounding_mode='floor')
        x = places - y * width
        tile = order[(rows // tile_h % down * across)[y] + (columns // tile_w % across)[x]]
        target = (
            torch.arange(down * across, device=places.device) // across * (tile_h * width)
            + torch.arange(down * across, device=places.device) % across * tile_w
        )
        inside = (rows % tile_h * width)[y] + (columns % tile_w)[x]
        return adjust_texture(image.flatten(1)[:, target[tile] + inside], draw)

    def name(self, draw: TextureDraw) -> str:
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
        self, folder: str | Path, cache_mebibytes: float = 256, adjustments: tuple[str, ...] = ADJUSTMENTS
    ) -> None:
        self.folder = Path(folder)
        self.paths = sorted(path for path in self.folder.rglob('*') if path.suffix.lower() in _SUFFIXES)
        if not self.paths:
            raise ValueError(
                f'`folder` must hold images ({", ".join(_SUFFIXES)}), got {folder} with none. '
                'Give the folder of a texture data set.'
            )
        self.adjustments = adjustments
        self.cache_bytes = int(cache_mebibytes * 2**20)
        self._cache: OrderedDict[int, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def num_images(self) -> int:
        """Number of images found."""
        return len(self.paths)

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name not in ('_cache', '_lock')}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _cache=OrderedDict(), _lock=threading.Lock())

    def photo(self, index: int) -> Tensor:
        """Return ``(H, W, 3)`` uint8 RGB of one image."""
        with self._lock:
            if index in self._cache:
                self._cache.move_to_end(index)
                return self._cache[index]
        # imdecode of the bytes: imread cannot open every path that Python can
        array = cv2.imdecode(np.fromfile(self.paths[index], np.uint8), cv2.IMREAD_COLOR)
        if array is None:
            raise ValueError(
                f'{self.paths[index]} must be a readable image, but it cannot be decoded. '
                'Replace it or take it out of the folder.'
            )
        photo = torch.from_numpy(cv2.cvtColor(array, cv2.COLOR_BGR2RGB))
        with self._lock:
            self._cache[index] = photo
            while len(self._cache) > 1 and sum(kept.nbytes for kept in self._cache.values()) > self.cache_bytes:
                self._cache.popitem(last=False)
        return photo

    def pixels(self, image: Tensor, places: Tensor, draw: TextureDraw) -> Tensor:
        """Return ``(C, N)`` pixels of the drawn image from the drawn offset on, adjusted."""
        photo = self.photo(draw.index).to(image.device)
        height, width = photo.shape[:2]
        rows = _mirrored(image.shape[1], height, draw.shift_y, places.device) * width
        columns = _mirrored(image.shape[2], width, draw.shift_x, places.device)
        y = places.div(image.shape[2], rounding_mode='floor')
        chosen = photo.view(-1, 3)[rows[y] + columns[places - y * image.shape[2]]].T.to(image.dtype) / 255
        if len(image) != 3:
            chosen = chosen.mean(0, keepdim=True).expand(len(image), -1)
        return adjust_texture(chosen, draw)

    def name(self, draw: TextureDraw) -> str:
        """Return the path of the image relative to the folder."""
        return self.paths[draw.index].relative_to(self.folder).as_posix()


def _mirrored(size: int, available: int, shift: float, device: torch.device) -> Tensor:
    """Return which of the available lines each of ``size`` lines takes: consecutive, mirrored at the ends."""
    start = int(shift * (max(available - size, available // 2) + 1))
    lines = (torch.arange(size, device=device) + start) % (2 * available)
    return torch.minimum(lines, 2 * available - 1 - lines)
