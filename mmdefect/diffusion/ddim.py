r"""DDIM as a map and its inverse (Song et al., "Denoising diffusion implicit models", 2021), for inversion and editing.

With the signal power :math:`a_t`, a step from :math:`t` to any other step :math:`s` is

.. math:: z_s = \sqrt{a_s}\,\frac{z_t - \sqrt{1 - a_t}\,\epsilon}{\sqrt{a_t}} + \sqrt{1 - a_s}\,\epsilon

Downwards it denoises; upwards, with the noise that the network predicts for the latents it starts from, it inverts
approximately.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mmdefect.diffusion.latent_model import LatentModel, TextCondition
from mmdefect.diffusion.schedulers import make_scheduler


@dataclass(frozen=True)
class DDIMSteps:
    """The steps of a DDIM run, from noise to image.

    Attributes:
        times: training steps, descending.
        alphas: signal power before each step and, at the end, that of the image: one more than ``times``.
    """

    times: list[int]
    alphas: list[float]

    @staticmethod
    def of(model: LatentModel, count: int) -> DDIMSteps:
        """Return the steps that diffusers takes for this model; the last goes to the first training step."""
        if count < 1:
            raise ValueError(f'`steps` must be at least 1, got {count}.')
        scheduler = make_scheduler(model.pipeline.scheduler.config, 'ddim')
        scheduler.set_timesteps(count)
        times = [int(t) for t in scheduler.timesteps]
        powers = scheduler.alphas_cumprod.double()
        return DDIMSteps(times, [float(powers[t]) for t in times] + [float(scheduler.final_alpha_cumprod)])

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.times)


def move(latents: Tensor, noise: Tensor, alpha: float, other: float) -> Tensor:
    """Return the latents at another signal power, along the predicted noise; all ``(B, C, h, w)``."""
    clean = (latents - (1 - alpha) ** 0.5 * noise) / alpha**0.5
    return other**0.5 * clean + (1 - other) ** 0.5 * noise


def as_noise(model: LatentModel, output: Tensor, latents: Tensor, alpha: float) -> Tensor:
    """Return the noise that an output of the network means; networks may predict velocity instead."""
    if model.prediction_type == 'epsilon':
        return output
    return alpha**0.5 * output + (1 - alpha) ** 0.5 * latents


@torch.no_grad()
def invert(
    model: LatentModel,
    clean: Tensor,
    condition: TextCondition,
    steps: DDIMSteps,
    tick: Callable[[], None] | None = None,
) -> list[Tensor]:
    """Return the latents of an image at all steps, from the image itself to noise.

    Only the text is used, no guidance (Mokady et al., "Null-text inversion", CVPR 2023).

    Args:
        model: pipeline.
        clean: ``(B, C, h, w)`` float32.
        condition: text of each image.
        steps: of the run that will go back.
        tick: called after each step.

    Returns:
        ``len(steps) + 1`` tensors like ``clean``.
    """
    trajectory = [clean]
    for index in reversed(range(len(steps))):
        lower, upper = steps.alphas[index + 1], steps.alphas[index]
        latents = trajectory[-1]
        noise = as_noise(model, model.predict(latents, steps.times[index], condition), latents, upper)
        trajectory.append(move(latents, noise, lower, upper))
        if tick is not None:
            tick()
    return trajectory


def guided_noise(
    model: LatentModel,
    latents: Tensor,
    step: int,
    alpha: float,
    condition: TextCondition,
    empty: TextCondition,
    guidance: float,
) -> Tensor:
    """Return the noise under guidance, both texts in one pass, the unconditional first."""
    output = model.predict(torch.cat([latents, latents]), step, TextCondition.cat([empty, condition]))
    plain, guided = as_noise(model, output, torch.cat([latents, latents]), alpha).chunk(2)
    return plain + guidance * (guided - plain)
