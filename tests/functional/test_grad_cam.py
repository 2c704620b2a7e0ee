"""Grad-CAM on a network whose answer is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmdefect.functional.grad_cam import grad_cam


def network() -> nn.Sequential:
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net[0].weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    return net


def test_only_what_raises_the_score_is_hot():
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 1, 2] = 5
    net = network()
    heat = grad_cam(net, '0', image, lambda x: net(x)[:, 0])
    assert heat.shape == (1, 4, 4)
    assert divmod(int(heat.argmax()), 4) == (1, 2) and heat.max() == 1 and heat.sum() == 1
    assert grad_cam(net, '0', image, lambda x: -net(x)[:, 0]).sum() == 0


def test_unknown_and_unfit_layers_are_named():
    net = network()
    with pytest.raises(ValueError, match="got '7'; for example 0, 1, 2"):
        grad_cam(net, '7', torch.zeros(1, 1, 4, 4), lambda x: net(x)[:, 0])
    with pytest.raises(ValueError, match='must put out a map'):
        grad_cam(net, '2', torch.zeros(1, 1, 4, 4), lambda x: net(x)[:, 0])
