"""What is normal: memories of the features of good images, and how far a feature map is from them.

Two kinds. :class:`BankMemory` keeps features that lie far apart and compares with the nearest, wherever it came from:
for parts in any pose. :class:`PlaceMemory` keeps mean and spread of every place and needs no search: for parts that
always lie the same way, give or take some pixels.

An image that helped to fill a memory must not find itself there: its features would be nearer than those of any other
good image, and what is learned from such distances is wrong on new images. A bank leaves out what an image gave; a
place takes its share out of the mean and the spread, which has a closed form.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdefect.functional.density import far_apart

#: Owner of an image that is in no memory.
NOBODY = -1
#: Distances that are held at once by :func:`nearest`, outside of a graph.
_HELD = 2**24
#: Values whose least is looked for at once.
_BLOCK = 64
#: Share by which a place must fit better for each cell that it lies farther away.
_FARTHER = 1e-3
#: Channels that an alignment compares.
_ALIGNED = 8


def nearest(features: Tensor, points: Tensor, owned: Tensor | None = None, owners: Tensor | None = None) -> Tensor:
    """Return the nearest point of every feature.

    Args:
        features: ``(B, N, C)`` float.
        points: ``(M, C)`` float.
        owned: ``(M,)`` int64, the image that each point came from; needed with ``owners``.
        owners: ``(B,)`` int64, what each sample is: its own points are left out. None compares with all.

    Returns:
        ``(B, N)`` int64 numbers of points.
    """
    half_norms = points.square().sum(1) / 2
    transposed = points.T.contiguous()
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return (half_norms - features @ transposed).argmin(2)
    rows = max(1, _HELD // len(points))
    found = torch.empty(features.shape[:2], dtype=torch.int64, device=features.device)
    for sample, own in enumerate([NOBODY] * len(features) if owners is None else owners.tolist()):
        norms = half_norms if own == NOBODY else half_norms.masked_fill(owned == own, torch.inf)
        for start in range(0, features.shape[1], rows):
            piece = features[sample, start : start + rows]
            found[sample, start : start + rows] = _place_of_least(torch.addmm(norms, piece, transposed, alpha=-1))
    return found


def _place_of_least(values: Tensor) -> Tensor:
    """Return ``values.argmin(1)``, by the least of each block first: on a CPU 6 times as fast as ``argmin``."""
    count, width = values.shape
    if width % _BLOCK:
        return values.argmin(1)
    blocks = values.view(count, -1, _BLOCK)
    block = blocks.amin(2).argmin(1)
    inside = blocks.gather(1, block[:, None, None].expand(-1, 1, _BLOCK))[:, 0].argmin(1)
    return block * _BLOCK + inside


def smoothed(features: Tensor) -> Tensor:
    """Return the mean of the 3 x 3 cells around each: what is compared. A memory of single cells tells much less."""
    return functional.avg_pool2d(features.float(), 3, 1, 1, count_include_pad=False)


class _Memory(nn.Module):
    """Evidence ``(B, C + 1, h, w)``: residuals and distance, both about 1 in size on good images."""

    residual_size: Tensor
    distance_size: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer('residual_size', torch.ones(()))
        self.register_buffer('distance_size', torch.ones(()))

    def _evidence(self, residual: Tensor, distance: Tensor) -> Tensor:
        evidence = torch.cat([residual / self.residual_size, distance[:, None] / self.distance_size], 1)
        return evidence.sign() * evidence.abs().log1p()  # a defect may be a hundred times as far as a good part

    def set_sizes(self, residual_squares: float, distances: float) -> None:
        """Set the units: root mean square residual and mean distance of held-out good features."""
        self.residual_size.fill_(max(residual_squares**0.5, 1e-6))
        self.distance_size.fill_(max(distances, 1e-6))


class BankMemory(_Memory):
    """Features of good images that lie far apart, each with the image it came from.

    Args:
        channels: of the features.
        entries: most points.
    """

    points: Tensor
    owned: Tensor

    def __init__(self, channels: int, entries: int) -> None:
        super().__init__(channels)
        self.register_buffer('points', torch.zeros(entries, channels))
        self.register_buffer('owned', torch.full((entries,), NOBODY - 1))

    def fit(self, features: Tensor, owners: Tensor, generator: torch.Generator | None = None) -> float:
        """Choose the points from ``(N, C)`` features of good images, ``owners`` ``(N,)`` says which image each shows.

        Returns:
            The mean squared distance of the features to the nearest point of another image, over that to their mean.
        """
        if len(owners.unique()) < 2:
            raise ValueError(
                f'a memory of what is normal must come from at least 2 good images, got {len(owners.unique())}; '
                'add good images to the training split, or leave `normality` out.'
            )
        features = features.float()
        rows = far_apart(features, len(self.points), generator)
        rows = rows[torch.arange(len(self.points), device=rows.device) % len(rows)]  # too few features are repeated
        self.points.copy_(features[rows])
        self.owned.copy_(owners[rows])
        squares = features.new_zeros(len(features))
        for owner in owners.unique().tolist():
            mine = owners == owner
            found = nearest(features[mine][None], self.points, self.owned, owners.new_tensor([owner]))[0]
            squares[mine] = (features[mine] - self.points[found]).square().sum(1)
        self.set_sizes(float(squares.mean()) / self.channels, float(squares.sqrt().mean()))
        return float(squares.mean() / (features - features.mean(0)).square().sum(1).mean().clamp_min(1e-12))

    def forward(self, features: Tensor, owners: Tensor | None = None) -> Tensor:
        """Return the evidence of ``(B, C, h, w)`` features; ``owners`` as in :func:`nearest`."""
        rows = features.float().flatten(2).transpose(1, 2)
        with torch.no_grad():
            found = nearest(rows.detach(), self.points, self.owned, owners)
        residual = rows - self.points[found]
        distance = residual.square().sum(2).clamp_min(1e-12).sqrt()
        shape = (-1, self.channels, *features.shape[2:])
        return self._evidence(residual.transpose(1, 2).reshape(shape), distance.reshape(-1, *features.shape[2:]))


class PlaceMemory(_Memory):
    """Mean and spread of the features of good images at every place.

    A crop, and an image whose part lies some cells aside, is first laid where it fits best.

    Args:
        channels: of the features.
        size_hw: of the feature map of a whole image.
        shift: cells that a part may lie aside.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor
    mix: Tensor

    def __init__(self, channels: int, size_hw: tuple[int, int], shift: int = 2) -> None:
        super().__init__(channels)
        self.shift = shift
        self.register_buffer('mean', torch.zeros(channels, *size_hw))
        self.register_buffer('variance', torch.ones(channels, *size_hw))
        self.register_buffer('count', torch.zeros(()))
        generator = torch.Generator().manual_seed(0)
        width = min(_ALIGNED, channels)
        self.register_buffer('mix', torch.randn(width, channels, generator=generator) / channels**0.5)

    def fit(self, maps: Iterable[Tensor]) -> None:
        """Take mean and spread of ``(C, H, W)`` maps, one of each good image."""
        total, squares, count = torch.zeros_like(self.mean), torch.zeros_like(self.mean), 0
        reference = None  # near the values, so that squares lose no digits
        for one in maps:
            reference = one.float() if reference is None else reference
            total += one - reference
            squares += (one - reference).square()
            count += 1
        if count < 2:
            raise ValueError(
                f'a memory of what is normal must come from at least 2 good images, got {count}; add good images to '
                'the training split, or leave `normality` out.'
            )
        self.mean.copy_(reference + total / count)
        self.variance.copy_((squares - total.square() / count).clamp_min(0) / (count - 1))
        self.count.fill_(count)

    @property
    def total_variance(self) -> float:
        """Mean squared distance of a feature to the mean of all, over the places and the images."""
        return float((self.variance.mean((1, 2)) + self.mean.flatten(1).var(1, unbiased=False)).sum())

    def locate(self, features: Tensor) -> Tensor:
        """Return where on the map of a whole image each sample lies best, ``(B, 2)`` int64 rows and columns.

        Of a whole image only the shifts are tried, of a crop every place. An exported graph takes whole images only.
        """
        traced = torch.jit.is_tracing() or torch.compiler.is_compiling()
        if traced or features.shape[2:] == self.mean.shape[1:]:
            start = torch.zeros(features.shape[0], 2, dtype=torch.int64, device=features.device)
            return self.refine(features, start, self.shift)
        own, pad = self._mixed(features), self.shift
        whole = functional.pad(self._mixed(self.mean[None]), [pad] * 4, mode='replicate')
        norms = functional.conv2d(whole.square().sum(1, keepdim=True), torch.ones_like(own[:1, :1]))
        gaps = norms[0] - 2 * functional.conv2d(whole, own)[0]  # (B, rows, columns) of places
        best = gaps.flatten(1).argmin(1)
        return torch.stack([best // gaps.shape[2], best % gaps.shape[2]], 1) - pad

    def refine(self, features: Tensor, place: Tensor, reach: int) -> Tensor:
        """Return the best place at most ``reach`` cells from ``place``; of equals the nearest to it.

        Where a map says nothing, all places are equal but for rounding, which must not decide.
        """
        own, whole = self._mixed(features), self._mixed(self.mean[None])[0]
        steps = torch.arange(-reach, reach + 1, device=features.device)
        around = torch.cartesian_prod(steps, steps)
        gaps = [(own - self._at(whole, place + step, features)).square().sum((1, 2, 3)) for step in around]
        gaps = torch.stack(gaps, 1) * (1 + _FARTHER * around.abs().sum(1))
        return place + around[gaps.argmin(1)]

    def _mixed(self, features: Tensor) -> Tensor:
        return torch.einsum('dc,bchw->bdhw', self.mix, features.detach().float())

    def _at(self, whole: Tensor, place: Tensor, like: Tensor) -> Tensor:
        """Return the part of ``(C, H, W)`` at each place, its border repeated, ``(B, C, h, w)``."""
        height, width = whole.shape[1:]
        rows = place[:, :1] + torch.arange(like.shape[2], device=like.device)
        columns = place[:, 1:] + torch.arange(like.shape[3], device=like.device)
        where = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None]
        return whole.flatten(1)[:, where].transpose(0, 1)

    def laid(self, features: Tensor, place: Tensor) -> Tensor:
        """Return features of one whole image as they lie on the map: shifted to ``place``, the border repeated."""
        return self._at(features[0], -place, features)[0]

    def residual(self, features: Tensor, place: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return ``(B, C, h, w)`` what is unlike the mean at ``place``, and the spread there.

        ``seen`` ``(B,)`` marks images of the memory: they are compared with mean and spread of the others.
        """
        mean, variance = (self._at(whole, place, features) for whole in (self.mean, self.variance))
        residual = features.float() - mean
        if seen is not None:
            n, mine = self.count, seen[:, None, None, None]
            squares = (n - 1) * variance - n / (n - 1) * residual.square()
            variance = torch.where(mine & (n > 2), squares.clamp_min(0) / (n - 2).clamp_min(1), variance)
            residual = torch.where(mine, residual * (n / (n - 1)), residual)
        return residual, (variance + 0.1 * self.variance.mean() + 1e-8).sqrt()

    def forward(self, features: Tensor, place: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return the evidence of ``(B, C, h, w)`` features at ``place``; see :meth:`residual`."""
        residual, spread = self.residual(features, place, seen)
        residual = residual / spread
        return self._evidence(residual, residual.square().mean(1).clamp_min(1e-12).sqrt())
