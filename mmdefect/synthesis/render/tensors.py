"""Render the pastes of a batch as tensors, on any device, with gradients of learned ranges.

Donors are warped and coloured in a few groups of one size, one set of kernels each; the pixels stay on the device in
one flat store, and only the masks come back, once a batch, for the search of places. Then the first defects of all
images are blended, labelled and written together, then the second ones, which may lie on the first.

A sample is laid into arrays whose size follows from its own size alone, at their top left corner: what it looks like
does not depend on its batch mates. The spectral blend goes one by one.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy import ndarray
from torch import Tensor

from mmdefect.synthesis.operations import CONTROLS, VANISHED_SHARE, adjust_color, inverse_matrix
from mmdefect.synthesis.places import cut_box
from mmdefect.synthesis.poisson.blends import mixed_guidance, spectral_blend
from mmdefect.synthesis.poisson.membrane import MembraneBatch, boundary_of, limit_step, touches_border
from mmdefect.synthesis.policy import PolicySpec
from mmdefect.synthesis.records import Instance, instance_at, labelled_pixels, write_label
from mmdefect.synthesis.render.arrays import LIMITED, Canvas, boxed, canvas_of, feather_weights, fit, spline_basis
from mmdefect.synthesis.sampler import FittedDonor, Paste, Plan

#: Sides of the square arrays that samples are laid into: few, since each makes a group with kernels of its own.
SIDES = (32, 64, 128, 256, 512, 1024, 2048, 4096)


def side_for(length: int) -> int:
    """Return the smallest side of :data:`SIDES` that holds a length."""
    if length > SIDES[-1]:
        raise ValueError(f'a defect must be at most {SIDES[-1]} pixels long, got {length}; lower `max_extent`.')
    return next(side for side in SIDES if length <= side)


@dataclass(frozen=True)
class _Stored:
    """Where the pixels of a patch lie in the flat store of a batch.

    The canvas begins at ``base``, its rows are ``pitch`` pixels apart, and beyond it its border goes on; the patch may
    begin before it.
    """

    base: int
    pitch: int
    canvas_hw: tuple[int, int]
    top_left_rc: tuple[int, int]


@dataclass(frozen=True)
class _Donor:
    """A donor to be warped: its place among the plans, and what :func:`~mmdefect.synthesis.render.arrays.fit` made."""

    index: int
    plan: Plan
    canvas: Canvas
    image: ndarray
    core: ndarray
    shown: ndarray | None


def fit_donors(plans: Sequence[Plan], like: Tensor) -> tuple[list[FittedDonor], Tensor]:
    """Warp and colour the donors of many plans; dtype and device are those of ``like``.

    Returns:
        The donors in the order of the plans, their masks on the CPU; and the flat store of their pixels, ``(3, P)``
        in [0, 1], RGB. It carries the gradient of ranges that are learned.
    """
    groups: dict[tuple[int, int], list[_Donor]] = defaultdict(list)
    for index, plan in enumerate(plans):
        image, core, shown = fit(plan.donor, plan.scale_yx)
        canvas = canvas_of(plan.operations, core.shape)
        key = canvas.points, side_for(max(*core.shape, *canvas.size_hw) + 2)
        groups[key].append(_Donor(index, plan, canvas, image, core, shown))
    if not groups:
        return [], like.new_empty(3, 0)
    stores, masks, donors, base = [], [], [], 0
    for (points, side), group in groups.items():
        colours, core, shown = _warp(group, points, side, like)
        stores.append(colours.transpose(0, 1).reshape(3, -1))
        masks.append(torch.stack([core, shown], 1).reshape(-1))
        for donor in group:
            donors.append((donor, side, base))
            base += side * side
    found = torch.cat(masks).cpu().numpy()  # the one wait for the device
    fitted: list[FittedDonor | None] = [None] * len(plans)
    for donor, side, base in donors:
        height, width = donor.canvas.size_hw
        core, shown = found[2 * base : 2 * (base + side * side)].reshape(2, side, side)[:, :height, :width]
        cut = boxed(core, donor.plan.grow)
        if cut is None:
            fitted[donor.index] = FittedDonor(core, core)
            continue
        core, region, box = cut
        if donor.shown is not None:
            region &= (cut_box(shown.view(np.uint8), box, cv2.BORDER_REPLICATE) > 0) | core
        stored = _Stored(base, side, (height, width), (box[0], box[2]))
        fitted[donor.index] = FittedDonor(core, region, stored=stored)
    return fitted, torch.cat(stores, 1)


def _warp(group: list[_Donor], points: int, side: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return colours ``(n, 3, S, S)`` in [0, 1], core and shown ``(n, S, S)`` bool of donors of one kind."""
    pixels = np.empty((len(group), side, side, 3), np.uint8)
    others = np.ones((len(group), 2, side, side), np.float32)
    for place, donor in enumerate(group):
        borders = 1, side - donor.core.shape[0] - 1, 1, side - donor.core.shape[1] - 1
        pixels[place] = cv2.copyMakeBorder(np.ascontiguousarray(donor.image), *borders, cv2.BORDER_REPLICATE)
        if donor.shown is not None:
            others[place, 0] = cv2.copyMakeBorder(donor.shown, *borders, cv2.BORDER_REPLICATE)
        others[place, 1] = cv2.copyMakeBorder(donor.core, *borders, cv2.BORDER_CONSTANT)
    patch = torch.from_numpy(pixels).to(like.device).permute(0, 3, 1, 2).to(like.dtype) * (1 / 255)
    layers = torch.from_numpy(others).to(like)
    values = torch.tensor([donor.plan.operations.values for donor in group], dtype=torch.float64)
    learned = [donor.plan.ranges.is_learned and donor.plan.place != 'source' for donor in group]
    if any(learned):
        pairs = zip(group, values, learned, strict=True)
        values = torch.stack([donor.plan.ranges.follow(v) if follows else v for donor, v, follows in pairs])
    patch = adjust_color(patch.flatten(2), values[:, 5:], layers[:, 1].flatten(1), clip=False).view(patch.shape)
    grid = _grid(group, values, points, side, like)
    both = F.grid_sample(torch.cat([patch, layers], 1), grid, padding_mode='border', align_corners=True)
    if points > 1:
        both = F.avg_pool2d(both, points)
    both = both.clamp(0, 1)
    # What sampling lowered is raised again, and a defect of which nearly nothing is left is gone. Every peak was 1, so
    # that half of the new peak is the outline.
    core = both[:, 4].detach()
    peak = core.amax((1, 2), keepdim=True)
    core = (core >= 0.5 * peak) & (core > 0) & (peak > VANISHED_SHARE)
    return both[:, :3], core, both[:, 3].detach() > 0.5


def _grid(group: list[_Donor], values: Tensor, points: int, side: int, like: Tensor) -> Tensor:
    """Return where ``grid_sample`` reads each point of the canvases, ``(n, S p, S p, 2)``."""
    flips = torch.tensor([donor.plan.operations.flips for donor in group], dtype=torch.float64)
    entries = inverse_matrix(values.unbind(1), flips.unbind(1), torch)
    to_grid = 2 / (side - 1)
    inverse = torch.stack(entries, 1).view(-1, 2, 2).to(like) * to_grid
    facts = []
    for donor in group:
        (height, width), canvas, operations = donor.canvas.size_hw, donor.canvas, donor.plan.operations
        middle = (height * points - 1) / 2, (width * points - 1) / 2
        centre = 1 + (donor.core.shape[1] - 1) / 2, 1 + (donor.core.shape[0] - 1) / 2
        facts.append([*middle, *centre, 2 * canvas.half_y, 2 * canvas.half_x, operations.elastic * canvas.control_step])
    facts = torch.tensor(facts, dtype=torch.float64).to(like)
    line = torch.arange(side * points, dtype=like.dtype, device=like.device)
    rows, columns = ((line - facts[:, axis : axis + 1]) / points for axis in (0, 1))
    down, across = rows[:, :, None] * inverse[:, None, :, 1], columns[:, :, None] * inverse[:, None, :, 0]
    grid = down[:, :, None] + across[:, None] + (facts[:, 2:4] * to_grid - 1)[:, None, None]
    if not any(donor.plan.operations.elastic for donor in group):
        return grid
    still = np.zeros((2, CONTROLS, CONTROLS))
    controls = [still if donor.plan.operations.control is None else donor.plan.operations.control for donor in group]
    controls = torch.from_numpy(np.stack(controls)).to(like) * facts[:, 6, None, None, None]
    moved = (inverse @ controls.flatten(2)).view(controls.shape)
    return grid + displacement(moved, rows / facts[:, 4:5] + 0.5, columns / facts[:, 5:6] + 0.5)


def displacement(control: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Evaluate ``(B, 2, k, k)`` controls at ``(B, H)`` rows and ``(B, W)`` columns in [0, 1]: ``(B, H, W, 2)``."""
    order = torch.arange(CONTROLS, dtype=control.dtype, device=control.device)
    vertical, horizontal = (spline_basis(line.clamp(0, 1), order, torch.clamp_min) for line in (rows, columns))
    # x and y side by side, so that the large product writes the layout that grid_sample reads
    across = torch.einsum('bwj,xy->bjxwy', horizontal, torch.eye(2, dtype=control.dtype, device=control.device))
    down = vertical @ control.permute(0, 2, 3, 1).flatten(2)
    return (down @ across.flatten(1, 2).flatten(2)).view(len(control), rows.shape[1], columns.shape[1], 2)


@dataclass(frozen=True)
class _Member:
    """One paste in the window of its group: ``mask`` and ``core`` have the size of the window."""

    row: int
    turn: int
    paste: Paste
    top: int
    left: int
    mask: ndarray
    core: ndarray
    boundary: tuple[ndarray, ndarray] | None


def write_pastes(
    images: Tensor, labels: Tensor, pastes: Sequence[Sequence[Paste]], store: Tensor, policy: PolicySpec
) -> tuple[list[list[Instance]], int]:
    """Write pastes into a batch, in place; nothing is read back from the device until all is written.

    Args:
        images: ``(B, C, H, W)`` float in [0, 1], RGB or one channel; contiguous.
        labels: ``(B, H, W)`` int64; contiguous.
        pastes: of each image, in their order.
        store: pixels of the donors, of :func:`fit_donors`.
        policy: limits of the blends, and the label rule.

    Returns the records of each image, and how many defects could not be seen and were left out.
    """
    written: list[_Member] = []
    labelled, limited = [], []
    for turn in range(max(map(len, pastes), default=0)):
        groups: dict[tuple, list[_Member]] = defaultdict(list)
        for row, own in enumerate(pastes):
            if turn < len(own):
                key, member = _member(row, turn, own[turn], tuple(images.shape[2:]))
                groups[key].append(member)
        for (size_hw, method, capacity, _), group in groups.items():
            seen, share = _write_group(images, labels, group, size_hw, method, capacity, store, policy)
            labelled.append(seen.flatten())
            limited.append(share)
            written += group
    if not written:
        return [[] for _ in pastes], 0
    found, shares, start = torch.cat(labelled).cpu().numpy(), torch.cat(limited).tolist(), 0
    records: list[dict[int, Instance]] = [{} for _ in pastes]
    for member, share in zip(written, shares, strict=True):
        seen = found[start : start + member.mask.size].reshape(member.mask.shape)
        start += member.mask.size
        if seen.any():
            paste = member.paste
            parameters = {**paste.parameters, LIMITED: share} if share else paste.parameters
            facts = paste.class_id, paste.source, 'paste', paste.blend, parameters
            records[member.row][member.turn] = instance_at(seen, (member.top, member.left), *facts)
    return [[own[turn] for turn in sorted(own)] for own in records], len(written) - sum(map(len, records))


def _member(row: int, turn: int, paste: Paste, frame_hw: tuple[int, int]) -> tuple[tuple, _Member]:
    """Return the group of a paste, and the paste in a window that lies in the frame."""
    side = side_for(max(paste.mask.shape))
    size_hw = tuple(min(side, length) for length in frame_hw)
    top, left = (
        min(place.start, length - size) for place, length, size in zip(paste.frame, frame_hw, size_hw, strict=True)
    )
    rows, columns = paste.frame
    inside = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    mask, core = np.zeros(size_hw, bool), np.zeros(size_hw, bool)
    mask[inside], core[inside] = paste.mask[paste.part], paste.fitted.core[paste.part]
    boundary, method, capacity, at_border = None, paste.blend, 0, False
    if method.startswith('poisson'):
        boundary, at_border = boundary_of(mask), touches_border(mask)
        capacity = max(4 * side, side_for(len(boundary[0]) + len(boundary[1])))  # of most masks four times their side
    elif method not in ('alpha', 'feather'):
        method = f'{method}-{row}'  # a group of its own
    return (size_hw, method, capacity, at_border), _Member(row, turn, paste, top, left, mask, core, boundary)


def _write_group(
    images: Tensor,
    labels: Tensor,
    group: list[_Member],
    size_hw: tuple[int, int],
    method: str,
    capacity: int,
    store: Tensor,
    policy: PolicySpec,
) -> tuple[Tensor, Tensor]:
    """Write pastes of different images; return what was labelled, ``(n, h, w)``, and limited shares of the outlines."""
    channels, width, device = images.shape[1], images.shape[3], images.device
    starts = torch.tensor([member.top * width + member.left for member in group], device=device)
    rows, columns = (torch.arange(size, device=device) for size in size_hw)
    places = starts[:, None] + (rows[:, None] * width + columns).flatten()  # of the windows in the flattened frame
    image_rows = images.view(len(images), channels, -1)
    owners = torch.tensor([member.row for member in group], device=device)[:, None]
    target = image_rows[owners, :, places].transpose(1, 2).reshape(len(group), channels, *size_hw)
    source = _sources(group, size_hw, store, channels)
    mask, core = (
        torch.from_numpy(np.stack([getattr(member, name) for member in group])).to(device) for name in ('mask', 'core')
    )
    limits, limited = (policy.max_boundary_shade, policy.max_boundary_cast), target.new_zeros(len(group))
    if method.startswith('poisson'):
        membranes = MembraneBatch([member.boundary for member in group], size_hw, capacity, target)
        beside = membranes.beside[:, None].expand(-1, channels, -1)
        given = (target - source).flatten(2).gather(2, beside)
        step, limited = limit_step(given, *limits, membranes.counts)
        if method == 'poisson':
            pixels = (source + membranes.extend(step)).clamp(0, 1)
        else:
            source = source.flatten(2).scatter_add(2, beside, given - step).view_as(source)
            pixels = (target + membranes.solve(mixed_guidance(target, source) * mask[:, None])).clamp(0, 1)
    elif method == 'feather':
        share = np.stack([feather_weights(member.mask) for member in group])
        pixels = torch.lerp(target, source, torch.from_numpy(share).to(target)[:, None].expand_as(target))
    elif method == 'alpha':
        pixels = source
    else:
        pixels = _blend_spectral(group[0], target, source)
    pixels = torch.where(mask[:, None], pixels, target)
    labelled = labelled_pixels(pixels, target, mask, core, policy)
    seen = labelled.flatten(1).any(1)
    pixels = torch.where(seen[:, None, None, None], pixels, target)
    image_rows[owners, :, places] = pixels.flatten(2).transpose(1, 2)
    label_rows = labels.view(len(labels), -1)
    old = label_rows[owners, places]
    classes = torch.tensor([[member.paste.class_id] for member in group], device=device)
    write_label(old, labelled.flatten(1), classes.to(old.dtype))
    label_rows[owners, places] = old
    return labelled, limited.detach()


def _sources(group: list[_Member], size_hw: tuple[int, int], store: Tensor, channels: int) -> Tensor:
    """Return ``(n, C, h, w)`` pixels of the donors in the windows; beyond a canvas its border goes on."""
    facts = []
    for member in group:
        stored, (top, left) = member.paste.fitted.stored, member.paste.corner
        offset = member.top - top + stored.top_left_rc[0], member.left - left + stored.top_left_rc[1]
        facts.append([stored.base, stored.pitch, *stored.canvas_hw, *offset])
    base, pitch, height, width, top, left = torch.tensor(facts, device=store.device).T[..., None]
    zero = torch.zeros_like(base)
    rows, columns = (torch.arange(size, device=store.device) for size in size_hw)
    rows = torch.minimum(torch.maximum(rows + top, zero), height - 1)
    columns = torch.minimum(torch.maximum(columns + left, zero), width - 1)
    source = store[:, (base + rows * pitch)[:, :, None] + columns[:, None]].transpose(0, 1)
    return source if channels == 3 else source.mean(1, keepdim=True)


def _blend_spectral(member: _Member, target: Tensor, source: Tensor) -> Tensor:
    """Blend one paste in its own crop: the spectral blend works on the whole of it."""
    rows, columns = member.paste.frame
    rows = slice(rows.start - member.top, rows.stop - member.top)
    columns = slice(columns.start - member.left, columns.stop - member.left)
    mask, pixels = torch.from_numpy(member.mask[rows, columns])[None].to(target.device), target.clone()
    pixels[0, :, rows, columns] = spectral_blend(target[0, :, rows, columns], source[0, :, rows, columns], mask)
    return pixels
