"""Where defects may be pasted, as something to learn: a map in [0, 1] over the cells of the frame of the file.

A place is not differentiable, its probability is. Places are sampled from a *proposal* that follows the present map,
and the loss of the sample is weighted by map over proposal, through which the map gets its gradient. The proposal is a
mixture with the even density, so no place is lost for good and the weights are bounded. Two kinds of map:

* :class:`LocationNet` looks at the background image, for products whose pose or texture varies (V3 of Synth4Seg);
* :class:`ClassMaps` is a table for each class, for parts that always lie the same way.

``docs/derivations/bilevel.md`` has the equations and says what bias the weights have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy import ndarray
from torch import Tensor, nn

from mmdefect.synthesis.places import GRID, SIDE, decode, overlap

PROPOSALS = ('mixture', 'threshold', 'even')
#: Value of a fresh map: a paste there weighs 1.
FRESH = 0.5


@dataclass(frozen=True)
class ObjectCells:
    """Which cell of the frame every pixel of an image shows."""

    cells: ndarray  # (H, W) int64, GRID * row + column; -1 off the object
    counts: ndarray  # (GRID, GRID) float32, object pixels of each cell

    @classmethod
    def of(cls, codes: ndarray) -> ObjectCells:
        """Read location codes, ``(H, W)`` float32."""
        on_object, rows, columns = decode(codes)
        cell = SIDE // GRID
        cells = np.where(on_object, rows // cell * GRID + columns // cell, -1).astype(np.int64)
        counts = np.bincount(cells[on_object], minlength=GRID * GRID).astype(np.float32)
        return cls(cells, counts.reshape(GRID, GRID))

    def under(self, mask: ndarray, corner: tuple[int, int]) -> ndarray:
        """Return the cells below the set pixels of a mask, ``(n,)`` int64; those off the object are left out."""
        frame, part = overlap(mask.shape, corner, self.cells.shape)
        found = self.cells[frame][mask[part]]
        return found[found >= 0]

    def means(self, pixels: Tensor) -> Tensor:
        """Average ``(H, W)`` values over the object pixels of each cell: ``(GRID, GRID)``, 0 for cells without any."""
        cells = torch.from_numpy(self.cells.ravel()).to(pixels.device)
        shown = cells >= 0
        sums = pixels.new_zeros(GRID * GRID).index_add(0, cells[shown], pixels.flatten()[shown])
        return sums.view(GRID, GRID) / torch.from_numpy(self.counts).to(pixels).clamp_min(1)

    def mean(self, table: Tensor) -> Tensor:
        """Return the mean of a ``(GRID, GRID)`` map over the object pixels."""
        counts = torch.from_numpy(self.counts).to(table)
        return (table * counts).sum() / counts.sum().clamp_min(1)


class LocationNet(nn.Module):
    """A small net that reads the background and says where a defect belongs, the same for all classes.

    It sees the image at a coarse size, the object, and the place in the frame of the file. It has no batch norm: what
    it says of an image does not depend on batch mates. Fresh, it says :data:`FRESH` everywhere.

    Args:
        channels: of its layers.
        side: pixels a side that images are shrunk to; the map has half of it.
        coordinates: whether it sees places; without, it judges by appearance only.
    """

    per_class = False

    def __init__(self, channels: int = 16, side: int = 64, coordinates: bool = True) -> None:
        super().__init__()
        if side % 2 or side < 8 or channels % 4:
            raise ValueError(f'`side` must be even and >= 8, `channels` a multiple of 4, got {side} and {channels}.')
        self.side, self.coordinates = side, coordinates
        layers = []
        inputs = 6 if coordinates else 4
        for stride, dilation in ((2, 1), (1, 1), (1, 2), (1, 4)):
            layers += [nn.Conv2d(inputs, channels, 3, stride, dilation, dilation), nn.GroupNorm(4, channels), nn.ReLU()]
            inputs = channels
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 1, 1))
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def image_maps(self, images: Tensor, codes: Sequence[ndarray]) -> Tensor:
        """Return the map of each image in its own frame.

        Args:
            images: ``(B, 3, H, W)`` float in [0, 1], RGB.
            codes: ``(H, W)`` float32 location codes of each.

        Returns:
            ``(B, side / 2, side / 2)`` in (0, 1), differentiable in the weights of the net.
        """
        dtype = self.layers[0].weight.dtype
        small = F.interpolate(images.detach().to(dtype), (self.side, self.side), mode='area') - 0.5
        places = torch.stack([self._places(c) for c in codes]).to(small)
        return torch.sigmoid(self.layers(torch.cat([small, places], 1))[:, 0])

    def _places(self, codes: ndarray) -> Tensor:
        on_object, rows, columns = decode(cv2.resize(codes, (self.side, self.side), interpolation=cv2.INTER_NEAREST))
        known = [rows / SIDE - 0.5, columns / SIDE - 0.5] if self.coordinates else []
        return torch.from_numpy(np.stack([on_object - 0.5, *(k * on_object for k in known)]).astype(np.float32))

    def tables(self, images: Tensor, codes: Sequence[ndarray], objects: Sequence[ObjectCells]) -> Tensor:
        """Return the map of each image over the cells of the frame of its file; 0 where it shows nothing of a cell.

        Returns:
            ``(B, 1, GRID, GRID)`` in [0, 1], differentiable.
        """
        pixels = F.interpolate(self.image_maps(images, codes)[:, None], images.shape[-2:], mode='bilinear')
        return torch.stack([cells.means(one[0]) for one, cells in zip(pixels, objects, strict=True)])[:, None]

    def sparsity(self, images: Tensor, codes: Sequence[ndarray]) -> Tensor:
        """Return the mean of the maps."""
        return self.image_maps(images, codes).mean()


class ClassMaps(nn.Module):
    """One table for each defect class over the frame of the file; it needs no net and no image.

    Args:
        num_classes: defect classes, the normal one not counted.
        size: rows and columns that are learned; they are interpolated to the grid. Fewer learn from fewer samples.
    """

    per_class = True

    def __init__(self, num_classes: int, size: int = 16) -> None:
        super().__init__()
        if not 1 <= size <= GRID:
            raise ValueError(f'`size` must be in 1..{GRID}, got {size}.')
        self.logits = nn.Parameter(torch.zeros(num_classes, size, size))

    def maps(self) -> Tensor:
        """Return ``(K, GRID, GRID)`` in (0, 1)."""
        return torch.sigmoid(F.interpolate(self.logits[None], (GRID, GRID), mode='bilinear', align_corners=False)[0])

    def tables(self, images: Tensor, codes: Sequence[ndarray], objects: Sequence[ObjectCells]) -> Tensor:
        """Return ``(B, K, GRID, GRID)``, the same for all images."""
        return self.maps()[None].expand(len(images), -1, -1, -1)

    def sparsity(self, images: Tensor, codes: Sequence[ndarray]) -> Tensor:
        """Return the mean of the maps."""
        return self.maps().mean()


@dataclass(frozen=True)
class Proposal:
    """What places are sampled from, and what a place must be weighted with.

    The kind 'mixture' is the present map, mixed with the even density. 'threshold' is even where the map reaches the
    threshold, nowhere else, as published: what falls below it is never tried again. 'even' is all of the object.
    Normalised maps are divided by their mean over the object: then they say where, and only the weights of the streams
    say how much. The published maps are not.
    """

    kind: str = 'mixture'
    share: float = 0.3  # of the even density in the mixture, in (0, 1]
    threshold: float = 0.6
    normalise: bool = False

    def __post_init__(self) -> None:
        if self.kind not in PROPOSALS:
            raise ValueError(f'`kind` must be one of {", ".join(PROPOSALS)}, got {self.kind!r}.')
        if not 0 < self.share <= 1 or not 0 <= self.threshold < 1:
            got = f'{self.share} and {self.threshold}'
            raise ValueError(f'`share` must be in (0, 1] and `threshold` in [0, 1), got {got}.')

    def density(self, table: ndarray, objects: ObjectCells, name: str) -> ndarray:
        """Return the density that places are sampled from, ``(GRID, GRID)`` float32, mean 1 over the object.

        Raises:
            ValueError: if the map has no place on the object; the message names the image.
        """
        total = float(objects.counts.sum())
        if total == 0:  # the search for a place finds that nothing is allowed, and says so
            return np.ones((GRID, GRID), np.float32)
        wanted = np.ones_like(table) if self.kind == 'even' else table
        if self.kind == 'threshold':
            wanted = (table >= self.threshold).astype(np.float32)
        mean = float((wanted * objects.counts).sum()) / total
        if not mean > 0 or not np.isfinite(mean):
            state, largest = 'empty' if mean == 0 else 'not finite', float(table[objects.counts > 0].max())
            limit = f', threshold {self.threshold:g}' if self.kind == 'threshold' else ''
            raise ValueError(
                f'the learned map must have a place on the object of {name}, but it is {state} there (largest value '
                f'{largest:.3g}{limit}); lower the sparsity penalty or the step of the policy'
                + (', or take the proposal "mixture".' if limit else '.')
            )
        share = self.share if self.kind == 'mixture' else 0.0
        return ((1 - share) * (wanted / mean) + share).astype(np.float32)

    def weight(self, table: Tensor, density: ndarray, objects: ObjectCells, cells: ndarray) -> Tensor:
        """Return the weight of a paste over these cells: mean map over mean proposal, 1 for a fresh map.

        Args:
            table: ``(GRID, GRID)`` map, differentiable.
            density: ``(GRID, GRID)`` of :meth:`density`.
            objects: of the image.
            cells: ``(n,)`` int64, below the pasted mask.
        """
        value = table.flatten()[torch.from_numpy(cells).to(table.device)].mean()
        value = value / (objects.mean(table) if self.normalise else FRESH)
        # as published, a threshold does not account for its proposal
        return value if self.kind == 'threshold' else value / float(density.ravel()[cells].mean())
