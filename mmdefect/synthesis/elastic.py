"""Smooth, fold-free elastic deformation: a small grid of cubic B-spline controls, evaluated as two matrix products.

With control points that move by at most ``fraction`` of their spacing, the slope of the displacement stays below
``4 * fraction``. Below a quarter no two points change places, so a defect keeps its topology.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Controls per axis; cubic splines with six controls have three intervals over the defect.
CONTROLS = 6
MAX_FRACTION = 0.25


def check_fraction(name: str, fraction_range: tuple[float, float]) -> None:
    """Raise when the deformation could fold."""
    if len(fraction_range) != 2 or not 0 <= fraction_range[0] <= fraction_range[1] < MAX_FRACTION:
        raise ValueError(
            f'`{name}` must satisfy 0 <= low <= high < {MAX_FRACTION}, got {fraction_range!r}. It is a '
            'fraction of the spacing of the control points; at a quarter the deformation could fold.'
        )


def spline_basis(positions: Tensor, controls: int = CONTROLS) -> Tensor:
    """Return the weight of every control at every position.

    Args:
        positions: ``(..., N)`` float, 0 at the first and 1 at the last end of the support; outside they are clamped.

    Returns:
        ``(..., N, controls)``, rows sum to 1.
    """
    place = positions.clamp(0, 1).mul(controls - 3)[..., None] + 1
    distance = (place - torch.arange(controls, dtype=positions.dtype, device=positions.device)).abs_()
    near = (distance * 0.5 - 1) * distance * distance + 2 / 3
    far = (2 - distance).clamp_(min=0).pow(3) / 6
    return torch.where(distance < 1, near, far)


def displacement(control: Tensor, rows: Tensor, columns: Tensor, base: Tensor | float = 0.0) -> Tensor:
    """Evaluate control points on a grid of pixels.

    Args:
        control: ``(B, 2, k, k)`` float, displacements along x and y.
        rows: ``(B, H)`` float positions, 0 to 1 over the support; ``columns``: ``(B, W)`` likewise.
        base: ``(B, H, W, 2)`` to add to.

    Returns:
        ``(B, H, W, 2)`` in the unit of the controls.
    """
    batch, _, controls, _ = control.shape
    height, width = rows.shape[1], columns.shape[1]
    vertical, horizontal = spline_basis(torch.cat((rows, columns), 1), controls).split((height, width), dim=1)
    # x and y side by side, so that the large product writes the layout that grid_sample reads
    across = horizontal.new_zeros(batch, controls, 2, width, 2)
    across[:, :, 0, :, 0] = horizontal.mT
    across[:, :, 1, :, 1] = horizontal.mT
    down = vertical @ control.permute(0, 2, 3, 1).reshape(batch, controls, -1)
    across = across.view(batch, 2 * controls, 2 * width)
    if isinstance(base, Tensor):
        return torch.baddbmm(base.reshape(batch, height, -1), down, across).view(batch, height, width, 2)
    return (down @ across).view(batch, height, width, 2) + base
