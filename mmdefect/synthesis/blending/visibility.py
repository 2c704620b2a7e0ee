"""Which pixels of a paste can be seen: a Poisson paste may leave part of its mask, or all of it, as it was."""

from __future__ import annotations

import torch
from torch import Tensor

from mmdefect.synthesis.blending.domain import MASK_THRESHOLD

# One step of an 8-bit image is 1/255; a change of more than two survives rounding and a good JPEG.
DEFAULT_TOLERANCE = 2 / 255


def visible_mask(result: Tensor, target: Tensor, mask: Tensor, tolerance: float = DEFAULT_TOLERANCE) -> Tensor:
    """Pixels of the mask that really changed.

    Args:
        result: ``(C, h, w)`` or ``(B, C, h, w)`` float in [0, 1]; after the paste.
        target: shape of ``result``; before the paste.
        mask: ``(1, h, w)`` or ``(B, 1, h, w)``; bool or float in [0, 1]; pixels >= 0.5 may be labelled.
        tolerance: a pixel counts as changed when a channel moved by more than this.

    Returns:
        Shape of ``mask`` (with the batch of ``result``), bool; no gradient. Empty when the paste became invisible: then
        reject it.
    """
    inside = mask if mask.dtype == torch.bool else mask >= MASK_THRESHOLD
    changed = (result.detach() - target.detach()).abs().amax(dim=-3, keepdim=True) > tolerance
    return changed & inside
