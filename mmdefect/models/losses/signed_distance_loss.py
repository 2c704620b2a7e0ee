"""Boundary term on signed distances."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmdefect.functional.region_losses import signed_distance_loss
from mmdefect.models.losses.defect_loss import DefectLoss
from mmdefect.registry import MODELS


@MODELS.register_module()
class SignedDistanceLoss(DefectLoss):
    """See :func:`mmdefect.functional.region_losses.signed_distance_loss` for the formula.

    mmseg's ``BoundaryLoss`` is another thing: the cross entropy of an edge head.

    Args:
        max_distance: pixels beyond which a pixel costs no more.
        loss_name: name in the log.
        **kwargs: see :class:`~mmdefect.models.losses.defect_loss.DefectLoss`.
    """

    def __init__(self, max_distance: float = 20.0, loss_name: str = 'loss_signed_distance', **kwargs: Any) -> None:
        super().__init__(max_distance=max_distance, loss_name=loss_name, **kwargs)

    def compute(self, pred: Tensor, target: Tensor, **kwargs: Any) -> Tensor:
        """Call the function."""
        return signed_distance_loss(pred, target, **kwargs)
