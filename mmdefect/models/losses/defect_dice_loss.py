"""Dice loss, over all classes or the defect classes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmdefect.functional.region_losses import defect_dice_loss
from mmdefect.models.losses.defect_loss import DefectLoss
from mmdefect.registry import MODELS


@MODELS.register_module()
class DefectDiceLoss(DefectLoss):
    """See :func:`mmdefect.functional.region_losses.defect_dice_loss` for the formula.

    Args:
        exponent: 1 or 2, of the probability in the denominator.
        smooth: pixels added above and below.
        defects_only: whether class 0 is left out.
        per_image: whether areas are summed for each image instead of the batch.
        present_only: whether classes without a labelled pixel are left out.
        loss_name: name in the log.
        **kwargs: see :class:`~mmdefect.models.losses.defect_loss.DefectLoss`.
    """

    def __init__(
        self,
        exponent: int = 1,
        smooth: float = 1.0,
        defects_only: bool = False,
        per_image: bool = False,
        present_only: bool = False,
        loss_name: str = 'loss_dice',
        **kwargs: Any,
    ) -> None:
        super().__init__(
            exponent=exponent,
            smooth=smooth,
            defects_only=defects_only,
            per_image=per_image,
            present_only=present_only,
            loss_name=loss_name,
            **kwargs,
        )

    def compute(self, pred: Tensor, target: Tensor, **kwargs: Any) -> Tensor:
        """Call the function."""
        return defect_dice_loss(pred, target, **kwargs)
