"""Centre-line Dice loss for scratches."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmdefect.functional.region_losses import centerline_dice_loss
from mmdefect.models.losses.defect_loss import DefectLoss
from mmdefect.registry import MODELS


@MODELS.register_module()
class CenterlineDiceLoss(DefectLoss):
    """See :func:`mmdefect.functional.region_losses.centerline_dice_loss` for the formula.

    Args:
        iterations: half the width in pixels of the widest scratch.
        smooth: pixels added above and below.
        per_image: whether lengths are summed for each image instead of the batch.
        present_only: whether classes without a labelled pixel are left out.
        loss_name: name in the log.
        **kwargs: see :class:`~mmdefect.models.losses.defect_loss.DefectLoss`.
    """

    def __init__(
        self,
        iterations: int = 3,
        smooth: float = 1.0,
        per_image: bool = False,
        present_only: bool = False,
        loss_name: str = 'loss_centerline',
        **kwargs: Any,
    ) -> None:
        super().__init__(
            iterations=iterations,
            smooth=smooth,
            per_image=per_image,
            present_only=present_only,
            loss_name=loss_name,
            **kwargs,
        )

    def compute(self, pred: Tensor, target: Tensor, **kwargs: Any) -> Tensor:
        """Call the function."""
        return centerline_dice_loss(pred, target, **kwargs)
