"""Bring a donor to the scale and pose of an image, and apply the operations that were drawn for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy import ndarray
from torch import Tensor

from mmdefect.synthesis.augment import Operations, apply_operations, harden
from mmdefect.synthesis.blending.membrane import Membrane
from mmdefect.synthesis.color import adjust_color
from mmdefect.synthesis.donors import Donor
from mmdefect.synthesis.drawn_operations import DrawnOperations
from mmdefect.synthesis.warp import canvas_halves, inverse_matrix, warp


@dataclass(frozen=True)
class StoredPatch:
    """Where the pixels of a patch lie in the flat store of a batch.

    Attributes:
        base: place of the first pixel of its canvas.
        pitch: pixels from one row of the canvas to the next.
        canvas_hw: height and width of the canvas; beyond it its border goes on.
        top_left_rc: row and column of the patch in the canvas; may be negative.
    """

    base: int
    pitch: int
    canvas_hw: tuple[int, int]
    top_left_rc: tuple[int, int]


@dataclass(frozen=True)
class FittedDonor:
    """A donor as it is pasted, with some pixels around the defect.

    Attributes:
        patch: ``(h, w, 3)`` float32 in [0, 1], RGB; ``None`` when the pixels stay on a device.
        core: ``(h, w)`` bool, the defect.
        region: ``(h, w)`` bool, what is pasted: the defect and what was asked for around it that shows the object.
        membrane: of the region, where it was made.
        stored: where the pixels are, when they stay on a device.
    """

    patch: ndarray | None
    core: ndarray
    region: ndarray
    membrane: Membrane | None = None
    stored: StoredPatch | None = None


def prepare(donor: Donor, scale_yx: tuple[float, float], operations: DrawnOperations, grow: int = 0) -> FittedDonor:
    """Return a donor as it is pasted, with a ring of one pixel around the region.

    Args:
        donor: the donor at the resolution of its file.
        scale_yx: pixels of the image per pixel of the file, down and across; negative: flipped.
        operations: what was drawn.
        grow: pixels of the donor's file by which the pasted region exceeds the defect, see :func:`grown_pixels`.
    """
    patch, core, region = prepare_tensors(
        donor, scale_yx, operations.as_tensors(), grown_pixels(grow, scale_yx, operations)
    )
    return FittedDonor(patch.permute(1, 2, 0).contiguous().numpy(), core, region)


def prepare_tensors(
    donor: Donor, scale_yx: tuple[float, float], operations: Operations, grow: int
) -> tuple[Tensor, ndarray, ndarray]:
    """Return patch ``(3, h, w)``, differentiable in the operations, defect and region of :func:`prepare`.

    Args:
        donor, scale_yx: as there.
        operations: of one sample.
        grow: pixels of the image.
    """
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
    return patch, core, region


def fit(image: ndarray, mask: ndarray, scale_yx: tuple[float, float]) -> tuple[ndarray, ndarray, ndarray | None]:
    """Scale and flip a donor; a defect that would vanish keeps the pixels that it fills most.

    Args:
        image: ``(h, w, 3)`` uint8.
        mask: ``(h, w)`` uint8: 1 on the defect, 2 on the sound object around it.
        scale_yx: factors down and across; negative: flipped.

    Returns:
        The image, ``(h, w, 3)`` uint8; the defect, ``(h, w)`` float32 of 0 and 1; where the patch shows the object
        and no other defect, ``(h, w)`` float32, or ``None`` when it shows nothing else.
    """
    step = (-1 if scale_yx[0] < 0 else 1, -1 if scale_yx[1] < 0 else 1)
    image, mask = image[:: step[0], :: step[1]], mask[:: step[0], :: step[1]]
    height, width = (max(3, round(n * abs(s))) for n, s in zip(mask.shape, scale_yx, strict=True))
    core = (mask == 1).astype(np.float32)
    sound = (mask == 1) | (mask == 2)
    on_object = None if sound.all() else sound.astype(np.float32)
    if (height, width) == mask.shape:
        return image, core, on_object
    method = cv2.INTER_AREA if height * width < mask.size else cv2.INTER_LINEAR
    small = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=method)
    share = cv2.resize(core, (width, height), interpolation=method)
    core = (share >= min(0.5, float(share.max()))).astype(np.float32)
    if on_object is not None:
        on_object = cv2.resize(on_object, (width, height), interpolation=method)
    return small, core, on_object


def grown_pixels(grow: int, scale_yx: tuple[float, float], operations: DrawnOperations) -> int:
    """Return by how many pixels of the image the pasted region exceeds the defect; at least one unless none is asked.

    It grows with the defect: a rim that lies one pixel outside of the mask in the file lies two outside when the donor
    is enlarged twice, and gradients that start on the rim give the inside the opposite colour.
    """
    if grow < 1:
        return 0
    return max(1, round(grow * math.sqrt(abs(scale_yx[0] * scale_yx[1])) * operations.mean_scale))


def middle_of(donor: Donor) -> tuple[float, float]:
    """Return the middle of a donor's patch in the frame of its file, as fractions of height and width."""
    (top, left), (height, width) = donor.top_left_rc, donor.source_hw
    return (top + donor.mask.shape[0] / 2) / height, (left + donor.mask.shape[1] / 2) / width


def grown(mask: ndarray, pixels: int) -> ndarray:
    """Return a bool mask that reaches so many pixels farther, in a new array."""
    if pixels < 1:
        return mask.copy()
    return cv2.dilate(mask.view(np.uint8), _disc(pixels)).view(bool)


@lru_cache(maxsize=32)
def _disc(radius: int) -> ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


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
