"""Weights of samples and pixels, from the pipeline to any loss."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mmdefect.functional.reduction import expand_weight
from mmdefect.models.losses.label_extras import LabelExtras
from mmdefect.registry import MODELS


@MODELS.register_module()
class WeightedSampleLoss(nn.Module):
    r"""Multiply the loss of every pixel by the weight its sample carries.

    With :math:`v` the weights of a batch (:mod:`~mmdefect.models.losses.label_extras` says where they come from), the
    inner loss is called with ``weight=v``. Its mean then divides by the pixels: the estimate of importance weighting.
    With ``normalize`` it divides by :math:`\sum v` over the labelled pixels: weights that are all 2 change
    nothing.

    Args:
        loss: config of the inner loss: ours, or any of mmseg's that takes ``weight``.
        normalize: whether the mean divides by the sum of the weights; for losses over pixels.
        class_weight: passed to the inner loss.
        loss_weight: factor of the result, on top of the inner one.
    """

    def __init__(
        self, loss: dict, normalize: bool = False, class_weight: Sequence[float] | None = None, loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        self.loss = MODELS.build(loss if class_weight is None else dict(loss, class_weight=class_weight))
        self.normalize = normalize
        self.loss_weight = loss_weight
        self.label_extras: LabelExtras | None = None

    @property
    def loss_name(self) -> str:
        """Name of the inner loss in the log."""
        return self.loss.loss_name

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        ignore_index: int = 255,
        **kwargs,
    ) -> Tensor:
        """Return the weighted loss.

        Args:
            pred: ``(B, C, H, W)`` float logits at the size of the label.
            target: ``(B, H, W)`` int64 labels, or ``ignore_index``.
            weight: further weights of the pixels, of the head's pixel sampler.
            avg_factor: what a mean divides by.
            ignore_index: label of the pixels that do not count.
            **kwargs: passed to the inner loss.
        """
        if self.label_extras is None:
            raise RuntimeError(
                'WeightedSampleLoss must get the weights of the batch, but nothing brings them; add '
                "dict(type='LabelExtrasHook') to `custom_hooks`, or call `attach_label_extras(model)`."
            )
        own = self.label_extras.weight
        if own is not None:
            # mmseg's losses take weights of pixels only
            own = expand_weight(own, target).expand(target.shape).to(pred.device)
            weight = own if weight is None else own * expand_weight(weight, target)
        if self.normalize and weight is not None and avg_factor is None:
            avg_factor = (weight * (target != ignore_index)).sum()
        return self.loss_weight * self.loss(
            pred, target, weight=weight, avg_factor=avg_factor, ignore_index=ignore_index, **kwargs
        )
