r"""The loss of textual inversion inside a mask.

With the squared error :math:`e` between predicted and true noise and the mask :math:`m` on the latent grid, the
published form (Gui et al., "AnoGen", ECCV 2024) is the mean of :math:`m e` over *all* pixels, so that a defect of 0.1 %
of the image gets 0.1 % of the gradient. The area-normalised form divides by the masked pixels of each image
instead.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

NORMALISATIONS = ('area', 'none')


def shrink_mask(mask: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Return a mask on the latent grid: a cell is set when any pixel of it is, so that no defect gets lost.

    Args:
        mask: ``(B, 1, H, W)`` bool.
        size_hw: of the grid; divides the size of the mask or is any smaller size.

    Returns:
        ``(B, 1, h, w)`` bool.
    """
    return F.adaptive_max_pool2d(mask.float(), size_hw) > 0


def masked_noise_loss(predicted: Tensor, target: Tensor, mask: Tensor, normalise: str = 'area') -> Tensor:
    """Return the squared error inside the mask.

    Args:
        predicted: ``(B, C, h, w)`` float.
        target: likewise.
        mask: ``(B, 1, h, w)`` bool.
        normalise: ``area``: mean over the masked pixels of each image, then over images; ``none``: mean over all
            pixels, as published.

    Returns:
        A number; 0 for an empty mask.

    Raises:
        ValueError: for another ``normalise`` or shapes that do not fit.
    """
    if normalise not in NORMALISATIONS:
        raise ValueError(f'`normalise` must be one of {", ".join(NORMALISATIONS)}, got {normalise!r}.')
    if predicted.shape != target.shape or mask.shape != (len(target), 1, *target.shape[2:]):
        raise ValueError(
            f'`mask` must have the size of the latents, {(len(target), 1, *target.shape[2:])}, got '
            f'{tuple(mask.shape)}; shrink it with shrink_mask.'
        )
    error = (predicted.float() - target.float()).square() * mask
    if normalise == 'none':
        return error.mean()
    area = mask.sum((1, 2, 3)).clamp(min=1) * target.shape[1]
    return (error.sum((1, 2, 3)) / area).mean()


def noise_target(clean: Tensor, noise: Tensor, alpha: Tensor, prediction_type: str) -> tuple[Tensor, Tensor]:
    """Return the noisy latents and what the network should predict for them.

    Args:
        clean: ``(B, C, h, w)`` float latents.
        noise: likewise, standard normal.
        alpha: ``(B,)`` signal power of the drawn steps.
        prediction_type: ``epsilon`` or ``v_prediction``.
    """
    signal, spread = alpha.sqrt().view(-1, 1, 1, 1), (1 - alpha).sqrt().view(-1, 1, 1, 1)
    noisy = signal * clean + spread * noise
    return noisy, noise if prediction_type == 'epsilon' else signal * noise - spread * clean
