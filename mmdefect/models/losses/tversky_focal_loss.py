"""Tversky loss with a focusing exponent."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmdefect.functional.region_losses import tversky_focal_loss
from mmdefect.models.losses.defect_loss import DefectLoss
from mmdefect.registry import MODELS


@MODELS.register_module()
class TverskyFocalLoss(DefectLoss):
    """See :func:`mmdefect.functional.region_losses.tversky_focal_loss` for the formula.

    Args:
        alpha: price of a false positive.
        beta: price of a false negative.
        gamma: exponent; 1 is the plain Tversky loss.
        smooth: pixels added above and below.
        defects_only: whether class 0 is left out.
        per_image: whether areas are summed for each image instead of the batch.
        present_only: whether classes without a labelled pixel are left out.
        loss_name: name in the log.
        **kwargs: see :class:`~mmdefect.models.losses.defect_loss.DefectLoss`.
    """

    def __init__(
        self,
        alpha: float = 0.3,
        beta: float = 0.7,
        gamma: float = 0.75,
        smooth: float = 1.0,
        defects_only: bool = False,
        per_image: bool = False,
        present_only: bool = False,
        loss_name: str = 'loss_tversky_focal',
        **kwargs: Any,
    ) -> None:
        super().__init__(
            alpha=alpha,
            beta=beta,
            gamma=gamma,
            smooth=smooth,
            defects_only=defects_only,
            per_image=per_image,
            present_only=present_only,
            loss_name=loss_name,
            **kwargs,
        )

    def compute(self, pred: Tensor, target: Tensor, **kwargs: Any) -> Tensor:
        """Call the function."""
        return tversky_focal_loss(pred, target, **kwargs)
