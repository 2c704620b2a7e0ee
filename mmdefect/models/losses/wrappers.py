"""Losses around other losses: a weighted sum, and weights of samples and pixels from the pipeline."""

from collections.abc import Sequence

from torch import Tensor, nn

from mmdefect.functional.reduction import expand_weight
from mmdefect.models.losses.label_extras import LabelExtras
from mmdefect.registry import MODELS


@MODELS.register_module()
class SumLoss(nn.Module):
    """Weighted sum of losses.

    PIDNet and DDRNet call the losses of their branches by position and forget the ignored label in some calls; this
    wrapper takes one position and always passes it on.

    Args:
        losses: configs of the losses, each with its own ``loss_weight``.
        loss_weight: factor on the sum.
        ignore_index: label value that is left out, unless the head names one.
    """

    def __init__(
        self, losses: list[dict], loss_weight: float = 1.0, ignore_index: int = 255, loss_name: str = 'loss_sum'
    ) -> None:
        super().__init__()
        self.losses = nn.ModuleList([MODELS.build(loss) for loss in losses])
        self.loss_weight, self.ignore_index, self.loss_name = loss_weight, ignore_index, loss_name

    def forward(
        self, pred: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int | None = None, **kwargs
    ) -> Tensor:
        """Return the weighted sum; see the single losses for shapes."""
        ignored = self.ignore_index if ignore_index is None else ignore_index
        losses = (loss(pred, target, weight=weight, ignore_index=ignored, **kwargs) for loss in self.losses)
        return self.loss_weight * sum(losses)


@MODELS.register_module()
class WeightedSampleLoss(nn.Module):
    r"""Multiply the loss of every pixel by the weight its sample carries.

    With :math:`v` the weights of a batch (:mod:`~mmdefect.models.losses.label_extras` says where they come from), the
    inner loss is called with ``weight=v``. Its mean then divides by the pixels: the estimate of importance weighting.
    With ``normalize`` it divides by :math:`\sum v` over the labelled pixels: weights that are all 2 change nothing.

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
        self.normalize, self.loss_weight = normalize, loss_weight
        self.loss_name = self.loss.loss_name
        self.label_extras: LabelExtras | None = None

    def forward(self, pred: Tensor, target: Tensor, weight=None, avg_factor=None, ignore_index=255, **kwargs) -> Tensor:
        """Return the weighted loss; ``weight`` holds further weights of the pixels, of the head's pixel sampler."""
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
        options = dict(kwargs, weight=weight, avg_factor=avg_factor, ignore_index=ignore_index)
        return self.loss_weight * self.loss(pred, target, **options)
