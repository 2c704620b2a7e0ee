"""How close two images are: PSNR, SSIM and LPIPS, one number for each image."""

from __future__ import annotations

import os

import torch
import torch.nn.functional as F
from torch import Tensor

#: Normalisation of the images that LPIPS networks were trained with, for values in [-1, 1].
_LPIPS_MEAN, _LPIPS_STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
#: Convolutions of VGG-16 before each of the five outputs.
_VGG_SLICES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB, ``(B,)``; infinite for equal images.

    Args:
        first: ``(B, C, H, W)`` float in [0, 1].
        second: likewise.
    """
    return -10 * (first - second).square().mean((1, 2, 3)).log10()


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Return the structural similarity, ``(B,)``, mean over pixels and channels.

    Wang et al., IEEE Trans. Image Processing 13 (2004): Gaussian window of 11 pixels, sigma 1.5, K = 0.01 and 0.03.
    Only windows that lie within the image count.

    Args:
        first: ``(B, C, H, W)`` float in [0, 1], at least 11 pixels high and wide.
        second: likewise.
    """
    if min(first.shape[-2:]) < 11:
        raise ValueError(f'images must be at least 11 pixels high and wide, got {tuple(first.shape[-2:])}.')
    offsets = torch.arange(11, dtype=first.dtype, device=first.device) - 5
    window = torch.exp(-offsets.square() / (2 * 1.5**2))
    window = window / window.sum()
    channels = first.shape[1]

    def smooth(values: Tensor) -> Tensor:
        rows = F.conv2d(values, window.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
        return F.conv2d(rows, window.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)

    mean_1, mean_2 = smooth(first), smooth(second)
    var_1, var_2 = smooth(first * first) - mean_1**2, smooth(second * second) - mean_2**2
    covariance = smooth(first * second) - mean_1 * mean_2
    value = (
        (2 * mean_1 * mean_2 + 1e-4)
        * (2 * covariance + 9e-4)
        / ((mean_1**2 + mean_2**2 + 1e-4) * (var_1 + var_2 + 9e-4))
    )
    return value.mean((1, 2, 3))


class Lpips:
    """Learned perceptual distance on VGG-16 (Zhang et al., CVPR 2018).

    Args:
        path: state dict of ``lpips.LPIPS(net='vgg')`` of the package ``lpips``, saved with ``torch.save``. It holds the
            network and the learned weights of its layers; neither comes with this package.

    Raises:
        ValueError: if the file is missing or holds something else.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        try:
            state = torch.load(path, map_location='cpu', weights_only=True)
            self.layers = [
                [
                    (state[f'net.slice{number}.{index}.weight'], state[f'net.slice{number}.{index}.bias'])
                    for index in indices
                ]
                for number, indices in enumerate(_VGG_SLICES, 1)
            ]
            self.weights = [state[f'lin{number}.model.1.weight'] for number in range(5)]
        except FileNotFoundError as err:
            raise ValueError(
                f'the weights of LPIPS must be at {path}, but there is no such file; save '
                "`lpips.LPIPS(net='vgg').state_dict()` there, or leave LPIPS out."
            ) from err
        except (KeyError, TypeError, RuntimeError, EOFError) as err:
            raise ValueError(
                f"{path} must hold the state dict of `lpips.LPIPS(net='vgg')`, but it does not ({err}); "
                'save '
                'it with torch.save.'
            ) from err

    @torch.no_grad()
    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the distance, ``(B,)``; images are ``(B, 3, H, W)`` float in [0, 1], RGB."""
        mean, std = (torch.tensor(v, device=first.device).view(1, 3, 1, 1) for v in (_LPIPS_MEAN, _LPIPS_STD))
        features = (torch.cat([first, second]).float() * 2 - 1 - mean) / std
        total = torch.zeros(len(first), device=first.device)
        for number, (layers, weight) in enumerate(zip(self.layers, self.weights, strict=True)):
            features = features if number == 0 else F.max_pool2d(features, 2)
            for kernel, bias in layers:
                features = F.relu(F.conv2d(features, kernel.to(features), bias.to(features), padding=1))
            one, two = (features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)).chunk(2)
            total += F.conv2d((one - two).square(), weight.to(features)).mean((1, 2, 3))
        return total
