"""Alpha composition: the defect replaces the target by the share its mask says, hard or with a soft rim."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from mmdefect.synthesis.blending.domain import MASK_THRESHOLD


def alpha_blend(target: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """Mix ``source`` over ``target`` by the mask.

    Args:
        target: ``(C, h, w)`` or ``(B, C, h, w)`` float in [0, 1].
        source: shape, dtype and range of ``target``.
        mask: ``(1, h, w)`` or ``(B, 1, h, w)``; bool, or float in [0, 1], the share of ``source``.

    Returns:
        Shape and dtype of ``target``; a new tensor; where the mask is 0 the bits of ``target``, where it is 1 those of
        ``source``. Differentiable with respect to all three (a bool mask has no derivative).
    """
    return torch.lerp(target, source, mask.to(target.dtype).expand_as(target))


def feather(mask: Tensor, width: float) -> Tensor:
    """Let a mask fade towards its own border, inwards, so that its support stays what the label says.

    Args:
        mask: ``(1, h, w)`` or ``(B, 1, h, w)``; bool or float in [0, 1]; pixels >= 0.5 are the support. The edge of the
            array is no border of the mask: there the image ends.
        width: pixels over which the weight rises; 0 keeps a hard mask. The outermost pixel of the support weighs
            1 / (width + 1), never 0; a defect of 1 px therefore stays visible.

    Returns:
        Shape of ``mask``, float (float32 for a bool mask) in [0, 1]; ``mask`` times the rise. The rise has no
        derivative, ``mask`` has.

    Raises:
        ValueError: if ``width`` is negative.
    """
    if width < 0:
        raise ValueError(f'`width` must be 0 or more pixels, got {width}. Feathering only goes inwards.')
    support = mask if mask.dtype == torch.bool else mask >= MASK_THRESHOLD
    soft = mask if mask.is_floating_point() else support.float()
    planes = support.detach().cpu().numpy().reshape(-1, *mask.shape[-2:])
    risen = np.stack([rise(plane, width) for plane in planes]).reshape(mask.shape)
    return soft * torch.from_numpy(risen).to(soft)


def rise(support: np.ndarray, width: float) -> np.ndarray:
    """``(h, w)`` float32: 0 outside, 1 / (width + 1) on the outermost pixels, 1 from ``width`` pixels inwards on."""
    if support.all():
        return np.ones(support.shape, dtype=np.float32)
    distance = cv2.distanceTransform(support.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.minimum(distance / (width + 1), 1)


def feathered_blend(target: Tensor, source: Tensor, mask: Tensor, width: float = 2.0) -> Tensor:
    """Mix ``source`` over ``target`` by the mask with a soft rim.

    Args:
        target: ``(C, h, w)`` or ``(B, C, h, w)`` float in [0, 1].
        source: shape, dtype and range of ``target``.
        mask: ``(1, h, w)`` or ``(B, 1, h, w)``; as for :func:`feather`.
        width: pixels of the rim, inside the mask.

    Returns:
        Shape and dtype of ``target``; a new tensor; the bits of ``target`` where mask < 0.5.
    """
    return alpha_blend(target, source, feather(mask, width))
