"""Several losses in the place of one, for heads that know their losses by position."""

from __future__ import annotations

from torch import Tensor, nn

from mmdefect.registry import MODELS


@MODELS.register_module()
class SumLoss(nn.Module):
    """Weighted sum of losses.

    PIDNet and DDRNet call the losses of their branches by position and forget the ignored label in some calls; this
    wrapper takes one position and always passes it on.

    Args:
        losses: configs of the losses, each with its own ``loss_weight``.
        loss_weight: factor on the sum.
        ignore_index: label value that is left out.
        loss_name: key in the log.
    """

    def __init__(
        self, losses: list[dict], loss_weight: float = 1.0, ignore_index: int = 255, loss_name: str = 'loss_sum'
    ) -> None:
        super().__init__()
        self.losses = nn.ModuleList([MODELS.build(loss) for loss in losses])
        self.loss_weight = loss_weight
        self.ignore_index = ignore_index
        self._loss_name = loss_name

    def forward(
        self,
        prediction: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        **kwargs,
    ) -> Tensor:
        """Return the weighted sum; see the single losses for shapes."""
        ignored = self.ignore_index if ignore_index is None else ignore_index
        return self.loss_weight * sum(
            loss(prediction, target, weight=weight, ignore_index=ignored, **kwargs) for loss in self.losses
        )

    @property
    def loss_name(self) -> str:
        """Key in the log."""
        return self._loss_name
