"""Compose one defect with an 8-bit image in numpy: what ``tensor_writing`` does with tensors, in less time."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from numpy import ndarray

from mmdefect.synthesis.blending import PoissonFactor, blend
from mmdefect.synthesis.blending.alpha import rise
from mmdefect.synthesis.blending.boundary import limit_step
from mmdefect.synthesis.blending.membrane import Membrane
from mmdefect.synthesis.canvas import ArrayCanvas
from mmdefect.synthesis.geometry import overlap
from mmdefect.synthesis.pastes import Paste, limits_of, record_paste
from mmdefect.synthesis.policy import PolicySpec
from mmdefect.synthesis.types import IGNORE_LABEL, Instance


def write_arrays(canvas: ArrayCanvas, paste: Paste, policy: PolicySpec, source_name: str) -> Instance | None:
    """Write one drawn defect; ``None`` when too little of it can be seen, and then nothing is changed.

    Args:
        canvas: the image.
        paste: what is written.
        policy: limits of the blend, and the label rule.
        source_name: of the donor.

    Raises:
        TypeError: if the canvas holds tensors.
    """
    if not isinstance(canvas, ArrayCanvas):
        raise TypeError(
            f"`canvas` must be an ArrayCanvas for backend='numpy', got {type(canvas).__name__}; take backend='torch'."
        )
    frame, part = overlap(paste.mask.shape, paste.corner, canvas.size_hw)
    mask, core, source, membrane = paste.mask, paste.core, paste.patch, paste.membrane
    crop = np.ascontiguousarray(canvas.image[frame])
    if crop.shape[:2] != mask.shape:  # the patch leaves the frame
        mask, core, source = (np.ascontiguousarray(array[part]) for array in (mask, core, source))
        membrane = None
    if crop.shape[2] == 1:
        source = source.mean(2, keepdims=True)
    membrane = Membrane(mask) if membrane is None else membrane
    inside = membrane.inside
    old = crop.reshape(-1, crop.shape[2])[inside]
    new, limited = composed(crop, source, membrane, paste.blend, limits_of(policy), source_is_rgb=True)
    visible = visible_pixels(old, new, membrane, core, policy)
    if np.count_nonzero(visible) < max(1, policy.min_visible * np.count_nonzero(mask & core)):
        return None
    if np.may_share_memory(crop, canvas.image):
        crop = crop.copy()
    crop.reshape(-1, crop.shape[2])[inside] = new
    canvas.image[frame] = crop
    label = canvas.label[frame]
    label[visible & (label != IGNORE_LABEL)] = paste.class_id
    return record_paste(paste, frame, visible, limited, source_name)


def composed(
    target: ndarray,
    source: ndarray,
    membrane: Membrane,
    method: str,
    limits: tuple[float, float] = (2.0, 2.0),
    source_is_rgb: bool = False,
) -> tuple[ndarray, float]:
    """Return the new values of the masked pixels, in the order in which numpy counts them.

    Alpha, feather and Poisson are computed here; mixed gradients and the spectral blend run as tensors.

    Args:
        target: ``(h, w, C)`` uint8, the crop.
        source: ``(h, w, C)`` float32 in [0, 1].
        membrane: of the mask.
        method: one of ``mmdefect.synthesis.types.BLENDS``.
        limits: of the step at the outline of Poisson blends, see
            :func:`~mmdefect.synthesis.blending.boundary.limit_step`.
        source_is_rgb: whether the channels of the source come in the opposite order.

    Returns:
        ``(n, C)`` uint8, and the share of the outline that was limited.
    """
    channels, limited = target.shape[2], 0.0
    order = -1 if source_is_rgb and channels == 3 else 1
    rows, source_rows, inside = target.reshape(-1, channels), source.reshape(-1, channels), membrane.inside
    if method in ('alpha', 'feather', 'poisson'):
        values = source_rows[inside][:, ::order]
    if method == 'feather':
        share = rise(membrane.mask, 2.0).ravel()[inside][:, None]
        old = rows[inside] * np.float32(1 / 255)
        values = old + (values - old) * share
    elif method == 'poisson' and len(inside):
        beside = membrane.beside
        step, limited = limit_step(rows[beside] * np.float32(1 / 255) - source_rows[beside][:, ::order], *limits)
        values = values + membrane.extend(step)
    elif method in ('poisson-mixed', 'spectral'):
        source = source[..., ::order]
        if method == 'poisson-mixed':
            source, limited = limit_source(target * np.float32(1 / 255), source, PoissonFactor(membrane.mask), limits)
        planes = (torch.from_numpy(np.ascontiguousarray(a.transpose(2, 0, 1))) for a in (target, source))
        old, new = planes
        mixed = blend(old.float() / 255, new, torch.from_numpy(membrane.mask)[None], method)
        values = mixed.numpy().transpose(1, 2, 0).reshape(-1, channels)[inside]
    values = np.rint(values * np.float32(255))
    return np.minimum(np.maximum(values, 0), 255).astype(np.uint8), limited


def limit_source(
    target: ndarray, source: ndarray, factor: PoissonFactor, limits: tuple[float, float]
) -> tuple[ndarray, float]:
    """Return a source whose step to the target is limited beside the mask, and the share of pixels that were.

    Args:
        target: ``(h, w, C)`` float32 in [0, 1].
        source: the same shape.
        factor: of the mask.
        limits: see :func:`composed`.
    """
    beside, channels = factor.places[1], target.shape[2]
    given = target.reshape(-1, channels)[beside]
    step, share = limit_step(given - source.reshape(-1, channels)[beside], *limits)
    if share:
        source = np.array(source, order='C')
        source.reshape(-1, channels)[beside] = given - step
    return source, share


def visible_pixels(old: ndarray, new: ndarray, membrane: Membrane, core: ndarray, policy: PolicySpec) -> ndarray:
    """Return the pixels that get the label of the defect, ``(h, w)`` bool.

    Args:
        old: ``(n, C)`` uint8 values of the masked pixels before.
        new: the same after.
        membrane: of the mask, what was pasted.
        core: ``(h, w)`` bool, the defect itself.
        policy: the label rule.
    """
    mask = membrane.mask
    changed = np.zeros(mask.shape, bool)
    if len(old):
        changed.ravel()[membrane.inside] = changed_pixels(old[None], new[None], policy.tolerance)[0]
    if policy.label == 'visible' or policy.label_radius < 1:
        return changed
    square = np.ones((2 * policy.label_radius + 1,) * 2, np.uint8)
    near = cv2.dilate(changed.view(np.uint8), square).view(bool)
    return changed | (near & mask & core)


def changed_pixels(old: ndarray, new: ndarray, tolerance: float) -> ndarray:
    """Return where any colour moved by more than the tolerance, ``(h, w)`` bool.

    Args:
        old: ``(h, w, C)`` uint8.
        new: the same shape.
        tolerance: of [0, 1].
    """
    moved = cv2.absdiff(old, new)
    most = math.floor(min(tolerance, 1.0) * 255)
    return cv2.inRange(moved, (0,) * 4, (most,) * 4) == 0
