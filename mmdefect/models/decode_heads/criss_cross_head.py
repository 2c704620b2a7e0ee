"""CCNet without compiled operators.

mmseg's ``CCHead`` imports its attention from ``mmcv.ops``, which needs the compiled extension although the attention
itself does not. The parameters here have the same names, so its checkpoints load.
"""

import torch
from mmcv.cnn import Scale
from mmseg.models.decode_heads import FCNHead
from torch import Tensor, nn

from mmdefect.functional.layers import criss_cross_attention
from mmdefect.registry import MODELS


class CrissCrossAttention(nn.Module):
    """One pass of criss-cross attention with a learned residual weight that starts at zero."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.query_conv = nn.Conv2d(in_channels, in_channels // 8, 1)
        self.key_conv = nn.Conv2d(in_channels, in_channels // 8, 1)
        self.value_conv = nn.Conv2d(in_channels, in_channels, 1)
        self.gamma = Scale(0.0)

    def forward(self, features: Tensor) -> Tensor:
        """Return ``(B, C, H, W)`` features mixed along rows and columns."""
        mixed = criss_cross_attention(self.query_conv(features), self.key_conv(features), self.value_conv(features))
        return self.gamma(mixed) + features


@MODELS.register_module()
class CrissCrossHead(FCNHead):
    """Decode head of CCNet.

    Args:
        recurrence: passes of the attention; two reach every pixel.
        **kwargs: arguments of mmseg's ``FCNHead``.
    """

    def __init__(self, recurrence: int = 2, **kwargs) -> None:
        super().__init__(num_convs=2, **kwargs)
        self.recurrence = recurrence
        self.cca = CrissCrossAttention(self.channels)

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Return ``(B, num_classes, H, W)`` logits."""
        inputs = self._transform_inputs(inputs)
        features = self.convs[0](inputs)
        for _ in range(self.recurrence):
            features = self.cca(features)
        features = self.convs[1](features)
        if self.concat_input:
            features = self.conv_cat(torch.cat([inputs, features], dim=1))
        return self.cls_seg(features)
