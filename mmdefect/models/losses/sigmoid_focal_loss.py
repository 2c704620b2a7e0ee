"""Focal loss of one sigmoid per channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mmdefect.functional.focal import sigmoid_focal_loss
from mmdefect.models.losses.defect_loss import DefectLoss
from mmdefect.registry import MODELS


@MODELS.register_module()
class SigmoidFocalLoss(DefectLoss):
    """See :func:`mmdefect.functional.focal.sigmoid_focal_loss` for the formula.

    On every device, for one class against the rest in each channel and for a head with ``out_channels=1``; mmseg's
    ``FocalLoss`` fails on a CPU from two classes up.

    Args:
        gamma: focusing exponent.
        alpha: weight of the class against the rest, one number or one per channel; ``None`` for neither.
        avg_non_ignore: whether the mean is over the labelled pixels only.
        loss_name: name in the log.
        **kwargs: see :class:`~mmdefect.models.losses.defect_loss.DefectLoss`.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | None = 0.25,
        avg_non_ignore: bool = True,
        loss_name: str = 'loss_sigmoid_focal',
        **kwargs: Any,
    ) -> None:
        super().__init__(gamma=gamma, alpha=alpha, avg_non_ignore=avg_non_ignore, loss_name=loss_name, **kwargs)

    def compute(self, pred: Tensor, target: Tensor, **kwargs: Any) -> Tensor:
        """Call the function."""
        return sigmoid_focal_loss(pred, target, **kwargs)
