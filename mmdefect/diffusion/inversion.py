r"""Find noise and texts that lead back to an image: DDIM inversion and null-text inversion.

DDIM as a map (Song et al., "Denoising diffusion implicit models", 2021): with the signal power :math:`a_t`, a step from
:math:`t` to any other step :math:`s` is

.. math:: z_s = \sqrt{a_s}\,\frac{z_t - \sqrt{1 - a_t}\,\epsilon}{\sqrt{a_t}} + \sqrt{1 - a_s}\,\epsilon

Downwards it denoises; upwards, with the noise that the network predicts for the latents it starts from, it inverts
approximately. Null-text inversion (Mokady et al., CVPR 2023) then optimises the unconditional text of each step until
guided DDIM goes back to the image. For SDXL the pooled embedding is optimised together with the tokens. Images of a
batch are independent: each stops when it is close enough, and none can get worse than where it started, because the
best text that was evaluated is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmdefect.diffusion.model import LatentModel, TextCondition


@dataclass(frozen=True)
class DDIMSteps:
    """The steps of a DDIM run, from noise to image."""

    times: list[int]  # training steps, descending
    alphas: list[float]  # signal power before each step and, at the end, that of the image: one more than `times`

    @staticmethod
    def of(model: LatentModel, count: int) -> DDIMSteps:
        """Return the steps that diffusers takes for this model; the last goes to the first training step."""
        if count < 1:
            raise ValueError(f'`steps` must be at least 1, got {count}.')
        scheduler = model.make_scheduler('ddim')
        scheduler.set_timesteps(count)
        times = [int(t) for t in scheduler.timesteps]
        powers = scheduler.alphas_cumprod.double()
        return DDIMSteps(times, [float(powers[t]) for t in times] + [float(scheduler.final_alpha_cumprod)])

    def __len__(self) -> int:
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
def invert(model: LatentModel, clean: Tensor, condition: TextCondition, steps: DDIMSteps) -> list[Tensor]:
    """Return the latents of an image at all steps, from the image itself to noise: ``len(steps) + 1`` tensors.

    Only the text is used, no guidance. ``clean`` is ``(B, C, h, w)`` float32; ``steps`` are those of the way back.
    """
    trajectory = [clean]
    for index in reversed(range(len(steps))):
        lower, upper = steps.alphas[index + 1], steps.alphas[index]
        latents = trajectory[-1]
        noise = as_noise(model, model.predict(latents, steps.times[index], condition), latents, upper)
        trajectory.append(move(latents, noise, lower, upper))
    return trajectory


def denoise_step(
    model: LatentModel,
    latents: Tensor,
    steps: DDIMSteps,
    index: int,
    condition: TextCondition,
    empty: TextCondition,
    guidance: float,
) -> Tensor:
    """Return the latents after one guided step; both texts go in one pass, the unconditional ones first."""
    before, after = steps.alphas[index], steps.alphas[index + 1]
    twice = torch.cat([latents, latents])
    output = model.predict(twice, steps.times[index], TextCondition.cat([empty, condition]))
    plain, guided = as_noise(model, output, twice, before).chunk(2)
    return move(latents, plain + guidance * (guided - plain), before, after)


@dataclass(frozen=True)
class NullTextSettings:
    """How texts are optimised; the defaults are those of the published code."""

    inner_steps: int = 10  # updates at most for each step of DDIM; 0 leaves the text as it is: plain DDIM inversion
    learning_rate: float = 1e-2  # of Adam at the first step; it falls with the index `i` of the step as `1 - i / 100`
    tolerance: float = 1e-5  # mean square error that is close enough at the first step
    tolerance_growth: float = 2e-5  # added to it with each step
    guidance: float = 5.0  # weight of the text on the way back

    def __post_init__(self) -> None:
        for name in ('inner_steps', 'tolerance', 'tolerance_growth'):
            if getattr(self, name) < 0:
                raise ValueError(f'`{name}` must be at least 0, got {getattr(self, name)}.')
        if self.learning_rate <= 0:
            raise ValueError(f'`learning_rate` must be positive, got {self.learning_rate}.')
        if self.guidance < 1:
            raise ValueError(f'`guidance` must be at least 1, got {self.guidance}.')


def optimise_null_text(
    model: LatentModel,
    trajectory: list[Tensor],
    condition: TextCondition,
    empty: TextCondition,
    steps: DDIMSteps,
    settings: NullTextSettings,
) -> tuple[list[TextCondition], Tensor]:
    """Optimise the unconditional text of every step.

    Args:
        trajectory: of :func:`invert`.
        condition: text of each image.
        empty: unconditional text of each image to start from.

    Returns:
        The text of every step, from noise to image, and the latents at the end, ``(B, C, h, w)`` float32.
    """
    latents = trajectory[-1]
    texts, current = [], TextCondition(empty.tokens.float(), None if empty.pooled is None else empty.pooled.float())
    for index in range(len(steps)):
        current = _optimise_step(model, latents, trajectory[-2 - index], condition, current, steps, index, settings)
        texts.append(current)
        with torch.no_grad():
            latents = denoise_step(model, latents, steps, index, condition, current, settings.guidance)
    return texts, latents


def _optimise_step(
    model: LatentModel,
    latents: Tensor,
    target: Tensor,
    condition: TextCondition,
    start: TextCondition,
    steps: DDIMSteps,
    index: int,
    settings: NullTextSettings,
) -> TextCondition:
    """Return the text of each image with which one guided step comes closest to ``target``."""
    rate = settings.learning_rate * (1 - index / 100)
    if settings.inner_steps == 0 or settings.guidance == 1 or rate <= 0:
        return start
    time, before, after = steps.times[index], steps.alphas[index], steps.alphas[index + 1]
    limit = settings.tolerance + settings.tolerance_growth * index
    with torch.no_grad():
        guided = as_noise(model, model.predict(latents, time, condition), latents, before)
    values = [t.detach().clone().requires_grad_() for t in (start.tokens, start.pooled) if t is not None]
    optimizer = torch.optim.Adam(values, rate)
    best = [v.detach().clone() for v in values]
    best_loss = torch.full((len(latents),), torch.inf, device=latents.device)
    for number in range(settings.inner_steps + 1):
        plain = as_noise(model, model.predict(latents, time, TextCondition(*values)), latents, before)
        moved = move(latents, plain + settings.guidance * (guided - plain), before, after)
        loss = (moved - target).square().mean((1, 2, 3))
        better = loss.detach() < best_loss
        best_loss = torch.where(better, loss.detach(), best_loss)
        for kept, value in zip(best, values, strict=True):
            kept[better] = value.detach()[better]
        active = best_loss >= limit
        if number == settings.inner_steps or not active.any():
            break
        optimizer.zero_grad()
        (loss * active).sum().backward()
        held = [v.detach().clone() for v in values]
        optimizer.step()
        with torch.no_grad():  # Adam goes on by momentum where the gradient is zero
            for value, old in zip(values, held, strict=True):
                value[~active] = old[~active]
    return TextCondition(*best)
