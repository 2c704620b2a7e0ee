"""Warp the donors of a whole batch on its device: a few groups of one size, one set of kernels each.

A sample is laid into arrays whose size follows from its own size alone, at their top left corner: what it looks like
does not depend on its batch mates. The pixels stay on the device in one flat store; only the masks come back, once a batch,
for the search of places.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy import ndarray
from torch import Tensor

from mmdefect.synthesis.array_fitting import cut_window, window_around
from mmdefect.synthesis.array_operations import Canvas, canvas_of
from mmdefect.synthesis.augment import VANISHED_SHARE, harden
from mmdefect.synthesis.color import adjust_color
from mmdefect.synthesis.donor_fitting import FittedDonor, StoredPatch, fit, grown, grown_pixels
from mmdefect.synthesis.drawing import Plan
from mmdefect.synthesis.drawn_operations import DrawnOperations
from mmdefect.synthesis.elastic import CONTROLS, displacement

#: Sides of the square arrays that samples are laid into: few, since each makes a group with kernels of its own.
SIDES = (32, 64, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class _Member:
    plan: int
    image: ndarray
    core: ndarray
    shown: ndarray | None
    operations: DrawnOperations
    canvas: Canvas


def side_for(length: int) -> int:
    """Return the smallest side of :data:`SIDES` that holds a length."""
    for side in SIDES:
        if length <= side:
            return side
    raise ValueError(f'`length` must be at most {SIDES[-1]}, got {length}; lower `max_extent` of the policy.')


def fit_batch(plans: Sequence[Plan], grow: int, device: torch.device) -> tuple[list[FittedDonor], Tensor]:
    """Warp and colour the donors of many plans.

    Args:
        plans: what is drawn.
        grow: see :class:`~mmdefect.synthesis.policy.PolicySpec`.
        device: where the pixels are made, and stay.

    Returns:
        The donors in the order of the plans, their masks on the CPU; and the flat store of their pixels, ``(3, P)``
        float32 in [0, 1], RGB.
    """
    groups: dict[tuple[int, int], list[_Member]] = defaultdict(list)
    for index, plan in enumerate(plans):
        image, core, shown = fit(plan.donor.image, plan.donor.mask, plan.scale_yx)
        canvas = canvas_of(plan.operations, core.shape)
        groups[canvas.points, side_for(max(*core.shape, *canvas.size_hw) + 2)].append(
            _Member(index, image, core, shown, plan.operations, canvas)
        )
    stores, masks, members, bases, base = [], [], [], [], 0
    for (points, side), group in groups.items():
        colours, core, shown = _warp_group(group, points, side, device)
        stores.append(colours.transpose(0, 1).reshape(3, -1))
        masks.append(torch.stack([core, shown], 1).reshape(-1))
        for member in group:
            members.append((member, side))
            bases.append(base)
            base += side * side
    if not members:
        return [], torch.empty(3, 0, device=device)
    found = torch.cat(masks).cpu().numpy()  # the one wait for the device
    fitted: list[FittedDonor | None] = [None] * len(plans)
    for (member, side), start in zip(members, bases, strict=True):
        core, shown = found[2 * start : 2 * (start + side * side)].reshape(2, side, side)
        fitted[member.plan] = _cut_member(
            member, side, start, core, shown, grown_pixels(grow, plans[member.plan].scale_yx, member.operations)
        )
    return fitted, torch.cat(stores, 1)


def _cut_member(member: _Member, side: int, base: int, core: ndarray, shown: ndarray, grow: int) -> FittedDonor:
    height, width = member.canvas.size_hw
    core = core[:height, :width]
    window = window_around(core, grow + 1)
    if window is None:
        return FittedDonor(None, core, core, stored=StoredPatch(base, side, (height, width), (0, 0)))
    core_cut = cut_window(core.view(np.uint8), window, cv2.BORDER_CONSTANT).view(bool)
    region = grown(core_cut, grow)
    if member.shown is not None:
        around = cut_window(shown[:height, :width].view(np.uint8), window, cv2.BORDER_REPLICATE).view(bool)
        region &= around | core_cut
    return FittedDonor(None, core_cut, region, stored=StoredPatch(base, side, (height, width), (window[0], window[2])))


def _warp_group(group: list[_Member], points: int, side: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return colours ``(n, 3, S, S)`` in [0, 1], core and shown ``(n, S, S)`` bool of members of one kind."""
    pixels = np.empty((len(group), side, side, 3), np.uint8)
    others = np.empty((len(group), 2, side, side), np.float32)
    for place, member in enumerate(group):
        borders = 1, side - member.core.shape[0] - 1, 1, side - member.core.shape[1] - 1
        pixels[place] = cv2.copyMakeBorder(np.ascontiguousarray(member.image), *borders, cv2.BORDER_REPLICATE)
        others[place, 0] = (
            1 if member.shown is None else cv2.copyMakeBorder(member.shown, *borders, cv2.BORDER_REPLICATE)
        )
        others[place, 1] = cv2.copyMakeBorder(member.core, *borders, cv2.BORDER_CONSTANT)
    patch = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float().mul_(1 / 255)
    layers = torch.from_numpy(others).to(device)
    values = torch.tensor([member.operations.values[5:] for member in group], dtype=torch.float64)
    patch = adjust_color(patch.flatten(2), values, layers[:, 1].flatten(1), clip=False).view(patch.shape)
    grid = _grid(group, points, side, device)
    both = F.grid_sample(torch.cat([patch, layers], 1), grid, padding_mode='border', align_corners=True)
    if points > 1:
        both = F.avg_pool2d(both, points)
    both = both.clamp_(0, 1)
    # As `augment` does: what sampling lowered is raised again, and a defect of which nearly nothing is left is gone.
    # Every peak was 1, and hardening compares with the new peak anyway.
    peak = both[:, 4:].amax((2, 3), keepdim=True)
    core = harden(torch.where(peak > VANISHED_SHARE, both[:, 4:], 0))[:, 0]
    return both[:, :3], core, both[:, 3] > 0.5


def _grid(group: list[_Member], points: int, side: int, device: torch.device) -> Tensor:
    """Return where ``grid_sample`` reads each point of the canvases, ``(n, S p, S p, 2)``."""

    def column(numbers: list) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float32).to(device)

    sizes = [member.canvas.size_hw for member in group]
    middles = column([[(height * points - 1) / 2, (width * points - 1) / 2] for height, width in sizes])
    line = torch.arange(side * points, dtype=torch.float32, device=device)
    rows, columns = ((line - middles[:, axis : axis + 1]) / points for axis in (0, 1))
    to_grid = 2 / (side - 1)
    inverse = column([member.canvas.inverse for member in group]).view(-1, 2, 2) * to_grid
    centre = column([[1 + (member.core.shape[1] - 1) / 2, 1 + (member.core.shape[0] - 1) / 2] for member in group])
    down, across = rows[:, :, None] * inverse[:, None, :, 1], columns[:, :, None] * inverse[:, None, :, 0]
    grid = down[:, :, None] + across[:, None]
    grid = grid + (centre * to_grid - 1)[:, None, None]
    if not any(member.operations.elastic for member in group):
        return grid
    steps = [member.operations.elastic * member.canvas.control_step for member in group]
    control = np.zeros((len(group), 2, CONTROLS, CONTROLS))
    for own, member, step in zip(control, group, steps, strict=True):
        if step:
            own[:] = member.operations.control * step
    moved = (inverse @ torch.from_numpy(control).float().to(device).flatten(2)).view(control.shape)
    lengths = column([[2 * member.canvas.half_y, 2 * member.canvas.half_x] for member in group])
    return displacement(moved, rows / lengths[:, :1] + 0.5, columns / lengths[:, 1:] + 0.5, grid)
