"""Multi-class focal loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mmdefect.functional.focal import softmax_focal_loss
from mmdefect.models.losses.defect_loss import DefectLoss
from mmdefect.registry import MODELS


@MODELS.register_module()
class SoftmaxFocalLoss(DefectLoss):
    """See :func:`mmdefect.functional.focal.softmax_focal_loss` for the formula.

    ``gamma=0`` without ``alpha`` is the cross entropy, with class weights and the mean over labelled pixels together,
    which mmseg's ``CrossEntropyLoss`` cannot do.

    Args:
        gamma: focusing exponent.
        alpha: one factor per class, ``None`` for none.
        label_smoothing: share of the target spread over all classes.
        avg_non_ignore: whether the mean is over the labelled pixels only; mmseg's default is over all.
        fused: whether to use the analytic gradient; it, too, can be differentiated.
        loss_name: name in the log.
        **kwargs: see :class:`~mmdefect.models.losses.defect_loss.DefectLoss`.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        avg_non_ignore: bool = True,
        fused: bool = True,
        loss_name: str = 'loss_focal',
        **kwargs: Any,
    ) -> None:
        super().__init__(
            gamma=gamma,
            alpha=alpha,
            label_smoothing=label_smoothing,
            avg_non_ignore=avg_non_ignore,
            fused=fused,
            loss_name=loss_name,
            **kwargs,
        )

    def compute(self, pred: Tensor, target: Tensor, **kwargs: Any) -> Tensor:
        """Call the function."""
        return softmax_focal_loss(pred, target, **kwargs)
