"""PSNR, SSIM and LPIPS against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision

from mmdefect.diffusion.edit import Lpips, psnr, ssim


@pytest.fixture()
def pair():
    first = torch.rand(3, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    noise = torch.rand(3, 3, 40, 56, generator=torch.Generator().manual_seed(1))
    noise = noise * torch.tensor([0.05, 0.2, 1]).view(3, 1, 1, 1)
    return first, (first + noise).clamp(0, 1)


def ssim_by_definition(first, second):
    """One channel of an image in float64: Wang et al., Gaussian window of 11 pixels, windows inside the image."""
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    x, y = (np.lib.stride_tricks.sliding_window_view(v, (11, 11)) for v in (first, second))
    mean = [(window * v).sum((2, 3)) for v in (x, y)]
    var = [(window * (v - m[..., None, None]) ** 2).sum((2, 3)) for v, m in zip((x, y), mean, strict=True)]
    both = (window * (x - mean[0][..., None, None]) * (y - mean[1][..., None, None])).sum((2, 3))
    alike = (2 * mean[0] * mean[1] + 1e-4) * (2 * both + 9e-4)
    return (alike / ((mean[0] ** 2 + mean[1] ** 2 + 1e-4) * (var[0] + var[1] + 9e-4))).mean()


def test_psnr_and_ssim(pair):
    first, second = pair
    one, two = (p.double().numpy() for p in pair)
    for index in range(3):
        expected = -10 * np.log10(((one[index] - two[index]) ** 2).mean())
        assert float(psnr(first, second)[index]) == pytest.approx(expected, abs=1e-4)
        expected = np.mean([ssim_by_definition(a, b) for a, b in zip(one[index], two[index], strict=True)])
        assert float(ssim(first, second)[index]) == pytest.approx(expected, abs=1e-4)
    assert torch.isinf(psnr(first, first)).all() and torch.allclose(ssim(first, first), torch.ones(3))
    with pytest.raises(ValueError, match='at least 11 pixels'):
        ssim(first[..., :8], first[..., :8])


@pytest.mark.slow
def test_lpips_is_what_its_definition_says(pair, tmp_path):
    """The definition written out over torchvision's VGG-16 with random weights."""
    torch.manual_seed(0)
    features = torchvision.models.vgg16().features.eval()
    bounds = (0, 4, 9, 16, 23, 30)
    state = {}
    for number in range(5):
        for index in range(bounds[number], bounds[number + 1]):
            for key, value in features[index].state_dict().items():
                state[f'net.slice{number + 1}.{index}.{key}'] = value
        state[f'lin{number}.model.1.weight'] = torch.rand(1, (64, 128, 256, 512, 512)[number], 1, 1)
    torch.save(state, tmp_path / 'lpips.pth')
    first, second = pair
    mean, std = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1), torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
    expected = torch.zeros(3)
    with torch.no_grad():
        one, two = ((p * 2 - 1 - mean) / std for p in (first, second))
        for number in range(5):
            for index in range(bounds[number], bounds[number + 1]):
                one, two = features[index](one), features[index](two)
            difference = torch.nn.functional.normalize(one) - torch.nn.functional.normalize(two)
            expected += (difference**2 * state[f'lin{number}.model.1.weight']).sum(1).mean((1, 2))
    measured = Lpips(tmp_path / 'lpips.pth')
    assert torch.allclose(measured(first, second), expected, rtol=1e-4)
    assert torch.equal(measured(first, first), torch.zeros(3))
    with pytest.raises(ValueError, match='there is no such file'):
        Lpips(tmp_path / 'none.pth')
    torch.save(dict(a=1), tmp_path / 'other.pth')
    with pytest.raises(ValueError, match='must hold the state dict'):
        Lpips(tmp_path / 'other.pth')
    assert np.isfinite(measured(first, second).numpy()).all()
