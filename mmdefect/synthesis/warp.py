"""One warp for rotation, two shears, scale, flips and elastic deformation, applied to a defect and its mask together.

The canvas grows so that nothing is cut, and its sides stay odd or even as those of the patch are: pixels that are not
moved are not blurred, and a sample warped alone and in a batch with a larger canvas has the same pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdefect.synthesis.elastic import CONTROLS, displacement


def inverse_matrix(geometry: Tensor, flips: Tensor) -> Tensor:
    """Return the map from output to input offsets (x, y), both from the centre.

    The forward order is flip, scale, shear y, shear x, rotation.

    Args:
        geometry: ``(B, 5)`` float: rotation, shear x and shear y in degrees, scale x and scale y above 0. Rotation is
            counter-clockwise as seen in the image; a positive shear x moves lower rows to the right, a positive shear y
            moves columns on the right down.
        flips: ``(B, 2)`` float, -1 mirrors x or y.

    Returns:
        ``(B, 2, 2)``, differentiable in ``geometry``.
    """
    radians = geometry[:, :3] * (math.pi / 180)
    cosine, sine = radians[:, 0].cos(), radians[:, 0].sin()
    shear_x, shear_y = radians[:, 1:].tan().unbind(1)
    inner = 1 + shear_x * shear_y
    # scale^-1 shear_y^-1 shear_x^-1 rotation^-1, in closed form; rows of the image point down
    entries = torch.stack(
        (
            cosine - shear_x * sine,
            -sine - shear_x * cosine,
            inner * sine - shear_y * cosine,
            inner * cosine + shear_y * sine,
        ),
        dim=1,
    )
    return entries.view(-1, 2, 2) * (flips / geometry[:, 3:])[:, :, None]


def canvas_halves(inverse: Tensor, size_hw: tuple[int, int], fraction: Tensor | None = None) -> Tensor:
    """Return ``(B, 2)`` float64: half of height and width of the canvas that holds the warped patch and a soft edge.

    Args:
        inverse: ``(B, 2, 2)`` of :func:`inverse_matrix`.
        size_hw: of the patch.
        fraction: ``(B,)`` of the control spacing by which an elastic deformation moves pixels; None for none.
    """
    height, width = size_hw
    grow = [1.0] * len(inverse) if fraction is None else (1 / (1 - 2 * fraction / (CONTROLS - 3))).tolist()
    halves = []
    for ((a, b), (c, d)), more in zip(inverse.detach().tolist(), grow, strict=True):  # plain numbers: 5 times faster
        scale = more / (2 * abs(a * d - b * c))
        vertical, horizontal = (abs(c) * width + abs(a) * height) * scale, (abs(d) * width + abs(b) * height) * scale
        halves.append((whole_half(vertical, height), whole_half(horizontal, width)))
    return torch.tensor(halves, dtype=torch.float64)


def whole_half(half: float, size: int) -> float:
    """Return half of a side of the canvas: it holds ``half`` and a soft edge, and is odd or even as the patch is."""
    odd = size % 2 / 2
    return math.ceil(half + 1 - 1e-6 - odd) + odd


def supersampling(inverse: Tensor) -> list[int]:
    """Return for every sample how many points a side a pixel must average: 1, and more when the defect shrinks."""
    return [
        max(1, round(max(math.hypot(a, c), math.hypot(b, d)) - 0.01)) for (a, b), (c, d) in inverse.detach().tolist()
    ]


def warp(
    patch: Tensor, mask: Tensor, inverse: Tensor, halves: Tensor, control: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Warp patches and masks; colours are continued past the border of the patch, the mask is 0 there.

    A shrunk defect is averaged over the area of each new pixel: thin parts fade instead of falling between samples.

    Args:
        patch: ``(B, C, h, w)`` float; ``mask``: ``(B, 1, h, w)`` float in [0, 1].
        inverse: ``(B, 2, 2)`` of :func:`inverse_matrix`; ``halves``: ``(B, 2)`` of :func:`canvas_halves`.
        control: ``(B, 2, k, k)`` elastic controls, as fractions of the smaller control spacing on the sample's own
            canvas; None for none.

    Returns:
        patch: ``(B, C, h', w')`` clipped to [0, 1], on the largest canvas of the batch; samples are centred in it.
        mask: ``(B, 1, h', w')`` float in [0, 1].
    """
    points = supersampling(inverse)
    both = torch.cat((F.pad(patch, (1, 1, 1, 1), 'replicate'), F.pad(mask, (1, 1, 1, 1))), dim=1)
    canvas_hw = tuple(round(2 * half) for half in halves.amax(0).tolist())
    if len(set(points)) == 1:
        both = _sample(both, inverse, halves, control, canvas_hw, points[0])
    else:  # one by one: averaging over more points than a sample needs would change it in company
        both = torch.cat(
            [
                _sample(
                    both[i : i + 1],
                    inverse[i : i + 1],
                    halves[i : i + 1],
                    None if control is None else control[i : i + 1],
                    canvas_hw,
                    points[i],
                )
                for i in range(len(points))
            ]
        )
    both = both.clamp_(0, 1)
    return both[:, :-1], both[:, -1:]


def _sample(
    both: Tensor, inverse: Tensor, halves: Tensor, control: Tensor | None, canvas_hw: tuple[int, int], points: int
) -> Tensor:
    rows, columns = (torch.arange(size * points, dtype=both.dtype, device=both.device) for size in canvas_hw)
    rows, columns = ((line - (len(line) - 1) / 2) / points for line in (rows, columns))
    # pixels from the centre to [-1, 1] between the centres of the outermost pixels
    to_grid = inverse.to(both) * both.new_tensor([[2 / (both.shape[3] - 1)], [2 / (both.shape[2] - 1)]])
    along_x, along_y = to_grid[:, None, :, 0], to_grid[:, None, :, 1]
    grid = (rows[None, :, None] * along_y)[:, :, None] + (columns[None, :, None] * along_x)[:, None]
    if control is not None:
        own = halves.to(both)
        spacing = own.amin(1).view(-1, 1, 1, 1) * (2 / (CONTROLS - 3))
        moved = (to_grid @ (control.to(both) * spacing).flatten(2)).view(control.shape)
        grid = displacement(moved, rows / (2 * own[:, :1]) + 0.5, columns / (2 * own[:, 1:]) + 0.5, grid)
    both = F.grid_sample(both, grid, padding_mode='border', align_corners=True)
    return F.avg_pool2d(both, points) if points > 1 else both
