"""Compose one defect with an 8-bit picture in numpy: what ``engine`` does with tensors, in less time."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy import ndarray

from mmdefect.synthesis.blending import PoissonFactor, blend
from mmdefect.synthesis.blending.alpha import rise
from mmdefect.synthesis.blending.boundary import limit_step
from mmdefect.synthesis.policy import PolicySpec


def composed(target: ndarray, source: ndarray, mask: ndarray, method: str,
             limits: tuple[float, float] = (2.0, 2.0)) -> tuple[ndarray, float]:
    """Return the new values of the masked pixels, in the order in which numpy counts them.

    Alpha, feather and Poisson are computed here; mixed gradients and the spectral blend run as tensors.

    Args:
        target: ``(h, w, C)`` uint8, the crop.
        source: ``(h, w, C)`` float32 in [0, 1], channels in the same order.
        mask: ``(h, w)`` bool.
        method: one of ``mmdefect.synthesis.types.BLENDS``.
        limits: of the step at the outline of Poisson blends, see
            :func:`~mmdefect.synthesis.blending.boundary.limit_step`.

    Returns:
        ``(n, C)`` uint8, and the share of the outline that was limited.
    """
    limited = 0.0
    if method == 'alpha':
        values = source[mask]
    elif method == 'feather':
        old, share = target[mask] * np.float32(1 / 255), rise(mask, 2.0)[mask][:, None]
        values = old + (source[mask] - old) * share
    elif method == 'poisson':
        values, limited = _poisson(target, source, mask, limits)
    else:
        if method == 'poisson-mixed':
            source, limited = limit_source(target * np.float32(1 / 255), source, PoissonFactor(mask), limits)
        planes = (torch.from_numpy(np.ascontiguousarray(a.transpose(2, 0, 1))) for a in (target, source))
        old, new = planes
        values = blend(old.float() / 255, new, torch.from_numpy(mask)[None], method).numpy().transpose(1, 2, 0)[mask]
    return np.clip(np.rint(values * 255), 0, 255).astype(np.uint8), limited


def limit_source(target: ndarray, source: ndarray, factor: PoissonFactor, limits: tuple[float, float]
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


def _poisson(target: ndarray, source: ndarray, mask: ndarray, limits: tuple[float, float]) -> tuple[ndarray, float]:
    factor = PoissonFactor(mask)
    if not factor.num_pixels:
        return np.empty((0, target.shape[2]), np.float32), 0.0
    inside, beside = factor.places
    rows, source_rows = target.reshape(-1, target.shape[2]), source.reshape(-1, target.shape[2])
    step, limited = limit_step(rows[beside] * np.float32(1 / 255) - source_rows[beside], *limits)
    membrane = factor.solver.extend(torch.from_numpy(np.ascontiguousarray(step.T))).numpy()
    return membrane.T + source_rows[inside], limited


def visible(old: ndarray, new: ndarray, mask: ndarray, core: ndarray, policy: PolicySpec) -> ndarray:
    """Return the pixels that get the label of the defect, ``(h, w)`` bool.

    Args:
        old: ``(n, C)`` uint8 values of the masked pixels before.
        new: the same after.
        mask: ``(h, w)`` bool, what was pasted.
        core: ``(h, w)`` bool, the defect itself.
        policy: the label rule.
    """
    changed = np.zeros(mask.shape, bool)
    changed[mask] = cv2.absdiff(old, new).max(1, initial=0) > policy.tolerance * 255
    if policy.label == 'visible' or policy.label_radius < 1:
        return changed
    square = np.ones((2 * policy.label_radius + 1, ) * 2, np.uint8)
    near = cv2.dilate(changed.view(np.uint8), square).view(bool)
    return changed | (near & mask & core)
