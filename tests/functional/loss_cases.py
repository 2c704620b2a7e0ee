"""The table of losses that the generic tests run over, and inputs for them."""

from __future__ import annotations

from functools import partial

import torch

from mmdefect.functional.focal import sigmoid_focal_loss, softmax_focal_loss
from mmdefect.functional.region_losses import (
    centerline_dice_loss,
    defect_dice_loss,
    signed_distance_loss,
    tversky_focal_loss,
)
from mmdefect.functional.weak_box import weak_box_loss

#: Every loss, in several settings. Smooth in the logits, so that finite differences mean something.
LOSSES = dict(
    focal=partial(softmax_focal_loss, gamma=2.0, alpha=[0.1, 0.3, 0.6]),
    focal_half_gamma=partial(softmax_focal_loss, gamma=0.5),
    focal_cross_entropy=partial(softmax_focal_loss, gamma=0.0, class_weight=[0.2, 1.0, 2.0]),
    focal_smoothed=partial(softmax_focal_loss, gamma=1.5, label_smoothing=0.1, class_weight=[0.2, 1.0, 2.0]),
    focal_plain=partial(softmax_focal_loss, gamma=2.0, alpha=[0.1, 0.3, 0.6], fused=False),
    sigmoid_focal=partial(sigmoid_focal_loss, gamma=2.0, alpha=[0.1, 0.3, 0.6]),
    tversky_focal=partial(tversky_focal_loss),
    tversky=partial(tversky_focal_loss, gamma=1.0, defects_only=True, per_image=True),
    dice=partial(defect_dice_loss),
    dice_squared=partial(defect_dice_loss, exponent=2, defects_only=True, present_only=True),
    centerline=partial(centerline_dice_loss, iterations=1),
    signed_distance=partial(signed_distance_loss, max_distance=3.0),
    weak_box=partial(weak_box_loss, tau=0.5, gamma=1.0),
)


def random_case(seed: int = 0, size: tuple[int, ...] = (2, 3, 5, 6), ignored: float = 0.15, dtype=torch.float64):
    """Return logits and labels with a block of ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(size, generator=generator, dtype=dtype)
    label_size = (size[0], *size[2:])
    label = torch.randint(0, size[1], label_size, generator=generator)
    label[torch.rand(label_size, generator=generator) < ignored] = 255
    return logits, label
