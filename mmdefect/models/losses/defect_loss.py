"""What the losses for mmseg's heads share: arguments, the signature the heads call, and the weight of the loss."""

from collections.abc import Callable, Sequence
from typing import Any

from mmseg.models.losses.utils import get_class_weight
from torch import Tensor, nn

from mmdefect.functional.reduction import REDUCTIONS


class DefectLoss(nn.Module):
    """Base of the losses: each has its ``function`` of :mod:`mmdefect.functional` and its ``default_name`` in the log.

    Args:
        class_weight: one weight per class, or the path of a file that mmseg can read them from.
        reduction: ``'mean'``, ``'sum'`` or ``'none'``.
        loss_weight: factor of the result.
        loss_name: name in the log; it must start with ``loss`` to be trained on.
        **options: the other arguments of the function; formula and defaults stand there.
    """

    function: Callable[..., Tensor]
    default_name: str

    def __init__(
        self,
        *,
        class_weight: Sequence[float] | str | None = None,
        reduction: str = 'mean',
        loss_weight: float = 1.0,
        loss_name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ValueError(f'`reduction` must be one of {REDUCTIONS}, got {reduction!r}.')
        self.class_weight = get_class_weight(class_weight)
        self.reduction, self.loss_weight, self.options = reduction, loss_weight, options
        self.loss_name = loss_name or self.default_name

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
        ignore_index: int | None = 255,
    ) -> Tensor:
        """Return the loss times ``loss_weight`` as mmseg's heads ask for it.

        Args:
            pred, target: ``(B, C, H, W)`` float logits and ``(B, H, W)`` int64 labels, or ``ignore_index``.
            weight: per sample ``(B,)`` or per pixel ``(B, H, W)``.
            avg_factor: what a mean divides by.
            reduction_override: takes the place of ``reduction``.
            ignore_index: label of the pixels that do not count; ``None`` ignores no label.
        """
        ignored = -100 if ignore_index is None else ignore_index
        options = dict(self.options, class_weight=self.class_weight, reduction=reduction_override or self.reduction)
        return self.loss_weight * self.compute(
            pred, target, weight=weight, ignore_index=ignored, avg_factor=avg_factor, **options
        )

    def compute(self, pred: Tensor, target: Tensor, **kwargs: Any) -> Tensor:
        """Call the function of the loss."""
        return self.function(pred, target, **kwargs)

    def extra_repr(self) -> str:
        """Name the settings in the printed model."""
        settings = dict(self.options, class_weight=self.class_weight, loss_weight=self.loss_weight)
        return ', '.join(f'{k}={v}' for k, v in settings.items() if v is not None)
