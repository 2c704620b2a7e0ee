"""The grid of patches against crops cut one by one, upsampling against a transposed convolution, Grad-CAM by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmdefect.functional.heat_maps import default_std, grad_cam, grid_shape, unfold_patches, upsample_scores


@pytest.mark.parametrize('patch, stride, size_hw', [(8, 4, (24, 32)), (5, 3, (14, 8)), (7, 7, (7, 21))])
def test_patches_are_the_crops_in_reading_order(patch, stride, size_hw):
    image = torch.arange(2 * 3 * size_hw[0] * size_hw[1]).view(2, 3, *size_hw)
    patches = unfold_patches(image, patch, stride)
    rows, columns = grid_shape(size_hw, patch, stride)
    assert patches.shape == (2, rows, columns, 3, patch, patch)
    flat = patches.reshape(2, rows * columns, 3, patch, patch)
    for b in range(2):
        number = 0
        for top in range(0, size_hw[0] - patch + 1, stride):
            for left in range(0, size_hw[1] - patch + 1, stride):
                assert torch.equal(flat[b, number], image[b, :, top : top + patch, left : left + patch])
                number += 1
        assert number == rows * columns


def test_grids_of_the_paper():
    assert grid_shape((256, 256), 32, 4) == (57, 57)
    assert grid_shape((256, 256), 64, 4) == (49, 49)
    with pytest.raises(ValueError, match='resize to 260'):
        grid_shape((258, 256), 32, 4)


@pytest.mark.parametrize('patch, stride', [(32, 4), (9, 5)])
def test_upsampling_equals_a_transposed_convolution(patch, stride):
    scores = torch.rand(2, 6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    offset = torch.arange(patch, dtype=torch.float64) - (patch - 1) / 2
    line = torch.exp(-(offset**2) / (2 * default_std(patch) ** 2))
    kernel = (line[:, None] * line[None])[None, None]
    summed = F.conv_transpose2d(scores[:, None], kernel, stride=stride)[:, 0]
    weight = F.conv_transpose2d(torch.ones_like(scores)[:, None], kernel, stride=stride)[:, 0]
    torch.testing.assert_close(upsample_scores(scores, patch, stride, normalize=False), summed)
    torch.testing.assert_close(upsample_scores(scores, patch, stride), summed / weight)


def test_equal_scores_give_an_even_map():
    heat = upsample_scores(torch.full((1, 57, 57), 3.0), 32, 4)
    assert heat.shape == (1, 256, 256)
    torch.testing.assert_close(heat, torch.full_like(heat, 3.0))


def test_the_peak_lies_in_the_middle_of_its_patch():
    scores = torch.zeros(1, 10, 12)
    scores[0, 4, 7] = 1
    heat = upsample_scores(scores, 8, 4, normalize=False)
    row, column = divmod(int(heat.argmax()), heat.shape[2])
    assert abs(row - (4 * 4 + 3.5)) <= 1 and abs(column - (7 * 4 + 3.5)) <= 1


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
