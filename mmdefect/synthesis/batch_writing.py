"""Write the defects of a whole batch: crop, blend, label and scatter as tensors, a few groups of one size at a time.

Defects of one image go in one after the other, since the second may lie on the first; the n-th defects of all
images go together. What a sample gets does not depend on its batch mates: sizes follow from the sample's own defect.
Nothing is read back from the device until all is written; then one small table holds all records.

Mixed gradients and the spectral blend go one by one, through ``tensor_writing``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from mmdefect.synthesis.batch_fitting import side_for
from mmdefect.synthesis.blending import blend
from mmdefect.synthesis.blending.alpha import rise
from mmdefect.synthesis.blending.batch_membrane import MembraneBatch, boundary_of, limit_steps, touches_border
from mmdefect.synthesis.blending.domain import PoissonFactor
from mmdefect.synthesis.geometry import overlap
from mmdefect.synthesis.pastes import LIMITED, Paste, limits_of
from mmdefect.synthesis.policy import PolicySpec
from mmdefect.synthesis.tensor_writing import limit_on_device
from mmdefect.synthesis.types import IGNORE_LABEL, Instance

#: Blends that are computed for a whole group.
BATCHED = ('alpha', 'feather', 'poisson')


@dataclass(frozen=True)
class _Member:
    """One paste in the window of its group: ``mask`` and ``core`` have the size of the window."""

    row: int
    paste: Paste
    top: int
    left: int
    mask: ndarray
    core: ndarray
    boundary: tuple[ndarray, ndarray] | None


def write_batch(
    images: Tensor, labels: Tensor, pastes: Sequence[Sequence[Paste]], store: Tensor, policy: PolicySpec, name_of
) -> tuple[list[list[Instance]], int]:
    """Write drawn defects into a batch, in place.

    Args:
        images: ``(B, C, H, W)`` float in [0, 1], RGB or one channel; contiguous.
        labels: ``(B, H, W)`` int64; contiguous.
        pastes: of each image, in their order.
        store: pixels of the donors, of :func:`~mmdefect.synthesis.batch_fitting.fit_batch`.
        policy: limits of the blends, and the label rule.
        name_of: returns the source of a donor by its index.

    Returns:
        The records of each image, and how many defects could not be seen and were left out.
    """
    written: list[tuple[int, int, Paste]] = []
    tables: list[Tensor] = []
    for turn in range(max(map(len, pastes), default=0)):
        groups: dict[tuple, list[_Member]] = defaultdict(list)
        for row, own in enumerate(pastes):
            if turn < len(own):
                key, member = _member(row, own[turn], tuple(images.shape[2:]))
                groups[key].append(member)
        for (size_hw, method, capacity, _), group in groups.items():
            tables.append(_write_group(images, labels, group, size_hw, method, capacity, store, policy))
            written += [(member.row, turn, member.paste) for member in group]
    records: list[dict[int, Instance]] = [{} for _ in pastes]
    rows = torch.cat(tables).cpu().tolist() if tables else []
    for (row, turn, paste), (seen, area, top, left, bottom, right, limited) in zip(written, rows, strict=True):
        if seen:
            parameters = {**paste.parameters, LIMITED: limited} if limited else paste.parameters
            records[row][turn] = Instance(
                paste.class_id,
                (int(top), int(left), int(bottom), int(right)),
                int(area),
                name_of(paste.donor),
                'paste',
                paste.blend,
                parameters,
            )
    return [[own[turn] for turn in sorted(own)] for own in records], len(written) - sum(map(len, records))


def _member(row: int, paste: Paste, frame_hw: tuple[int, int]) -> tuple[tuple, _Member]:
    """Return the group of a paste, and the paste in a window that lies in the frame."""
    frame, part = overlap(paste.mask.shape, paste.corner, frame_hw)
    side = side_for(max(paste.mask.shape))
    size_hw = tuple(min(side, length) for length in frame_hw)
    top, left = (min(place.start, length - size) for place, length, size in zip(frame, frame_hw, size_hw, strict=True))
    inside = (slice(frame[0].start - top, frame[0].stop - top), slice(frame[1].start - left, frame[1].stop - left))
    mask, core = np.zeros(size_hw, bool), np.zeros(size_hw, bool)
    mask[inside], core[inside] = paste.mask[part], paste.core[part]
    boundary, capacity, at_border = None, 0, False
    if paste.blend == 'poisson':
        boundary, at_border = boundary_of(mask), touches_border(mask)
        capacity = max(4 * side, side_for(len(boundary[0]) + len(boundary[1])))  # of most masks four times their side
    method = paste.blend if paste.blend in BATCHED else f'{paste.blend}-{row}'
    return (size_hw, method, capacity, at_border), _Member(row, paste, top, left, mask, core, boundary)


def _write_group(
    images: Tensor,
    labels: Tensor,
    group: list[_Member],
    size_hw: tuple[int, int],
    method: str,
    capacity: int,
    store: Tensor,
    policy: PolicySpec,
) -> Tensor:
    """Write pastes of different images; return ``(n, 7)``: seen, area, box, share of the outline that was limited."""
    channels, (height, width), device = images.shape[1], images.shape[2:], images.device
    places = _places(group, size_hw, (height, width), device)
    image_rows = images.view(len(images), channels, -1)
    photos = torch.tensor([member.row for member in group], device=device)
    target = image_rows[photos[:, None], :, places].transpose(1, 2).reshape(len(group), channels, *size_hw)
    source = _sources(group, size_hw, store, channels).to(images.dtype)
    mask, core = (
        torch.from_numpy(np.stack([getattr(member, name) for member in group])).to(device) for name in ('mask', 'core')
    )
    limited = target.new_zeros(len(group))
    if method == 'poisson':
        pixels, limited = _poisson(target, source, mask, group, size_hw, capacity, limits_of(policy))
    elif method == 'feather':
        share = np.stack([rise(member.mask, 2.0) for member in group])
        pixels = torch.lerp(target, source, torch.from_numpy(share).to(target)[:, None].expand_as(target))
    elif method == 'alpha':
        pixels = torch.where(mask[:, None], source, target)
    else:
        pixels, limited = _alone(group[0], target, source, limits_of(policy))
    visible = _visible(target, pixels, mask, core, policy)
    area, needed = visible.flatten(1).sum(1), (mask & core).flatten(1).sum(1) * policy.min_visible
    seen = (area > 0) & (area >= needed)
    pixels = torch.where((mask & seen[:, None, None])[:, None], pixels, target)
    image_rows[photos[:, None], :, places] = pixels.flatten(2).transpose(1, 2)
    label_rows = labels.view(len(labels), -1)
    old = label_rows[photos[:, None], places]
    classes = torch.tensor([[member.paste.class_id] for member in group], device=device)
    marked = (visible & seen[:, None, None]).flatten(1) & (old != IGNORE_LABEL)
    label_rows[photos[:, None], places] = torch.where(marked, classes.to(old.dtype), old)
    corners = torch.tensor([[member.top, member.left] for member in group], device=device)
    return torch.cat([seen[:, None], area[:, None], _boxes(visible, corners), limited[:, None]], 1).double()


def _places(group: list[_Member], size_hw: tuple[int, int], frame_hw: tuple[int, int], device: torch.device) -> Tensor:
    """Return ``(n, h w)`` places of the windows in the flattened frame."""
    starts = torch.tensor([member.top * frame_hw[1] + member.left for member in group], device=device)
    rows, columns = (torch.arange(size, device=device) for size in size_hw)
    return starts[:, None] + (rows[:, None] * frame_hw[1] + columns).flatten()


def _sources(group: list[_Member], size_hw: tuple[int, int], store: Tensor, channels: int) -> Tensor:
    """Return ``(n, C, h, w)`` pixels of the donors in the windows; beyond a canvas its border goes on."""
    facts = []
    for member in group:
        stored, corner = member.paste.stored, member.paste.corner
        facts.append(
            [
                stored.base,
                stored.pitch,
                *stored.canvas_hw,
                member.top - corner[0] + stored.top_left_rc[0],
                member.left - corner[1] + stored.top_left_rc[1],
            ]
        )
    base, pitch, height, width, top, left = torch.tensor(facts, device=store.device).T[..., None]
    zero = torch.zeros_like(base)
    rows, columns = (torch.arange(size, device=store.device) for size in size_hw)
    rows = torch.minimum(torch.maximum(rows + top, zero), height - 1)
    columns = torch.minimum(torch.maximum(columns + left, zero), width - 1)
    source = store[:, (base + rows * pitch)[:, :, None] + columns[:, None]].transpose(0, 1)
    return source if channels == 3 else source.mean(1, keepdim=True)


def _poisson(
    target: Tensor,
    source: Tensor,
    mask: Tensor,
    group: list[_Member],
    size_hw: tuple[int, int],
    capacity: int,
    limits: tuple[float, float],
) -> tuple[Tensor, Tensor]:
    membranes = MembraneBatch([member.boundary for member in group], size_hw, capacity, target)
    beside = membranes.beside[:, None].expand(-1, target.shape[1], -1)
    step = (target - source).flatten(2).gather(2, beside)
    step, limited = limit_steps(step, membranes.counts, *limits)
    pasted = (source + membranes.extend(step)).clamp_(0, 1)
    return torch.where(mask[:, None], pasted, target), limited


def _alone(member: _Member, target: Tensor, source: Tensor, limits: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Blend one paste in its own crop: the spectral blend works on the whole of it."""
    frame, part = overlap(member.paste.mask.shape, member.paste.corner, (2**31, 2**31))
    top, left = frame[0].start - member.top, frame[1].start - member.left
    crop = (
        slice(top, min(frame[0].stop - member.top, target.shape[2])),
        slice(left, min(frame[1].stop - member.left, target.shape[3])),
    )
    mask = torch.from_numpy(member.mask[crop]).to(target.device)
    old, new, factor, limited = target[0][:, *crop], source[0][:, *crop], None, 0.0
    if member.paste.blend.startswith('poisson'):
        factor = PoissonFactor(mask)
        new, limited = limit_on_device(old, new, factor, limits)
    pixels = target.clone()
    pixels[0][:, *crop] = blend(old, new, mask[None], member.paste.blend, factor=factor)
    return pixels, target.new_tensor([limited])


def _visible(target: Tensor, pixels: Tensor, mask: Tensor, core: Tensor, policy: PolicySpec) -> Tensor:
    """Return the pixels that get the label of the defect, ``(n, h, w)`` bool."""
    changed = ((pixels - target).abs().amax(1) > policy.tolerance) & mask
    if policy.label == 'visible' or policy.label_radius < 1:
        return changed
    size = 2 * policy.label_radius + 1
    near = torch.nn.functional.max_pool2d(changed[:, None].float(), size, 1, policy.label_radius)[:, 0] > 0
    return changed | (near & mask & core)


def _boxes(visible: Tensor, corners: Tensor) -> Tensor:
    """Return top, left, bottom and right of the set pixels in the frame, ``(n, 4)``; without any they mean nothing."""
    sides = []
    for axis in (2, 1):
        shown = visible.any(axis).to(torch.uint8)
        sides.append((shown.argmax(1), shown.shape[1] - shown.flip(1).argmax(1)))
    (top, bottom), (left, right) = sides
    return torch.stack([top, left, bottom, right], 1) + corners.repeat(1, 2)
