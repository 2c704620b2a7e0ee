"""LRASPP for features smaller than its pooling window."""

import torch
from mmseg.models.decode_heads import LRASPPHead
from torch import Tensor, nn
from torch.nn import functional

from mmdefect.functional.layers import window_means
from mmdefect.registry import MODELS


class FittedAvgPool2d(nn.AvgPool2d):
    """Average pooling whose window shrinks to the input where the input is smaller."""

    def forward(self, features: Tensor) -> Tensor:
        """Pool ``(B, C, H, W)`` features."""
        if torch.jit.is_tracing():  # a window of the traced size would be that of every size
            return window_means(features, self.kernel_size, self.stride)
        window = tuple(min(self.kernel_size, side) for side in features.shape[2:])
        return functional.avg_pool2d(features, window, self.stride)


@MODELS.register_module()
class FittedLRASPPHead(LRASPPHead):
    """mmseg's ``LRASPPHead``, whose 49 pixel window needs crops of 392; equal to it from there on."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        pool = self.image_pool[0]
        self.image_pool[0] = FittedAvgPool2d(pool.kernel_size, pool.stride)
