"""Bring a donor to the scale and pose of a picture, and apply the operations that were drawn for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy import ndarray
from torch import Tensor

from mmdefect.synthesis.array_operations import operate
from mmdefect.synthesis.augment import VALUES, Operations, apply_operations, harden
from mmdefect.synthesis.color import adjust_color
from mmdefect.synthesis.donors import Donor
from mmdefect.synthesis.elastic import CONTROLS
from mmdefect.synthesis.warp import canvas_halves, inverse_matrix, warp


@dataclass(frozen=True)
class FittedDonor:
    """A donor as it is pasted, with some pixels around the defect.

    Attributes:
        patch: ``(3, h, w)`` float32 in [0, 1], RGB.
        core: ``(h, w)`` bool, the defect.
        region: ``(h, w)`` bool, what is pasted: the defect and what was asked for around it that shows the object.
    """

    patch: Tensor
    core: ndarray
    region: ndarray


def prepare(donor: Donor, scale_yx: tuple[float, float], operations: Operations, grow: int = 0,
            backend: str = 'torch') -> FittedDonor:
    """Return a donor as it is pasted, with a ring of one pixel around the region.

    Args:
        donor: the donor at the resolution of its file.
        scale_yx: pixels of the picture per pixel of the file, down and across; negative: flipped.
        operations: what was drawn.
        grow: pixels of the donor's file by which the pasted region exceeds the defect, see :func:`grown_pixels`.
        backend: 'torch', or 'numpy' for the same in less time, up to rounding.
    """
    grow = grown_pixels(grow, scale_yx, operations)
    if backend == 'numpy':
        return _prepare_arrays(donor, scale_yx, operations, grow)
    image, mask, on_object = fit(donor.image, donor.mask, scale_yx)
    patch = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float().mul_(1 / 255)
    if on_object is not None:  # an outline near the defect: it is warped as a fourth colour
        patch = torch.cat([patch, torch.from_numpy(on_object)[None]])
    patch, soft = _operate(patch, torch.from_numpy(mask)[None], operations)
    patch, core = _with_ring(patch, harden(soft)[0], grow + 1)
    core = core.numpy()
    region = grown(core, grow)
    if on_object is not None:
        patch, shown = patch[:3], patch[3].numpy() > 0.5
        region &= shown | core
    return FittedDonor(patch, core, region)


def _prepare_arrays(donor: Donor, scale_yx: tuple[float, float], operations: Operations, grow: int) -> FittedDonor:
    colours, soft, shown = operate(*fit(donor.image, donor.mask, scale_yx), operations)
    core = (soft >= 0.5 * soft.max()) & (soft > 0)
    window = _window_with_ring(core, grow + 1)
    if window is None:
        return FittedDonor(torch.from_numpy(colours).permute(2, 0, 1), core, core)
    patch = np.clip(_cut(colours, window, cv2.BORDER_REPLICATE), 0, 1)
    core = _cut(core.view(np.uint8), window, cv2.BORDER_CONSTANT).view(bool)
    region = grown(core, grow)
    if shown is not None:
        region &= (_cut(shown, window, cv2.BORDER_REPLICATE) > 0.5) | core
    return FittedDonor(torch.from_numpy(patch).permute(2, 0, 1), core, region)


def _window_with_ring(mask: ndarray, ring: int) -> tuple[int, int, int, int] | None:
    """Return top, bottom, left and right of the set pixels and a ring around them; they may lie outside the array."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return int(rows[0]) - ring, int(rows[-1]) + 1 + ring, int(columns[0]) - ring, int(columns[-1]) + 1 + ring


def _cut(array: ndarray, window: tuple[int, int, int, int], border: int) -> ndarray:
    """Return a contiguous part of an array; beyond it its border goes on, or zeros do."""
    (height, width), (top, bottom, left, right) = array.shape[:2], window
    inner = array[max(0, top):min(bottom, height), max(0, left):min(right, width)]
    outside = max(0, -top), max(0, bottom - height), max(0, -left), max(0, right - width)
    return cv2.copyMakeBorder(inner, *outside, border)


def fit(image: ndarray, mask: ndarray, scale_yx: tuple[float, float]) -> tuple[ndarray, ndarray, ndarray | None]:
    """Scale and flip a donor; a defect that would vanish keeps the pixels that it fills most.

    Args:
        image: ``(h, w, 3)`` uint8.
        mask: ``(h, w)`` uint8: 1 on the defect, 2 on the object around it.
        scale_yx: factors down and across; negative: flipped.

    Returns:
        The picture, ``(h, w, 3)`` uint8; the defect, ``(h, w)`` float32 of 0 and 1; where the patch shows the object,
        ``(h, w)`` float32, or ``None`` when it shows nothing else.
    """
    step = (-1 if scale_yx[0] < 0 else 1, -1 if scale_yx[1] < 0 else 1)
    image, mask = image[::step[0], ::step[1]], mask[::step[0], ::step[1]]
    height, width = (max(3, round(n * abs(s))) for n, s in zip(mask.shape, scale_yx, strict=True))
    core = (mask == 1).astype(np.float32)
    on_object = None if mask.all() else (mask > 0).astype(np.float32)
    if (height, width) == mask.shape:
        return image, core, on_object
    method = cv2.INTER_AREA if height * width < mask.size else cv2.INTER_LINEAR
    small = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=method)
    share = cv2.resize(core, (width, height), interpolation=method)
    core = (share >= min(0.5, float(share.max()))).astype(np.float32)
    if on_object is not None:
        on_object = cv2.resize(on_object, (width, height), interpolation=method)
    return small, core, on_object


def grown_pixels(grow: int, scale_yx: tuple[float, float], operations: Operations) -> int:
    """Return by how many pixels of the picture the pasted region exceeds the defect: at least one, unless none is asked.

    It grows with the defect: a rim that lies one pixel outside of the mask in the file lies two outside when the donor
    is enlarged twice, and gradients that start on the rim give the inside the opposite colour.
    """
    if grow < 1:
        return 0
    scale_x, scale_y = operations.values[0, 3:5].tolist()
    return max(1, round(grow * math.sqrt(abs(scale_yx[0] * scale_yx[1]) * scale_x * scale_y)))


def middle_of(donor: Donor) -> tuple[float, float]:
    """Return the middle of a donor's patch in the frame of its file, as fractions of height and width."""
    (top, left), (height, width) = donor.top_left_rc, donor.source_hw
    return (top + donor.mask.shape[0] / 2) / height, (left + donor.mask.shape[1] / 2) / width


def numbers_of(operations: Operations) -> dict[str, float]:
    """Return the operations of one sample as floats."""
    return operations.parameters(0)


def operations_from(numbers: Mapping[str, float]) -> Operations:
    """Return the operations that :func:`numbers_of` wrote down."""
    control = [numbers.get(f'control_{i}', 0.0) for i in range(2 * CONTROLS * CONTROLS)]
    rows = [numbers[name] for name in VALUES], [numbers['flip_x'], numbers['flip_y']]
    values, flips = (torch.tensor([row], dtype=torch.float64) for row in rows)
    return Operations(values, flips, torch.tensor([numbers['elastic']], dtype=torch.float64),
                      torch.tensor(control, dtype=torch.float64).view(1, 2, CONTROLS, CONTROLS))


def grown(mask: ndarray, pixels: int) -> ndarray:
    """Return a bool mask that reaches so many pixels farther, in a new array."""
    if pixels < 1:
        return mask.copy()
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    return cv2.dilate(mask.view(np.uint8), disc).view(bool)


def _operate(patch: Tensor, mask: Tensor, operations: Operations) -> tuple[Tensor, Tensor]:
    """Apply operations; a fourth channel is warped with the colours but keeps its values."""
    if len(patch) == 3:
        return apply_operations(patch, mask, operations)
    soft = mask[None]
    colours = adjust_color(patch[None, :3].flatten(2), operations.values[:, 5:], soft.flatten(1), clip=False)
    inverse = inverse_matrix(operations.values[:, :5], operations.flips)
    bends = bool(operations.elastic.any())
    halves = canvas_halves(inverse, tuple(patch.shape[1:]), operations.elastic if bends else None)
    control = operations.control * operations.elastic.view(-1, 1, 1, 1) if bends else None
    both = torch.cat([colours.view(1, 3, *patch.shape[1:]), patch[None, 3:]], 1)
    warped, soft = warp(both, soft, inverse, halves, control)
    return warped[0], soft[0]


def _with_ring(patch: Tensor, mask: Tensor, ring: int) -> tuple[Tensor, Tensor]:
    """Cut patch and mask to the defect and a ring around it; beyond the patch its border goes on."""
    shape = mask.numpy()
    rows, columns = np.flatnonzero(shape.any(1)), np.flatnonzero(shape.any(0))
    if not len(rows):
        return patch, mask
    top, bottom = int(rows[0]) - ring, int(rows[-1]) + 1 + ring
    left, right = int(columns[0]) - ring, int(columns[-1]) + 1 + ring
    height, width = mask.shape
    outside = [max(0, -left), max(0, right - width), max(0, -top), max(0, bottom - height)]
    if any(outside):
        patch, mask = F.pad(patch[None], outside, 'replicate')[0], F.pad(mask, outside)
        top, bottom, left, right = top + outside[2], bottom + outside[2], left + outside[0], right + outside[0]
    return patch[:, top:bottom, left:right], mask[top:bottom, left:right].contiguous()
