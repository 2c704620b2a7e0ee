"""Generate inside a mask: blended latent diffusion, and the paste that leaves every other pixel as it was.

Before each step the latents outside the mask are replaced by the noised latents of the image, so that the network
always sees the true surroundings (Avrahami et al., "Blended latent diffusion", 2023; Gui et al., "AnoGen", ECCV 2024).
After the last step they are replaced once more, by the latents of the image themselves; the published code leaves
that out. The decoder still changes pixels everywhere, so the image is pasted back outside the mask:
those pixels are identical.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from mmdefect.diffusion.boxes import bounding_box
from mmdefect.diffusion.inversion_loss import shrink_mask
from mmdefect.diffusion.latent_model import LatentModel, TextCondition
from mmdefect.diffusion.schedulers import make_scheduler, step_options
from mmdefect.synthesis.blending.poisson import poisson_blend

SEAMS = ('none', 'poisson')


@dataclass(frozen=True)
class BlendSettings:
    """How images are generated.

    Attributes:
        steps: of the sampler; more are slower. The paper uses 50.
        guidance: weight of the text; 1 switches guidance off, the paper uses 10.
        scheduler: sampler, a key of :data:`~mmdefect.diffusion.schedulers.SCHEDULERS`.
        eta: noise that DDIM adds, 0 to 1.
        seam: ``none`` pastes the pixels as they are, ``poisson`` continues the surroundings into the mask.
    """

    steps: int = 50
    guidance: float = 10.0
    scheduler: str = 'ddim'
    eta: float = 0.0
    seam: str = 'none'

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f'`steps` must be at least 1, got {self.steps}.')
        if self.guidance < 1:
            raise ValueError(f'`guidance` must be at least 1, got {self.guidance}; 1 switches it off.')
        if not 0 <= self.eta <= 1:
            raise ValueError(f'`eta` must be in [0, 1], got {self.eta}.')
        if self.seam not in SEAMS:
            raise ValueError(f'`seam` must be one of {", ".join(SEAMS)}, got {self.seam!r}.')


def draw_noise(generators: Sequence[torch.Generator], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return standard normal noise, ``(B, *shape)`` float32, each sample from its own CPU generator."""
    return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(device)


@torch.no_grad()
def sample_blended(
    model: LatentModel,
    clean: Tensor,
    mask: Tensor,
    condition: TextCondition,
    unconditional: TextCondition,
    generators: Sequence[torch.Generator],
    settings: BlendSettings,
) -> Tensor:
    """Return latents that follow the text inside the mask and are ``clean`` outside.

    Args:
        model: pipeline.
        clean: ``(B, C, h, w)`` float32 latents of the images.
        mask: ``(B, 1, h, w)`` bool.
        condition: text of each sample.
        unconditional: what guidance leads away from.
        generators: CPU generators, one for each sample, so that batch mates change nothing.
        settings: how.

    Returns:
        ``(B, C, h, w)`` float32.
    """
    scheduler = make_scheduler(model.pipeline.scheduler.config, settings.scheduler)
    scheduler.set_timesteps(settings.steps, device=model.device)
    options = step_options(scheduler, list(generators), settings.eta)
    shape = tuple(clean.shape[1:])
    latents = draw_noise(generators, shape, model.device) * scheduler.init_noise_sigma
    for step in scheduler.timesteps:
        noised = scheduler.add_noise(clean, draw_noise(generators, shape, model.device), step.expand(len(clean)))
        latents = torch.where(mask, latents, noised)
        predicted = predict_guided(
            model, scheduler.scale_model_input(latents, step), step, condition, unconditional, settings.guidance
        )
        latents = scheduler.step(predicted, step, latents, **options).prev_sample
    return torch.where(mask, latents, clean)


def predict_guided(
    model: LatentModel,
    latents: Tensor,
    step: Tensor | int,
    condition: TextCondition,
    unconditional: TextCondition,
    guidance: float,
) -> Tensor:
    """Return the output of the network under classifier-free guidance (Ho and Salimans, 2022)."""
    if guidance == 1:
        return model.predict(latents, step, condition)
    both = model.predict(torch.cat([latents, latents]), step, TextCondition.cat([unconditional, condition]))
    plain, guided = both.chunk(2)
    return plain + guidance * (guided - plain)


@torch.no_grad()
def generate(
    model: LatentModel,
    images: Tensor,
    masks: Tensor,
    condition: TextCondition,
    unconditional: TextCondition,
    generators: Sequence[torch.Generator],
    settings: BlendSettings,
) -> Tensor:
    """Generate inside masks.

    Args:
        model: pipeline.
        images: ``(B, 3, H, W)`` float in [0, 1], RGB, of a size that the model can compute.
        masks: ``(B, 1, H, W)`` bool.
        condition: text of each sample.
        unconditional: what guidance leads away from.
        generators: CPU generators, one for each sample.
        settings: how.

    Returns:
        ``(B, 3, H, W)`` float32 in [0, 1], RGB; decoded, not pasted back yet.
    """
    clean = model.encode_images(images.to(model.device))
    small = shrink_mask(masks.to(model.device), tuple(clean.shape[2:]))
    return model.decode(sample_blended(model, clean, small, condition, unconditional, generators, settings))


def paste_back(original: ndarray, generated: ndarray, mask: ndarray, seam: str = 'none') -> ndarray:
    """Return the original with generated pixels inside the mask; all others are identical.

    Args:
        original: ``(H, W, 3)`` uint8 RGB.
        generated: ``(h, w, 3)`` uint8 RGB; brought to the size of the original if that differs.
        mask: ``(H, W)`` bool.
        seam: see :class:`BlendSettings`.

    Raises:
        ValueError: if the mask has another size than the original.
    """
    if mask.shape != original.shape[:2]:
        raise ValueError(f'`mask` must have the size of the image, {original.shape[:2]}, got {mask.shape}.')
    if generated.shape != original.shape:
        generated = cv2.resize(generated, original.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    if seam == 'poisson' and mask.any():
        generated = _continue_into(original, generated, mask)
    return np.where(mask[..., None], generated, original)


def _continue_into(original: ndarray, generated: ndarray, mask: ndarray) -> ndarray:
    """Return the generated image with the surroundings continued into the mask."""
    top, left, bottom, right = bounding_box(mask)
    rows = slice(max(0, top - 1), min(mask.shape[0], bottom + 1))
    columns = slice(max(0, left - 1), min(mask.shape[1], right + 1))
    target, source = (
        torch.from_numpy(p[rows, columns].transpose(2, 0, 1).astype(np.float32) / 255) for p in (original, generated)
    )
    blended = poisson_blend(target, source, torch.from_numpy(mask[rows, columns].copy())[None])
    result = generated.copy()
    result[rows, columns] = (blended * 255).round().numpy().astype(np.uint8).transpose(1, 2, 0)
    return result


def to_uint8(images: Tensor) -> ndarray:
    """Return ``(B, 3, H, W)`` float in [0, 1] as ``(B, H, W, 3)`` uint8."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
