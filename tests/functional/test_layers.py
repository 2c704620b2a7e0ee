"""Means over windows equal PyTorch's average pooling with a window no larger than the features."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from mmdefect.functional.layers import window_means


@pytest.mark.parametrize('size_hw', [(8, 8), (1, 1), (5, 30), (30, 5), (64, 70), (49, 120), (50, 48)])
@pytest.mark.parametrize('window, stride', [(49, (16, 20)), (7, (3, 2)), (1, (1, 1))])
def test_equals_average_pooling(size_hw, window, stride):
    features = torch.randn(2, 3, *size_hw, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = functional.avg_pool2d(features, tuple(min(window, side) for side in size_hw), stride)
    torch.testing.assert_close(window_means(features, window, stride), expected)
