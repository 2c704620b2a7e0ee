"""What the losses for mmseg's heads share: arguments, the signature the heads call, and the weight of the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from mmseg.models.losses.utils import get_class_weight
from torch import Tensor, nn

from mmdefect.functional.reduction import REDUCTIONS


class DefectLoss(nn.Module, ABC):
    """Base of the losses; a subclass calls one function of :mod:`mmdefect.functional` in :meth:`compute`.

    Args:
        class_weight: one weight per class, or the path of a file that mmseg can read them from.
        reduction: ``'mean'``, ``'sum'`` or ``'none'``.
        loss_weight: factor of the result.
        loss_name: name in the log; it must start with ``loss`` to be trained on.
        **options: further arguments of the function.
    """

    def __init__(
        self,
        *,
        class_weight: Sequence[float] | str | None = None,
        reduction: str = 'mean',
        loss_weight: float = 1.0,
        loss_name: str,
        **options: Any,
    ) -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ValueError(f'`reduction` must be one of {REDUCTIONS}, got {reduction!r}.')
        self.class_weight = get_class_weight(class_weight)
        self.reduction = reduction
        self.loss_weight = loss_weight
        self.options = options
        self._loss_name = loss_name

    @property
    def loss_name(self) -> str:
        """Name in the log."""
        return self._loss_name

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
        ignore_index: int | None = 255,
    ) -> Tensor:
        """Return the loss as mmseg's heads ask for it.

        Args:
            pred: ``(B, C, H, W)`` float logits at the size of the label.
            target: ``(B, H, W)`` int64 labels, or ``ignore_index``.
            weight: per sample ``(B,)`` or per pixel ``(B, H, W)``.
            avg_factor: what a mean divides by.
            reduction_override: takes the place of ``reduction``.
            ignore_index: label of the pixels that do not count; ``None`` ignores no label.

        Returns:
            The loss times ``loss_weight``.
        """
        loss = self.compute(
            pred,
            target,
            weight=weight,
            class_weight=self.class_weight,
            ignore_index=-100 if ignore_index is None else ignore_index,
            reduction=reduction_override or self.reduction,
            avg_factor=avg_factor,
            **self.options,
        )
        return self.loss_weight * loss

    @abstractmethod
    def compute(self, pred: Tensor, target: Tensor, **kwargs: Any) -> Tensor:
        """Call the function of the loss."""

    def extra_repr(self) -> str:
        """Name the settings in the printed model."""
        settings = dict(self.options, class_weight=self.class_weight, loss_weight=self.loss_weight)
        return ', '.join(f'{k}={v}' for k, v in settings.items() if v is not None)
