"""Render pastes into 8-bit images with numpy and OpenCV: what loader workers do.

The mask of a donor is warped first, and the colours only where it went; the photometric operations come last, on what
is left: they are affine, and so they commute with the warp. Versions of OpenCV before 5 sample at 1/32 of a pixel.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from mmdefect.synthesis.library import Donor
from mmdefect.synthesis.operations import CONTROLS, LUMA, VANISHED_SHARE, Operations, color_basis
from mmdefect.synthesis.places import Box
from mmdefect.synthesis.poisson.blends import poisson_blend, spectral_blend
from mmdefect.synthesis.poisson.membrane import Membrane, limit_step
from mmdefect.synthesis.policy import PolicySpec
from mmdefect.synthesis.records import Instance, checked_image, instance_at, labelled_pixels, write_label
from mmdefect.synthesis.sampler import FittedDonor, Paste, Plan

#: Parameter of an instance: share of the outline at which the step to the image was limited; absent for none.
LIMITED = 'boundary_limited'
#: Pixels over which the weight of a feathered paste rises.
FEATHER = 2.0


def fit(donor: Donor, scale_yx: tuple[float, float]) -> tuple[ndarray, ndarray, ndarray | None]:
    """Scale and flip a donor; a defect that would vanish keeps the pixels that it fills most.

    Returns:
        The image, ``(h, w, 3)`` uint8; the defect, ``(h, w)`` float32 of 0 and 1; where the patch shows the object
        and no other defect, ``(h, w)`` float32, or ``None`` when it shows nothing else.
    """
    steps = slice(None, None, -1 if scale_yx[0] < 0 else 1), slice(None, None, -1 if scale_yx[1] < 0 else 1)
    image, mask = donor.image[steps], donor.mask[steps]
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


def boxed(core: ndarray, grow: int) -> tuple[ndarray, ndarray, Box] | None:
    """Return defect, pasted region (``grow`` pixels wider) and box with one pixel around it; ``None`` for an empty one.

    Args:
        core: ``(H, W)`` bool or uint8, the defect on its canvas.
    """
    left, top, width, height = cv2.boundingRect(core.view(np.uint8))
    if not width:
        return None
    ring = grow + 1
    box = top - ring, top + height + ring, left - ring, left + width + ring
    cut = np.zeros((height + 2 * ring, width + 2 * ring), bool)
    cut[ring:-ring, ring:-ring] = core[top : top + height, left : left + width]
    return cut, cv2.dilate(cut.view(np.uint8), _disc(grow)).view(bool) if grow else cut.copy(), box


@lru_cache(maxsize=32)
def _disc(radius: int) -> ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


@dataclass(frozen=True)
class Canvas:
    """The array that a warped patch fits into: half of height and width, and points a side that a pixel averages.

    It holds the whole patch and a soft edge, and its sides are odd or even as those of the patch are: pixels that are
    not moved are not blurred. More than one point is averaged when the defect shrinks, so that thin parts fade instead
    of falling between samples.
    """

    half_y: float
    half_x: float
    points: int

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return round(2 * self.half_y), round(2 * self.half_x)

    @property
    def control_step(self) -> float:
        """Pixels of the canvas between two control points of an elastic deformation, along the shorter side."""
        return min(self.half_y, self.half_x) * 2 / (CONTROLS - 3)


def canvas_of(operations: Operations, size_hw: tuple[int, int]) -> Canvas:
    """Return the canvas of a patch of a size."""
    height, width = size_hw
    a, b, c, d = operations.inverse
    scale = (1 / (1 - 2 * operations.elastic / (CONTROLS - 3))) / (2 * abs(a * d - b * c))
    odd_y, odd_x = height % 2 / 2, width % 2 / 2
    half_y = math.ceil((abs(c) * width + abs(a) * height) * scale + 1 - 1e-6 - odd_y) + odd_y
    half_x = math.ceil((abs(d) * width + abs(b) * height) * scale + 1 - 1e-6 - odd_x) + odd_x
    return Canvas(half_y, half_x, max(1, round(max(math.hypot(a, c), math.hypot(b, d)) - 0.01)))


def spline_basis(positions: ndarray | Tensor, controls: ndarray | Tensor, maximum: Any = np.maximum) -> Any:
    """Return the weight of every control at every position, ``(..., N, CONTROLS)``; rows sum to 1.

    Positions are 0 at the first and 1 at the last end of the support; ``controls`` counts them from 0.
    """
    place = positions[..., None] * (CONTROLS - 3) + 1
    distance = abs(place - controls)
    far, near = maximum(2 - distance, 0), maximum(1 - distance, 0)
    return (far * far * far - 4 * (near * near * near)) / 6  # the cubic spline as a sum of truncated powers


@lru_cache(maxsize=1)
def _plain_basis() -> list[list[list[float]]]:
    """Return the three parts of each entry of the matrix."""
    return color_basis(torch.float64, torch.device('cpu')).reshape(3, 3, 3).permute(1, 2, 0).tolist()


def color_matrix(shares: Sequence[float], mean: ndarray, scale: float = 1.0) -> ndarray:
    """Return the photometric operations of one defect as an affine map of its colours, ``(3, 4)`` float64.

    ``shares`` are of :func:`~mmdefect.synthesis.operations.color_shares`, ``mean`` is the colour whose grey contrast
    keeps, in [0, 1], and ``scale`` brings the colours to [0, 1].
    """
    gain, straight, crossed, rest = shares
    gain, straight, crossed = gain * scale, straight * scale, crossed * scale
    offset = rest * float(sum(weight * part for weight, part in zip(LUMA, mean, strict=True)))
    # Nine sums of plain numbers take less time than five operations on arrays of nine.
    return np.array(
        [
            [gain * grey + straight * kept + crossed * turned for grey, kept, turned in row] + [offset]
            for row in _plain_basis()
        ]
    )


@dataclass(frozen=True)
class _Sampling:
    """Where each point of the canvas is read: ``(H p, W p)`` float32 columns and rows in the patch, p points a side."""

    across: ndarray
    down: ndarray
    points: int
    size_hw: tuple[int, int]

    def read(self, image: ndarray, border: int, box: Box | None = None) -> ndarray:
        """Return what the canvas, or a box of it, shows of a float32 image; beyond the canvas its border goes on."""
        across, down, points, outside = self.across, self.down, self.points, (0, 0, 0, 0)
        if box is not None:
            (height, width), (top, bottom, left, right) = self.size_hw, box
            outside = max(0, -top), max(0, bottom - height), max(0, -left), max(0, right - width)
            rows = slice(max(0, top) * points, min(bottom, height) * points)
            columns = slice(max(0, left) * points, min(right, width) * points)
            across, down = across[rows, columns], down[rows, columns]
        sampled = cv2.remap(image, across, down, cv2.INTER_LINEAR, borderMode=border)
        if points > 1:
            size = sampled.shape[1] // points, sampled.shape[0] // points
            sampled = cv2.resize(sampled, size, interpolation=cv2.INTER_AREA)
        return cv2.copyMakeBorder(sampled, *outside, cv2.BORDER_REPLICATE) if any(outside) else sampled


def _sampling_of(operations: Operations, size_hw: tuple[int, int]) -> _Sampling:
    """Return where the points of the canvas are read in a patch of a size."""
    (height, width), control = size_hw, operations.control
    canvas = canvas_of(operations, size_hw)
    canvas_hw, (a, b, c, d), points = canvas.size_hw, operations.inverse, canvas.points
    rows, columns = ((np.arange(n * points) - (n * points - 1) / 2) / points for n in canvas_hw)  # from the middle
    # Both maps are sums of products of a column and a row: one small product of matrices writes each.
    terms = 2 if control is None else 2 + CONTROLS
    left = np.empty((2, len(rows), terms), np.float32)
    right = np.empty((2, terms, len(columns)), np.float32)
    left[0, :, 0], left[1, :, 0], left[:, :, 1] = rows * b + (width - 1) / 2, rows * d + (height - 1) / 2, 1
    right[:, 0], right[0, 1], right[1, 1] = 1, columns * a, columns * c
    if control is not None:
        step = operations.elastic * canvas.control_step
        mixed = np.array(((a * step, b * step), (c * step, d * step))) @ control.reshape(2, -1)
        positions = np.concatenate([rows / (2 * canvas.half_y), columns / (2 * canvas.half_x)]) + 0.5
        basis = spline_basis(np.minimum(np.maximum(positions, 0), 1), np.arange(CONTROLS))
        left[:, :, 2:] = basis[: len(rows)] @ mixed.reshape(2, CONTROLS, CONTROLS)
        right[:, 2:] = basis[len(rows) :].T
    across, down = left @ right
    return _Sampling(across, down, points, canvas_hw)


@dataclass(frozen=True)
class WarpedDonor:
    """A donor in the shape in which it is pasted, before its colours are changed.

    Attributes:
        patch: ``(h, w, 3)`` float32 in [0, 255], RGB, with a ring of one pixel around the region.
        core, region: see :class:`~mmdefect.synthesis.sampler.FittedDonor`.
        mean: ``(3,)`` mean colour of the defect before it was warped, in [0, 1].
        membrane: of the region.
    """

    patch: ndarray
    core: ndarray
    region: ndarray
    mean: ndarray
    membrane: Membrane

    def coloured(self, operations: Operations) -> FittedDonor:
        """Return the donor as it is pasted, with the photometric operations; its patch is BGR, as the images are."""
        matrix = color_matrix(operations.shares, self.mean, 1 / 255)
        colours = cv2.transform(self.patch, np.ascontiguousarray(matrix[::-1]))
        np.maximum(colours, 0, out=colours)
        return FittedDonor(self.core, self.region, np.minimum(colours, 1, out=colours), self.membrane)

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        return self.patch.nbytes + self.core.nbytes + self.region.nbytes + self.membrane.nbytes


def warp_donor(donor: Donor, scale_yx: tuple[float, float], operations: Operations, grow: int) -> WarpedDonor:
    """Bring a donor to the scale of an image (negative: flipped) and apply the geometric operations.

    When sampling lowers the peak of a small defect, the mask is raised to the peak it had, so a defect of one pixel
    stays one; it is empty when less than 5 % was left. The pasted region is ``grow`` pixels wider.
    """
    image, core, on_object = fit(donor, scale_yx)
    sampling = _sampling_of(operations, core.shape)
    # OpenCV fades to a constant over one pixel beyond the image, as a border of zeros does.
    soft, peak = sampling.read(core, cv2.BORDER_CONSTANT), float(core.max())
    new_peak = float(soft.max())
    share = new_peak / max(peak, 1e-12)
    if share <= 0.999:
        soft = np.clip(soft * (peak / max(new_peak, 1e-12) if share > VANISHED_SHARE else 0), 0, 1)
    found = boxed(cv2.compare(soft, max(0.5 * float(soft.max()), 1e-12), cv2.CMP_GE), grow)
    image_32, mean = image.astype(np.float32), np.array(cv2.mean(image, core.astype(np.uint8))[:3]) / 255
    if found is None:
        empty = np.zeros(sampling.size_hw, bool)
        return WarpedDonor(sampling.read(image_32, cv2.BORDER_REPLICATE), empty, empty, mean, Membrane(empty))
    core, region, box = found
    if on_object is not None:
        region &= (sampling.read(on_object, cv2.BORDER_REPLICATE, box) > 0.5) | core
    return WarpedDonor(sampling.read(image_32, cv2.BORDER_REPLICATE, box), core, region, mean, Membrane(region))


class VariantCache:
    """Keeps the warped donors that were used last, up to a number of bytes."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._kept: OrderedDict[Any, tuple[WarpedDonor, int]] = OrderedDict()
        self.nbytes = self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Any) -> WarpedDonor | None:
        """Return what is kept, or ``None``."""
        if key not in self._kept:
            self.misses += 1
            return None
        self.hits += 1
        warped = self._kept[key][0]
        self.put(key, warped)  # counted anew: its membrane may have been factorised since
        return warped

    def put(self, key: Any, warped: WarpedDonor) -> None:
        """Keep a warped donor as the one used last."""
        nbytes = warped.nbytes
        self.nbytes += nbytes - self._kept.pop(key, (None, 0))[1]
        self._kept[key] = warped, nbytes
        while self.nbytes > self.most_bytes and self._kept:
            self.nbytes -= self._kept.popitem(last=False)[1][1]


def fit_donors(plans: Sequence[Plan], cache: VariantCache) -> list[FittedDonor]:
    """Warp and colour the donors of plans; fixed shapes are kept in the cache."""
    fitted = []
    for plan in plans:
        key = plan.index, plan.variant, plan.scale_yx
        warped = None if plan.variant is None else cache.get(key)
        if warped is None:
            warped = warp_donor(plan.donor, plan.scale_yx, plan.operations, plan.grow)
            if plan.variant is not None:
                cache.put(key, warped)
        fitted.append(warped.coloured(plan.operations))
    return fitted


def feather_weights(support: ndarray) -> ndarray:
    """Return ``(h, w)`` float32: 0 outside, 1 / 3 on the outermost pixels, 1 from two pixels inwards on.

    The edge of the array is no border of the mask: there the image ends. A defect of one pixel stays visible.
    """
    if support.all():
        return np.ones(support.shape, np.float32)
    distance = cv2.distanceTransform(support.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.minimum(distance / (FEATHER + 1), 1)


def write_pastes(image: ndarray, label: ndarray, pastes: Sequence[Paste], policy: PolicySpec) -> list[Instance]:
    """Write defects into a uint8 image, BGR or grey, and its label map, in place; nothing of what cannot be seen."""
    image = checked_image(image)
    written = [_write_paste(image, label, paste, policy) for paste in pastes]
    return [instance for instance in written if instance is not None]


def _write_paste(image: ndarray, label: ndarray, paste: Paste, policy: PolicySpec) -> Instance | None:
    fitted, mask, part = paste.fitted, paste.mask, paste.part
    old, core, source = image[paste.frame], fitted.core, fitted.patch
    membrane = fitted.membrane if mask is fitted.region else None
    if old.shape[:2] != mask.shape:  # the patch leaves the frame
        mask, core, source = (np.ascontiguousarray(array[part]) for array in (mask, core, source))
        membrane = None
    old = np.ascontiguousarray(old)
    if image.shape[2] == 1:
        source = source.mean(2, keepdims=True)
    new, limited = compose(old, source, membrane or Membrane(mask), paste.blend, policy)
    labelled = labelled_pixels(new, old, mask, core, policy)
    if not labelled.any():
        return None
    image[paste.frame] = new
    write_label(label[paste.frame], labelled, paste.class_id)
    corner, parameters = (paste.frame[0].start, paste.frame[1].start), paste.parameters
    if limited:
        parameters = {**parameters, LIMITED: limited}
    return instance_at(labelled, corner, paste.class_id, paste.source, 'paste', paste.blend, parameters)


def compose(
    target: ndarray, source: ndarray, membrane: Membrane, method: str, policy: PolicySpec
) -> tuple[ndarray, float]:
    """Join a donor with its background.

    Args:
        target: ``(h, w, C)`` uint8, the crop.
        source: ``(h, w, C)`` float32 in [0, 1], channels in the order of the target.
        membrane: of the mask.
        method: one of ``mmdefect.synthesis.records.BLENDS``.
        policy: limits of the step at the outline of Poisson blends.

    Returns:
        ``(h, w, C)`` uint8, a new array, and the share of the outline that was limited.
    """
    channels, limited, inside = target.shape[2], 0.0, membrane.inside
    rows, source_rows = target.reshape(-1, channels), source.reshape(-1, channels)
    if method in ('alpha', 'feather', 'poisson'):
        values = source_rows[inside]
    if method == 'feather':
        share = feather_weights(membrane.mask).ravel()[inside][:, None]
        old = rows[inside] * np.float32(1 / 255)
        values = old + (values - old) * share
    elif method.startswith('poisson') and len(inside):
        beside = membrane.beside
        given = rows[beside] * np.float32(1 / 255)
        step, limited = limit_step(given - source_rows[beside], policy.max_boundary_shade, policy.max_boundary_cast)
        if method == 'poisson':
            values = values + membrane.extend(step)
        else:
            source_rows = np.array(source_rows)
            source_rows[beside] = given - step
    if method in ('poisson-mixed', 'spectral'):
        planes = (rows.astype(np.float32) / 255, source_rows)
        old, new = (torch.from_numpy(np.ascontiguousarray(a.T)).view(channels, *target.shape[:2]) for a in planes)
        mask = torch.from_numpy(membrane.mask)[None]
        mixed = spectral_blend(old, new, mask) if method == 'spectral' else poisson_blend(old, new, mask, mixed=True)
        values = mixed.flatten(1).numpy().T[inside]
    values = np.rint(values * np.float32(255))
    result = target.copy()
    result.reshape(-1, channels)[inside] = np.minimum(np.maximum(values, 0), 255).astype(np.uint8)
    return result, limited
